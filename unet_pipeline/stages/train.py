"""train: a dataset -> a trained model in a run folder, with the run in MLflow.

Read it top to bottom: `train` and `resume` open the run folder, `_run` builds everything, `_fit` is
the epoch loop.
"""

from __future__ import annotations

import logging
import math
import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unet_pipeline import tracking
from unet_pipeline.config import TrainConfig, dump_config, load_config
from unet_pipeline.console import log_to_file
from unet_pipeline.datasets.loaders import iterate_samples
from unet_pipeline.datasets.manifest import FACTS_FILE, SAMPLES_FILE, Manifest
from unet_pipeline.errors import UserError
from unet_pipeline.evaluation import headline_figures, summarize
from unet_pipeline.files import folder_lock, require_writable, write_atomic
from unet_pipeline.inference import score
from unet_pipeline.models import load_model
from unet_pipeline.progress import progress_bar
from unet_pipeline.runtime import (
    StopRequest,
    choose_device,
    memory_errors,
    place,
    stop_on_signals,
)
from unet_pipeline.stages.assembly import (
    complete_config,
    decided,
    format_plan,
)
from unet_pipeline.stages.building import build_parts, try_parts, without_pretrained
from unet_pipeline.stages.opening import open_data
from unet_pipeline.stages.session import (
    Reached,
    Session,
    log_panel,
    progress,
    restore_parts,
    run_note,
    save_session,
    say_what_next,
    start_tracking,
    write_model,
)
from unet_pipeline.training import run_folder as runs
from unet_pipeline.training.checkpoints import load_state
from unet_pipeline.training.engine import Position, train_steps

logger = logging.getLogger(__name__)

PANEL_STEPS = 10  # pictures of the panel over a run: enough for MLflow's slider, cheap to send
SMALLER = "use a smaller --batch-size, --image-size or model"
RESUMABLE = ("training.epochs", "training.max_steps", "training.budget_seconds",
             "training.patience", "data.path", "runtime.device", "runtime.workers",
             "output.tracking")  # fmt: skip


@dataclass(frozen=True)
class TrainedRun:
    """What `train` has made: the run folder, its best validation scores, where to look at it.

    seconds: wall clock until the last validation was saved. stop_code: the exit code of a signal
    that came when there was nothing left to stop.
    """

    folder: Path
    best: dict[str, float]
    steps: int
    seconds: float
    tracking_url: str | None
    stop_code: int | None = None

    def summary(self) -> dict[str, Any]:
        """JSON-able."""
        model = str(self.folder / runs.BEST_NAME)
        return asdict(self) | {"folder": str(self.folder), "model": model}


