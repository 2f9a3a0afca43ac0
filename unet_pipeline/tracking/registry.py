"""Registered models: which version an alias names, a run's model registered, an alias moved."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unet_pipeline.errors import UserError
from unet_pipeline.tracking.fetching import FetchedModel, fetch_model
from unet_pipeline.tracking.lookup import (
    MODEL_NAME,
    SHA256,
    KnownRun,
    StoredModel,
    asking,
    is_unknown,
    known_run,
    model_of_run,
    model_uri,
    models_of_run,
)
from unet_pipeline.tracking.store import RUN_KEY, open_store

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

FINGERPRINT = "unet.fingerprint"


@dataclass(frozen=True)
class Holder:
    """A version of a registered model; run: what made it, None where the store has lost that.

    model: which of the run's models it is, None where it is none of them (any more). latest:
    whether it is the newest one.
    """

    version: str
    run: KnownRun | None
    model: StoredModel | None
    latest: bool


def check_alias(alias: str) -> str:
    """`alias`, if MLflow takes it; raises `UserError` otherwise, before anything is changed."""
    reserved = alias.lower() == "latest" or re.fullmatch(r"[vV]\d+", alias)
    if reserved or not re.fullmatch(r"[\w-]{1,255}", alias, re.ASCII):
        raise UserError(
            f"--alias {alias!r}: use letters, digits, _ and -; not 'latest', nor 'v1', 'v2', ..."
        )
    return alias


def names_of(run: KnownRun) -> list[str]:
    """The names under which the model of `run` is registered."""
    with asking(run.uri):
        found = open_store(run.uri).search_model_versions(f"run_id = '{run.run_id}'")
        return sorted({version.name for version in found})


def holder(uri: str, name: str, alias: str) -> Holder | None:
    """The version of `name` that has `alias`; None where none has, or the name is new."""
    with asking(uri):
        client = open_store(uri)
        from mlflow.exceptions import MlflowException

        try:
            number = client.get_registered_model(name).aliases.get(alias)
        except MlflowException as error:
            if not is_unknown(error):
                raise
            return None
        if number is None:
            return None
        version = client.get_model_version(name, str(number))
        try:
            run = known_run(client, uri, version.run_id) if version.run_id else None
        except UserError:
            run = None
        models = models_of_run(client, run) if run else []
        model = next((model for model in models if _is_model(version, model)), None)
        return Holder(str(number), run, model, latest=model is not None and model == models[0])


def newest_model(run: KnownRun) -> StoredModel:
    """What `run` has made last."""
    with asking(run.uri):
        return model_of_run(open_store(run.uri), run)


def register(run: KnownRun, name: str, model: StoredModel) -> str:
    """The version of `name` that is `model`, of `run`, registered now where it was not yet."""
    with asking(run.uri):
        client = open_store(run.uri)
        from mlflow.exceptions import MlflowException

        registered = client.search_model_versions(f"run_id = '{run.run_id}'")
        same = [v for v in registered if v.name == name and _is_model(v, model)]
        if same:
            return str(max(int(version.version) for version in same))
        fetched: FetchedModel | None = None
        if model.sha256 is None:  # sent by an earlier version: also proves that there is a file
            fetched = fetch_model(f"runs:/{run.run_id}", run.uri)
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        tags = {
            SHA256: model.sha256 or (fetched.sha256 if fetched else None),
            FINGERPRINT: run.tags.get(FINGERPRINT),
            RUN_KEY: run.key,
        }
        source = f"{run.artifact_uri}/{MODEL_NAME}"
        if model.model_id:
            source = model_uri(client, client.get_logged_model(model.model_id))
        version = client.create_model_version(
            name,
            source,
            run.run_id,
            tags={key: value for key, value in tags.items() if value},
            model_id=model.model_id,
        )
        return str(version.version)


def point(uri: str, name: str, alias: str, version: str) -> None:
    """Give `alias` of `name` to `version`; the store takes it from another one in the same step."""
    with asking(uri):
        open_store(uri).set_registered_model_alias(name, alias, version)


def _is_model(version: ModelVersion, model: StoredModel) -> bool:
    """Whether a version made from the run of `model` is that model, and not another of the run."""
    if version.model_id and model.model_id:
        return bool(version.model_id == model.model_id)
    digest = version.tags.get(SHA256)
    return digest is None or model.sha256 is None or digest == model.sha256
