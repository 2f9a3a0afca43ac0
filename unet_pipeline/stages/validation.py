"""The scores of the val split while a training goes on, of which the best model is kept."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unet_pipeline.datasets.gone import folders_of, require_folders
from unet_pipeline.datasets.loaders import iterate_samples
from unet_pipeline.datasets.manifest import Sample
from unet_pipeline.distributed import World, agree_max, gather_objects, shard, share_buffers
from unet_pipeline.errors import DatasetError, UserError
from unet_pipeline.evaluation import headline_figures, summarize
from unet_pipeline.inference import ImageScores, score
from unet_pipeline.runtime import StopRequest
from unet_pipeline.stages.assembly import decided
from unet_pipeline.stages.session import CLOSING_SECONDS, Session, log_panel, progress, write_model
from unet_pipeline.training import run_folder as runs

logger = logging.getLogger(__name__)

PANEL_STEPS = 10  # pictures of the panel over a run: enough for MLflow's slider, cheap to send
VALIDATION_SHARE = 0.1  # of a budget, that one validation may take
SAMPLES_A_ROUND = 4  # of each of several processes, which wait for the slowest after them


class StoppedError(Exception):
    """A signal has come while a validation was going on, which is not waited for."""


def validate(session: Session, stop: StopRequest) -> dict[str, float]:
    """The scores of the val split; the model is kept where they are the best so far."""
    parts, position, reached = session.parts, session.position, session.reached
    facts = session.manifest.facts
    began = position.elapsed()
    if parts.average is not None:
        parts.average.catch_up(parts.segmenter)
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
        reached.seconds_to_end = 1.1 * (position.elapsed() - began) + CLOSING_SECONDS
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
    if session.watch is not None and session.watch(share, row["val/mean_iou"]):
        session.given_up = True
    return row


def _score(session: Session, stop: StopRequest) -> ImageScores:
    """The scores of the val samples, of all processes together, which raise one error together."""
    parts, reached, samples = session.parts, session.reached, session.manifest.split("val")
    first, budget = reached.num_val is None, session.config.training.budget_seconds
    chosen, deadline = samples, math.inf
    if first and budget is not None:
        chosen, deadline = _spread(samples), time.monotonic() + VALIDATION_SHARE * budget
    elif not first and reached.num_val != len(samples):
        chosen = _spread(samples)[: reached.num_val]
    share_buffers(session.evaluated)
    rounds = _Rounds(chosen, parts.world, stop, deadline)
    shares = gather_objects(_score_share(session, rounds))
    if session.is_main:
        for sentence in (sentence for share in shares for sentence in share.unreadable):
            parts.loader.unreadable.add(sentence)
    errors = [share.error for share in shares if share.error is not None]
    if errors:
        raise next((error for error in errors if isinstance(error, StoppedError)), errors[0])
    result = ImageScores.in_order(
        [share.scores for share in shares if share.scores is not None],
        [sample.sample_id for sample in samples],
    )
    if not result.sample_ids:
        raise DatasetError("none of the val samples can be read: see the warnings above")
    if first:
        reached.num_val = rounds.num_asked
        if rounds.num_asked < len(samples):
            logger.info(
                "validating on %d of %d images: all of them would take more than %.0f %% of the "
                "budget; `unet evaluate --split val` scores them all",
                rounds.num_asked,
                len(samples),
                100 * VALIDATION_SHARE,
            )
    return result


@dataclass(frozen=True)
class _Share:
    """What one process has made of its part of the samples.

    scores: None where a validation was not finished. unreadable: a sentence for each sample that is
    left out. error: why it was not finished; None where another process knows.
    """

    scores: ImageScores | None
    unreadable: tuple[str, ...] = ()
    error: UserError | StoppedError | None = None


def _score_share(session: Session, rounds: _Rounds) -> _Share:
    config, parts, facts = session.config, session.parts, session.manifest.facts
    unreadable: list[str] = []
    scores = failure = None

    def leave_out(error: DatasetError) -> None:
        require_folders(folders_of(session.manifest.split("val")))
        unreadable.append(str(error))

    try:
        scores = score(
            session.evaluated,
            iterate_samples(
                rounds.samples(),
                classes=facts.classes,
                in_channels=facts.in_channels,
                cache=parts.cache,
                on_unreadable=None if config.training.strict else leave_out,
            ),
            window=decided(config.inference.window),
            overlap=decided(config.inference.overlap),
            autocast_dtype=parts.autocast_dtype,
            loss=parts.loss,
            on_progress=lambda _: rounds.require_no_stop(),
        )
    except _ToldToEndError:
        pass
    except (UserError, StoppedError) as error:
        failure = error
        rounds.tell_to_end()
    return _Share(scores, tuple(unreadable), failure)


class _ToldToEndError(Exception):
    """Another process was stopped, or has failed."""


class _Rounds:
    """The samples of this process, a few a round; all processes begin each round together.

    There they agree whether to go on: for one alone can neither leave, while the others wait for
    it, nor know that time is up, which each of them reads from a clock of its own.
    """

    _GO_ON, _TIME_IS_UP, _END = range(3)

    def __init__(
        self, samples: Sequence[Sample], world: World, stop: StopRequest, deadline: float
    ) -> None:
        self._own = shard(samples, world.rank, world.size)
        self._size = SAMPLES_A_ROUND if world.size > 1 else 1
        self._stop = stop
        self._deadline = deadline
        self._num_samples = len(samples)
        self._samples_a_round = world.size * self._size
        self._begun = 0
        self._left = math.ceil(len(samples) / self._samples_a_round)

    @property
    def num_asked(self) -> int:
        """Samples that all processes together have been given so far: the first so many."""
        return min(self._num_samples, self._begun * self._samples_a_round)

    def samples(self) -> Iterator[Sample]:
        """Those that are asked for before the deadline, at least those of one round."""
        while self._left:
            late = self._begun > 0 and time.monotonic() > self._deadline
            self.require_no_stop()
            verdict = agree_max(self._TIME_IS_UP if late else self._GO_ON)
            if verdict != self._GO_ON:
                self._left = 0
            if verdict == self._END:
                raise _ToldToEndError
            if verdict == self._TIME_IS_UP:
                return
            self._begun, self._left = self._begun + 1, self._left - 1
            yield from self._own[(self._begun - 1) * self._size : self._begun * self._size]

    def require_no_stop(self) -> None:
        """Raise `StoppedError` where a signal has come to this process."""
        if self._stop:
            raise StoppedError

    def tell_to_end(self) -> None:
        """Leave before the end; the others hear of it where their next round would begin."""
        if self._left:
            self._left = 0
            agree_max(self._END)


def _spread(samples: Sequence[Sample]) -> list[Sample]:
    """`samples` in an order of which every beginning is spread over all: 0, n/2, n/4, 3n/4, ...

    By the bit-reversed index, the sequence of van der Corput (1935).
    """
    bits = max(1, (len(samples) - 1).bit_length())
    order = sorted(range(len(samples)), key=lambda i: int(f"{i:0{bits}b}"[::-1], 2))
    return [samples[i] for i in order]
