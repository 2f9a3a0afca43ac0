"""One function for each kind of record: how it gets into MLflow. All of them may be repeated."""

from __future__ import annotations

import io
import itertools
import json
import re
import shutil
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from unet_pipeline.tracking.lookup import SHA256
from unet_pipeline.tracking.model_sender import send_models
from unet_pipeline.tracking.names import MAX_TAG, same_value, shorten
from unet_pipeline.tracking.spool import Record
from unet_pipeline.tracking.store import Connection
from unet_pipeline.tracking.table_sender import send_tables

Sender = Callable[[Connection, Path, Sequence[Record]], Counter[str]]
Item = TypeVar("Item")

# MLflow's limits for one request; tags are fewer because each may be long
_METRICS, _PARAMS, _TAGS = 1000, 100, 20
_THUMBNAIL = 256


def send_metrics(connection: Connection, folder: Path, records: Sequence[Record]) -> Counter[str]:
    """Points of curves; the same point again changes nothing: MLflow keeps a set of them.

    A record may name the `dataset` that its points are about, [name, digest], and the `model`, by
    the sha256 of its weights: MLflow shows them there too, if the run has logged that model.
    """
    from mlflow.entities import Metric

    models = _logged_models(connection) if any("model" in record for record in records) else {}
    metrics = [
        Metric(
            key,
            value,
            record["t"],
            record["step"],
            models.get(record.get("model", "")),
            *(record.get("dataset") or (None, None)),
        )
        for record in records
        for key, value in record["values"].items()
    ]
    for chunk in _chunks(metrics, _METRICS):
        connection.client.log_batch(connection.run_id, metrics=chunk)
    return Counter(metrics=len(metrics))


def _logged_models(connection: Connection) -> dict[str, str]:
    """sha256 of the weights -> model id, of the models that the run has logged."""
    found = connection.client.search_logged_models(
        [connection.experiment_id], f"source_run_id = '{connection.run_id}'"
    )
    return {model.tags.get(SHA256, ""): model.model_id for model in reversed(found)}


def send_params(connection: Connection, folder: Path, records: Sequence[Record]) -> Counter[str]:
    """Settings; MLflow never changes one, so those that differ are told in a tag instead.

    One that is refused would take the whole request with it.
    """
    from mlflow.entities import Param

    present = connection.client.get_run(connection.run_id).data.params
    wanted = {key: value for record in records for key, value in record["values"].items()}
    new = [Param(key, value) for key, value in wanted.items() if key not in present]
    for chunk in _chunks(new, _PARAMS):
        connection.client.log_batch(connection.run_id, params=chunk)
    conflicts = {
        key: [present[key], value]
        for key, value in wanted.items()
        if key in present and not same_value(present[key], value)
    }
    if conflicts:
        text = shorten(json.dumps(conflicts, ensure_ascii=False), MAX_TAG)
        connection.client.set_tag(connection.run_id, "unet.param_conflicts", text)
    return Counter(params=len(new))


def send_tags(connection: Connection, folder: Path, records: Sequence[Record]) -> Counter[str]:
    """Tags; the last value counts."""
    from mlflow.entities import RunTag

    wanted = {key: value for record in records for key, value in record["values"].items()}
    for chunk in _chunks([RunTag(key, value) for key, value in wanted.items()], _TAGS):
        connection.client.log_batch(connection.run_id, tags=chunk)
    return Counter(tags=len(wanted))


def send_status(connection: Connection, folder: Path, records: Sequence[Record]) -> Counter[str]:
    """How the run is, the last word only; the time of an end is when it was said."""
    last = records[-1]
    if last["status"] == "RUNNING":
        connection.client.update_run(connection.run_id, status="RUNNING")
    else:
        connection.client.set_terminated(connection.run_id, last["status"], end_time=last["t"])
    return Counter()


