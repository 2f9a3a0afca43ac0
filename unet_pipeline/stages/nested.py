"""A run that is made of runs: one parent with a table, and below it trainings as any other."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from unet_pipeline import tracking
from unet_pipeline.config import EvaluateConfig, TrainConfig, WindowSettings, dump_config
from unet_pipeline.console import log_to_file
from unet_pipeline.datasets.manifest import FACTS_FILE, SAMPLES_FILE, Manifest, Split
from unet_pipeline.errors import OutputInUseError, TrackingError, UserError
from unet_pipeline.evaluation import Scores
from unet_pipeline.files import folder_lock, require_writable, write_atomic
from unet_pipeline.runtime import memory_errors
from unet_pipeline.stages.assembly import check_names, complete_config, decided
from unet_pipeline.stages.building import build_loss, build_segmenter
from unet_pipeline.stages.evaluate import evaluate
from unet_pipeline.stages.opening import open_data
from unet_pipeline.stages.processes import refuse_several
from unet_pipeline.stages.required import require_tracking
from unet_pipeline.stages.telling import headline, start_tracking
from unet_pipeline.stages.train import train
from unet_pipeline.stages.trained import InterruptedRunError, TrainedRun
from unet_pipeline.training import run_folder as runs

logger = logging.getLogger(__name__)


class _NotedRow(Protocol):
    """A dataclass for a row of a table; note says why it lacks figures, where it does."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def note(self) -> str: ...


Row = TypeVar("Row", bound=_NotedRow)


def open_shared(config: TrainConfig, *, splits: tuple[Split, ...]) -> tuple[Manifest, TrainConfig]:
    """The data of all runs, which holds samples of `splits`, and the settings that they share.

    These are the settings that `config` was given, with the experiment of all and no name.
    Raises `UserError` for a folder of runs that cannot be written, and what `open_data` raises.
    """
    refuse_several("a run made of runs (sweep, --baselines, --fold all)")
    require_writable(Path(config.output.runs_dir))
    check_names(config)
    manifest = open_data(config.data, splits=splits)
    experiment = tracking.experiment_name(config.output.experiment, default=manifest.facts.name)
    require_tracking(config, experiment)
    tree = config.model_dump(exclude_unset=True)
    tree["output"] = tree.get("output", {}) | {"run_name": None, "experiment": experiment}
    return manifest, TrainConfig.model_validate(tree)


def complete_shared(config: TrainConfig, manifest: Manifest) -> TrainConfig:
    """`config` with every setting decided; `UserError` for those that the data refuses."""
    completed, _ = complete_config(config, manifest)
    build_loss(completed, manifest.facts)
    return completed


@dataclass
class Parent:
    """The run above the others: its folder, its place in MLflow, and what failed below it.

    row: what a row of the table is called. num_rows: of the table so far.
    """

    folder: Path
    track: tracking.Run
    row: str
    failures: list[UserError] = field(default_factory=list)
    num_rows: int = 0

    def write_table(self, name: str, num_rows: int, *, csv: bytes, markdown: str) -> None:
        """Keep the table so far as name.csv, name.md and the note of the run.

        It is replaced after every row, so that what an interruption leaves is worth having.
        """
        self.num_rows = num_rows
        for suffix, content in ((".csv", csv), (".md", markdown)):
            path = self.folder / f"{name}{suffix}"
            write_atomic(path, content)
            self.track.log_artifact(path)
        self.track.log_note(markdown)
        self.track.raise_for_failure()


