"""Every entry point of MLproject runs by `mlflow run`, with options that it does not list."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from unet_pipeline.tracking.store import load_mlflow

load_mlflow()

from mlflow import MlflowClient  # noqa: E402, its import is quiet only as the package does it

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_every_entry_point_runs(tmp_path: Path) -> None:
    bin_dir = Path(sys.executable).parent
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    env = os.environ | {
        "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": store,
        "OMP_NUM_THREADS": "1",
    }

    def run(entry: str, **parameters: object) -> None:
        given = [part for name, v in parameters.items() for part in ("-P", f"{name}={v}")]
        done = subprocess.run(
            [str(bin_dir / "mlflow"), "run", str(ROOT), "-e", entry, "--env-manager", "local",
             "--experiment-name", "project", *given],
            cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]

    data, runs, masks = tmp_path / "data", tmp_path / "runs", tmp_path / "masks"
    run("prepare", output=data, **{"num-scenes": 8})
    run("train", data=data, output=runs, amp="off", **{
        "max-steps": 2, "image-size": 64, "run-name": "mine", "set": "model.base_channels=4",
    })  # fmt: skip
    folder = runs / "project" / "mine"
    folder = folder if folder.is_dir() else next(runs.glob("*/mine"))
    run("baselines", data=data, output=tmp_path / "ladder", amp="off", **{
        "max-steps": 1, "image-size": 32, "set": "model.base_channels=4",
    })  # fmt: skip
    run("sweep", data=data, output=tmp_path / "sweep", amp="off", **{
        "param": "loss=ce,dice; model.bilinear=true,false", "max-steps": 1, "image-size": 32,
        "set": "model.base_channels=4",
    })  # fmt: skip
    run("evaluate", model=folder)
    run("predict", images=data / "test" / "images", model=folder, output=masks)
    assert len(list(masks.glob("*.png"))) == 1

    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("project")
    records = client.search_runs([experiment.experiment_id])
    entry, parent = "mlflow.project.entryPoint", "mlflow.parentRunId"
    made = {r.data.tags[entry]: r for r in records if entry in r.data.tags}
    assert set(made) == {"prepare", "train", "baselines", "sweep", "evaluate", "predict"}
    rungs = [r for r in records if r.data.tags.get(parent) == made["baselines"].info.run_id]
    assert len(rungs) == 4  # majority, mlp, lenet, unet; otsu is for two classes
    assert {record.info.status for record in made.values()} == {"FINISHED"}
    assert made["train"].data.params["data"] == str(data)
    assert "val/mean_iou" in made["train"].data.metrics  # the run that `mlflow run` made, adopted
    assert "test/mean_iou" in made["train"].data.metrics
