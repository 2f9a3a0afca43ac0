"""A small dataset and a small trained run, made once and copied for tests that change them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from unet_pipeline import cli
from unet_pipeline.tracking import store

TINY = ["--set", "model.base_channels=4", "--set", "model.depth=2", "--image-size", "64",
        "--batch-size", "4", "--device", "cpu", "--amp", "off",
        "--set", "training.val_every=1"]  # fmt: skip
"""Settings that make a step take milliseconds."""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mlflow.db, runs/ and data/ of a test land in its own folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty prepared digit scenes."""
    folder = tmp_path_factory.mktemp("data") / "scenes"
    assert cli.run(["prepare", "--output", str(folder), "--num-scenes", "20"]) == 0
    return folder


@pytest.fixture(scope="session")
def session_run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs on the scenes, without MLflow."""
    folder = tmp_path_factory.mktemp("session")
    arguments = ["train", "--data", str(scenes), "--epochs", "3", "--tracking", "off",
                 "--output", str(folder), "--run-name", "tiny", *TINY]  # fmt: skip
    assert cli.run(arguments) == 0
    return folder / "digits" / "tiny"


@pytest.fixture(scope="session")
def store_with_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables, made once: that takes seconds."""
    store.load_mlflow()
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}")
    return path


@pytest.fixture
def project(tmp_path: Path, store_with_tables: Path) -> Path:
    """The working directory, with an empty store in it."""
    shutil.copy(store_with_tables, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def run_folder(session_run: Path, tmp_path: Path) -> Path:
    """A copy of the run, for a test to use up."""
    return Path(shutil.copytree(session_run, tmp_path / "copy"))
