"""A run that has to be in MLflow (`--tracking required`): looked for, gone on with, given up."""

from __future__ import annotations

import contextlib
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

from unet_pipeline import tracking
from unet_pipeline.config import TrainConfig
from unet_pipeline.errors import TrackingError
from unet_pipeline.stages.session import Session
from unet_pipeline.stages.telling import headline


def require_tracking(config: TrainConfig, experiment: str) -> None:
    """Raise `TrackingError` where the run has to be in MLflow and its store does not answer."""
    if config.output.tracking == "required":
        tracking.require_store(experiment, config.output.tracking_uri)


def resume_tracking(session: Session) -> tracking.Run:
    """The MLflow run of a session, running again; it notes which settings have changed since."""
    switch = session.config.output.tracking
    track = tracking.resume(session.folder, send=switch != "off", required=switch == "required")
    # MLflow never changes a param: the tag unet.param_conflicts tells what it is now
    track.log_params(headline(session.config, session.manifest))
    track.watch_machine()
    return track


@contextlib.contextmanager
def taken_back(folder: Path) -> Iterator[None]:
    """Remove the folder of a run that has to be in MLflow, where it does not get there."""
    try:
        yield
    except TrackingError:
        shutil.rmtree(folder)
        raise


def lost_error(session: Session) -> TrackingError:
    """The error of a training whose MLflow has failed, after its state was saved."""
    if not session.is_main:
        return TrackingError("the main process has lost MLflow, which is required")
    resume = f"unet train --resume {shlex.quote(str(session.folder))}"
    return session.track.required_error(
        f"stopped after step {session.position.step}; once it is back, or else with --tracking on, "
        f"continue with: {resume}"
    )
