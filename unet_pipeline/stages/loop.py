"""The epochs of a training: steps, validation when due, the state saved; back after a bad step."""

from __future__ import annotations

import logging
import math
import time

from unet_pipeline.datasets.loaders import LostWorkerError, lost_worker
from unet_pipeline.distributed import agree_max, any_rank
from unet_pipeline.errors import DivergedError, ResourceError
from unet_pipeline.progress import Bar, progress_bar
from unet_pipeline.runtime import StopRequest
from unet_pipeline.stages.assembly import decided
from unet_pipeline.stages.session import Session, go_back, log_augmentation, progress, save_session
from unet_pipeline.stages.validation import StoppedError, validate
from unet_pipeline.training import run_folder as runs
from unet_pipeline.training.engine import train_steps

logger = logging.getLogger(__name__)

MAX_DIVERGENCES = 3
SAVE_EVERY_SECONDS = 300.0  # within an epoch: a kill costs no more than that
SAVING_SHARE = 0.02  # of the time, that saving after epochs may take where they are short


def run_epochs(session: Session, stop: StopRequest) -> None:
    """Train until a limit is reached, patience ends, or `stop` is asked for; saved whichever it is.

    Raises `DivergedError` for a loss that is not finite, and does not become so with a lower
    learning rate either.
    """
    try:
        # Validating first shows the untrained network in MLflow, and how long a validation takes
        if not session.reached.history:
            if session.is_main:
                log_augmentation(session)
            _record(session, validate(session, stop))
            session.reached.seconds_to_begin = agree_max(session.position.elapsed())
            save_session(session)  # which is where a run goes back to that diverges at once
        with progress_bar("training", total=1, unit="images") as bar:
            shown = _Progress(session, bar)
            while _goes_on(session, stop):
                try:
                    _train_epoch(session, stop, shown)
                except DivergedError as error:
                    if session.reached.divergences == MAX_DIVERGENCES:
                        raise
                    go_back(session)
                    logger.warning(
                        "%s. Back to step %d with half the learning rate (%d of %d times)",
                        error,
                        session.position.step,
                        session.reached.divergences,
                        MAX_DIVERGENCES,
                    )
        if not any_rank(bool(stop)) and session.reached.validated_step != session.position.step:
            _record(session, validate(session, stop))
    except StoppedError:
        logger.info("stopping: the validation is made up for on --resume")
    except LostWorkerError:
        # Between two steps, so the state is whole. The signal has ended a worker too, which does
        # not ignore it before it has started
        if not stop or session.parts.world.size > 1:
            raise
        logger.info("stopping: a data worker has ended as well")
    except RuntimeError as error:
        reason = lost_worker(error)  # torch raises that wherever the main process is
        if reason is None:
            raise
        if not stop or session.parts.world.size > 1:
            raise ResourceError(reason) from error
        logger.warning("stopping in the middle of a step: the state saved before it stays")
        return
    _show_best_and_last(session)
    save_session(session)


class _Progress:
    """The line that shows how far a training is, and the state saved every few minutes."""

    def __init__(self, session: Session, bar: Bar) -> None:
        self.session = session
        self.bar = bar
        self.trained = 0
        self.saved = time.monotonic()
        self.saving = 0.0  # seconds that the last time took

    def after_step(self) -> None:
        """Show where the run stands; save it where the last time is long ago."""
        session, position = self.session, self.session.position
        best = session.reached.best.get("val/mean_iou", math.nan)
        words = f"loss {position.mean_loss:.3f}  best mean IoU {best:.3f}"
        self.bar.move_to(
            progress(session),
            count=self.trained + position.samples,
            note=f"epoch {position.epoch_number}  {words}",
        )
        if agree_max(time.monotonic() - self.saved) > SAVE_EVERY_SECONDS:
            self.save()

    def after_epoch(self) -> None:
        """Save the state, unless that would take long beside what a kill could cost."""
        since = time.monotonic() - self.saved
        if any_rank(self.session.is_main and since >= self.saving / SAVING_SHARE):
            self.save()

    def save(self) -> None:
        """Save the state."""
        began = time.monotonic()
        save_session(self.session)
        self.saved = time.monotonic()
        self.saving = self.saved - began


