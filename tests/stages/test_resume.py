"""Stopped anywhere and resumed: to the bit what a run is that was never stopped."""

from __future__ import annotations

import errno
import os
import re
import signal
from pathlib import Path
from typing import IO, Any

import pytest
import torch

from tests.stages.conftest import TINY
from unet_pipeline import cli
from unet_pipeline.stages import loop, validation
from unet_pipeline.training import checkpoints
from unet_pipeline.training.checkpoints import load_state

COMMON = ["--epochs", "3", "--tracking", "off", "--set", "model.dropout=0.3", *TINY]
FOLDER = Path("runs/digits")


def stop_at(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Send SIGTERM to this process after these steps of any run, each once."""
    waiting = set(steps)
    shown = loop._Progress.after_step

    def after_step(self: Any) -> None:
        shown(self)
        if self.session.position.step in waiting:
            waiting.remove(self.session.position.step)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop._Progress, "after_step", after_step)


def leaves(state: Any) -> list[Any]:
    """All tensors and numbers of a state, but for those of the clock."""
    if isinstance(state, dict):
        names = [n for n in state if not re.match("seconds|time/", str(n))]
        return [leaf for name in names for leaf in leaves(state[name])]
    if isinstance(state, list | tuple):
        return [leaf for part in state for leaf in leaves(part)]
    return [state]


def are_equal(one: Path, other: Path) -> bool:
    pairs = zip(leaves(load_state(one)), leaves(load_state(other)), strict=True)
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else repr(a) == repr(b) for a, b in pairs
    )


@pytest.mark.parametrize(
    ("steps", "workers"), [((1,), "0"), ((6,), "2"), ((3, 4, 10), "2"), ((12,), "0")]
)
def test_a_run_stopped_after_any_steps_ends_as_one_that_was_not(
    steps: tuple[int, ...], workers: str, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ["train", "--data", str(scenes), *COMMON]
    assert cli.run([*common, "--run-name", "whole"]) == 0
    with monkeypatch.context() as patched:
        stop_at(patched, *steps)
        code = cli.run([*common, "--run-name", "stopped", "--workers", workers])
        for step in steps:
            assert code == 143
            assert load_state(FOLDER / "stopped")["position"]["step"] == step
            code = cli.run(["train", "--resume", str(FOLDER / "stopped")])
    assert code == 0
    assert are_equal(FOLDER / "whole", FOLDER / "stopped")


@pytest.mark.parametrize("part", ["average", "optimizer", "rng"])
def test_a_state_without_a_part_of_it_would_end_otherwise(
    part: str, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above."""
    common = ["train", "--data", str(scenes), *COMMON]
    assert cli.run([*common, "--run-name", "whole"]) == 0
    with monkeypatch.context() as patched:
        stop_at(patched, 6)
        assert cli.run([*common, "--run-name", "stopped"]) == 143
    state = load_state(FOLDER / "stopped")
    if part == "average":
        state["average"]["updates"] = 100
    elif part == "optimizer":
        state["optimizer"]["state"] = {}
    else:
        state["rng"] = [torch.Generator().manual_seed(99).get_state()]
    torch.save(state, FOLDER / "stopped" / "last.pt")
    assert cli.run(["train", "--resume", str(FOLDER / "stopped")]) == 0
    assert not are_equal(FOLDER / "whole", FOLDER / "stopped")


def test_a_full_disk_ends_the_run_and_leaves_the_last_good_state(
    scenes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save, count = torch.save, 0

    def full(state: Any, file: IO[bytes]) -> None:
        nonlocal count
        count += 1
        if count == 3:
            file.write(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(state, file)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints.torch, "save", full)
        arguments = ["train", "--data", str(scenes), *COMMON, "--run-name", "run"]
        assert cli.run(arguments) == 5
    assert "no space left" in capsys.readouterr().err.lower()
    assert load_state(FOLDER / "run")["position"]["step"] == 4
    assert cli.run(["train", "--resume", str(FOLDER / "run")]) == 0
    assert load_state(FOLDER / "run")["position"]["step"] == 12


def test_a_signal_during_a_validation_does_not_wait_for_it(
    scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ["train", "--data", str(scenes), *COMMON]
    assert cli.run([*common, "--run-name", "whole"]) == 0
    iterate, count = validation.iterate_samples, 0

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == 2:  # the validation after the first epoch
            os.kill(os.getpid(), signal.SIGTERM)
        return iterate(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(validation, "iterate_samples", interrupted)
        assert cli.run([*common, "--run-name", "stopped"]) == 143
    state = load_state(FOLDER / "stopped")
    assert [row["epoch"] for row in state["reached"]["history"]] == [0]
    assert state["position"]["batch"] == 4
    assert cli.run(["train", "--resume", str(FOLDER / "stopped")]) == 0
    assert are_equal(FOLDER / "whole", FOLDER / "stopped")
