"""Validation while training: which samples, under a budget and with files that cannot be read.

Several processes are threads here, each a rank, that meet where processes would talk.
"""

from __future__ import annotations

import csv
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.stages.conftest import TINY
from unet_pipeline import cli
from unet_pipeline.datasets.loaders import Unreadable
from unet_pipeline.datasets.manifest import Manifest
from unet_pipeline.distributed import World
from unet_pipeline.errors import DatasetError, DivergedError
from unet_pipeline.inference import ImageScores
from unet_pipeline.models import load_model
from unet_pipeline.runtime import StopRequest
from unet_pipeline.stages import validation
from unet_pipeline.stages.validation import StoppedError, _score
from unet_pipeline.training.checkpoints import load_state

LOSS = torch.nn.functional.cross_entropy


class Meeting:
    """A number of threads that talk as processes do: what one says, all hear."""

    def __init__(self, size: int) -> None:
        self.said: dict[int, Any] = {}
        self.ranks: dict[int, int] = {}
        self.num_agreed = [0] * size
        self.barrier = threading.Barrier(size)

    @property
    def rank(self) -> int:
        return self.ranks[threading.get_ident()]

    def gather(self, value: Any) -> list[Any]:
        self.said[self.rank] = value
        self.barrier.wait(timeout=20)
        everything = [self.said[rank] for rank in sorted(self.said)]
        self.barrier.wait(timeout=20)
        return everything

    def agree_max(self, value: float) -> float:
        self.num_agreed[self.rank] += 1
        return float(max(self.gather(value)))


Outcome = ImageScores | Exception


