"""Masks for many images: threads decode ahead and write behind while the caller's thread computes.

Every image goes through the network by itself, so its mask does not depend on its neighbours, on
what an earlier, interrupted run had already done, or on the number of threads.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from unet_pipeline.classes import Classes
from unet_pipeline.errors import ResourceError, UserError
from unet_pipeline.evaluation.tables import csv_bytes
from unet_pipeline.files import folder_lock, make_writable_folder, write_atomic
from unet_pipeline.inference.inputs import Job
from unet_pipeline.inference.ledger import Ledger, prediction_digest
from unet_pipeline.inference.outputs import Prediction
from unet_pipeline.inference.sliding_window import check_threshold, check_window, predict_image
from unet_pipeline.inference.small_windows import SmallWindows
from unet_pipeline.inference.threads import Decoded, Failure, Writer, decode_ahead

if TYPE_CHECKING:
    from unet_pipeline.models.segmenter import Segmenter

FAILURES_NAME = "failures.csv"


@dataclass(frozen=True)
class FolderSummary:
    """What `predict_folder` has done.

    written, skipped: images whose results were made now, and those that stood already.
    failures: images without a result; also in `failures.csv` in the output folder.
    class_pixels: pixels of each class over the images written.
    num_without_foreground: images written that hold class 0 alone.
    seconds, megapixels: wall clock, and pixels of the images written.
    """

    written: int
    skipped: int
    failures: tuple[Failure, ...]
    class_pixels: tuple[int, ...]
    num_without_foreground: int
    seconds: float
    megapixels: float
    classes: Classes

    @property
    def warning(self) -> str | None:
        """What to say where more than half of at least 5 masks hold nothing but class 0."""
        if self.written < 5 or 2 * self.num_without_foreground <= self.written:
            return None
        return (
            f"{self.num_without_foreground} of {self.written} masks hold nothing but class 0 "
            f"({self.classes.names[0]}). Likely reasons: the model is trained too little (look at "
            "its scores); the images differ from those of training in channels, brightness or "
            "scale. If objects are there but look black in a viewer, because class values are "
            "small numbers, use --save color or overlay"
        )


def predict_folder(
    segmenter: Segmenter,
    jobs: Sequence[Job],
    *,
    output: Path,
    window: int,
    overlap: float,
    batch_size: int,
    autocast_dtype: torch.dtype | None,
    tta: bool,
    threshold: float | None,
    skip_existing: bool,
    num_threads: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> FolderSummary:
    """Predict every job of `inputs.plan_outputs`, write its files below `output`, and sum up.

    skip_existing: leave images whose outputs all stand as this model, with these settings, wrote
        them for the image as it is; `predictions.jsonl` in `output` remembers.
    num_threads: threads that decode, and as many that write (up to 4 where not given).
    on_progress: told how many images are done, skipped and failed ones included.
    The other options: see `sliding_window.predict_image`.

    An image that cannot be read or predicted is a failure, listed in `failures.csv`; the rest goes
    on. A full disk stops the work with `ResourceError`. On Ctrl-C, as on any other end, what is
    finished stays and is remembered, and no file is partial.
    Raises `OutputInUseError` where another process writes to `output`.
    """
    started = time.monotonic()
    check_window(window, overlap, least=segmenter.least_window)
    check_threshold(threshold, segmenter.card.classes.num_classes)
    settings: dict[str, Any] = {"window": window, "overlap": overlap, "tta": tta}
    settings |= {"threshold": threshold, "autocast_dtype": autocast_dtype}
    small = SmallWindows(window, segmenter.card)
    predict = functools.partial(predict_image, segmenter, batch_size=batch_size, **settings)
    num_threads = num_threads or max(2, min(4, os.cpu_count() or 2))
    make_writable_folder(output)
    with folder_lock(output):
        ledger = Ledger(output, digest=prediction_digest(segmenter, **settings))
        tally = _Tally(segmenter.card.classes, ledger, on_progress or (lambda done: None))
        todo = (job for job in jobs if not (skip_existing and tally.skips(job)))
        images = decode_ahead(todo, segmenter.card, num_threads=num_threads)
        with (
            _reported(output, tally),
            Writer(num_threads=num_threads, on_written=tally.add, on_failed=tally.fail) as writer,
            contextlib.closing(images),
        ):
            for job, image in images:
                if isinstance(image, Decoded):
                    small.look(*image.pixels.shape[:2])
                result = _predict(predict, job, image, tally.classes)
                if isinstance(image, Decoded) and isinstance(result, Prediction):
                    writer.submit(job, image.status, result)
                elif isinstance(result, Failure):
                    tally.fail(result)
    return tally.summary(time.monotonic() - started)


def _predict(
    predict: Callable[..., Any], job: Job, image: Decoded | Failure, classes: Classes
) -> Prediction | Failure:
    """The prediction for `image`, or why there is none; only a lack of memory ends the work."""
    if isinstance(image, Failure):
        return image
    try:
        indices, probabilities = predict(image.pixels, probabilities="probabilities" in job.outputs)
    except ResourceError as error:
        raise ResourceError(f"{job.input.path}: {error}") from error
    except UserError as error:
        return Failure.of(job, error)
    return Prediction(image.pixels, indices, probabilities, classes)


@dataclass
class _Tally:
    """What has become of the images so far."""

    classes: Classes
    ledger: Ledger
    on_progress: Callable[[int], None]
    written: int = 0
    skipped: int = 0
    failures: list[Failure] = field(default_factory=list)
    num_without_foreground: int = 0

    def __post_init__(self) -> None:
        self.class_pixels = np.zeros(self.classes.num_classes, dtype=np.int64)

    def skips(self, job: Job) -> bool:
        held = self.ledger.holds(job)
        if held:
            self.skipped += 1
            self._progress()
        return held

    def fail(self, failure: Failure) -> None:
        self.failures.append(failure)
        self._progress()

    def add(self, job: Job, status: os.stat_result, pixels: npt.NDArray[np.int64]) -> None:
        self.ledger.record(job, status, pixels)
        self.written += 1
        self.class_pixels += pixels
        self.num_without_foreground += not pixels[1:].any()
        self._progress()

    def summary(self, seconds: float) -> FolderSummary:
        return FolderSummary(
            written=self.written,
            skipped=self.skipped,
            failures=tuple(self.failures),
            class_pixels=tuple(int(count) for count in self.class_pixels),
            num_without_foreground=self.num_without_foreground,
            seconds=seconds,
            megapixels=float(self.class_pixels.sum()) / 1e6,
            classes=self.classes,
        )

    def _progress(self) -> None:
        self.on_progress(self.written + self.skipped + len(self.failures))


@contextlib.contextmanager
def _reported(output: Path, tally: _Tally) -> Iterator[None]:
    """Save the ledger and list the failures at the end, whatever the end is."""
    path = output / FAILURES_NAME
    try:
        yield
    except BaseException:
        with contextlib.suppress(ResourceError):  # the first reason is the one to tell
            tally.ledger.save()
            _list_failures(path, tally.failures)
        raise
    tally.ledger.save()
    _list_failures(path, tally.failures)


def _list_failures(path: Path, failures: Sequence[Failure]) -> None:
    if failures:
        rows = [(str(failure.path), failure.reason) for failure in failures]
        write_atomic(path, csv_bytes(("file", "reason"), rows))
    else:
        path.unlink(missing_ok=True)  # of an earlier run: its failures are mended