@contextlib.contextmanager
def open_parent(
    config: TrainConfig,
    manifest: Manifest,
    *,
    run_name: str | None,
    stem: str,
    row: str,
    params: Mapping[str, Any] | None = None,
) -> Iterator[Parent]:
    """A new run folder and MLflow run for the table; both end in an honest state.

    config: the settings that the runs below share, completed. stem: of the folder's name where
        `run_name` is None, and what stands in MLflow as the model. row: what a row is called.
    params: what else MLflow shows, or other than in `config`.
    Raises `UserError`, before anything is written, for options and weights that do not fit.
    """
    with memory_errors("use a smaller model"):
        build_segmenter(config, manifest.facts)
    experiment = decided(config.output.experiment)
    folder = runs.create_run_folder(Path(config.output.runs_dir), experiment, run_name, stem=stem)
    with folder_lock(folder), log_to_file(folder / runs.LOG_NAME):
        write_atomic(folder / runs.CONFIG_NAME, dump_config(config))
        manifest.save(folder)
        shown: dict[str, Any] = headline(config, manifest) | {"model.name": stem}
        track = start_tracking(
            config, manifest, folder, experiment, params={**shown, **(params or {})}
        )
        with _ended_honestly(Parent(folder, track, row)) as parent:
            yield parent


@contextlib.contextmanager
def reopen_parent(folder: Path, *, row: str, tracked: str) -> Iterator[tuple[Parent, bool]]:
    """The parent in `folder`, and whether it goes on here: else another process holds it.

    tracked: the setting `output.tracking`.
    """
    required = tracked == "required"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(folder_lock(folder))
        except OutputInUseError:  # the process that holds it says how the run has ended
            is_owner, track = False, tracking.attach(folder, required=required)
        else:
            is_owner = True
            track = tracking.resume(folder, send=tracked != "off", required=required)
        stack.enter_context(log_to_file(folder / runs.LOG_NAME))
        yield stack.enter_context(_ended_honestly(Parent(folder, track, row))), is_owner


@contextlib.contextmanager
def _ended_honestly(parent: Parent) -> Iterator[Parent]:
    """`parent`, its run closed with the status that is true."""
    folder, track = parent.folder, parent.track
    status: tracking.Status = "FAILED"
    try:
        yield parent
        status = "FAILED" if parent.failures else "FINISHED"
    except BaseException as error:
        status = tracking.status_of(error)
        raise
    finally:
        for name in (runs.CONFIG_NAME, FACTS_FILE, SAMPLES_FILE, runs.LOG_NAME):
            track.log_artifact(folder / name)
        if status == "KILLED":
            logger.info("the table so far, of %d %ss: %s", parent.num_rows, parent.row, folder)
        track.close(status)
    track.raise_for_failure()


def train_below(parent: Parent, config: TrainConfig, manifest: Manifest) -> TrainedRun:
    """A training as any other, nested in `parent` in MLflow.

    Raises what `train` raises; and `InterruptedRunError` where a signal came when it was finished,
    so that no other is begun.
    """
    run = train(config, manifest=manifest, parent=parent.track)
    if run.stop_code is not None:
        raise InterruptedRunError(
            f"stopped after {run.folder} was finished; the table so far: {parent.folder}",
            run.stop_code,
        )
    return run


def score_below(
    folder: Path,
    config: TrainConfig,
    manifest: Manifest,
    *,
    split: Split,
    inference: WindowSettings,
) -> Scores:
    """The scores on `split` of the run in `folder`, as `unet evaluate` finds and records them."""
    settings = EvaluateConfig(
        model=str(folder),
        split=split,
        runtime=config.runtime,
        inference=inference,
        tracking=config.output.tracking,
    )
    return evaluate(settings, manifest=manifest).scores


def fill_row(parent: Parent, row: Row, steps: Iterable[Row], keep: Callable[[Row], None]) -> None:
    """Keep a row of the table each time that it has come further.

    steps: the row after each step; `row` is the one before any. keep: puts it into the table.
    Where a step fails the row says why, and `parent` has the error: other rows can follow.
    """
    try:
        for row in steps:
            keep(row)
    except (InterruptedRunError, TrackingError):  # the others would fare no better
        raise
    except UserError as error:
        parent.failures.append(error)
        keep(replace(row, note=str(error)))