class Runs:
    """The val split of some scenes, scored by a number of ranks."""

    def __init__(self, data: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.manifest = Manifest.load(data)
        self.run = run
        self.monkeypatch = monkeypatch
        self.sessions: list[Any] = []
        self.meeting = Meeting(1)
        self.stops: list[StopRequest] = []

    def prepare(self, size: int, *, budget: float | None = None, strict: bool = False) -> None:
        """Sessions of so many ranks, which have not validated yet."""
        self.meeting = Meeting(size)
        self.stops = [StopRequest() for _ in range(size)]
        training = SimpleNamespace(budget_seconds=budget, strict=strict)
        inference = SimpleNamespace(window=64, overlap=0.5)
        self.sessions = [
            SimpleNamespace(
                manifest=self.manifest,
                is_main=rank == 0,
                evaluated=load_model(self.run),
                reached=SimpleNamespace(num_val=None),
                config=SimpleNamespace(training=training, inference=inference),
                parts=SimpleNamespace(
                    world=World(rank, rank, size),
                    cache=None,
                    loss=LOSS,
                    autocast_dtype=None,
                    loader=SimpleNamespace(unreadable=Unreadable()),
                ),
            )
            for rank in range(size)
        ]
        self.monkeypatch.setattr(validation, "agree_max", self.meeting.agree_max)
        self.monkeypatch.setattr(validation, "gather_objects", self.meeting.gather)

    def outcomes(self) -> list[Outcome]:
        """What every rank gets from one validation, which all of them enter."""

        def one(rank: int) -> Outcome:
            self.meeting.ranks[threading.get_ident()] = rank
            try:
                return _score(self.sessions[rank], self.stops[rank])
            except (DatasetError, DivergedError, StoppedError) as error:
                return error

        with ThreadPoolExecutor(len(self.sessions)) as pool:
            started = threading.Barrier(len(self.sessions))  # a thread each
            return list(
                pool.map(lambda rank: (started.wait(20), one(rank))[1], range(len(self.sessions)))
            )


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty scenes, of which nine validate."""
    folder = tmp_path_factory.mktemp("data") / "many"
    assert cli.run(["prepare", "--output", str(folder), "--num-scenes", "60"]) == 0
    return folder


@pytest.fixture
def runs(many: Path, session_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """A copy of them, and a model."""
    monkeypatch.setattr(validation, "SAMPLES_A_ROUND", 2)
    return Runs(Path(shutil.copytree(many, tmp_path / "many")), session_run, monkeypatch)


def damage(runs: Runs, *numbers: int) -> None:
    for number in numbers:
        runs.manifest.split("val")[number].image.write_bytes(b"no image")


def ids(runs: Runs) -> list[str]:
    return [sample.sample_id for sample in runs.manifest.split("val")]


def scores(outcome: Outcome) -> ImageScores:
    assert isinstance(outcome, ImageScores), outcome
    return outcome


@pytest.mark.parametrize("size", [1, 2, 4])
def test_an_unreadable_sample_is_left_out_and_no_other(runs: Runs, size: int) -> None:
    damage(runs, 3)
    runs.prepare(size)
    readable = [sample_id for n, sample_id in enumerate(ids(runs)) if n != 3]
    for _ in range(3):  # the next ones leave out no more
        found = [scores(outcome) for outcome in runs.outcomes()]
        assert [list(each.sample_ids) for each in found] == [readable] * size
        assert all((each.matrices == found[0].matrices).all() for each in found)
    counts = [sum(s.parts.loader.unreadable.counts.values()) for s in runs.sessions]
    assert counts == [3] + [0] * (size - 1)  # the main process tells of it
    assert [s.reached.num_val for s in runs.sessions] == [9] * size


@pytest.mark.parametrize("size", [2, 4])
def test_scores_of_several_are_those_of_one(runs: Runs, size: int) -> None:
    runs.prepare(1)
    (alone,) = runs.outcomes()
    runs.prepare(size)
    for outcome in runs.outcomes():
        assert scores(outcome).sample_ids == scores(alone).sample_ids == tuple(ids(runs))
        assert (scores(outcome).matrices == scores(alone).matrices).all()
        assert scores(outcome).losses == pytest.approx(scores(alone).losses, rel=1e-5)


def test_a_missing_file_says_nothing_of_a_budget(
    runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    damage(runs, 0)
    runs.prepare(1)
    with caplog.at_level("INFO"):
        runs.outcomes()
    assert "budget" not in caplog.text
    assert "it is skipped" in caplog.text


@pytest.mark.parametrize(("size", "expected"), [(1, 1), (2, 4)])
def test_a_budget_cuts_the_first_validation_and_the_next_take_the_same(
    runs: Runs, size: int, expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    runs.prepare(size, budget=1e-9)
    with caplog.at_level("INFO"):
        found = [scores(outcome) for outcome in runs.outcomes()]
    assert f"validating on {expected} of 9 images: all of them would take more" in caplog.text
    chosen = set(found[0].sample_ids)
    assert len(chosen) == expected
    assert [set(scores(outcome).sample_ids) for outcome in runs.outcomes()] == [chosen] * size
    assert [s.reached.num_val for s in runs.sessions] == [expected] * size


def test_an_unreadable_sample_counts_among_those_that_a_budget_chose(runs: Runs) -> None:
    runs.prepare(2, budget=1e-9)
    chosen = [*scores(runs.outcomes()[0]).sample_ids]
    damage(runs, ids(runs).index(chosen[1]))
    for outcome in (*runs.outcomes(), *runs.outcomes()):
        assert list(scores(outcome).sample_ids) == [chosen[0], *chosen[2:]]


def test_a_budget_that_suffices_takes_all(runs: Runs) -> None:
    runs.prepare(2, budget=1e9)
    assert [len(scores(outcome).sample_ids) for outcome in runs.outcomes()] == [9, 9]
    assert runs.sessions[0].reached.num_val == 9


def failing_at(runs: Runs, rank: int, number: int, act: Callable[[], Any]) -> None:
    """Do something in that rank when it reads its sample of that number."""
    iterate = validation.iterate_samples

    def patched(samples: Any, **options: Any) -> Any:
        for count, sample in enumerate(iterate(samples, num_threads=1, **options)):
            if runs.meeting.rank == rank and count == number:
                act()
            yield sample

    runs.monkeypatch.setattr(validation, "iterate_samples", patched)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("number", [0, 1])
def test_a_signal_to_one_ends_the_validation_of_all(runs: Runs, size: int, number: int) -> None:
    runs.prepare(size)
    failing_at(runs, size - 1, number, lambda: setattr(runs.stops[size - 1], "signal", 15))
    assert [type(outcome) for outcome in runs.outcomes()] == [StoppedError] * size
    assert len(set(runs.meeting.num_agreed)) == 1


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("number", [0, 1])
def test_an_error_of_one_is_raised_by_all(runs: Runs, size: int, number: int) -> None:
    def diverge() -> None:
        raise DivergedError("the output is not finite")

    runs.prepare(size)
    failing_at(runs, 1, number, diverge)
    for outcome in runs.outcomes():
        assert isinstance(outcome, DivergedError)
        assert str(outcome) == "the output is not finite"
    assert len(set(runs.meeting.num_agreed)) == 1


def test_strict_ends_all_at_a_file_that_one_cannot_read(runs: Runs) -> None:
    damage(runs, 5)
    runs.prepare(2, strict=True)
    path = runs.manifest.split("val")[5].image.name
    for outcome in runs.outcomes():
        assert isinstance(outcome, DatasetError)
        assert path in str(outcome)


def test_a_split_of_which_nothing_can_be_read_is_the_end_of_all(runs: Runs) -> None:
    damage(runs, *range(9))
    runs.prepare(2)
    for outcome in runs.outcomes():
        assert isinstance(outcome, DatasetError)
        assert "none of the val samples can be read" in str(outcome)


def test_a_damaged_image_takes_no_other_with_it_in_a_whole_run(
    scenes: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(scenes, tmp_path / "data"))
    validated = Manifest.load(data).split("val")
    arguments = ["train", "--data", str(data), "--epochs", "3", "--tracking", "off", *TINY]
    assert cli.run([*arguments, "--max-steps", "2", "--run-name", "run"]) == 0
    validated[0].image.write_bytes(b"no image")
    folder = Path("runs/digits/run")
    assert cli.run(["train", "--resume", str(folder), "--max-steps", "12"]) == 3
    assert load_state(folder)["reached"]["num_val"] == len(validated)


def test_each_validation_sees_the_average_of_all_steps(scenes: Path, tmp_path: Path) -> None:
    """Beyond 100 steps the average takes in every fourth: three validations of four saw nothing."""
    arguments = ["train", "--data", str(scenes), "--epochs", "104", "--batch-size", "14", *TINY[:4],
                 "--image-size", "16", "--tracking", "off", "--set", "training.val_every=1",
                 "--device", "cpu", "--amp", "off", "--output", str(tmp_path)]  # fmt: skip
    assert cli.run(arguments) == 0
    (history,) = tmp_path.glob("*/*/history.csv")
    rows = csv.DictReader(history.read_text().splitlines())
    losses = [row["val/loss"] for row in rows]
    assert len(losses) == 1 + 104  # before the first step too
    assert len(set(losses[-8:])) == 8
