"""Samples as arrays: read from their files, kept in memory or mapped, decoded ahead of time."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from torch.utils.data import get_worker_info

from unet_pipeline.classes import Classes
from unet_pipeline.datasets.images import read_image, read_mask, to_channels
from unet_pipeline.datasets.manifest import Sample
from unet_pipeline.datasets.raw_arrays import RawArrays
from unet_pipeline.datasets.scan.content import stamp_of
from unet_pipeline.errors import DatasetError

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class Decoded(NamedTuple):
    """A sample in memory: what its files hold, before any augmentation. Not to be written to."""

    image: npt.NDArray[Any]
    """(H, W, C), uint8, uint16 or float32."""
    mask: npt.NDArray[np.uint8]
    """(H, W) class indices, 255 = void."""


class SampleKey(NamedTuple):
    """What a decoded sample is a function of, beside the content of its files."""

    image: Path
    mask: Path
    in_channels: int
    classes: Classes


class DecodedCache:
    """Decoded samples kept in memory, as many as `byte_limit` allows, in the order they come.

    Nothing is ever thrown out to make room: in a random order over more than fits, every
    replacement policy hits equally often, and this one copies nothing. The cache may be shared by
    threads and by several datasets. Worker processes read what was filled before they started
    (under fork without a copy) and share the rest of the limit among themselves; a copy sent to a
    spawned process starts empty. What is returned never depends on what the cache holds.

    byte_limit: bytes of memory.
    folder: a temporary one of this run alone, or None. What does not fit in memory is written there
        once, and from then on read as arrays that are mapped from the files; the memory behind them
        is the operating system's, one copy for all processes. Worker processes write there first,
        so that each finds what any of them has decoded. Files that changed are decoded again, and
        all arrays are read-only. The folder is removed by `close`, and if that was never called,
        by the next run that has its folder beside it; a disk that is full and a folder that cannot
        be written to cost no more than a warning. Processes may share one.
    disk_limit: bytes that the files in `folder` may take together.
    """

    def __init__(self, byte_limit: int, *, folder: Path | None = None, disk_limit: int = 0) -> None:
        self.byte_limit = byte_limit
        self._disk = None if folder is None else RawArrays(folder, byte_limit=disk_limit)
        self._held: dict[SampleKey, Decoded] = {}
        self._full = False
        self._adopt()

    def __enter__(self) -> DecodedCache:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the folder, in the process that made it. Arrays that were returned stay good."""
        if self._disk is not None:
            self._disk.close()

    @property
    def num_bytes(self) -> int:
        """How much memory the arrays take in this process."""
        return self._num_bytes

    @property
    def full(self) -> bool:
        """Whether a sample was turned away for want of room in memory."""
        return self._full

    def __len__(self) -> int:
        """Samples in memory."""
        return len(self._held)

    def get(self, key: SampleKey, decode: Callable[[], Decoded]) -> Decoded:
        """The arrays of `key`, from memory or disk, or decoded now and kept if they fit."""
        held = self._held.get(key)
        if held is not None:
            return held
        if self._disk is not None:
            return self._get_from(self._disk, key, decode)
        decoded = decode()
        self._keep(key, decoded)
        return decoded

    def _get_from(self, disk: RawArrays, key: SampleKey, decode: Callable[[], Decoded]) -> Decoded:
        name = _file_name(key)  # before decoding: a file that changes meanwhile has another one
        stored = disk.read(name) if name else None
        if stored is not None:
            return Decoded(*stored)
        decoded = _frozen(decode())
        # In a worker process, memory would hold it for that one alone
        if name and disk.lent and disk.write(name, *decoded):
            return decoded
        if not self._keep(key, decoded) and name and not disk.lent:
            disk.write(name, *decoded)
        return decoded

    def _keep(self, key: SampleKey, decoded: Decoded) -> bool:
        """Whether there is room for it in memory, where it is now."""
        if self._pid != os.getpid():  # a forked worker: the lock's state is that of another process
            self._adopt()
        size = decoded.image.nbytes + decoded.mask.nbytes
        with self._lock:
            if self._num_bytes + size > self._limit:
                self._full = True
                return False
            if key not in self._held:
                self._held[key] = decoded
                self._num_bytes += size
        return True

    def _adopt(self) -> None:
        """Make this process the owner: its own lock, and its share of the memory that is left."""
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._num_bytes = sum(d.image.nbytes + d.mask.nbytes for d in self._held.values())
        worker = get_worker_info()
        num_sharers = worker.num_workers if worker else 1
        self._limit = self._num_bytes + (self.byte_limit - self._num_bytes) // num_sharers

    def __reduce__(self) -> tuple[Callable[..., DecodedCache], tuple[Any, ...]]:
        if self._disk is None:
            return DecodedCache, (self.byte_limit,)
        return _lent, (self.byte_limit, self._disk)


def _lent(byte_limit: int, disk: RawArrays) -> DecodedCache:
    """The cache as another process gets it: nothing in memory, the same folder."""
    cache = DecodedCache(byte_limit)
    cache._disk = disk
    cache._pid = 0  # so that it is adopted when torch has said how many share the limit
    return cache


