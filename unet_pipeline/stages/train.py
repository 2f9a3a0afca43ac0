"""train: a dataset -> a trained model in a run folder, with the run in MLflow.

Read it top to bottom: `train` and `resume` open the run folder, `_run` trains (`loop.py` has the
epochs) and leaves everything in order, whatever ends it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import shlex
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from unet_pipeline import tracking
from unet_pipeline.config import TrainConfig, dump_config
from unet_pipeline.console import log_to_file
from unet_pipeline.datasets.manifest import Manifest
from unet_pipeline.distributed import World, agree_max, gather_objects, main_first
from unet_pipeline.errors import TrackingError, UserError
from unet_pipeline.files import folder_lock, require_writable, write_atomic
from unet_pipeline.runtime import (
    StopRequest,
    choose_device,
    memory_errors,
    stop_on_signals,
)
from unet_pipeline.stages.assembly import (
    SMALLER,
    check_names,
    complete_config,
    decided,
    format_plan,
)
from unet_pipeline.stages.building import Parts, build_parts, without_pretrained
from unet_pipeline.stages.loop import run_epochs
from unet_pipeline.stages.opening import open_data
from unet_pipeline.stages.processes import by_main, end_job, former_attempt, joined, sign_job
from unet_pipeline.stages.publishing import best_scores, publish
from unet_pipeline.stages.required import (
    lost_error,
    require_tracking,
    resume_tracking,
    taken_back,
)
from unet_pipeline.stages.resuming import config_of, reached_of, reusable
from unet_pipeline.stages.session import (
    CLOSING_SECONDS,
    Reached,
    Session,
    Watch,
    limits_reached,
    progress,
    restore_parts,
)
from unet_pipeline.stages.telling import (
    say_what_next,
    start_tracking,
    write_environment,
)
from unet_pipeline.stages.trained import InterruptedRunError, TrainedRun
from unet_pipeline.training import run_folder as runs
from unet_pipeline.training.checkpoints import load_state
from unet_pipeline.training.position import Position

logger = logging.getLogger(__name__)


def train(
    config: TrainConfig,
    *,
    manifest: Manifest | None = None,
    parent: tracking.Run | None = None,
    started: float | None = None,
    tags: Mapping[str, str] | None = None,
    on_begin: Callable[[Path], None] | None = None,
    watch: Watch | None = None,
) -> TrainedRun:
    """Train as `config` says; what it leaves open is decided from the data and the device.

    manifest: the data, where it is open already. parent: the run that this one is a part of.
    started: when the clock of the budget began (`time.monotonic()`); now, by default.
    tags: more words about the run, for MLflow.
    on_begin: told the run folder before the first step.
    watch: told (progress, mean IoU) after each validation; where it says True, the run ends there,
    as KILLED in MLflow, its models kept.
    Raises `DatasetError` for data that cannot be trained on, `DivergedError` for a loss that is
    not finite, `InterruptedRunError` after a signal, `UserError` for settings that cannot work.
    """
    position = Position(micro_batch=config.training.micro_batch)
    position.start_clock(started)
    with joined(str(choose_device(config.runtime.device))) as world:
        former = former_attempt(Path(config.output.runs_dir), world)
        if former is not None:  # a process was lost, and torchrun has started all of them again
            return _continue(former, config_of(former, {}), world)
        return _begin(config, world, position, manifest, parent, tags or {}, on_begin, watch)


def _begin(
    config: TrainConfig,
    world: World,
    position: Position,
    manifest: Manifest | None,
    parent: tracking.Run | None,
    tags: Mapping[str, str],
    on_begin: Callable[[Path], None] | None,
    watch: Watch | None,
) -> TrainedRun:
    """A new run, from its settings."""
    require_writable(Path(config.output.runs_dir))
    check_names(config)
    with main_first():  # what it reads, the others find in the cache
        manifest = manifest or open_data(config.data, splits=("train", "val"))
    data, given = manifest, config
    tracking.check_model_name(config.output.register_as)
    experiment = tracking.experiment_name(config.output.experiment, default=manifest.facts.name)
    by_main(world, lambda: _check_folder(given, experiment))  # before minutes of decoding
    by_main(world, lambda: require_tracking(given, experiment))
    config, decisions = by_main(world, lambda: complete_config(given, data))
    with memory_errors(SMALLER):
        parts = build_parts(config, manifest, world, scratch=_scratch(config, world))
    _refuse_spent(config, position)
    _take_parts(parts, position)
    folder = by_main(world, lambda: _new_folder(config, experiment))
    track = None
    with _kept(folder, world), stop_on_signals() as stop:
        if world.is_main:
            logger.info("%s", format_plan(config, manifest, decisions))
            write_atomic(folder / runs.CONFIG_NAME, dump_config(reusable(config)))
            manifest.save(folder)
            write_environment(folder)
            if on_begin is not None:
                on_begin(folder)
            with taken_back(folder):
                track = start_tracking(
                    config, manifest, folder, experiment, parent=parent, tags=tags
                )
        sign_job(folder, world)
        session = Session(config, manifest, folder, parts, position, Reached(), track, watch)
        return _run(session, stop)


def _refuse_spent(config: TrainConfig, position: Position) -> None:
    """Raise `UserError` where a budget is over before a folder is made for the run."""
    budget = config.training.budget_seconds
    spent = agree_max(position.elapsed())
    if budget is not None and spent + CLOSING_SECONDS >= budget:
        raise UserError(
            f"the budget of {budget:g} s ended before the first step: reading took {spent:.0f} s, "
            f"and saving takes {CLOSING_SECONDS:.0f}; give a longer --budget"
        )


def _take_parts(parts: Parts, position: Position) -> None:
    """Let batches go through in parts where memory does not hold them at once."""
    if parts.at_once is not None and parts.at_once < (position.micro_batch or math.inf):
        position.micro_batch = parts.at_once
        logger.warning(
            "memory does not hold a batch at once: its samples go through the network %d at a "
            "time, with the same gradient",
            parts.at_once,
        )


def _scratch(config: TrainConfig, world: World) -> Path:
    """A folder of this run's own beside the runs; that of a killed one goes when it is made."""
    name = f".decoded-{uuid.uuid4().hex[:12]}"
    return by_main(world, lambda: Path(config.output.runs_dir).absolute() / name)


