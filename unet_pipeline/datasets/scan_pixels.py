"""One file, or what stands for one, read, decoded and measured: what a worker process does."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from unet_pipeline.datasets.file_kind import FileKind, file_kind, shows_through
from unet_pipeline.datasets.images import (
    Color,
    ImageArray,
    MaskPixels,
    decode_image,
    decode_mask,
    read_bytes,
)
from unet_pipeline.datasets.mask_objects import count_objects, count_pixels, find_runs
from unet_pipeline.datasets.picture_hash import (
    perceptual_hash,
    picture_digest,
    shrink,
    thumbnail,
    to_grey,
)
from unet_pipeline.datasets.scan_records import ImageScan, MaskScan
from unet_pipeline.errors import DatasetError, ResourceError

if TYPE_CHECKING:  # worker processes do without them until a made mask comes
    from unet_pipeline.datasets.formats import Made

VERSION = 1
"""Of what is measured: to be raised when a scan of the same file comes out differently."""

MAX_LISTED_VALUES = 512
"""Mask values kept of one file, the most frequent: a photograph has a hundred thousand."""

MAX_OBJECT_VALUES = 32
"""Masks of more values number their objects, or are no masks of classes."""

Role = Literal["image", "mask"]
Counts = npt.NDArray[np.int64]


class Picture(NamedTuple):
    """What the cache keeps of an image beside its scan.

    histogram: (C, 256) pixels at each of 256 steps from the lowest to the highest value of the
        image (0 to 255 for uint8). thumbnail: (16, 16), grey.
    """

    histogram: Counts
    thumbnail: npt.NDArray[np.uint8]

    def to_bytes(self) -> bytes:
        """The thumbnail, the size of a number, the histogram."""
        kind = "<u2" if self.histogram.max() < 2**16 else "<u4"
        counts = self.histogram.astype(kind).tobytes()
        return self.thumbnail.tobytes() + kind[-1:].encode() + counts

    @classmethod
    def from_bytes(cls, data: bytes) -> Picture:
        """What `to_bytes` wrote."""
        counts = np.frombuffer(data, f"<u{data[256:257].decode()}", offset=257)
        thumbnail = np.frombuffer(data, np.uint8, 256).reshape(16, 16)
        return cls(counts.reshape(-1, 256).astype(np.int64), thumbnail)


class Reading(NamedTuple):
    """One file that was read; stamp: see `stamp_of`. picture: `Picture.to_bytes` of an image.

    decoded: False where record is that of equal content, and picture with it.
    """

    key: bytes
    stamp: str
    record: bytes
    picture: bytes | None
    decoded: bool


Find = Callable[[str, bytes], bytes | None]
"""(what, key) -> the record of equal content that was scanned before, or None."""


def topic_of(role: Role, source: Path | Made, keep: Sequence[int] = ()) -> str:
    """Under which name the cache keeps scans that depend on more than the bytes of a file."""
    made = "" if isinstance(source, Path) else "made "
    kept = ",".join(map(str, sorted(set(keep)))) if role == "mask" else ""
    return f"{made}{role} {VERSION} {kept}"


def stamp_of(path: Path) -> str:
    """What changes with the content of a file, as far as its folder knows.

    The time of the last change of its entry tells of files whose time was set back. Empty where
    there is no such file.
    """
    try:
        status = os.stat(path)  # noqa: PTH116  three times as fast
    except (OSError, ValueError):  # ValueError: a null character in the name
        return ""
    return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_ino}"


def read_part(role: Role, source: Path | Made, keep: Sequence[int], find: Find) -> Reading | str:
    """The scan of a file or of a `Made`; for one that cannot be read, the sentence that says why.

    keep: mask values (packed) that are counted however rare they are.
    find: gives what was kept of equal content, which is then not decoded.
    Raises `ResourceError` where memory does not suffice.
    """
    try:
        if isinstance(source, Path):
            return _read_file(role, source, keep, find)
        return _read_made(role, source, keep, find)
    except DatasetError as error:
        return str(error)
    except MemoryError as error:
        name = source if isinstance(source, Path) else source.source
        raise ResourceError(
            f"{name}: there is not enough memory to decode it; close other programs, or cut it "
            "into tiles"
        ) from error


def _read_file(role: Role, path: Path, keep: Sequence[int], find: Find) -> Reading | str:
    stamp = stamp_of(path)  # before reading: what is written meanwhile will have another
    data = read_bytes(path)
    key = hashlib.sha256(data).digest()[:16]  # processors have instructions for SHA-256
    former = find(topic_of(role, path, keep), key)
    if former is not None:
        return Reading(key, stamp, former, None, decoded=False)
    if role == "image":
        image = decode_image(data, source=str(path))
        kind = file_kind(data)
        scan, picture = scan_image(image, key, kind, alpha=shows_through(data, kind))
        return Reading(key, stamp, scan.to_bytes(), picture.to_bytes(), decoded=True)
    mask = decode_mask(data, source=str(path))
    kind = file_kind(data)
    record = scan_mask(mask, keep, kind, alpha=shows_through(data, kind)).to_bytes()
    return Reading(key, stamp, record, None, decoded=True)


def _read_made(role: Role, made: Made, keep: Sequence[int], find: Find) -> Reading | str:
    key = made.digest()
    former = find(topic_of(role, made, keep), key)
    if former is not None:
        return Reading(key, "", former, None, decoded=False)
    pixels = np.ascontiguousarray(made.pixels())
    if role == "image":
        scan, picture = scan_image(pixels, key, FileKind("made"))
        return Reading(key, "", scan.to_bytes(), picture.to_bytes(), decoded=True)
    record = scan_mask(MaskPixels(pixels), keep, FileKind("made")).to_bytes()
    return Reading(key, "", record, None, decoded=True)


def scan_image(
    image: ImageArray, key: bytes, kind: FileKind, *, alpha: bool = False
) -> tuple[ImageScan, Picture]:
    """The facts of an image (H, W, C)."""
    measure = _measure_floats if image.dtype == np.float32 else _measure_integers
    low, high, sums, squares, histogram = measure(image)
    grey = to_grey(image)
    small = shrink(grey, low, high)
    height, width, channels = image.shape
    scan = ImageScan(
        *(height, width, channels, str(image.dtype), low, high, sums, squares),
        picture_digest(image, grey, small, histogram),
        key=key,
        phash=perceptual_hash(small),
        kind=kind.name,
        bits=kind.bits or 8 * image.dtype.itemsize,
        orientation=kind.orientation,
        alpha=alpha,
    )
    return scan, Picture(histogram, thumbnail(small))


def scan_mask(
    mask: MaskPixels,
    keep: Sequence[int] = (),
    kind: FileKind = FileKind(""),  # noqa: B008  immutable
    *,
    alpha: bool = False,
) -> MaskScan:
    """The facts of a mask; keep: values that are counted however rare they are."""
    runs = find_runs(mask.values)
    values, counts = count_pixels(runs)
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
        objects=count_objects(runs) if num_values <= MAX_OBJECT_VALUES else None,
        void=getattr(mask, "void", False),
        kind=kind.name,
        bits=kind.bits or 8 * mask.values.dtype.itemsize,
        orientation=kind.orientation,
        alpha=alpha,
    )


_Measured = tuple[float, float, list[float], list[float], Counts]


def _measure_integers(image: npt.NDArray[Any]) -> _Measured:
    """Ends, sums, squares and histogram of uint8 or uint16, all of them exact."""
    num_levels = 2 ** (8 * image.dtype.itemsize)
    counts = np.zeros((image.shape[2], num_levels), dtype=np.int64)
    for band in _bands(image):
        for c, row in enumerate(counts):
            row += _histogram(band, c, num_levels)
    present = np.flatnonzero(counts.any(axis=0))
    low, high = int(present[0]), int(present[-1])
    sums, squares = (counts @ _powers(num_levels)).T.tolist()
    if image.dtype != np.uint8:
        steps = np.rint(np.arange(high - low + 1) * (255 / max(high - low, 1)))
        places = steps.astype(np.int64)
        counts = np.stack([_binned(row[low : high + 1], places) for row in counts])
    return float(low), float(high), sums, squares, counts


def _measure_floats(image: npt.NDArray[Any]) -> _Measured:
    """Ends, sums, squares (in float64) and histogram of finite float32."""
    low, high = float(image.min()), float(image.max())
    channels = image.shape[2]
    scale = 255 / (high - low) if high > low else 0.0
    sums, squares = np.zeros(channels), np.zeros(channels)
    counts = np.zeros((channels, 256), dtype=np.int64)
    for band in _bands(image, 2**18):
        wide = band.astype(np.float64)
        sums += wide.sum(axis=(0, 1))
        squares += np.einsum("hwc,hwc->c", wide, wide)
        steps = np.rint((wide - low) * scale).astype(np.uint8)
        for c, row in enumerate(counts):
            row += _histogram(steps, c, 256)
    return low, high, sums.tolist(), squares.tolist(), counts


def _histogram(image: npt.NDArray[Any], channel: int, num_levels: int) -> Counts:
    if image.shape[2] > 512:  # more than OpenCV takes
        image, channel = np.ascontiguousarray(image[..., channel : channel + 1]), 0
    counts = cv2.calcHist([image], [channel], None, [num_levels], [0, num_levels])
    return np.asarray(counts).reshape(-1).astype(np.int64)


@functools.cache
def _powers(num_levels: int) -> Counts:
    """Each level and its square; sums of squares of 2**28 16-bit numbers fit into 64 bits."""
    levels = np.arange(num_levels, dtype=np.int64)
    return np.stack([levels, levels**2], axis=1)


def _binned(counts: Counts, places: Counts) -> Counts:
    return np.bincount(places, weights=counts, minlength=256).astype(np.int64)


def _bands(image: npt.NDArray[Any], num_pixels: int = 2**24) -> list[npt.NDArray[Any]]:
    """`image` in bands of rows of at most about `num_pixels`.

    OpenCV counts in float32, which knows no odd number beyond 2**24.
    """
    rows = max(num_pixels // image.shape[1], 1)
    if rows >= image.shape[0]:
        return [image]
    return [image[start : start + rows] for start in range(0, image.shape[0], rows)]
