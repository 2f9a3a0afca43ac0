"""What runs above others have in common: the settings of all, and rows that fail by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from unet_pipeline.config import load_config
from unet_pipeline.errors import DivergedError, UserError
from unet_pipeline.stages.nested import Parent, fill_row, open_shared
from unet_pipeline.stages.trained import InterruptedRunError


@dataclass(frozen=True)
class Row:
    """A row of a table in the making."""

    figure: float = 0.0
    note: str = ""


def a_parent() -> Parent:
    """A parent whose run nobody asks for."""
    track: Any = None
    return Parent(Path("runs/x"), track, "row")


def steps_until(error: UserError | None) -> Iterator[Row]:
    """A row that comes as far as 0.5, then further or to an end."""
    yield Row(0.5)
    if error:
        raise error
    yield Row(0.7)


def test_a_row_is_kept_after_every_step() -> None:
    parent, kept = a_parent(), list[Row]()
    fill_row(parent, Row(), steps_until(None), kept.append)
    assert kept == [Row(0.5), Row(0.7)]
    assert parent.failures == []


def test_a_row_that_fails_keeps_what_it_has_reached_and_says_why() -> None:
    parent, kept, error = a_parent(), list[Row](), DivergedError("not finite")
    fill_row(parent, Row(), steps_until(error), kept.append)
    assert kept == [Row(0.5), Row(0.5, "not finite")]
    assert parent.failures == [error]


def test_an_interruption_is_no_failure_of_a_row() -> None:
    parent, kept = a_parent(), list[Row]()
    with pytest.raises(InterruptedRunError):
        fill_row(parent, Row(), steps_until(InterruptedRunError("stopped", 130)), kept.append)
    assert kept == [Row(0.5)]
    assert parent.failures == []


def test_runs_share_what_was_given_and_an_experiment_but_no_name(scenes: Path) -> None:
    given = {"data.path": str(scenes), "output.run_name": "ladder", "training.batch_size": 4}
    manifest, shared = open_shared(load_config(overrides=given), splits=("train", "val"))
    assert shared.output.experiment == manifest.facts.name
    assert shared.output.run_name is None
    assert shared.training.batch_size == 4
    assert "loss" not in shared.training.model_fields_set  # left open, so that each run decides
