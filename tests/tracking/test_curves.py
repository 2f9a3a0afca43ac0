"""Curves of long trainings, with a few hundred points that matter."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest

from tests.tracking.stores import begin, client_of, points
from unet_pipeline.tracking.curves import POINTS, Curves


@pytest.mark.parametrize("epochs", [1, 50, 299, 300, 301, 5000])
@pytest.mark.parametrize("every", [1, 5])
def test_a_training_of_any_length_has_at_most_a_few_hundred_points_a_curve(
    epochs: int, every: int
) -> None:
    curves, steps = Curves(), dict[str, list[int]](loss=[], val=[])
    for epoch in range(epochs + 1):
        row = {"loss": 1.0} | ({"val": 0.5} if epoch % every == 0 else {})
        for key in curves.new(row, step=epoch, share=epoch / epochs):
            steps[key].append(epoch)
    for key, said in steps.items():
        wanted = epochs // (every if key == "val" else 1)
        assert min(wanted, POINTS * 0.6) <= len(said) <= POINTS + 1
        assert said[0] == 0
        assert epochs - said[-1] < max(every, 1)
        gaps = Counter(b - a for a, b in itertools.pairwise(said))
        assert max(gaps, default=0) <= max(2 * epochs / POINTS, every) + every
    if epochs <= POINTS and every == 1:
        assert steps["loss"] == [*range(epochs + 1)]


def test_best_and_last_are_seen_in_any_case_and_once() -> None:
    curves = Curves()
    for epoch in range(5001):
        curves.new({"loss": 1.0}, step=epoch, share=epoch / 5000)
    assert curves.new({"loss": 1.0, "val": 2.0}, step=4321, share=None) == {"loss": 1.0, "val": 2.0}
    assert curves.new({"loss": 3.0}, step=4321, share=None) == {}
    assert curves.new({"loss": 1.0}, step=5000, share=None) == {}


def test_an_epoch_that_a_resume_comes_by_again_keeps_its_point(project: Path) -> None:
    from unet_pipeline import tracking

    run = begin(project)
    for epoch in range(3):
        run.log_epoch({"loss": 1.0, "time/epoch_seconds": 0.1}, epoch=epoch, share=epoch / 5)
    run.close("KILLED")
    again = tracking.resume(run.folder)
    for epoch in range(2, 5):
        again.log_epoch({"loss": 1.0, "time/epoch_seconds": 0.2}, epoch=epoch, share=epoch / 5)
    again.close("FINISHED")
    for key in ("loss", "time/epoch_seconds"):
        said = points(client_of(project), run.run_id or "", key)
        assert [step for step, _ in said] == [*range(5)]