def send_datasets(connection: Connection, folder: Path, records: Sequence[Record]) -> Counter[str]:
    """Data that the run has used; MLflow knows one by its name and digest."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    for record in records:
        dataset = Dataset(
            name=record["name"],
            digest=record["digest"],
            source_type="local",
            source=json.dumps({"uri": record["source"]}),
            schema=_schema(record["profile"]),
            profile=json.dumps(record["profile"]),
        )
        tags = [InputTag("mlflow.data.context", record["split"])]
        connection.client.log_inputs(connection.run_id, [DatasetInput(dataset, tags)])
    return Counter(datasets=len(records))


def _schema(profile: Mapping[str, Any]) -> str | None:
    """Images and masks of a dataset as MLflow describes tensors; None where they are not known."""
    if not {"in_channels", "dtype"} <= profile.keys():
        return None
    import numpy as np
    from mlflow.data.schema import TensorDatasetSchema
    from mlflow.types import Schema, TensorSpec

    pixels = (-1, -1, -1)  # any number of images, of any size
    image = TensorSpec(np.dtype(profile["dtype"]), (*pixels, int(profile["in_channels"])), "image")
    mask = TensorSpec(np.dtype("uint8"), pixels, "mask")
    return json.dumps(TensorDatasetSchema(Schema([image]), Schema([mask])).to_dict())


def send_artifacts(connection: Connection, folder: Path, records: Sequence[Record]) -> Counter[str]:
    """Files, as they are now; one that has gone meanwhile is counted and left out."""
    counts: Counter[str] = Counter()
    for record in records:
        path = folder / record["path"]
        if not _readable(path):
            counts["missing"] += 1
            continue
        with tempfile.TemporaryDirectory() as place:
            # MLflow puts the name into an address as it is: `a#1.png` would arrive as `a`
            name = re.sub(r"[#%?\x00-\x1f\x7f]", "_", path.name)
            if name != path.name:
                Path(place, name).symlink_to(path.resolve())
                path = Path(place, name)
            connection.client.log_artifact(connection.run_id, str(path), record["folder"] or None)
        counts["artifacts"] += 1
    return counts


def send_images(connection: Connection, folder: Path, records: Sequence[Record]) -> Counter[str]:
    """Pictures by key and step, as the image charts read them: full size, and a small webp.

    The names are those of `MlflowClient.log_image`, except that ours are a function of run, key
    and step: sent again, a picture replaces itself. (A test compares them with the installed ones.)
    """
    import PIL.Image

    counts: Counter[str] = Counter()
    for record in records:
        path = folder / record["path"]
        if not _readable(path):
            counts["missing"] += 1
            continue
        unique = uuid.uuid5(uuid.NAMESPACE_URL, f"{record['key']}/{record['step']}")
        key = record["key"].replace("/", "~")
        name = f"{key}+step+{record['step']}+timestamp+{record['time']}+{unique}"
        with tempfile.TemporaryDirectory() as place:
            picture, small = Path(place, f"{name}.png"), Path(place, f"{name}+compressed.webp")
            shutil.copyfile(path, picture)
            with PIL.Image.open(io.BytesIO(picture.read_bytes())) as image:
                scale = _THUMBNAIL / max(image.size)
                size = [max(1, round(side * scale)) for side in image.size]
                image.convert("RGB").resize((size[0], size[1])).save(small)
            for file in (picture, small):
                connection.client.log_artifact(connection.run_id, str(file), "images")
        counts["images"] += 1
    connection.client.set_tag(connection.run_id, "mlflow.loggedImages", "true")
    return counts


SENDERS: dict[str, Sender] = {
    "params": send_params,
    "tags": send_tags,
    "metrics": send_metrics,
    "dataset": send_datasets,
    "status": send_status,
    "artifact": send_artifacts,
    "image": send_images,
    "table": send_tables,
    "model": send_models,
    "model_metrics": send_metrics,
}
"""kind of record -> how it is sent."""

LANES: dict[str, tuple[str, ...]] = {
    "facts": ("params", "tags", "metrics", "dataset", "status"),
    "files": ("artifact", "image", "table"),
    "models": ("model", "model_metrics"),
}
"""Kinds that are sent in order; a lane that is stuck does not hold up the other.

(An artifact store has credentials and a disk of its own: curves go on where files cannot.)
"""


def size_of(folder: Path, records: Sequence[Record]) -> int:
    """The bytes of the files that belong to `records`."""
    paths = [folder / record["path"] for record in records if "path" in record]
    return sum(path.stat().st_size for path in paths if path.is_file())


def _readable(path: Path) -> bool:
    try:
        with path.open("rb"):
            return True
    except OSError:
        return False


def _chunks(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    for start in range(0, len(items), size):
        yield list(itertools.islice(items, start, start + size))
