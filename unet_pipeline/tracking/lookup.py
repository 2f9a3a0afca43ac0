"""What a store holds: its runs, and the model file of each; nothing here changes it."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from unet_pipeline.errors import ResourceError, UserError
from unet_pipeline.tracking import places
from unet_pipeline.tracking.names import without_credentials
from unet_pipeline.tracking.spool import Identity, Spool
from unet_pipeline.tracking.store import RUN_KEY, describe, open_store, quiet

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

MODEL_NAME = "model"
"""What the model of a run is called in MLflow."""
MODEL_FILE = "best.safetensors"
SHA256 = "unet.model_sha256"
_NUM_NEAREST = 200
_SHOWN = 5


@dataclass(frozen=True)
class KnownRun:
    """A run as a store has it. key: our own id of it, where we have made it."""

    uri: str
    run_id: str
    name: str
    experiment_id: str
    experiment: str
    artifact_uri: str
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def key(self) -> str | None:
        return self.tags.get(RUN_KEY)

    def folder(self, runs_dir: Path) -> Path | None:
        """The folder of the run, if it is here: where it was made, or below `runs_dir`."""
        noted = self.tags.get("unet.run_dir")
        candidates = [Path(noted)] if noted else []
        candidates += [path.parent for path in runs_dir.glob("*/*/run.json")]
        for folder in candidates:
            identity = Spool(folder).load()
            if identity is not None and identity.run_id == self.run_id:
                return folder
        return None


@dataclass(frozen=True)
class StoredModel:
    """Where a model file lies in the store: in `root`, at one of `places`.

    sha256: of the file, where the store knows it. label: what people call the model. model_id,
    metrics: of a logged model, what was found out about that very file.
    """

    label: str
    root: str
    places: tuple[str, ...]
    sha256: str | None = None
    run: KnownRun | None = None
    model_id: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    def figure(self, key: str) -> float | None:
        """What was found out about this file; a run that has gone on has made several.

        The run's own figure counts where earlier versions have sent no logged model.
        """
        if self.model_id is not None:
            return self.metrics.get(key)
        return self.run.metrics.get(key) if self.run else None


@contextlib.contextmanager
def asking(uri: str) -> Iterator[None]:
    """Turn whatever hinders the store at `uri` into one `ResourceError`."""
    try:
        with quiet():
            yield
    except UserError:
        raise
    except Exception as error:
        raise ResourceError(
            f"MLflow at {without_credentials(uri)} fails: {describe(error, uri)}; try again later"
        ) from error


def is_unknown(error: Exception) -> bool:
    """Whether the store says that there is no such thing, or that nothing can be called so."""
    code = getattr(error, "error_code", None)
    return code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")


def find_run(run: str, uri: str | None = None) -> KnownRun:
    """The run called `run`: its id, `runs:/ID`, or a run folder of ours.

    uri: the store; else that of the run folder, else as for `places.tracking_uri`.
    Raises `UserError` for a run that is not there, with the nearest, and `ResourceError`.
    """
    identity = Spool(Path(run)).load()
    if identity is None:
        if Path(run).is_dir():
            raise UserError(f"{run} is no run folder: it has no run.json that can be read")
        where, run_id = places.tracking_uri(uri), run.removeprefix("runs:/").partition("/")[0]
        with asking(where):
            return known_run(open_store(where), where, run_id)
    where = places.tracking_uri(uri) if uri else places.recorded_uri(identity.tracking_uri)
    with asking(where):
        found = None
        if identity.run_id is not None:
            client = open_store(where)
            everywhere = [e.experiment_id for e in client.search_experiments()]
            # by our key: a copy of the run in another store has an id of its own
            found = client.search_runs(everywhere, f"tags.`{RUN_KEY}` = '{identity.key}'")
        if not found:
            raise UserError(
                f"MLflow at {without_credentials(where)} has no run {identity.run_name}: send it "
                f"with `unet sync {run}`"
            )
        return known_run(client, where, found[0].info.run_id)


def known_run(client: MlflowClient, uri: str, run_id: str) -> KnownRun:
    """The run with that id. Raises `UserError` where there is none, with the nearest."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if not is_unknown(error):
            raise
        raise UserError(
            f"MLflow at {without_credentials(uri)} has no run {run_id!r}"
            + _nearest_run(client, run_id)
        ) from error
    return KnownRun(
        uri,
        run.info.run_id,
        run.info.run_name or run_id,
        run.info.experiment_id,
        client.get_experiment(run.info.experiment_id).name,
        run.info.artifact_uri,
        dict(run.data.tags),
        dict(run.data.metrics),
    )


