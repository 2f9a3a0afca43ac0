"""A loss that is not finite: back to the last good state with a lower rate, or a clear end."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.stages.conftest import TINY
from unet_pipeline import cli
from unet_pipeline.models import load_model
from unet_pipeline.stages import building
from unet_pipeline.training.checkpoints import load_state

Poison = Callable[[Callable[[int], bool]], None]


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Poison:
    """Make the loss of those training steps not finite for which a condition holds (from 1)."""

    def when(condition: Callable[[int], bool]) -> None:
        build = building.build_loss
        count = 0

        def poisoned(*args: Any) -> Callable[[Tensor, Tensor], Tensor]:
            loss = build(*args)

            def compute(logits: Tensor, target: Tensor) -> Tensor:
                nonlocal count
                value = loss(logits, target)
                if not torch.is_grad_enabled():
                    return value
                count += 1
                return value * float("nan") if condition(count) else value

            return compute

        monkeypatch.setattr(building, "build_loss", poisoned)

    return when


def train(scenes: Path, *more: str) -> int:
    return cli.run(["train", "--data", str(scenes), "--epochs", "3", "--tracking", "off",
                    "--run-name", "run", *TINY, *more])  # fmt: skip


FOLDER = Path("runs/digits/run")


def rates() -> list[float]:
    with (FOLDER / "history.csv").open() as file:
        return [float(row["lr"]) for row in csv.DictReader(file) if row["lr"]]


def test_one_bad_step_takes_the_run_back_and_halves_the_rate(
    scenes: Path, poison: Poison, capsys: pytest.CaptureFixture[str]
) -> None:
    constant = ["--set", "schedule.name=constant", "--set", "schedule.warmup_fraction=0"]
    poison(lambda step: step == 6)  # in the second of three epochs of four steps
    assert train(scenes, *constant) == 0
    err = capsys.readouterr().err
    assert "diverged in epoch 2, step 6: loss nan" in " ".join(err.split())
    assert "Back to step 4 with half the learning rate (1 of 3 times)" in " ".join(err.split())
    first, *rest = rates()
    assert rest == pytest.approx([first / 2, first / 2])
    state = load_state(FOLDER)
    assert state["position"]["step"] == 12
    assert state["reached"]["divergences"] == 1


def test_a_run_that_diverges_in_its_first_step_goes_back_to_its_beginning(
    scenes: Path, poison: Poison
) -> None:
    poison(lambda step: step == 1)
    assert train(scenes) == 0
    assert load_state(FOLDER)["reached"]["lr_factor"] == 0.5


def test_the_fourth_time_is_the_end_and_the_last_good_state_stays(
    scenes: Path, poison: Poison, capsys: pytest.CaptureFixture[str]
) -> None:
    poison(lambda step: step > 5)
    assert train(scenes) == 6
    (line,) = [row for row in capsys.readouterr().err.splitlines() if row.startswith("error: ")]
    assert "diverged in epoch 2, step 5" in line
    assert "samples scene" in line
    state = load_state(FOLDER)
    assert state["reached"]["divergences"] == 3
    assert state["position"]["step"] == 4
    assert all(value.isfinite().all() for value in state["network"].values())
    assert load_model(FOLDER).card.facts["epoch"] == 1


def test_the_count_of_bad_steps_survives_a_resume(scenes: Path, poison: Poison) -> None:
    poison(lambda step: step > 5)
    assert train(scenes) == 6
    assert cli.run(["train", "--resume", str(FOLDER)]) == 6
    assert load_state(FOLDER)["reached"]["divergences"] == 3