_FRESH_NS = 20_000_000  # the clock of file times ticks every 4 to 10 ms


def _file_name(key: SampleKey) -> str:
    """32 hexadecimal digits of the key and the state of its files; empty where they have none.

    They have none where they are missing, and while they are so new that a second change might
    leave no trace.
    """
    stamps = [stamp_of(path) for path in (key.image, key.mask)]
    now = time.time_ns()
    # The time of the entry, which no program can set back
    if any(not stamp or 0 <= now - int(stamp.split(":")[2]) < _FRESH_NS for stamp in stamps):
        return ""
    paths = [os.path.abspath(path) for path in (key.image, key.mask)]  # noqa: PTH100  as stamp_of
    named = (*map(os.fsencode, paths), *stamps, key.in_channels, _digest(key.classes))
    return hashlib.blake2b(repr(named).encode(), digest_size=16).hexdigest()


@functools.lru_cache(maxsize=4)
def _digest(classes: Classes) -> bytes:
    return hashlib.blake2b(classes.model_dump_json().encode(), digest_size=16).digest()


def _frozen(decoded: Decoded) -> Decoded:
    """The same arrays as they will be when they are read again: in order, and read-only."""
    image, mask = map(np.ascontiguousarray, decoded)
    for array in (image, mask):
        array.setflags(write=False)
    return Decoded(image, mask)


def read_sample(
    sample: Sample, *, classes: Classes, in_channels: int, cache: DecodedCache | None = None
) -> Decoded:
    """The image and the mask of `sample`, from the cache or from their files.

    Raises `DatasetError`, naming the file, for one that cannot be read, a mask of another size
    than its image, mask values that are no class, and a sample without a mask.
    """
    if sample.mask is None:
        raise DatasetError(f"{sample.image}: has no mask; only prediction can do without")
    path = sample.mask

    def decode() -> Decoded:
        source = str(sample.image)
        image = to_channels(read_image(sample.image), in_channels, source)
        mask = classes.to_indices(read_mask(path, encoding=classes.encoding), source=str(path))
        if image.shape[:2] != mask.shape:
            raise DatasetError(
                f"{path}: the mask is {mask.shape[1]}x{mask.shape[0]} pixels, its image {source} "
                f"{image.shape[1]}x{image.shape[0]}; they must agree"
            )
        return Decoded(image, mask)

    if cache is None:
        return decode()
    return cache.get(SampleKey(sample.image, path, in_channels, classes), decode)


def iterate_samples(
    samples: Iterable[Sample],
    *,
    classes: Classes,
    in_channels: int,
    cache: DecodedCache | None = None,
    num_threads: int = 2,
    on_unreadable: Callable[[DatasetError], None] | None = None,
) -> Iterator[tuple[str, npt.NDArray[Any], npt.NDArray[np.uint8]]]:
    """Yield (sample_id, image (H, W, C), mask (H, W) of class indices) for each sample, in order.

    The next few are decoded by threads while the caller computes; decoders leave Python's lock, so
    2 threads keep up with any network. Arrays may be the cache's own: do not write to them.
    on_unreadable: told of each sample that is left out because it cannot be read.
    Without that, raises what `read_sample` raises, when the sample's turn has come.
    """

    def read(sample: Sample) -> tuple[str, Decoded | DatasetError]:
        try:
            decoded = read_sample(sample, classes=classes, in_channels=in_channels, cache=cache)
        except DatasetError as error:
            if on_unreadable is None:
                raise
            return sample.sample_id, error
        return sample.sample_id, decoded

    for sample_id, decoded in _map_ahead(read, samples, num_threads):
        if isinstance(decoded, Decoded):
            yield sample_id, decoded.image, decoded.mask
        elif on_unreadable is not None:
            on_unreadable(decoded)


def fill_cache(
    cache: DecodedCache,
    samples: Iterable[Sample],
    *,
    classes: Classes,
    in_channels: int,
    num_threads: int = 2,
    on_progress: Callable[[int], None] | None = None,
) -> int:
    """Decode samples into `cache` until one no longer fits; returns how many it holds.

    To be called before worker processes start: they then share these arrays instead of each
    decoding its own. `on_progress` is told the number of samples done. One that cannot be read is
    left to whoever asks for it.
    """

    def read(sample: Sample) -> None:
        with contextlib.suppress(DatasetError):
            read_sample(sample, classes=classes, in_channels=in_channels, cache=cache)

    for done, _ in enumerate(_map_ahead(read, samples, num_threads), start=1):
        if on_progress is not None:
            on_progress(done)
        if cache.full:
            break
    return len(cache)


def _map_ahead(
    function: Callable[[_In], _Out], items: Iterable[_In], num_threads: int
) -> Iterator[_Out]:
    """`function` of each item, in order, a few computed ahead by threads."""
    waiting: deque[Future[_Out]] = deque()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="decode") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * num_threads:  # bounded: decoded images may be large
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
