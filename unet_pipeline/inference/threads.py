"""Threads around the network: some decode images ahead of it, some write results behind it.

Decoders and encoders leave Python's lock, so both go on while the caller's thread computes.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unet_pipeline.errors import DatasetError, ResourceError, UserError
from unet_pipeline.inference.inputs import Job, read_pixels
from unet_pipeline.inference.outputs import Prediction, write_outputs

if TYPE_CHECKING:
    from unet_pipeline.models.segmenter import ModelCard

# Decoded images that wait for the network, and masks that wait for the disk, hold no more than
# this each; of larger images there is no more than what threads are busy with.
_WAITING_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Failure:
    """An image without a result, and why."""

    path: Path
    reason: str

    @classmethod
    def of(cls, job: Job, error: Exception) -> Failure:
        """The failure of `job` that `error` tells; its path is not said twice."""
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        return cls(job.input.path, reason.removeprefix(f"{job.input.path}: "))


@dataclass(frozen=True)
class Decoded:
    """An image (H, W, C) as the model takes it, and the status of its file before it was read."""

    pixels: npt.NDArray[Any]
    status: os.stat_result


def decode_ahead(
    jobs: Iterable[Job], card: ModelCard, *, num_threads: int
) -> Generator[tuple[Job, Decoded | Failure], None, None]:
    """Yield each job, in order, with its image or the reason why there is none."""
    waiting: deque[tuple[Job, Future[Decoded | Failure]]] = deque()
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="decode")
    try:
        for job in jobs:
            waiting.append((job, pool.submit(_decode, job, card)))
            while len(waiting) > num_threads or _ready_bytes(waiting) > _WAITING_BYTES:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Writer:
    """Writes predictions in threads; a context manager that ends when all is on the disk.

    on_written, on_failed: called in the caller's thread, for each job once. Where the machine
    refuses to write (a full disk), the `ResourceError` is raised from `submit` or at the end and
    nothing more is written. When the block is left by another exception, such as Ctrl-C, what was
    submitted is still written.
    """

    def __init__(
        self,
        *,
        num_threads: int,
        on_written: Callable[[Job, os.stat_result, npt.NDArray[np.int64]], None],
        on_failed: Callable[[Failure], None],
    ) -> None:
        self._on_written = on_written
        self._on_failed = on_failed
        self._limit = 2 * num_threads
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="write")
        self._waiting: deque[_Write] = deque()
        self._refused = False

    def submit(self, job: Job, status: os.stat_result, prediction: Prediction) -> None:
        """Have `prediction` written; waits while too much is waiting already."""
        size = prediction.image.nbytes + prediction.indices.nbytes
        if prediction.probabilities is not None:
            size += prediction.probabilities.nbytes
        future = self._pool.submit(_write, prediction, job)
        self._waiting.append(_Write(job, status, size, future))
        while self._waiting and (
            self._waiting[0].future.done()
            or len(self._waiting) > self._limit
            or sum(write.size for write in self._waiting) > _WAITING_BYTES
        ):
            self._settle()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> None:
        try:
            while self._waiting and not self._refused:
                self._settle()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _settle(self) -> None:
        """Wait for the oldest write and account for it."""
        wait([self._waiting[0].future])  # still in the queue, should Ctrl-C come now
        write = self._waiting.popleft()
        try:
            pixels = write.future.result()
        except ResourceError as error:
            self._refused = True
            self._on_failed(Failure.of(write.job, error))
            raise
        except (OSError, UserError) as error:  # of this file alone, such as a name too long
            self._on_failed(Failure.of(write.job, error))
        else:
            self._on_written(write.job, write.status, pixels)


class _Write(NamedTuple):
    job: Job
    status: os.stat_result
    size: int
    future: Future[npt.NDArray[np.int64]]


def _decode(job: Job, card: ModelCard) -> Decoded | Failure:
    try:
        status = job.input.path.stat()
        return Decoded(read_pixels(job.input.path, card), status)
    except (OSError, DatasetError) as error:
        return Failure.of(job, error)
    except MemoryError:
        return Failure(job.input.path, "not enough memory to decode it")


def _write(prediction: Prediction, job: Job) -> npt.NDArray[np.int64]:
    """Write the outputs of `job`; returns the number of pixels of each class."""
    write_outputs(prediction, job.outputs)
    return np.bincount(prediction.indices.ravel(), minlength=prediction.classes.num_classes)


def _ready_bytes(waiting: Iterable[tuple[Job, Future[Decoded | Failure]]]) -> int:
    done = (future.result() for _, future in waiting if future.done())
    return sum(image.pixels.nbytes for image in done if isinstance(image, Decoded))