def _check_folder(config: TrainConfig, experiment: str) -> None:
    runs.check_run_folder(Path(config.output.runs_dir), experiment, config.output.run_name)


def _new_folder(config: TrainConfig, experiment: str) -> Path:
    return runs.create_run_folder(
        Path(config.output.runs_dir),
        experiment,
        config.output.run_name,
        stem=f"{config.model.name}-" + re.sub(r"\([^()]*\)", "", decided(config.training.loss)),
    )


def resume(folder: Path, overrides: Mapping[str, Any]) -> TrainedRun:
    """Continue the run in `folder` from its last saved step, in the same MLflow run.

    overrides: limits, device and workers may change; anything else would be another run, and is
    a `UserError`, as is data that has changed since.
    """
    config = config_of(folder, overrides)
    with joined(str(choose_device(config.runtime.device))) as world:
        return _continue(folder, config, world)


def _continue(folder: Path, config: TrainConfig, world: World) -> TrainedRun:
    with _kept(folder, world), stop_on_signals() as stop:
        if world.is_main:
            for stray in folder.glob(".*.tmp"):  # of a write that was killed; we hold the lock
                stray.unlink()
        state = by_main(world, lambda: load_state(folder))
        position = Position(**state["position"])
        manifest = open_data(config.data, splits=("train", "val"))
        if manifest.facts.fingerprint != state["fingerprint"]:
            raise UserError(
                f"the data in {config.data.path} has changed since {folder} began: "
                "resuming would mix two datasets; start a new run"
            )
        scratch = _scratch(config, world)
        parts = build_parts(without_pretrained(config), manifest, world, scratch=scratch)
        restore_parts(parts, state)
        _take_parts(parts, position)
        session = Session(
            config, manifest, folder, parts, position, reached_of(folder, state), None
        )
        # Of a run that was stopped between the last step and its validation that one is left
        left = agree_max(progress(session)) < 1 or position.batch == len(parts.loader)
        if not left:
            position.stop_clock()
        if world.is_main:
            if left:
                write_atomic(folder / runs.CONFIG_NAME, dump_config(reusable(config)))
                where = f"epoch {position.epoch}, step {position.step}"
                logger.info("continuing %s at %s", folder, where)
            else:
                logger.warning(
                    "%s has nothing left to train: %d steps are done, and %s allows no more; give "
                    "more to go on",
                    folder,
                    position.step,
                    limits_reached(session),
                )
            session.tracked = resume_tracking(session)
        return _run(session, stop)


@contextlib.contextmanager
def _kept(folder: Path, world: World) -> Iterator[None]:
    """The run folder locked and its log open, by the process that writes there."""
    if not world.is_main:
        yield
        return
    with folder_lock(folder), log_to_file(folder / runs.LOG_NAME):
        yield


def _run(session: Session, stop: StopRequest) -> TrainedRun:
    """Train, and leave run folder and MLflow run in an honest state however that ends."""
    status: tracking.Status = "FINISHED"
    try:
        if session.is_main:
            stop.also_where(lambda: session.track.failure)
        with memory_errors(SMALLER):
            run_epochs(session, stop)
            code = int(agree_max(stop.exit_code if stop else 0))
            if code == TrackingError.exit_code:
                raise lost_error(session)
            if code:
                raise InterruptedRunError(
                    f"stopped after step {session.position.step}; continue with: "
                    f"unet train --resume {shlex.quote(str(session.folder))}",
                    code,
                )
            if session.position.step == 0:
                raise UserError(
                    f"the budget of {session.config.training.budget_seconds:g} s ended before the "
                    "first step: reading, validating and saving at the end take "
                    f"{session.position.elapsed() + session.reached.seconds_to_end:.0f} s; give a "
                    "longer --budget"
                )
            seconds = session.position.elapsed()
            skipped = sum(gather_objects(session.parts.loader.unreadable.counts), Counter[str]())
            if session.is_main:
                publish(session)
        status = "KILLED" if session.given_up else "FINISHED"
    except BaseException as error:
        status = tracking.status_of(error)
        if (
            session.is_main and session.reached.best
        ):  # the leaderboard ranks what has ended early too
            session.track.log_metrics(best_scores(session.reached.best), step=0)
        raise
    finally:
        session.parts.close()
        if session.is_main:
            session.track.close(status)
    if session.is_main:
        end_job(session.folder)
        say_what_next(session, skipped)
        session.track.raise_for_failure()
    reached, position = session.reached, session.position
    return TrainedRun(
        session.folder,
        reached.best,
        position.step,
        seconds,
        session.track.url if session.is_main else None,
        len(skipped),
        stop.exit_code if stop else None,
        session.given_up,
    )