def model_of_run(client: MlflowClient, run: KnownRun) -> StoredModel:
    """The newest model of `run`."""
    return models_of_run(client, run)[0]


def models_of_run(client: MlflowClient, run: KnownRun) -> list[StoredModel]:
    """The logged models of `run`, newest first, else the file that earlier versions have sent."""
    label = f"runs:/{run.run_id}"
    models = [
        model
        for model in client.search_logged_models(
            [run.experiment_id], f"source_run_id = '{run.run_id}' AND name = '{MODEL_NAME}'"
        )
        if str(model.status) == "READY"
    ]
    models.sort(key=lambda model: model.creation_timestamp, reverse=True)
    if models:
        return [stored_model(model, run, label=label) for model in models]
    places_of_old = (f"{MODEL_NAME}/artifacts/{MODEL_FILE}", f"{MODEL_NAME}/{MODEL_FILE}")
    return [StoredModel(label, run.artifact_uri, places_of_old, run=run)]


def stored_model(model: LoggedModel, run: KnownRun | None, *, label: str) -> StoredModel:
    """Where the file of a logged model lies, and what was found out about it, the latest."""
    points = sorted(model.metrics or [], key=lambda point: point.timestamp)
    return StoredModel(
        label,
        model.artifact_location,
        (f"artifacts/{MODEL_FILE}", MODEL_FILE),
        model.tags.get(SHA256),
        run,
        model.model_id,
        {point.key: point.value for point in points},
    )


def model_uri(client: MlflowClient, model: LoggedModel) -> str:
    """`models:/<id>`, by which the page of a version links the model's, wherever that works.

    A database looks the id up in the store that MLflow would use by itself, and would make one in
    the working directory where that is another.
    """
    import mlflow

    if places.is_server(client.tracking_uri) or mlflow.get_tracking_uri() == client.tracking_uri:
        return f"models:/{model.model_id}"
    return str(model.artifact_location)


def download(uri: str, root: str, names: Sequence[str], folder: Path) -> Path | None:
    """The first of `names` that is there, copied from the artifacts at `root` into `folder`.

    None where none of them is there.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    files = get_artifact_repository(root, tracking_uri=uri)
    for name in names:
        if name in _listed(files, name.rpartition("/")[0]):
            copy: str = files.download_artifacts(name, str(folder))  # type: ignore[no-untyped-call]
            return Path(copy)
    return None


def fetch_files(run: KnownRun, names: Sequence[str], folder: Path) -> None:
    """Copy those files of a run that MLflow has under one of `names` into `folder`."""
    with asking(run.uri):
        open_store(run.uri)
        for name in names:
            download(run.uri, run.artifact_uri, (name,), folder)


def recorded_identity(run_dir: Path) -> Identity | None:
    """Which run a run folder holds; None where it does not say."""
    return Spool(run_dir).load()


def recorded_tags(run_dir: Path) -> dict[str, str]:
    """The tags that the run of a run folder has said it has."""
    tags: dict[str, str] = {}
    for record, _ in Spool(run_dir).read():
        if record.get("kind") == "tags":
            tags |= record.get("values", {})
    return tags


def nearest(name: str, known: Sequence[str], what: str) -> str:
    """The end of a sentence about an unknown `name`: the nearest known ones, or what there is."""
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f": did you mean {close[0]!r}?"
    if not known:
        return f": it has no {what}"
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return f": its {what} are {', '.join(known[:_SHOWN])}{more}"


def _listed(files: ArtifactRepository, folder: str) -> set[str]:
    return {info.path for info in files.list_artifacts(folder or None)}


def _nearest_run(client: MlflowClient, run_id: str) -> str:
    """The end of the sentence about a run that is not there; people also give names."""
    everywhere = [e.experiment_id for e in client.search_experiments()]
    latest = client.search_runs(everywhere, max_results=_NUM_NEAREST)
    names = {run.info.run_name: run.info.run_id for run in reversed(latest)}
    if run_id in names:
        return f", but one of that name: runs:/{names[run_id]}"
    ids = [run.info.run_id for run in latest]
    if re.fullmatch(r"[0-9a-f]{8,}", run_id):
        return nearest(run_id, ids, "latest runs")
    shown = [f"{run.info.run_id} ({run.info.run_name})" for run in latest]
    return nearest(run_id, shown, "latest runs")
