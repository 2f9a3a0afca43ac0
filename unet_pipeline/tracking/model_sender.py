"""A model file -> a logged model of MLflow, its scores, and a version in the registry.

Each step looks first whether it is done: what broke off half-way is completed, and sent again
nothing is there twice. A model is known by the run's key and the digest of its file, two tags.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unet_pipeline.tracking.lookup import SHA256, model_uri
from unet_pipeline.tracking.spool import Record
from unet_pipeline.tracking.store import RUN_KEY, Connection

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

logger = logging.getLogger("unet_pipeline")

MODEL = "model"
"""The name of a run's model: `runs:/<run id>/model`."""
_MODEL_TYPE = "segmentation"
_VERSIONS_TAG = "mlflow.modelVersions"  # shows the versions on the model's page


def send_models(connection: Connection, folder: Path, records: Sequence[Record]) -> Counter[str]:
    """Models of the run, each uploaded, ready, linked to the run, and registered if that is asked.

    A file that has gone, or was replaced by a better one meanwhile, is counted and left out.
    """
    counts: Counter[str] = Counter()
    for record in records:
        weights = folder / record["path"]
        if file_digest(weights) != record["sha256"]:
            counts["missing"] += 1
            continue
        key = record["tags"][RUN_KEY]
        model = _find(connection, key, record["sha256"]) or _create(connection, record)
        if str(model.status) != "READY":
            _upload(connection, model, folder, record)
            connection.client.finalize_logged_model(model.model_id, "READY")
        _link(connection, model.model_id)
        counts["models"] += 1
        if record["register"]:
            counts["registered"] += _register(connection, model, record)
    return counts


def file_digest(path: Path) -> str | None:
    """sha256 of a file, hexadecimal; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _find(connection: Connection, key: str, sha256: str) -> LoggedModel | None:
    """The model with our tags, whatever its status; an answer that got lost must not make two."""
    found = connection.client.search_logged_models(
        [connection.experiment_id],
        filter_string=f"tags.`{RUN_KEY}` = '{key}' AND tags.`{SHA256}` = '{sha256}'",
        max_results=1,
    )
    return found[0] if found else None


def _create(connection: Connection, record: Record) -> LoggedModel:
    return connection.client.create_logged_model(
        connection.experiment_id,
        name=MODEL,
        source_run_id=connection.run_id,
        tags=record["tags"] | {"mlflow.note.content": record["description"]},
        params=record["params"],
        model_type=_MODEL_TYPE,
    )


def _upload(connection: Connection, model: LoggedModel, folder: Path, record: Record) -> None:
    """The folder of the model, whose MLmodel says which model of which run it is."""
    from mlflow.models import Model

    from unet_pipeline.tracking.model_folder import write_model_folder

    made = write_model_folder(
        folder,
        folder / record["path"],
        sha256=record["sha256"],
        example=base64.b64decode(record["example"]),
        network=record["network"],
    )
    connection.client.log_model_artifacts(model.model_id, str(made))
    described = Model.load(str(made))
    described.model_id, described.run_id = model.model_id, connection.run_id
    described.artifact_path = model.artifact_location
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "MLmodel")
        described.save(str(file))
        connection.client.log_model_artifact(model.model_id, str(file))


def _link(connection: Connection, model_id: str) -> None:
    """Name the model as an output of the run, once: MLflow would list it twice."""
    from mlflow.entities import LoggedModelOutput

    outputs = connection.client.get_run(connection.run_id).outputs
    linked = [output.model_id for output in outputs.model_outputs] if outputs else []
    if model_id not in linked:
        connection.client.log_outputs(connection.run_id, [LoggedModelOutput(model_id, step=0)])


def _register(connection: Connection, model: LoggedModel, record: Record) -> int:
    """Make the model a version of the registered model that `record` names; 0 where it is one."""
    client, name = connection.client, record["register"]
    of_run = f"name = '{name}' AND run_id = '{connection.run_id}'"
    for version in client.search_model_versions(of_run):
        if version.tags.get(SHA256) == record["sha256"]:
            logger.info("model: models:/%s/%s, registered before", name, version.version)
            return 0
    _ensure_registered_model(connection, name)
    version = client.create_model_version(
        name,
        model_uri(connection.client, model),
        run_id=connection.run_id,
        tags=record["tags"],
        description=record["description"],
        model_id=model.model_id,
    )
    with contextlib.suppress(Exception):  # a comfort of the page: the version stands without
        _note_version(connection, model, {"name": name, "version": version.version})
    logger.info("model: models:/%s/%s", name, version.version)
    return 1


def _ensure_registered_model(connection: Connection, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        connection.client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS"):
            raise


def _note_version(connection: Connection, model: LoggedModel, version: Mapping[str, Any]) -> None:
    known = json.loads(model.tags.get(_VERSIONS_TAG, "[]"))
    tags = {_VERSIONS_TAG: json.dumps([*known, version])}
    connection.client.set_logged_model_tags(model.model_id, tags)
