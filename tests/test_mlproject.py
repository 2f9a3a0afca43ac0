"""Every entry point of MLproject runs by `mlflow run`, with options that it does not list."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from unet_pipeline.tracking.store import load_mlflow

load_mlflow()

from mlflow import MlflowClient, projects  # noqa: E402, quiet only as the package does it
from mlflow.entities import Run  # noqa: E402
from mlflow.exceptions import ExecutionException  # noqa: E402

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PARENT = "mlflow.parentRunId"
SMALL = {"max-steps": 2, "image-size": 32, "batch-size": 4, "amp": "off",
         "set": "model.base_channels=4"}  # fmt: skip


class Project:
    """This project as `mlflow run` runs it, in an experiment of a new store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = os.environ["MLFLOW_TRACKING_URI"]
        self.client = MlflowClient(self.store)

    def by_command(self, entry: str, **parameters: object) -> subprocess.CompletedProcess[str]:
        """`mlflow run` as people type it."""
        given = [part for name, v in parameters.items() for part in ("-P", f"{name}={v}")]
        return subprocess.run(
            [str(Path(sys.executable).parent / "mlflow"), "run", str(ROOT), "-e", entry,
             "--env-manager", "local", "--experiment-name", "project", *given],
            cwd=self.folder, capture_output=True, text=True, timeout=250,
        )  # fmt: skip

    def run(self, entry: str, **parameters: object) -> Run:
        """What `mlflow run` does, without the seconds in which it is imported; the run it made."""
        done = projects.run(
            str(ROOT), entry, parameters={name: str(v) for name, v in parameters.items()},
            experiment_name="project", env_manager="local",
        )  # fmt: skip
        return self.client.get_run(done.run_id)

    def runs(self) -> list[Run]:
        """All runs, the newest first."""
        experiment = self.client.get_experiment_by_name("project")
        return list(self.client.search_runs([experiment.experiment_id]))

    def below(self, run: Run) -> dict[str, Run]:
        """stage -> the run of it that is nested in `run`."""
        return {
            other.data.tags["unet.stage"]: other
            for other in self.runs()
            if other.data.tags.get(PARENT) == run.info.run_id
        }


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        patched.setenv("PYTHONPATH", str(ROOT))
        patched.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patched.setenv("OMP_NUM_THREADS", "1")
        for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
            patched.delenv(name, raising=False)
        yield Project(folder)


@pytest.fixture(scope="module")
def source(project: Project) -> Path:
    """Twelve dark discs on bright pages, and their masks."""
    folder = project.folder / "discs"
    y, x = np.mgrid[:32, :32]
    for n in range(12):
        disc = (y - 12 - n % 5) ** 2 + (x - 10 - n) ** 2 < 30 + 9 * n
        noise = np.random.default_rng(n).normal(0, 12, disc.shape)
        image = np.clip(np.where(disc, 60, 190) + noise, 0, 255).astype(np.uint8)
        for kind, pixels in (("images", image), ("masks", disc.astype(np.uint8))):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / kind / f"c{n}.png")
    return folder


@pytest.fixture(scope="module")
def chained(project: Project, source: Path) -> dict[str, Any]:
    """The parameters of a `main` that has run."""
    parameters = SMALL | {
        "source": source,
        "dataset": project.folder / "dataset",
        "output": project.folder / "runs",
        "predict": source / "images",
    }
    done = project.by_command("main", **parameters)
    assert done.returncode == 0, done.stderr[-2000:]
    return parameters


