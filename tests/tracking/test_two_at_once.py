"""Two trainings at once into one database: each whole."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stages.conftest import TINY
from tests.tracking.stores import client_of, environment
from unet_pipeline import cli

EPOCHS = 200
COMMAND = [sys.executable, "-m", "unet_pipeline", "train", "--epochs", str(EPOCHS)]


@pytest.mark.slow
def test_two_trainings_of_two_hundred_epochs_at_once_lose_nothing(project: Path) -> None:
    assert cli.run(["prepare", "--output", "scenes", "--num-scenes", "6"]) == 0
    tiny = [word.replace("val_every=1", "val_every=20") for word in TINY]
    children = [
        subprocess.Popen(
            [*COMMAND, "--data", "scenes", "--run-name", name, *tiny],
            env=environment() | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    for child in children:
        _, err = child.communicate(timeout=250)
        assert child.returncode == 0, err
        assert "tracking:" not in err, err
    client = client_of(project)
    for name in ("one", "two"):
        folder = Path("runs/digits", name)
        run_id = json.loads((folder / "run.json").read_text())["run_id"]
        assert client.get_run(run_id).info.status == "FINISHED"
        with (folder / "history.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == EPOCHS + 1
        for key in ("train/loss", "val/loss", "lr", "time/epoch_seconds"):
            kept = {int(r["epoch"]): float(f"{float(r[key]):.6g}") for r in rows if r[key]}
            said = [(m.step, m.value) for m in client.get_metric_history(run_id, key)]
            assert sorted(said) == sorted(kept.items()), key
