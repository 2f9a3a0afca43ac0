"""How a run begins, goes on, or is sent once more."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unet_pipeline.errors import ResourceError, UserError
from unet_pipeline.tracking import places, store
from unet_pipeline.tracking.courier import PATIENCE_SECONDS, Courier
from unet_pipeline.tracking.facts import origin_tags
from unet_pipeline.tracking.lookup import KnownRun
from unet_pipeline.tracking.names import check_experiment, without_credentials
from unet_pipeline.tracking.pulse import Pulse, felt_by
from unet_pipeline.tracking.run import Run, required_error
from unet_pipeline.tracking.spool import IDENTITY, Identity, Spool
from unet_pipeline.tracking.status import status_of

logger = logging.getLogger("unet_pipeline")


def start(
    run_dir: Path,
    *,
    experiment: str,
    run_name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    stage: str = "train",
    leaderboard: tuple[str, ...] = (),
    pictures: tuple[str, ...] = (),
    parent: Run | None = None,
    uri: str | None = None,
    send: bool = True,
    required: bool = False,
) -> Run:
    """A new run in `run_dir`, on its way to MLflow.

    experiment: as `experiment_name` gives it; ignored where `mlflow run` has made the run already.
    stage: the verb that runs; MLflow shows it as the source.
    leaderboard: the columns of the experiment's saved view, `metrics.<key>` or `params.<key>`; the
    first metric ranks the runs.
    pictures: keys of the images that this view shows without the params above them.
    parent: the run that this one is nested in.
    uri: the store; else `MLFLOW_TRACKING_URI`, else mlflow.db in the working directory.
    send: False keeps everything in the run folder, from where `sync` can send it one day.
    required: a store that fails is a `TrackingError`, now and later (`Run.failure`).
    Raises `UserError` for an experiment's name that cannot be, and nothing else: a store that
    fails is one warning.
    """
    check_experiment(experiment)
    where = places.tracking_uri(uri)
    # As MLflow does: the run is adopted once, a second one in this process is its own
    adopted = os.environ.pop("MLFLOW_RUN_ID", None) or None
    identity = Identity(
        tracking_uri=without_credentials(where),
        experiment=experiment,
        run_name=run_name,
        leaderboard=leaderboard,
        pictures=pictures,
        adopted=adopted is not None,
        parent=parent.key if parent else None,
        run_id=adopted,
        send=send,
    )
    origin = origin_tags(stage)
    if adopted:  # its source is the project, as `mlflow run` has noted
        origin = {key: value for key, value in origin.items() if not key.startswith("mlflow.")}
    assert not (run_dir / IDENTITY).exists(), "a new run needs a new folder"
    if required and send:
        require_store(experiment, where)
    run = Run(run_dir, identity, uri=where, owner=True, send=send, required=required)
    with _ended_where_it_fails(run):
        run.begin(params, origin | dict(tags))
    return run


def resume(run_dir: Path, *, send: bool = True, required: bool = False) -> Run:
    """The run of `run_dir`, running again: the same run in MLflow, its curves continued.

    send, required: as for `start`; they may change from one part of the run to the next.
    """
    run = _reopened(run_dir, owner=True, send=send, required=required)
    if required and send:
        require_store(run.experiment, run.uri)
    with _ended_where_it_fails(run):
        run.go_on()
    return run


def attach(run_dir: Path, *, required: bool = False) -> Run:
    """The run of `run_dir`, to add something to: its status and duration stay what they are.

    A run that was kept out of MLflow stays out. required: as for `start`.
    """
    run = _reopened(run_dir, owner=False, required=required)
    with _ended_where_it_fails(run):
        run.dispatch()
    return run


def adopt(folder: Path, run: KnownRun, *, required: bool = False) -> Run:
    """The run of another machine, which MLflow has, to add something to, as with `attach`.

    folder: where all that is said from here is kept first; made where it is not there.
    required: as for `start`.
    """
    spool, where = Spool(folder), without_credentials(run.uri)
    known = spool.load()
    if known is None or known.tracking_uri != where:  # a server may have moved meanwhile
        identity = Identity(
            tracking_uri=where,
            experiment=run.experiment,
            run_name=run.name,
            experiment_id=run.experiment_id,
            run_id=run.run_id,
        )
        if run.key is not None:
            identity = identity.model_copy(update={"key": run.key})
        with spool.guarded(IDENTITY), contextlib.suppress(ResourceError):
            folder.mkdir(parents=True, exist_ok=True)
            spool.save(identity)
    return attach(folder, required=required)


def require_store(experiment: str, uri: str | None = None) -> None:
    """Raise `TrackingError` unless the store answers; makes no run in it.

    uri: as for `start`. A slow store is waited for as long as it makes progress.
    """
    where = places.tracking_uri(uri)
    pulse, failures = Pulse(), list[str]()

    def look() -> None:
        try:
            with store.quiet(), felt_by(pulse):
                store.open_client(where).get_experiment_by_name(experiment)
        except Exception as error:  # noqa: BLE001, clients raise OSError, ImportError, ...
            failures.append(store.describe(error, where))

    with contextlib.suppress(Exception):  # which the thread meets again
        store.load_mlflow()
        pulse.beat()
    thread = threading.Thread(target=look, name="unet-tracking-look", daemon=True)
    thread.start()
    while thread.is_alive() and time.monotonic() - pulse.at < PATIENCE_SECONDS:
        thread.join(0.05)
    if thread.is_alive():
        failures.append(f"it has not answered for {PATIENCE_SECONDS:g} s")
    if failures:
        raise required_error(without_credentials(where), failures[0])


@contextlib.contextmanager
def _ended_where_it_fails(run: Run) -> Iterator[None]:
    """Close the run where its beginning is interrupted, so that it is not left as running."""
    try:
        yield
    except BaseException as error:
        run.close(status_of(error), grace=0.0)
        raise


def sync(run_dir: Path, uri: str | None = None) -> Counter[str]:
    """Send what MLflow does not hold yet of the run in `run_dir`; what was sent, by kind.

    uri: another store than the run's own: the run is copied there, or, if it has never reached a
    store, moved there for good. Sending again adds nothing.
    The counts: metrics (points), params, tags, datasets, artifacts, images, models, versions
    `registered`, and `missing` files, `rejected` records.
    Raises `UserError` where there is no run, and `ResourceError` where the store does not answer.
    """
    spool = Spool(run_dir)
    identity = spool.load()
    if identity is None:
        raise UserError(f"{run_dir} is no run folder: it has no {IDENTITY} that can be read")
    where = places.tracking_uri(uri) if uri else places.recorded_uri(identity.tracking_uri)
    elsewhere = without_credentials(where) != identity.tracking_uri
    primary = not elsewhere or identity.run_id is None
    if elsewhere:
        moved = {"tracking_uri": without_credentials(where), "run_id": None, "experiment_id": None}
        identity = identity.model_copy(update=moved)  # kept once the store has answered
    courier = Courier(spool, identity, where, primary=primary)
    try:
        courier.carry()
    except Exception as error:
        raise ResourceError(
            f"MLflow at {identity.tracking_uri} fails: {store.describe(error, where)}; "
            f"{run_dir} keeps what is not sent, try again later"
        ) from error
    return courier.counts


def _reopened(
    run_dir: Path, *, owner: bool, send: bool | None = None, required: bool = False
) -> Run:
    """The run of `run_dir`; send: None leaves it as it was."""
    spool = Spool(run_dir)
    recorded = identity = spool.load()
    if identity is None:
        logger.warning("tracking: %s has no %s: it becomes a new run in MLflow", run_dir, IDENTITY)
        identity = Identity(
            tracking_uri=without_credentials(places.tracking_uri()),
            experiment=run_dir.resolve().parent.name or "unet",
            run_name=run_dir.resolve().name,
        )
    if send is None:  # one that is in MLflow already was sent there on purpose
        send = identity.send or identity.run_id is not None
    identity = identity.model_copy(update={"send": send})
    if identity != recorded:
        with spool.guarded(IDENTITY), contextlib.suppress(ResourceError):
            spool.save(identity)
    where = places.recorded_uri(identity.tracking_uri)
    return Run(run_dir, identity, uri=where, owner=owner, send=send, required=required)
