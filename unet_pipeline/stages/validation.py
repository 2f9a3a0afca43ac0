"""The scores of the val split while a training goes on, of which the best model is kept."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence

from unet_pipeline.datasets.loaders import iterate_samples
from unet_pipeline.datasets.manifest import Sample
from unet_pipeline.distributed import agree_max, gather_objects, shard, share_buffers
from unet_pipeline.errors import DatasetError
from unet_pipeline.evaluation import headline_figures, summarize
from unet_pipeline.inference import ImageScores, score
from unet_pipeline.runtime import StopRequest
from unet_pipeline.stages.assembly import decided
from unet_pipeline.stages.session import Session, log_panel, progress, write_model
from unet_pipeline.training import run_folder as runs

logger = logging.getLogger(__name__)

PANEL_STEPS = 10  # pictures of the panel over a run: enough for MLflow's slider, cheap to send
VALIDATION_SHARE = 0.1  # of a budget, that one validation may take


class StoppedError(Exception):
    """A signal has come while a validation was going on, which is not waited for."""


def validate(session: Session, stop: StopRequest) -> dict[str, float]:
    """The scores of the val split; the model is kept where they are the best so far."""
    parts, position, reached = session.parts, session.position, session.reached
    facts = session.manifest.facts
    began = position.elapsed()
    result = _score(session, stop)
    figures = headline_figures(summarize(result.matrices), facts.classes)
    row = {f"val/{name}": value for name, value in figures.items()}
    row["val/loss"] = math.nan if result.loss is None else result.loss
    reached.validated_step = position.step
    share = agree_max(progress(session))
    if share * PANEL_STEPS >= reached.panels:  # at step 0, then in even parts of the run
        if session.is_main:
            log_panel(session, session.evaluated, group="progress", step=position.epoch_number)
        reached.panels = 1 + int(share * PANEL_STEPS)
        # The last validation, the panel of the best model and saving will take as long again
        reached.seconds_to_end = 1.1 * (position.elapsed() - began) + 1.0
    if position.step == 0:
        return row
    parts.schedule.observe(row["val/mean_dice"])
    # Written so that NaN, which compares false, never counts as better
    if row["val/mean_iou"] > reached.best.get("val/mean_iou", -1.0):
        reached.best = {"epoch": position.epoch_number, "step": position.step} | row
        reached.since_best = 0
        if session.is_main:
            write_model(session, session.folder / runs.BEST_NAME, reached.best)
    else:
        reached.since_best += 1
    return row


def _score(session: Session, stop: StopRequest) -> ImageScores:
    config, parts, facts = session.config, session.parts, session.manifest.facts
    samples, budget = session.manifest.split("val"), config.training.budget_seconds
    first, deadline = session.reached.num_val is None, math.inf
    if first and budget is not None and parts.world.size == 1:
        samples, deadline = _spread(samples), time.monotonic() + VALIDATION_SHARE * budget
    elif not first and session.reached.num_val != len(samples):
        samples = _spread(samples)[: session.reached.num_val]
    world = parts.world

    def leave_when_stopped(_: int) -> None:
        if stop and world.size == 1:  # one of several would leave the others waiting
            raise StoppedError

    def skip(error: DatasetError) -> None:
        parts.loader.unreadable.add(str(error))

    share_buffers(session.evaluated)
    result = score(
        session.evaluated,
        iterate_samples(
            _before(deadline, shard(samples, world.rank, world.size)),
            classes=facts.classes,
            in_channels=facts.in_channels,
            cache=parts.cache,
            on_unreadable=None if config.training.strict or world.size > 1 else skip,
        ),
        window=decided(config.inference.window),
        overlap=decided(config.inference.overlap),
        autocast_dtype=parts.autocast_dtype,
        loss=parts.loss,
        on_progress=leave_when_stopped,
    )
    result = ImageScores.in_order(gather_objects(result))
    if not result.sample_ids:
        raise DatasetError("none of the val samples can be read: see the warnings above")
    if first:
        session.reached.num_val = len(result.sample_ids)
        if len(result.sample_ids) < len(samples):
            logger.info(
                "validating on %d of %d images: all of them would take more than %.0f %% of the "
                "budget; `unet evaluate --split val` scores them all",
                len(result.sample_ids),
                len(samples),
                100 * VALIDATION_SHARE,
            )
    return result


def _before(deadline: float, samples: Sequence[Sample]) -> Iterator[Sample]:
    """The samples that are asked for before `deadline`, at least one."""
    for number, sample in enumerate(samples):
        if number and time.monotonic() > deadline:
            return
        yield sample


def _spread(samples: Sequence[Sample]) -> list[Sample]:
    """`samples` in an order of which every beginning is spread over all: 0, n/2, n/4, 3n/4, ...

    By the bit-reversed index, the sequence of van der Corput (1935).
    """
    bits = max(1, (len(samples) - 1).bit_length())
    order = sorted(range(len(samples)), key=lambda i: int(f"{i:0{bits}b}"[::-1], 2))
    return [samples[i] for i in order]
