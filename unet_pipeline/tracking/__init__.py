"""A run as MLflow shows it: a view of the run folder, sent behind the training's back.

Everything is written to the run folder first (`opening`, `run`, `spool`), then carried to the
store by one thread of our own (`courier`, `senders`, `store`). Whatever the store does, the
training goes on, and what could not be sent is sent later, without duplicates. This package is the
only place that imports mlflow, and only when a run begins.
"""

from __future__ import annotations

from unet_pipeline.tracking.fetching import FetchedModel, fetch_model, is_reference
from unet_pipeline.tracking.lookup import KnownRun, find_run
from unet_pipeline.tracking.model_sender import file_digest
from unet_pipeline.tracking.names import (
    check_model_name,
    experiment_name,
    without_credentials,
)
from unet_pipeline.tracking.opening import adopt, attach, require_store, resume, start, sync
from unet_pipeline.tracking.places import recorded_uri, tracking_uri
from unet_pipeline.tracking.relinking import Relinked, relink
from unet_pipeline.tracking.run import Run
from unet_pipeline.tracking.status import Status, status_of
from unet_pipeline.tracking.viewing import Pages, boards, served

__all__ = [
    "FetchedModel",
    "KnownRun",
    "Pages",
    "Relinked",
    "Run",
    "Status",
    "adopt",
    "attach",
    "boards",
    "check_model_name",
    "experiment_name",
    "fetch_model",
    "file_digest",
    "find_run",
    "is_reference",
    "recorded_uri",
    "relink",
    "require_store",
    "resume",
    "served",
    "start",
    "status_of",
    "sync",
    "tracking_uri",
    "without_credentials",
]
