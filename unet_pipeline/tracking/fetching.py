"""A model that MLflow names -> a file here, fetched once and known by the digest of its bytes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from unet_pipeline.errors import UserError
from unet_pipeline.files import cache_folder, resource_errors
from unet_pipeline.tracking import places
from unet_pipeline.tracking.lookup import (
    MODEL_FILE,
    MODEL_NAME,
    SHA256,
    KnownRun,
    StoredModel,
    asking,
    download,
    is_unknown,
    known_run,
    model_of_run,
    nearest,
    stored_model,
)
from unet_pipeline.tracking.names import without_credentials
from unet_pipeline.tracking.store import open_store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import RegisteredModel

_SCHEMES = ("models:/", "runs:/")
_WAYS = "models:/NAME@ALIAS, models:/NAME/VERSION, models:/m-ID or runs:/ID"


@dataclass(frozen=True)
class FetchedModel:
    """A model file that is here. run: the run that made it, where the store knows."""

    path: Path
    sha256: str
    run: KnownRun | None


def is_reference(model: str) -> bool:
    """Whether `model` is a name in MLflow rather than a path."""
    return model.startswith(_SCHEMES)


def fetch_model(reference: str, uri: str | None = None) -> FetchedModel:
    """The model file that `reference` names, from the user's cache or the store.

    reference: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `models:/m-ID`, `runs:/ID` or
    `runs:/ID/model`. The store is asked each time, so that an alias that has moved is seen; the
    file crosses only where no file with its digest is in the cache. Raises `UserError` for what
    the store does not know, and says what it does; `ResourceError` where it does not answer.
    """
    where = places.tracking_uri(uri)
    with asking(where):
        stored = _resolve(open_store(where), where, reference)
        path = _cached(stored.sha256) if stored.sha256 else None
        return FetchedModel(*(path or _fetch(stored, where)), stored.run)


def _resolve(client: MlflowClient, uri: str, reference: str) -> StoredModel:
    kind, _, name = reference.partition(":/")
    name = name.strip("/")
    if kind == "runs":
        run_id, _, inner = name.partition("/")
        if inner in ("", MODEL_NAME):
            return model_of_run(client, known_run(client, uri, run_id))
    elif re.fullmatch(r"m-[^/@]+", name):
        return _logged_model(client, uri, name)
    elif found := re.fullmatch(r"([^/@]+)@([^/@]+)", name):
        registered = _registered(client, uri, found[1])
        version = registered.aliases.get(found[2])
        if version is None:
            told = nearest(found[2], sorted(registered.aliases), "aliases")
            raise UserError(f"model {found[1]!r} has no alias {found[2]!r}{told}")
        return _version(client, uri, found[1], str(version))
    elif found := re.fullmatch(r"([^/@]+)/([^/@]+)", name):
        _registered(client, uri, found[1])
        return _version(client, uri, found[1], found[2])
    elif re.fullmatch(r"[^/@]+", name):
        registered = _registered(client, uri, name)
        told = nearest("", [f"@{alias}" for alias in sorted(registered.aliases)], "aliases")
        raise UserError(f"{reference}: name an alias or a version of it{told}")
    raise UserError(f"{reference}: a model of MLflow is written {_WAYS}")


def _logged_model(client: MlflowClient, uri: str, model_id: str) -> StoredModel:
    from mlflow.exceptions import MlflowException

    try:
        model = client.get_logged_model(model_id)
    except MlflowException as error:
        if not is_unknown(error):
            raise
        everywhere = [e.experiment_id for e in client.search_experiments()]
        known = [model.model_id for model in client.search_logged_models(everywhere)]
        raise UserError(
            f"MLflow at {without_credentials(uri)} has no model {model_id!r}"
            + nearest(model_id, known, "models")
        ) from error
    run = _run_of(client, uri, model.source_run_id)
    return stored_model(model, run, label=f"models:/{model_id}")


def _run_of(client: MlflowClient, uri: str, run_id: str | None) -> KnownRun | None:
    """The run that made a model; a model may outlive it."""
    with contextlib.suppress(UserError):
        return known_run(client, uri, run_id) if run_id else None
    return None


def _registered(client: MlflowClient, uri: str, name: str) -> RegisteredModel:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if not is_unknown(error):
            raise
        known = sorted(model.name for model in client.search_registered_models())
        raise UserError(
            f"MLflow at {without_credentials(uri)} has no registered model {name!r}"
            + nearest(name, known, "registered models")
        ) from error


def _version(client: MlflowClient, uri: str, name: str, number: str) -> StoredModel:
    from mlflow.exceptions import MlflowException

    try:
        version = client.get_model_version(name, number)
    except MlflowException as error:
        if not is_unknown(error):
            raise
        known = [str(v.version) for v in client.search_model_versions(f"name = '{name}'")]
        raise UserError(
            f"model {name!r} has no version {number!r}" + nearest("", known, "versions")
        ) from error
    model_id = version.model_id or _model_id(version.source)
    if model_id:
        stored = _logged_model(client, uri, model_id)
        return replace(stored, sha256=stored.sha256 or version.tags.get(SHA256))
    run = _run_of(client, uri, version.run_id)
    return StoredModel(
        f"models:/{name}/{number}",
        client.get_model_version_download_uri(name, number),
        (f"artifacts/{MODEL_FILE}", MODEL_FILE),
        version.tags.get(SHA256),
        run,
    )


def _model_id(source: str | None) -> str | None:
    found = re.fullmatch(r"models:/(m-[^/@]+)/?", source or "")
    return found[1] if found else None


def _folder() -> Path:
    return cache_folder() / "models"


def _cached(sha256: str) -> tuple[Path, str] | None:
    """The file of that digest in the cache; None where there is none, or a damaged one."""
    path = _folder() / sha256 / MODEL_FILE
    try:
        return (path, sha256) if _digest(path) == sha256 else None
    except OSError:
        return None


def _fetch(stored: StoredModel, uri: str) -> tuple[Path, str]:
    """The file of `stored`, brought into the cache in one step, whoever else does the same."""
    folder = _folder()
    with resource_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetching-") as place:
            path = download(uri, stored.root, stored.places, Path(place))
            if path is None:
                raise UserError(
                    f"{stored.label} holds no {MODEL_FILE}: it is no model of unet-pipeline, its "
                    "run has not finished, or its files were moved"
                )
            digest = _digest(path)
            if stored.sha256 not in (None, digest):
                raise UserError(
                    f"{stored.label}: its file in MLflow is damaged: sha256 {digest[:12]}..., "
                    f"recorded was {str(stored.sha256)[:12]}..."
                )
            target = folder / digest / MODEL_FILE
            target.parent.mkdir(exist_ok=True)
            os.replace(path, target)
    return target, digest


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
