"""Read an image and its mask once and keep what the facts of a dataset are made of."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from unet_pipeline.datasets.formats import Pair
from unet_pipeline.datasets.images import (
    Color,
    Encoding,
    ImageArray,
    MaskPixels,
    decode_image,
    decode_mask,
    read_bytes,
)
from unet_pipeline.errors import DatasetError

MAX_LISTED_VALUES = 512
"""Mask values kept of one file, the most frequent: a photograph has a hundred thousand."""

Progress = Callable[[int, int], None]
"""Called as progress(done, total) while files are read."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ImageScan:
    """Size, type and sums of one image; sums and squares hold one number a channel."""

    height: int
    width: int
    channels: int
    dtype: str
    low: float
    high: float
    sums: tuple[float, ...]
    squares: tuple[float, ...]
    picture: bytes  # a digest of the decoded pixels: equal pictures, whatever their files


@dataclass(frozen=True, slots=True)
class MaskScan:
    """Size, encoding and values of one mask.

    counts: pixels of each value, a colour packed as 0xRRGGBB; the most frequent values only.
    num_values: how many there are in all. palette: the colours of the indices in `counts`.
    """

    height: int
    width: int
    encoding: Encoding
    counts: dict[int, int]
    num_values: int
    palette: dict[int, Color]
    lossy: bool


@dataclass(frozen=True, slots=True)
class PairScan:
    """What was read of one pair; content: a digest of the bytes of both files."""

    pair: Pair
    image: ImageScan
    mask: MaskScan
    content: str


def scan_pair(pair: Pair, *, keep: Sequence[int] = ()) -> PairScan | DatasetError:
    """Read both files of `pair`; an unreadable one gives its error, for a list of all of them.

    keep: mask values (packed) that are counted however rare they are.
    """
    try:
        image_bytes, mask_bytes = read_bytes(pair.image), read_bytes(pair.mask)
        image = decode_image(image_bytes, source=str(pair.image))
        mask = decode_mask(mask_bytes, source=str(pair.mask))
    except DatasetError as error:
        return error
    digest = hashlib.blake2b(digest_size=16)
    for content in (image_bytes, mask_bytes):
        digest.update(len(content).to_bytes(8, "big"))
        digest.update(content)
    return PairScan(pair, _scan_image(image), _scan_mask(mask, keep), digest.hexdigest())


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], *, num_threads: int | None = None
) -> Iterator[Result]:
    """`function` of every item, in order, computed by a pool of threads.

    Only a few items a thread are under way at a time, so memory does not grow with their number.
    num_threads: as many as this process may use cores, where None.
    """
    count = num_threads or _num_cores()
    pool = ThreadPoolExecutor(count)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 4 * count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # after Ctrl-C too: what has not begun is dropped
        pool.shutdown(cancel_futures=True)


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not everywhere; fewer than all where we are confined
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def pack(value: int | Color) -> int:
    """A mask value as one integer: itself, or 0xRRGGBB for a colour."""
    if isinstance(value, tuple):
        return (value[0] << 16) | (value[1] << 8) | value[2]
    return value


def unpack(key: int, encoding: Encoding) -> int | Color:
    """The mask value that `pack` made `key` of, in a dataset of the given encoding."""
    return (key >> 16, (key >> 8) & 255, key & 255) if encoding == "rgb" else key


def _scan_image(image: ImageArray) -> ImageScan:
    height, width, channels = image.shape
    sums: list[float] = []
    squares: list[float] = []
    lows: list[float] = []
    highs: list[float] = []
    for c in range(channels):
        channel = np.ascontiguousarray(image[..., c]).ravel()
        if channel.dtype == np.float32:
            wide = channel.astype(np.float64)
            parts = (wide.sum(), np.dot(wide, wide), wide.min(), wide.max())
        else:  # exact: sums of squares of 2**28 16-bit numbers fit into 64 bits
            counts = np.bincount(channel)
            levels = np.arange(len(counts), dtype=np.int64)
            present = np.flatnonzero(counts)
            parts = (counts @ levels, counts @ levels**2, present[0], present[-1])
        for target, part in zip((sums, squares, lows, highs), parts, strict=True):
            target.append(part.item())
    picture = hashlib.blake2b(f"{image.shape}{image.dtype}".encode(), digest_size=16)
    picture.update(np.ascontiguousarray(image).data)
    return ImageScan(
        height=height,
        width=width,
        channels=channels,
        dtype=str(image.dtype),
        low=min(lows),
        high=max(highs),
        sums=tuple(sums),
        squares=tuple(squares),
        picture=picture.digest(),
    )


def _scan_mask(mask: MaskPixels, keep: Sequence[int]) -> MaskScan:
    values, counts = _count(mask.values)
    num_values = len(values)
    if num_values > MAX_LISTED_VALUES:
        chosen = np.sort(np.argsort(-counts, kind="stable")[:MAX_LISTED_VALUES])
        chosen = np.union1d(chosen, np.flatnonzero(np.isin(values, list(keep))))
        values, counts = values[chosen], counts[chosen]
    table = dict(zip(values.tolist(), counts.tolist(), strict=True))
    palette: dict[int, Color] = {}
    if mask.palette is not None:
        palette = {v: tuple(mask.palette[v].tolist()) for v in table}
    return MaskScan(
        height=mask.values.shape[0],
        width=mask.values.shape[1],
        encoding=mask.encoding,
        counts=table,
        num_values=num_values,
        palette=palette,
        lossy=mask.lossy,
    )


def _count(values: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The distinct values of a mask, colours packed, and the pixels of each."""
    if values.ndim == 2:
        counts = np.bincount(values.ravel())
        present = np.flatnonzero(counts)
        return present.astype(np.int64), counts[present].astype(np.int64)
    wide = values.astype(np.int32)
    flat = ((wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]).ravel()
    # Sort runs of equal pixels, not pixels: in a mask there are a hundred times fewer
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    lengths = np.diff(starts, append=flat.size)
    present, run_of = np.unique(flat[starts], return_inverse=True)
    counts = np.zeros(len(present), dtype=np.int64)
    np.add.at(counts, run_of, lengths)
    return present.astype(np.int64), counts