class InterruptedRunError(UserError):
    """SIGINT or SIGTERM ended the run after its state was saved. Exit code 130 or 143."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def train(
    config: TrainConfig, *, manifest: Manifest | None = None, parent: tracking.Run | None = None
) -> TrainedRun:
    """Train as `config` says; what it leaves open is decided from the data and the device.

    manifest: the data, where it is open already. parent: the run that this one is a part of.
    Raises `DatasetError` for data that cannot be trained on, `DivergedError` for a loss that is
    not finite, `InterruptedRunError` after a signal, `UserError` for settings that cannot work.
    """
    position = Position()  # the budget's clock starts here
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("several processes cannot train together yet: start one, without torchrun")
    require_writable(Path(config.output.runs_dir))
    manifest = manifest or open_data(config.data, splits=("train", "val"))
    config, decisions = complete_config(config, manifest)
    with memory_errors(SMALLER):
        parts = build_parts(config, manifest)
    experiment = tracking.experiment_name(config.output.experiment, default=manifest.facts.name)
    folder = runs.create_run_folder(
        Path(config.output.runs_dir),
        experiment,
        config.output.run_name,
        stem=f"{config.model.name}-{config.training.loss}",
    )
    with folder_lock(folder), log_to_file(folder / runs.LOG_NAME):
        logger.info("%s", format_plan(config, manifest, decisions))
        write_atomic(folder / runs.CONFIG_NAME, dump_config(_reusable(config)))
        manifest.save(folder)
        track = start_tracking(config, manifest, folder, experiment, parent=parent)
        return _run(Session(config, manifest, folder, parts, position, Reached(), track))


def resume(folder: Path, overrides: Mapping[str, Any]) -> TrainedRun:
    """Continue the run in `folder` from its last saved step, in the same MLflow run.

    overrides: limits, device and workers may change; anything else would be another run, and is
    a `UserError`, as is data that has changed since.
    """
    if not (folder / runs.CONFIG_NAME).is_file():
        raise UserError(f"{folder} is no run folder: it has no {runs.CONFIG_NAME}")
    config = load_config(folder / runs.CONFIG_NAME, overrides, kind=TrainConfig)
    former = load_config(folder / runs.CONFIG_NAME, kind=TrainConfig)
    for name in overrides:
        section, key = name.split(".", 1)
        was, asked = (getattr(getattr(c, section), key) for c in (former, config))
        if isinstance(was, tuple) and isinstance(asked, int):
            asked = (asked, asked)  # `--image-size 64`
        # `ce+dice` is `ce + dice`
        same = str(was).replace(" ", "") == str(asked).replace(" ", "")
        if name not in RESUMABLE and not same:
            raise UserError(
                f"--resume cannot change {name} from {was} to {asked}: start a new run for that"
            )
    changes = {name: value for name, value in overrides.items() if name in RESUMABLE}
    config = load_config(folder / runs.CONFIG_NAME, changes, kind=TrainConfig)
    with folder_lock(folder), log_to_file(folder / runs.LOG_NAME):
        for stray in folder.glob(".*.tmp"):  # of a write that was killed; we hold the lock
            stray.unlink()
        state = load_state(folder)
        position = Position(**state["position"])
        manifest = open_data(config.data, splits=("train", "val"))
        if manifest.facts.fingerprint != state["fingerprint"]:
            raise UserError(
                f"the data in {config.data.path} has changed since {folder} began: "
                "resuming would mix two datasets; start a new run"
            )
        write_atomic(folder / runs.CONFIG_NAME, dump_config(_reusable(config)))
        parts = build_parts(without_pretrained(config), manifest)
        restore_parts(parts, state)
        logger.info("continuing %s at epoch %d, step %d", folder, position.epoch, position.step)
        track = tracking.resume(folder, send=config.output.tracking == "on")
        reached = Reached(**state["reached"])
        return _run(Session(config, manifest, folder, parts, position, reached, track))


@dataclass(frozen=True)
class PlannedRun:
    """What `train` would do: every setting decided, and the table of reasons."""

    config: TrainConfig
    text: str

    def summary(self) -> dict[str, Any]:
        """The settings, JSON-able."""
        return self.config.model_dump(mode="json")


def plan(config: TrainConfig) -> PlannedRun:
    """What `train` would do with `config`, after checking settings and data; changes nothing."""
    manifest = open_data(config.data, splits=("train", "val"))
    config, decisions = complete_config(config, manifest)
    with memory_errors(SMALLER):
        try_parts(config, manifest)
    return PlannedRun(config, format_plan(config, manifest, decisions))


def _reusable(config: TrainConfig) -> TrainConfig:
    """`config` as another run may take it: a name is given once."""
    tree = config.model_dump()
    tree["output"]["run_name"] = None
    return TrainConfig.model_validate(tree)


def _run(session: Session) -> TrainedRun:
    """Train, and leave run folder and MLflow run in an honest state however that ends."""
    status: tracking.Status = "FAILED"
    try:
        with stop_on_signals() as stop, memory_errors(SMALLER):
            _fit(session, stop)
            if stop:
                status = "KILLED"
                raise InterruptedRunError(
                    f"stopped after step {session.position.step}; continue with: "
                    f"unet train --resume {shlex.quote(str(session.folder))}",
                    stop.exit_code,
                )
            seconds = session.position.elapsed()
            _finish(session)
        status = "FINISHED"
    finally:
        session.parts.loader.close()
        session.track.close(status)
    reached, position = session.reached, session.position
    say_what_next(session)
    return TrainedRun(
        session.folder,
        reached.best,
        position.step,
        seconds,
        session.track.url,
        stop.exit_code if stop else None,
    )


def _fit(session: Session, stop: StopRequest) -> None:
    """The epoch loop: steps, validation when due, and the state saved after both."""
    config, parts, position = session.config, session.parts, session.position
    # Validating first shows the untrained network in MLflow, and how long a validation takes
    if not session.reached.history:
        _record(session, _validate(session))

    def learning_rate() -> float | None:
        share = progress(session)
        ended = bool(stop) or share >= 1
        return None if ended else config.optimizer.lr * parts.schedule(share)

    with progress_bar("training", total=1, unit="images") as bar:
        trained = 0

        def after_step() -> None:
            best = session.reached.best.get("val/mean_iou", math.nan)
            words = f"loss {position.mean_loss:.3f}  best mean IoU {best:.3f}"
            note = f"epoch {position.epoch_number}  {words}"
            bar.move_to(progress(session), count=trained + position.samples, note=note)

        while progress(session) < 1 and not stop and not _out_of_patience(session):
            began, before = position.elapsed(), position.samples
            train_steps(
                parts.segmenter,
                parts.loader.epoch(position.epoch, start_batch=position.batch),
                parts.loss,
                parts.optimizer,
                position,
                learning_rate=learning_rate,
                autocast_dtype=parts.autocast_dtype,
                scaler=parts.scaler,
                grad_clip=config.training.grad_clip,
                names=[sample.sample_id for sample in parts.loader.samples],
                after_step=after_step,
            )
            if stop or not position.samples:  # asked to end, or the budget ran out meanwhile
                break
            seconds, images = position.elapsed() - began, position.samples - before
            row = {
                "train/loss": position.mean_loss,
                "lr": parts.optimizer.param_groups[0]["lr"],
                "time/epoch_seconds": seconds,
                "time/images_per_second": images / seconds,
            }
            ended = progress(session) >= 1
            if ended or position.epoch_number % decided(config.training.val_every) == 0:
                row |= _validate(session)
            _record(session, row)
            if position.batch == len(parts.loader):  # else the run ends within the epoch
                trained += position.end_epoch()[1]
            save_session(session)
    if not stop and session.reached.validated_step != position.step:
        _record(session, _validate(session))
    save_session(session)


def _out_of_patience(session: Session) -> bool:
    patience = session.config.training.patience
    if patience is None or session.reached.since_best < patience:
        return False
    logger.info("no better validation for %d times: stopping early", patience)
    return True


def _validate(session: Session) -> dict[str, float]:
    """The scores of the val split; the model is kept where they are the best so far."""
    config, parts, position = session.config, session.parts, session.position
    facts = session.manifest.facts
    began = position.elapsed()
    result = score(
        parts.segmenter,
        iterate_samples(
            session.manifest.split("val"),
            classes=facts.classes,
            in_channels=facts.in_channels,
            cache=parts.cache,
        ),
        window=decided(config.inference.window),
        overlap=decided(config.inference.overlap),
        autocast_dtype=parts.autocast_dtype,
        loss=parts.loss,
    )
    figures = headline_figures(summarize(result.matrices), facts.classes)
    row = {f"val/{name}": value for name, value in figures.items()}
    row["val/loss"] = math.nan if result.loss is None else result.loss
    reached, share = session.reached, progress(session)
    reached.validated_step = position.step
    # Of the budget, the last validation and saving will take about as long again; but the first
    # one, which also warms everything up, must leave most of what remains for training
    reached.seconds_to_end = 1.2 * (position.elapsed() - began) + 1.0
    budget = config.training.budget_seconds
    if position.step == 0 and budget is not None:
        remaining = max(0.0, budget - position.elapsed())
        reached.seconds_to_end = min(reached.seconds_to_end, 0.3 * remaining)
    if share * PANEL_STEPS >= reached.panels:  # at step 0, then in even parts of the run
        log_panel(session, parts.segmenter, group="progress", step=position.epoch_number)
        reached.panels = 1 + int(share * PANEL_STEPS)
    if position.step == 0:
        return row
    # Written so that NaN, which compares false, never counts as better
    if row["val/mean_iou"] > reached.best.get("val/mean_iou", -1.0):
        reached.best = {"epoch": position.epoch_number, "step": position.step} | row
        reached.since_best = 0
        write_model(session, session.folder / runs.BEST_NAME, reached.best)
    else:
        reached.since_best += 1
    return row


def _record(session: Session, row: dict[str, float]) -> None:
    """Add the figures of an epoch to history.csv, to MLflow and to the log."""
    position = session.position
    entry = {"epoch": position.epoch_number, "step": position.step} | row
    history = session.reached.history
    if history and history[-1]["epoch"] == entry["epoch"]:
        history.pop()  # an epoch that was ended early and has been resumed: now it is whole
    history.append(entry)
    runs.write_history(session.folder, session.reached.history)
    session.track.log_metrics(row, step=position.epoch_number)
    shown = {
        "train loss": row.get("train/loss"),
        "val loss": row.get("val/loss"),
        "mean IoU": row.get("val/mean_iou"),
        "mean Dice": row.get("val/mean_dice"),
    }
    words = "  ".join(f"{name} {value:.4f}" for name, value in shown.items() if value is not None)
    logger.info("epoch %3d  step %5d  %s", position.epoch_number, position.step, words)


def _finish(session: Session) -> None:
    """Keep the last model beside the best, picture the best, and give all of it to MLflow."""
    folder, reached, track = session.folder, session.reached, session.track
    if session.position.step == 0:
        raise UserError(
            f"the budget ended before the first step: reading and validating alone took "
            f"{session.position.elapsed():.0f} s; give a longer --budget"
        )
    last = reached.history[-1]
    write_model(session, folder / runs.LAST_NAME, last)
    if not reached.best:
        logger.warning("no validation gave a mean IoU: the last model is kept as the best")
        reached.best = last
        write_model(session, folder / runs.BEST_NAME, last)
    best = place(load_model(folder / runs.BEST_NAME), choose_device(session.config.runtime.device))
    log_panel(session, best, group="final", step=0)
    scores = {name.removeprefix("val/"): v for name, v in reached.best.items() if "val/" in name}
    track.log_metrics({f"best/{n}": v for n, v in scores.items() if "/" not in n}, step=0)
    track.log_metrics({"best/epoch": reached.best["epoch"]}, step=0)
    for name in (runs.BEST_NAME, runs.LAST_NAME):
        track.log_artifact(folder / name, "model")
    for name in (runs.CONFIG_NAME, FACTS_FILE, SAMPLES_FILE, runs.HISTORY_NAME, runs.LOG_NAME):
        track.log_artifact(folder / name)
    track.log_note(run_note(session))
