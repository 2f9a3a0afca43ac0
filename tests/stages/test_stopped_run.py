"""What ends a run from outside while data workers load: a signal to the group, a worker lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.stages.conftest import TINY
from unet_pipeline import cli
from unet_pipeline.datasets.loaders import LostWorkerError, TrainLoader
from unet_pipeline.stages import loop
from unet_pipeline.training.checkpoints import load_state

FOLDER = Path("runs/digits/run")
ROOT = Path(__file__).parents[2]


def started(*arguments: str) -> subprocess.Popen[str]:
    """`unet train` in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "unet_pipeline", "train", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def workers_of(child: subprocess.Popen[str], *, step: int) -> list[psutil.Process]:
    """The data workers, once the run has saved a later step than `step`."""
    for _ in range(1000):
        if (FOLDER / "previous.pt").exists() and load_state(FOLDER)["position"]["step"] > step:
            break
        time.sleep(0.05)
    return psutil.Process(child.pid).children()


@pytest.mark.skipif(sys.platform == "win32", reason="process groups")
def test_workers_outlive_no_run_and_no_signal_to_the_group_costs_its_state(scenes: Path) -> None:
    common = ["--data", str(scenes), "--epochs", "2000", "--tracking", "off", *TINY]
    with started(*common, "--run-name", "run", "--workers", "2") as child:
        first = workers_of(child, step=0)
        assert len(first) == 2
        first[0].kill()
        _, err = child.communicate(timeout=60)
    assert child.returncode == 5, err
    assert "use fewer --workers" in err
    assert "Traceback" not in err
    before = load_state(FOLDER)["position"]["step"]
    with started("--resume", str(FOLDER)) as child:
        second = workers_of(child, step=before)
        assert len(second) == 2
        os.killpg(child.pid, signal.SIGTERM)
        asked = time.monotonic()
        _, err = child.communicate(timeout=60)
    assert child.returncode == 143, err
    assert f"unet train --resume {FOLDER}" in err
    assert time.monotonic() - asked < 10
    assert load_state(FOLDER)["position"]["step"] > before
    _, alive = psutil.wait_procs(first + second, timeout=10)
    assert not alive


KILLED = "DataLoader worker (pid 1) is killed by signal: Terminated."


def after_step(number: int, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do something after that step of a run."""
    shown = loop._Progress.after_step

    def patched(self: Any) -> None:
        shown(self)
        if self.session.position.step == number:
            act()

    monkeypatch.setattr(loop._Progress, "after_step", patched)


@pytest.mark.parametrize(("signalled", "code", "step"), [(False, 5, 4), (True, 143, 4)])
def test_a_worker_lost_within_a_step_leaves_the_state_saved_before(
    signalled: bool,
    code: int,
    step: int,
    scenes: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def lose() -> None:
        if signalled:
            os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError(KILLED)  # as torch does, wherever the main process is

    after_step(6, lose, monkeypatch)
    arguments = ["train", "--data", str(scenes), "--epochs", "3", "--tracking", "off", *TINY]
    assert cli.run([*arguments, "--run-name", "run"]) == code
    err = " ".join(capsys.readouterr().err.split())
    assert ("use fewer --workers" in err) != signalled
    assert "Traceback" not in err
    assert load_state(FOLDER)["position"]["step"] == step


def test_a_worker_lost_between_steps_to_the_same_signal_is_no_reason_not_to_save(
    scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = TrainLoader.epoch

    def lost(self: TrainLoader, number: int, **options: Any) -> Iterator[Any]:
        for batch in epoch(self, number, **options):
            yield batch
            if number == 1:
                os.kill(os.getpid(), signal.SIGTERM)
                raise LostWorkerError("a data worker was ended")

    monkeypatch.setattr(TrainLoader, "epoch", lost)
    arguments = ["train", "--data", str(scenes), "--epochs", "3", "--tracking", "off", *TINY]
    assert cli.run([*arguments, "--run-name", "run"]) == 143
    assert load_state(FOLDER)["position"]["step"] == 5


def test_a_validation_made_up_for_leaves_the_rest_of_its_row(
    scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = loop._record

    def stopped(session: Any, row: dict[str, float]) -> None:
        record(session, row)
        if session.position.epoch_number == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    rarely = " ".join(TINY).replace("val_every=1", "val_every=5").split()
    arguments = ["train", "--data", str(scenes), "--epochs", "9", "--tracking", "off", *rarely]
    with monkeypatch.context() as patched:
        patched.setattr(loop, "_record", stopped)
        assert cli.run([*arguments, "--run-name", "run"]) == 143
    before = load_state(FOLDER)["reached"]["history"]
    assert "val/loss" not in before[-1]
    assert cli.run(["train", "--resume", str(FOLDER), "--epochs", "2"]) == 0
    after = load_state(FOLDER)["reached"]["history"]
    assert [row["epoch"] for row in after] == [0, 1, 2]
    assert after[-1].items() >= before[-1].items()
    assert after[-1]["train/loss"] > 0
    assert after[-1]["val/mean_iou"] >= 0
