"""Where the runs of a directory lie, and the links to look at them."""

from __future__ import annotations

import os
import shlex
import urllib.parse
from pathlib import Path

from unet_pipeline.tracking.names import without_credentials

VIEW_KEY = "unet"
"""The key of the experiment's saved view in its link."""
_SQLITE = "sqlite:///"


def tracking_uri(uri: str | None = None) -> str:
    """Where runs go: `uri`, else `MLFLOW_TRACKING_URI`, else mlflow.db in the working directory.

    A relative path of an sqlite database becomes absolute, so that it stays true elsewhere.
    """
    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}mlflow.db"
    if chosen.startswith(_SQLITE) and not chosen.startswith(_SQLITE + ":memory:"):
        _, question, options = chosen.partition("?")
        return f"{local_uri(database_path(chosen).absolute())}{question}{options}"
    return chosen


def local_uri(database: Path) -> str:
    """The URI of a database file: a `%` in its path stands for itself."""
    return _SQLITE + str(database).replace("%", "%25")


def recorded_uri(recorded: str) -> str:
    """The URI of run.json, with the credentials that `MLFLOW_TRACKING_URI` has for it."""
    current = os.environ.get("MLFLOW_TRACKING_URI", "")
    return current if without_credentials(current) == recorded else recorded


def is_local(uri: str) -> bool:
    """Whether the store is a database file."""
    return uri.startswith(_SQLITE)


def is_server(uri: str) -> bool:
    """Whether the store is spoken to over HTTP."""
    return uri.startswith(("http://", "https://"))


def database_path(uri: str) -> Path:
    """The file of a local store."""
    return Path(urllib.parse.unquote(uri.removeprefix(_SQLITE).partition("?")[0]))


def ui_command(uri: str) -> str | None:
    """The command that shows the runs of a database; None for a server, which shows its own."""
    if is_server(uri):
        return None
    # Files of an old MLflow make a bare `mlflow ui` look there instead
    old = any(path.parent.name.isdigit() for path in Path("mlruns").glob("*/meta.yaml"))
    if uri == local_uri(Path.cwd() / "mlflow.db") and not old:
        return "mlflow ui"
    return f"mlflow ui --backend-store-uri {shlex.quote(without_credentials(uri))}"


def page(uri: str, experiment_id: str, run_id: str | None = None) -> str:
    """The link of a run, or of the experiment's saved view, in the browser.

    The workflow type must be in the link: a fresh browser opens on an empty page of traces else.
    """
    base = without_credentials(uri).rstrip("/") if is_server(uri) else "http://127.0.0.1:5000"
    experiment = f"{base}/#/experiments/{experiment_id}/runs"
    if run_id is None:
        return f"{experiment}?workflowType=machine_learning&viewStateShareKey={VIEW_KEY}"
    return f"{experiment}/{run_id}/model-metrics?workflowType=machine_learning"
