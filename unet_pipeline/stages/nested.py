"""A run that is made of runs: one parent with a table, and below it trainings as any other."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unet_pipeline import tracking
from unet_pipeline.config import TrainConfig, dump_config
from unet_pipeline.console import log_to_file
from unet_pipeline.datasets.manifest import FACTS_FILE, SAMPLES_FILE, Manifest
from unet_pipeline.errors import UserError
from unet_pipeline.files import folder_lock, write_atomic
from unet_pipeline.stages.session import headline, start_tracking
from unet_pipeline.stages.train import InterruptedRunError, TrainedRun, train
from unet_pipeline.training import run_folder as runs

logger = logging.getLogger(__name__)


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


@contextlib.contextmanager
def open_parent(
    config: TrainConfig,
    manifest: Manifest,
    *,
    experiment: str,
    run_name: str | None,
    stem: str,
    row: str,
) -> Iterator[Parent]:
    """A new run folder and MLflow run for the table; both end in an honest state.

    config: the settings that the runs below share, completed. stem: of the folder's name where
        `run_name` is None, and what stands in MLflow as the model. row: what a row is called.
    """
    folder = runs.create_run_folder(Path(config.output.runs_dir), experiment, run_name, stem=stem)
    with folder_lock(folder), log_to_file(folder / runs.LOG_NAME):
        write_atomic(folder / runs.CONFIG_NAME, dump_config(config))
        manifest.save(folder)
        params: dict[str, Any] = headline(config, manifest) | {"model.name": stem}
        track = start_tracking(config, manifest, folder, experiment, params=params)
        parent = Parent(folder, track, row)
        status: tracking.Status = "KILLED"
        try:
            yield parent
            status = "FAILED" if parent.failures else "FINISHED"
        except InterruptedRunError:
            raise
        except Exception:
            status = "FAILED"
            raise
        finally:
            for name in (runs.CONFIG_NAME, FACTS_FILE, SAMPLES_FILE, runs.LOG_NAME):
                track.log_artifact(folder / name)
            if status == "KILLED":
                logger.info("the table so far, of %d %ss: %s", parent.num_rows, row, folder)
            track.close(status)


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


def without_place(config: TrainConfig, *, experiment: str) -> dict[str, Any]:
    """The settings of `config` that were given, as a tree, for a run with a name of its own."""
    tree = config.model_dump(exclude_unset=True)
    tree["output"] = tree.get("output", {}) | {"run_name": None, "experiment": experiment}
    return tree
