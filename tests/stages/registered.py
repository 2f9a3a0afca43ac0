"""Runs with models in a real store, as finished trainings leave them, without the trainings."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from unet_pipeline.tracking import store

store.load_mlflow()

from mlflow import MlflowClient  # noqa: E402, its import is quiet only as the package does it
from mlflow.entities import LoggedModelOutput  # noqa: E402

FINGERPRINT = "f" * 64


def client_of(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder}/mlflow.db")


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def add_run(
    client: MlflowClient,
    name: str,
    *,
    score: float | None = None,
    fingerprint: str = FINGERPRINT,
    root: Path | None = None,
) -> str:
    """A finished run; root: where its experiment keeps files, if a server does not."""
    experiment = client.get_experiment_by_name("cells")
    location = (root / "files").as_uri() if root else None
    experiment_id = (
        experiment.experiment_id if experiment else client.create_experiment("cells", location)
    )
    tags = {"unet.fingerprint": fingerprint, "unet.dataset": "cells", "unet.run_key": f"key-{name}"}
    run_id: str = client.create_run(experiment_id, tags=tags, run_name=name).info.run_id
    if score is not None:
        client.log_metric(run_id, "test/mean_iou", score)
    client.set_terminated(run_id)
    return run_id


def log_model(
    client: MlflowClient,
    run_id: str,
    file: Path,
    *,
    digest: str | None = None,
    score: float | None = None,
) -> str:
    """The logged model of a run; digest: what is noted of its file, the true one by default.

    score: what an evaluation has found for this very model, and noted with the run too.
    """
    run = client.get_run(run_id)
    tags = {"unet.run_key": "key", "unet.model_sha256": digest or sha256(file)}
    model = client.create_logged_model(
        run.info.experiment_id, name="model", source_run_id=run_id, tags=tags
    )
    with tempfile.TemporaryDirectory() as place:
        Path(place, "artifacts").mkdir()
        shutil.copyfile(file, Path(place, "artifacts", "best.safetensors"))
        Path(place, "MLmodel").write_text("flavors: {}\n")
        client.log_model_artifacts(model.model_id, place)
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    if score is not None:
        client.log_metric(run_id, "test/mean_iou", score, model_id=model.model_id)
    return str(model.model_id)


def log_old_model(client: MlflowClient, run_id: str, file: Path) -> None:
    """The model of a run as earlier versions have sent it: a file, nothing else."""
    with tempfile.TemporaryDirectory() as place:
        copy = shutil.copyfile(file, Path(place, "best.safetensors"))
        client.log_artifact(run_id, str(copy), "model")


def register(client: MlflowClient, name: str, run_id: str, model_id: str, alias: str = "") -> str:
    if not any(model.name == name for model in client.search_registered_models()):
        client.create_registered_model(name)
    version = client.create_model_version(name, f"models:/{model_id}", run_id, model_id=model_id)
    if alias:
        client.set_registered_model_alias(name, alias, version.version)
    return str(version.version)
