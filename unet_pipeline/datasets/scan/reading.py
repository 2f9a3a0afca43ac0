"""One file, or what stands for one, read, decoded and measured: what a worker process does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unet_pipeline.datasets.array_files import Role
from unet_pipeline.datasets.file_kind import FileKind, file_kind
from unet_pipeline.datasets.images import (
    MaskPixels,
    decode_image,
    decode_image_and_alpha,
    decode_mask,
    read_bytes,
)
from unet_pipeline.datasets.scan import content
from unet_pipeline.datasets.scan.content import content_key, stamp_of
from unet_pipeline.datasets.scan.picture_hash import details_of
from unet_pipeline.datasets.scan.pixels import scan_image, scan_mask
from unet_pipeline.datasets.scan.records import MaskScan
from unet_pipeline.errors import DatasetError, ResourceError

if TYPE_CHECKING:  # worker processes do without them until a made mask comes
    from unet_pipeline.datasets.formats import Made

VERSION = 4
"""Of what is measured: to be raised when a scan of the same file comes out differently, or its
`details_of`."""


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
    """Under which name the cache keeps scans that depend on more than the bytes of a file.

    keep: the values that were to be kept, where it mattered (`is_cut`).
    """
    made = "" if isinstance(source, Path) else f"made{content.MADE_RULES} "
    kept = ",".join(map(str, sorted(set(keep)))) if role == "mask" else ""
    return f"{made}{role} {VERSION} {kept}"


def topic_of_details(source: Path | Made) -> str:
    """Under which name the cache keeps `details_of` an image."""
    return f"{topic_of('image', source)}details"


def is_cut(role: Role, record: bytes, keep: Sequence[int]) -> bool:
    """Whether a mask has so many values that it matters which of them were to be kept."""
    if role == "image" or not keep:
        return False
    scan = MaskScan.from_bytes(record, b"")
    return scan.num_values > len(scan.counts)


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
        raise _too_large(source) from error


def read_details(source: Path | Made, key: bytes) -> Reading | None:
    """`details_of` an image as float16, of whose content `key` was told before.

    None where it cannot be read, or is another one by now.
    Raises `ResourceError` where memory does not suffice.
    """
    try:
        if isinstance(source, Path):
            data = read_bytes(source)
            same = content_key(data) == key
            pixels = decode_image(data, source=str(source)) if same else None
        else:
            pixels = source.pixels() if source.digest() == key else None
    except DatasetError:  # it could be read a moment ago
        return None
    except MemoryError as error:
        raise _too_large(source) from error
    if pixels is None:
        return None
    return Reading(key, "", details_of(pixels).tobytes(), None, decoded=True)


def _too_large(source: Path | Made) -> ResourceError:
    name = source if isinstance(source, Path) else source.source
    return ResourceError(
        f"{name}: there is not enough memory to decode it; close other programs, or cut it into "
        "tiles"
    )


def _read_file(role: Role, path: Path, keep: Sequence[int], find: Find) -> Reading:
    stamp = stamp_of(path)  # before reading: what is written meanwhile will have another
    data = read_bytes(path)
    key = content_key(data)
    former = _found(role, path, keep, find, key)
    if former is not None:
        return Reading(key, stamp, former, None, decoded=False)
    if role == "image":
        image = decode_image_and_alpha(data, source=str(path))
        scan, picture = scan_image(image.pixels, file_kind(data), alpha=image.alpha)
        return Reading(key, stamp, scan.to_bytes(), picture.to_bytes(), decoded=True)
    mask = decode_mask(data, source=str(path))
    record = scan_mask(mask, keep, file_kind(data)).to_bytes()
    return Reading(key, stamp, record, None, decoded=True)


def _read_made(role: Role, made: Made, keep: Sequence[int], find: Find) -> Reading:
    key = made.digest()
    former = _found(role, made, keep, find, key)
    if former is not None:
        return Reading(key, "", former, None, decoded=False)
    if role == "image":
        scan, picture = scan_image(np.ascontiguousarray(made.pixels()), FileKind("made"))
        return Reading(key, "", scan.to_bytes(), picture.to_bytes(), decoded=True)
    pixels, overlap = _drawn(made)
    mask = MaskPixels(np.ascontiguousarray(pixels))
    record = scan_mask(mask, keep, FileKind("made"), overlap=overlap).to_bytes()
    return Reading(key, "", record, None, decoded=True)


def _drawn(made: Made) -> tuple[npt.NDArray[Any], int]:
    """The values of a mask, and how many of its pixels several objects claim."""
    from unet_pipeline.datasets.formats.object_masks import ObjectMasks  # here already, with `made`

    return made.pixels_and_overlap() if isinstance(made, ObjectMasks) else (made.pixels(), 0)


def _found(
    role: Role, source: Path | Made, keep: Sequence[int], find: Find, key: bytes
) -> bytes | None:
    """The record of equal content in which the values to keep are counted."""
    record = find(topic_of(role, source), key)
    if keep and role == "mask" and (record is None or is_cut(role, record, keep)):
        record = find(topic_of(role, source, keep), key)
    return record
