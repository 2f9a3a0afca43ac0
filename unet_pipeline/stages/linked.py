"""A run that is made of steps: one parent, below it a run a step, and what of before still stands.

The training has a run folder of its own making; the other steps get small ones from here.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from unet_pipeline import tracking
from unet_pipeline.config import OutputSettings
from unet_pipeline.console import log_to_file
from unet_pipeline.errors import RejectedInputsError
from unet_pipeline.files import folder_lock
from unet_pipeline.stages.steps import StepNote, notes_of
from unet_pipeline.stages.telling import LEADERBOARD
from unet_pipeline.stages.trained import InterruptedRunError
from unet_pipeline.training import run_folder as runs

logger = logging.getLogger(__name__)

How = Literal["made", "resumed", "reused", "given"]


@dataclass(frozen=True)
class Step:
    """A row of the table: a step, what became of it, and what it has to show.

    folder: of its run; of the dataset where that was given. figure: its result in a few words.
    result: what later steps need. rejected: why it ends with exit code 3, where it does.
    """

    name: str
    how: How
    seconds: float
    folder: Path
    figure: str
    result: Mapping[str, Any]
    rejected: str | None = None

    def raise_for_rejected(self) -> None:
        """Raise `RejectedInputsError` where inputs were rejected."""
        if self.rejected:
            raise RejectedInputsError(self.rejected)


@dataclass
class Chain:
    """The run above the steps, and those that are done. fresh: none of before counts."""

    folder: Path
    track: tracking.Run
    runs_dir: Path
    output: OutputSettings
    fresh: bool
    steps: list[Step] = field(default_factory=list)

    def former(self, step: str, digest: str) -> tuple[Path, StepNote] | None:
        """The newest step of that name that was made from the same and still stands, if any."""
        for folder, note in [] if self.fresh else notes_of(self.runs_dir, step):
            if note.digest != digest or note.state != "finished":
                continue
            if note.stands(folder):
                return folder, note
            logger.info("%s: what %s has made was changed since: once more", step, folder)
            return None
        return None

    def reuse(self, folder: Path, note: StepNote) -> Step:
        """The step as it was done before."""
        logger.info("%s: unchanged, reusing %s", note.step, folder)
        self.track.set_tags({f"unet.reused.{note.step}": folder.name})
        return self.add(step_of(note, folder, how="reused", seconds=0.0))

    def add(self, step: Step) -> Step:
        """Keep a row of the table."""
        self.steps.append(step)
        return step

    @contextlib.contextmanager
    def run_below(self, note: StepNote, params: Mapping[str, Any]) -> Iterator[tracking.Run]:
        """A small run for a step, in a folder of its own that holds `note`."""
        stem = note.step
        folder = runs.create_run_folder(self.runs_dir, self.track.experiment, None, stem=stem)
        with folder_lock(folder), log_to_file(folder / runs.LOG_NAME), noted(note, folder):
            track = tracking.start(
                folder,
                experiment=self.track.experiment,
                run_name=folder.name,
                params=params,
                tags={},
                stage=note.step,
                parent=self.track,
                uri=self.output.tracking_uri,
                send=self.output.tracking != "off",
                required=self.output.tracking == "required",
            )
            with ended(track):
                yield track


def step_of(note: StepNote, folder: Path, *, how: How, seconds: float) -> Step:
    """The row of the table for a finished step."""
    result = dict(note.result)
    figure = result.get("figure", "")
    return Step(note.step, how, seconds, folder, figure, result, note.rejected)


@contextlib.contextmanager
def open_chain(
    output: OutputSettings, experiment: str, params: Mapping[str, Any], *, fresh: bool
) -> Iterator[Chain]:
    """A new run folder and MLflow run for the whole; both end in an honest state."""
    runs_dir = Path(output.runs_dir)
    folder = runs.create_run_folder(runs_dir, experiment, None, stem="pipeline")
    with folder_lock(folder), log_to_file(folder / runs.LOG_NAME):
        track = tracking.start(
            folder,
            experiment=experiment,
            run_name=folder.name,
            params=params,
            tags={},
            stage="run",
            leaderboard=LEADERBOARD,
            uri=output.tracking_uri,
            send=output.tracking != "off",
            required=output.tracking == "required",
        )
        with ended(track):
            yield Chain(folder, track, runs_dir, output, fresh)


@contextlib.contextmanager
def ended(track: tracking.Run) -> Iterator[None]:
    """Close `track` with the status that is true: signals kill, errors fail."""
    status: tracking.Status = "KILLED"
    try:
        yield
        status = "FINISHED"
    except InterruptedRunError:
        raise
    except Exception:
        status = "FAILED"
        raise
    finally:
        track.log_artifact(track.folder / runs.LOG_NAME)
        track.close(status)


@contextlib.contextmanager
def noted(note: StepNote, folder: Path) -> Iterator[None]:
    """`note` in `folder` while the step goes on, and that it has failed where it does.

    A step that was stopped or killed stays as begun: it may be gone on with.
    """
    note.save(folder)
    try:
        yield
    except InterruptedRunError:
        raise
    except Exception:
        note.save(folder, state="failed")
        raise


def begun(step: str, *, digest: str, settings: str, **result: Any) -> StepNote:
    """The note of a step that begins now."""
    return StepNote(step=step, digest=digest, settings=settings, time=time.time(), result=result)