def test_main_chains_the_steps_below_the_run_that_mlflow_has_made_and_reuses_them(
    project: Project, chained: dict[str, Any]
) -> None:
    (parent,) = [run for run in project.runs() if PARENT not in run.data.tags]
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["mlflow.project.entryPoint"] == "main"
    assert parent.data.params["source"] == str(chained["source"])
    assert "unet.param_conflicts" not in parent.data.tags
    steps = project.below(parent)
    assert set(steps) == {"prepare", "train", "evaluate", "predict"}
    assert {run.info.status for run in steps.values()} == {"FINISHED"}
    assert "mlflow.project.entryPoint" not in steps["train"].data.tags
    test = steps["train"].data.metrics["test/mean_iou"]
    assert steps["evaluate"].data.metrics["evaluate/mean_iou"] == test
    assert len(list(project.folder.glob("runs/*/predict-*/predictions/*.png"))) == 12

    again = project.run("main", **chained)
    assert project.below(again) == {}
    reused = {name: run.info.run_name for name, run in steps.items()}
    assert {name: again.data.tags[f"unet.reused.{name}"] for name in steps} == reused

    changed = project.run("main", **chained | {"lr": 0.01})
    assert set(project.below(changed)) == {"train", "evaluate", "predict"}
    assert changed.data.tags["unet.reused.prepare"] == reused["prepare"]
    assert project.below(changed)["train"].data.params["optimizer.lr"] == "0.01"


def test_a_step_that_fails_leaves_its_run_and_the_parent_failed_and_so_does_mlflow_run(
    project: Project, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad" / "images").mkdir(parents=True)
    (tmp_path / "bad" / "masks").mkdir()
    for kind in ("images", "masks"):
        for n in range(4):
            (tmp_path / "bad" / kind / f"c{n}.png").write_bytes(b"no picture")
    before = {run.info.run_id for run in project.runs()}
    done = project.by_command("main", source=tmp_path / "bad", dataset=tmp_path / "d",
                              output=tmp_path / "runs")  # fmt: skip
    assert done.returncode == 1
    assert "error: " in done.stderr
    made = [run for run in project.runs() if run.info.run_id not in before]
    assert {run.data.tags["unet.stage"] for run in made} == {"run", "prepare"}
    assert {run.info.status for run in made} == {"FAILED"}


def test_a_path_that_does_not_exist_is_told_and_ends_the_run(project: Project) -> None:
    with pytest.raises(ExecutionException):
        project.run("check", source="/nowhere")
    assert project.runs()[0].info.status == "FAILED"


def test_every_other_entry_point_runs(
    project: Project, chained: dict[str, Any], tmp_path: Path
) -> None:
    data, runs, folds = chained["dataset"], tmp_path / "runs", tmp_path / "folds"

    def folded() -> list[Run]:
        prepared = project.run("prepare", source=chained["source"], folds=2, output=folds)
        return [prepared, project.run("folds", data=folds, output=runs, **SMALL)]

    def laddered() -> list[Run]:
        return [project.run("baselines", data=data, output=runs, **SMALL)]

    def swept() -> list[Run]:
        space = {"param": "loss=ce,dice; model.bilinear=true,false"}
        return [project.run("sweep", data=data, output=runs, **space, **SMALL | {"max-steps": 1})]

    def trained() -> list[Run]:
        train = project.run("train", data=data, output=runs, **{"run-name": "mine"}, **SMALL)
        model, masks = next(runs.glob("*/mine")), tmp_path / "masks"
        images = chained["source"] / "images"
        evaluated = project.run("evaluate", model=model)
        predicted = project.run("predict", images=images, model=model, output=masks)
        again = project.run("rerun", run=model, output=runs)
        checked = project.run("check", source=chained["source"])
        return [train, evaluated, predicted, again, checked]

    with ThreadPoolExecutor(2) as pool:  # each start takes seconds
        jobs = [pool.submit(job) for job in (trained, folded, laddered, swept)]
    made = [run for job in jobs for run in job.result()]
    assert len(list((tmp_path / "masks").glob("*.png"))) == 12
    assert {run.info.status for run in made} == {"FINISHED"}
    entries = set(yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"])
    assert {run.data.tags["mlflow.project.entryPoint"] for run in made} == entries - {"main"}

    by_entry = {run.data.tags["mlflow.project.entryPoint"]: run.info.run_id for run in made}
    below = Counter(run.data.tags.get(PARENT) for run in project.runs())
    assert below[by_entry["baselines"]] == 5  # majority, otsu, mlp, lenet, unet
    assert below[by_entry["folds"]] == 2
    assert below[by_entry["sweep"]] == 4
    train = project.client.get_run(by_entry["train"])
    assert train.data.params["data"] == str(data)
    assert "val/mean_iou" in train.data.metrics  # the run that `mlflow run` made, adopted
    assert "test/mean_iou" in train.data.metrics
