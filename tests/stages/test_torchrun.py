"""Several processes, started by a real torchrun, train what one trains."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from unet_pipeline import cli
from unet_pipeline.models import load_model
from unet_pipeline.training.checkpoints import load_state

ROOT = Path(__file__).parents[2]
GROUP_NORM = ["--set", "model.base_channels=8", "--set", "model.depth=2", "--set",
              "model.norm=group", "--image-size", "64", "--batch-size", "4", "--device", "cpu",
              "--amp", "off", "--tracking", "off", "--set", "training.val_every=1"]  # fmt: skip


def torchrun(*arguments: str, restarts: int = 0) -> subprocess.Popen[str]:
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2",
              "--max-restarts", str(restarts), "--rdzv-backend", "c10d",
              "--rdzv-endpoint", "localhost:0"]  # fmt: skip
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(
        [sys.executable, *launch, "-m", "unet_pipeline", "train", *arguments],
        env=os.environ | threads | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def difference(one: Path, other: Path) -> float:
    first, second = (load_state(folder)["network"] for folder in (one, other))
    return max((first[name] - second[name]).abs().max().item() for name in first)


def scores_of(folder: Path) -> list[dict[str, float]]:
    """The scores of every epoch; without the training loss and what the clock says."""
    return [
        {name: value for name, value in row.items() if name.startswith("val/")}
        for row in load_state(folder)["reached"]["history"]
    ]


def test_two_processes_train_what_one_trains_and_one_of_them_reports(scenes: Path) -> None:
    common = ["--data", str(scenes), "--epochs", "2", *GROUP_NORM]
    assert cli.run(["train", *common, "--run-name", "one"]) == 0
    with torchrun(*common, "--run-name", "two") as child:
        out, err = child.communicate(timeout=200)
    assert child.returncode == 0, err
    one, two = Path("runs/digits/one"), Path("runs/digits/two")
    assert load_state(two)["position"]["step"] == 8
    assert difference(one, two) <= 1e-5
    first, *later = zip(scores_of(one), scores_of(two), strict=True)
    # The same weights: the same counts, of three images in two processes
    assert repr(first[0]) == repr(first[1])
    for alone, together in later:  # a pixel may tip over where two logits are as good as equal
        assert together == pytest.approx(alone, rel=1e-3, nan_ok=True)
    assert out.split() == [str(two)]
    assert err.count("best validation") == 1
    assert load_model(two).card.facts["run"] == "two"


def test_a_worker_that_is_killed_is_restarted_and_the_run_goes_on(scenes: Path) -> None:
    folder = Path("runs/digits/run")
    arguments = ["--data", str(scenes), "--epochs", "25", "--run-name", "run", *GROUP_NORM]
    with torchrun(*arguments, restarts=2) as child:
        for _ in range(1200):
            if (folder / "previous.pt").exists():
                break
            time.sleep(0.05)
        workers = psutil.Process(child.pid).children()
        workers[-1].kill()
        _, err = child.communicate(timeout=200)
    assert child.returncode == 0, err
    assert len(workers) == 2
    assert f"continuing {folder} at epoch" in err
    assert load_state(folder)["position"]["epoch"] == 25
    assert [int(row["epoch"]) for row in load_state(folder)["reached"]["history"]] == [*range(26)]
    assert [path.name for path in Path("runs/digits").iterdir()] == ["run"]
    assert not (folder / "torchrun-job.txt").exists()


def test_a_signal_to_every_process_as_schedulers_send_it_saves_the_run(scenes: Path) -> None:
    """torchrun hands it on, so each process hears it again, as a rule within its step."""
    folder = Path("runs/digits/run")
    slow = " ".join(GROUP_NORM).replace("base_channels=8", "base_channels=32").split()
    arguments = ["--data", str(scenes), "--epochs", "2000", "--run-name", "run", *slow]
    with torchrun(*arguments) as child:
        for _ in range(1200):
            if (folder / "previous.pt").exists():
                break
            time.sleep(0.05)
        everyone = [*psutil.Process(child.pid).children(recursive=True), psutil.Process(child.pid)]
        for process in everyone:
            process.terminate()
        _, err = child.communicate(timeout=60)
    _, alive = psutil.wait_procs(everyone, timeout=10)
    assert not alive
    stopped = re.search(r"stopped after step (\d+); continue with: unet train --resume", err)
    assert stopped, err
    assert child.returncode == 1  # torchrun's own; its processes end with 143
    assert load_state(folder)["position"]["step"] == int(stopped[1]) > 0


def test_what_is_made_of_several_runs_takes_one_process(
    scenes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert cli.run(["train", "--data", str(scenes), "--baselines"]) == 2
    assert "takes one process, torchrun has started 2" in capsys.readouterr().err
