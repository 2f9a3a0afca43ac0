"""The store, opened: the only module that makes a client of MLflow, and knows its moods."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import ssl
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unet_pipeline.errors import UserError
from unet_pipeline.tracking.facts import user_name
from unet_pipeline.tracking.names import folder_name, shorten, without_credentials
from unet_pipeline.tracking.places import VIEW_KEY, database_path, is_local, is_server
from unet_pipeline.tracking.pulse import listen
from unet_pipeline.tracking.saved_view import saved_view
from unet_pipeline.tracking.spool import Identity, exclusive

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment
    from mlflow.entities import Run as MlflowRun

logger = logging.getLogger("unet_pipeline")

RUN_KEY = "unet.run_key"
_PARENT_TAG = "mlflow.parentRunId"
_VIEW_TAG = f"mlflow.sharedViewState.{VIEW_KEY}"
_PREFLIGHT_SECONDS = 3.0

# Set unless the user has: MLflow's own defaults let one call block for 20 minutes (measured).
# 30 s, because a server may need that to pass an uploaded model on to its own storage.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # which belongs to the command's result
    "MLFLOW_UV_AUTO_DETECT": "false",  # would copy the user's uv.lock into the folder of a model
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # one more would run into ours
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


class UnreachableError(Exception):
    """The store does not answer."""


@dataclass(frozen=True)
class Connection:
    """A run in a store that has answered."""

    client: MlflowClient
    experiment_id: str
    run_id: str


@functools.cache
def load_mlflow() -> None:
    """Import mlflow, quietly: 2 to 4 s, once, better at the beginning than behind a training.

    (A data loader's worker that is forked while another thread imports can wait for ever.)
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SQLAlchemy deprecates what MLflow still uses
        import mlflow.entities
        import mlflow.pyfunc
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    _install_filter()
    listen()


def connect(identity: Identity, uri: str) -> Connection:
    """The run of `identity` in the store: opened, found by its key, or made.

    Raises `UnreachableError`, or whatever the store says.
    """
    preflight(uri)
    load_mlflow()
    with _first_use(uri):
        from mlflow import MlflowClient

        client = MlflowClient(uri)
        run = _recorded_run(client, identity)
        if run is None:
            # beside its parent, which `mlflow run` may have put into an experiment of its own
            parent = _parent_run(client, identity)
            experiment_id = (
                parent.info.experiment_id
                if parent is not None
                else _experiment_id(client, identity.experiment, uri)
            )
            run = _keyed_run(client, experiment_id, identity)
        _nest(client, run, identity)
        _furnish(client, run.info.experiment_id, identity)
    return Connection(client, run.info.experiment_id, run.info.run_id)


def open_store(uri: str) -> MlflowClient:
    """A client of the store at `uri`, to ask it something; nothing is made.

    Raises `UserError` where there is no database, `UnreachableError`, or whatever the store says.
    """
    if is_local(uri) and not (database_path(uri).is_file() and database_path(uri).stat().st_size):
        raise UserError(
            f"there is no MLflow store {database_path(uri)}: go to the folder of the runs, or set "
            "MLFLOW_TRACKING_URI"
        )
    return open_client(uri)


def open_client(uri: str) -> MlflowClient:
    """A client of the store, which has answered; makes the tables of a new database.

    Raises `UnreachableError`, or whatever the store says.
    """
    preflight(uri)
    load_mlflow()
    with _first_use(uri):
        from mlflow import MlflowClient

        return MlflowClient(uri)


def describe(error: BaseException, uri: str) -> str:
    """The reason of a failure in one line, without credentials; what to do, where we know it."""
    lines = without_credentials(str(error)).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    if "out-of-date database schema" in text:
        upgrade = f"mlflow db upgrade {without_credentials(uri)}"
        return f"its database is of another MLflow: back it up and run `{upgrade}`"
    if "Max retries exceeded" in text or "timed out" in text.lower():
        return "it does not answer"
    if "database is locked" in str(error):
        return "another process holds its database locked"
    if "database or disk is full" in str(error):
        return "the disk of its database is full"
    return shorten(text, 200)


def is_rejection(error: BaseException) -> bool:
    """Whether the store has understood and refused, so that sending the same again is no use."""
    code = getattr(error, "error_code", None)
    status = getattr(getattr(error, "response", None), "status_code", None)
    damaged = isinstance(error, KeyError)  # a line of the journal that lacks something
    return damaged or code == "INVALID_PARAMETER_VALUE" or status in (400, 413, 422)


def is_active(connection: Connection) -> bool:
    """Whether the run still takes records: it has not been deleted in the store."""
    run = connection.client.get_run(connection.run_id)
    return bool(run.info.lifecycle_stage == "active")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what MLflow and its libraries log in this thread to themselves.

    They print the trace of every failed attempt; our one warning says the same.
    """
    _silent.active = True
    try:
        yield
    finally:
        _silent.active = False


def preflight(uri: str, *, seconds: float = _PREFLIGHT_SECONDS) -> None:
    """Raise `UnreachableError` unless a server answers within `seconds`, whatever it answers."""
    if not is_server(uri):
        return
    address = without_credentials(uri).rstrip("/") + "/health"
    try:
        with urllib.request.urlopen(address, timeout=seconds):
            return
    except urllib.error.HTTPError as error:
        if error.code >= 500:
            raise UnreachableError(f"it answers {error.code} {error.reason}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if not isinstance(reason, ssl.SSLError):  # a certificate that MLflow may be told to accept
            raise UnreachableError(str(reason)) from error


@contextlib.contextmanager
def _first_use(uri: str) -> Iterator[None]:
    """Let one process at a time open a database: the first one creates its tables.

    MLflow does that without a lock: of six processes on no database, five died (measured). The
    lock is on the folder, so that no file is left behind.
    """
    if not is_local(uri) or not database_path(uri).parent.is_dir():
        yield
        return
    database = database_path(uri)
    folder = os.open(database.parent, os.O_RDONLY)
    try:
        # A first opening takes 4 s, on a busy machine 12: it writes all the while
        with exclusive(folder, watch=(database, Path(f"{database}-journal"))):
            yield
    finally:
        os.close(folder)


def _recorded_run(client: MlflowClient, identity: Identity) -> MlflowRun | None:
    """The run that run.json names, restored if it was deleted; None where the store has none."""
    from mlflow.exceptions import MlflowException

    if identity.run_id is None:
        return None
    try:
        run = client.get_run(identity.run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        logger.warning("tracking: MLflow has lost run %s: it is made anew", identity.run_id)
        return None
    if run.info.lifecycle_stage == "deleted":
        logger.warning("tracking: run %s was deleted in MLflow: restored", identity.run_name)
        client.restore_run(identity.run_id)
    # Which is what has deleted it, mostly: nobody would see the run
    _restore_experiment(client, client.get_experiment(run.info.experiment_id))
    # Now, not with the other tags: a run below this one finds it by its key, and may be quick
    if identity.adopted and RUN_KEY not in run.data.tags:
        client.set_tag(identity.run_id, RUN_KEY, identity.key)
    # `mlflow run` leaves the name to chance; a name that a person has chosen stays
    if identity.adopted and re.fullmatch(r"[a-z]+-[a-z]+-\d+", run.info.run_name or ""):
        client.update_run(identity.run_id, name=identity.run_name)
    return run


def _keyed_run(client: MlflowClient, experiment_id: str, identity: Identity) -> MlflowRun:
    """The run with our key: an answer that got lost must not make a second one."""
    found = client.search_runs([experiment_id], f"tags.`{RUN_KEY}` = '{identity.key}'")
    if found:
        return found[0]
    return client.create_run(
        experiment_id,
        start_time=identity.started,
        tags={RUN_KEY: identity.key, "mlflow.user": user_name()},
        run_name=identity.run_name,
    )


def _nest(client: MlflowClient, run: MlflowRun, identity: Identity) -> None:
    """Show the run below its parent, as soon as the store has that one."""
    if identity.parent is None or _PARENT_TAG in run.data.tags:
        return
    parent = _parent_run(client, identity)
    if parent is not None:
        client.set_tag(run.info.run_id, _PARENT_TAG, parent.info.run_id)


def _parent_run(client: MlflowClient, identity: Identity) -> MlflowRun | None:
    """The run that `identity` is nested in; None where there is none, or the store lacks it yet."""
    if identity.parent is None:
        return None
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, f"tags.`{RUN_KEY}` = '{identity.parent}'")
    return found[0] if found else None


def _experiment_id(client: MlflowClient, name: str, uri: str) -> str:
    """The experiment of that name, made or restored; another one where its files are elsewhere."""
    experiment = _named_experiment(client, name, uri)
    if is_local(uri) and experiment.artifact_location.startswith("mlflow-artifacts:"):
        local = f"{name}-local"
        logger.warning(
            "tracking: experiment %r was made by a server, which keeps its files: using %r "
            "(or set MLFLOW_TRACKING_URI to the server)",
            name,
            local,
        )
        experiment = _named_experiment(client, local, uri)
    return str(experiment.experiment_id)


def _named_experiment(client: MlflowClient, name: str, uri: str) -> Experiment:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        location = None
        if is_local(uri):
            location = (database_path(uri).parent / "mlruns" / folder_name(name)).as_uri()
        try:
            return client.get_experiment(client.create_experiment(name, location))
        except Exception:  # whatever it is: if another process was faster, there is no error
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    _restore_experiment(client, experiment)
    return experiment


def _restore_experiment(client: MlflowClient, experiment: Experiment) -> None:
    if experiment.lifecycle_stage == "deleted":
        logger.warning("tracking: experiment %r was deleted in MLflow: restored", experiment.name)
        client.restore_experiment(experiment.experiment_id)


def _furnish(client: MlflowClient, experiment_id: str, identity: Identity) -> None:
    """Give the experiment the tags that make its page a good one, where it lacks them."""
    tags = {"mlflow.experimentKind": "custom_model_development"}
    if identity.leaderboard:
        tags[_VIEW_TAG] = saved_view(identity.leaderboard, identity.pictures)
    # A comfort that an older server or a lack of rights may refuse, and no run depends on
    with contextlib.suppress(Exception):
        present = client.get_experiment(experiment_id).tags
        for key in tags.keys() - present.keys():
            client.set_experiment_tag(experiment_id, key, tags[key])


class _Silent(threading.local):
    active = False


_silent = _Silent()


class _SilenceFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not _silent.active


@functools.cache
def _install_filter() -> None:
    silence = _SilenceFilter()
    for name in ("mlflow", "alembic", "sqlalchemy.engine"):  # MLflow's: they pass nothing on
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(silence)
    logging.getLogger("urllib3.connectionpool").addFilter(silence)