def _train_epoch(session: Session, stop: StopRequest, shown: _Progress) -> None:
    """The steps of an epoch, or of what is left of it; validation where due; the state saved."""
    config, parts, position = session.config, session.parts, session.position

    def learning_rate() -> float | None:
        # What ends the steps of one process ends those of all, and clocks differ
        share = agree_max(1.0 if stop else progress(session))
        if share >= 1:
            return None
        return config.optimizer.lr * parts.schedule(share) * session.reached.lr_factor

    began, before = position.elapsed(), position.samples
    train_steps(
        parts.trained,
        parts.loader.epoch(position.epoch, start_batch=position.batch),
        parts.loss,
        parts.optimizer,
        position,
        learning_rate=learning_rate,
        autocast_dtype=parts.autocast_dtype,
        scaler=parts.scaler,
        grad_clip=config.training.grad_clip,
        average=parts.average,
        batch_sizes=parts.loader.global_size,
        names=[sample.sample_id for sample in parts.loader.samples],
        after_step=shown.after_step,
    )
    if any_rank(bool(stop)) or not position.samples:  # asked to end, or out of time meanwhile
        return
    seconds, images = position.elapsed() - began, position.samples - before
    row = {
        "train/loss": position.mean_loss,
        "lr": parts.optimizer.param_groups[0]["lr"],
        "time/epoch_seconds": seconds,
        "time/images_per_second": images / seconds,
        "time/elapsed_seconds": position.elapsed(),
    }
    ended = agree_max(progress(session)) >= 1
    if ended or position.epoch_number % decided(config.training.val_every) == 0:
        row |= validate(session, stop)
    _record(session, row)
    if _is_trained(session):  # else the run ends within the epoch
        shown.trained += position.end_epoch()[1]
    shown.after_epoch()


def _goes_on(session: Session, stop: StopRequest) -> bool:
    if any_rank(bool(stop) or session.given_up):
        return False
    if _is_trained(session):  # a run that was stopped then: the end of the epoch is missing
        return True
    return agree_max(progress(session)) < 1 and not _out_of_patience(session)


def _is_trained(session: Session) -> bool:
    """Whether all steps of the epoch in progress are taken."""
    return session.position.batch == len(session.parts.loader)


def _out_of_patience(session: Session) -> bool:
    patience = session.config.training.patience
    if patience is None or session.reached.since_best < patience:
        return False
    logger.info("no better validation for %d times: stopping early", patience)
    return True


def _record(session: Session, row: dict[str, float]) -> None:
    """Add the figures of an epoch to history.csv, to MLflow and to the log."""
    position = session.position
    entry = {"epoch": position.epoch_number, "step": position.step} | row
    history = session.reached.history
    if history and history[-1]["epoch"] == entry["epoch"]:
        former = history.pop()
        if former["step"] == entry["step"]:  # it is validated after it was trained
            entry = former | entry  # else it was ended early and has been resumed
    history.append(entry)
    if not session.is_main:
        return
    runs.write_history(session.folder, session.reached.history)
    session.track.log_epoch(row, epoch=position.epoch_number, share=progress(session))
    shown = {
        "train loss": row.get("train/loss"),
        "val loss": row.get("val/loss"),
        "mean IoU": row.get("val/mean_iou"),
        "mean Dice": row.get("val/mean_dice"),
    }
    words = "  ".join(f"{name} {value:.4f}" for name, value in shown.items() if value is not None)
    logger.info("epoch %3d  step %5d  %s", position.epoch_number, position.step, words)


def _show_best_and_last(session: Session) -> None:
    """Give MLflow the points that a chart must not lack, of a training of thousands of epochs."""
    reached = session.reached
    if not session.is_main or not reached.history:
        return
    shown = {reached.best.get("epoch"), reached.history[-1]["epoch"]}
    for row in reached.history:
        if row["epoch"] in shown:
            figures = {name: row[name] for name in row if name not in ("epoch", "step")}
            session.track.log_epoch(figures, epoch=int(row["epoch"]))
