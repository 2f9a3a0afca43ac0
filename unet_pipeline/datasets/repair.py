"""A clean copy of a dataset: upright images without surprises, masks as indexed PNG."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
from PIL import JpegImagePlugin

from unet_pipeline.classes import IGNORE_INDEX, Classes
from unet_pipeline.datasets.encoders import encode_lossless
from unet_pipeline.datasets.exports.writing import (
    check_size,
    class_lines,
    each_sample,
    file_names,
    indexed_png,
    write_file,
)
from unet_pipeline.datasets.file_kind import file_kind
from unet_pipeline.datasets.images import decode_image_and_alpha, decode_mask, read_bytes
from unet_pipeline.datasets.manifest import Manifest, Sample, fingerprint
from unet_pipeline.datasets.raster import upright
from unet_pipeline.datasets.scan import Progress, content_digest
from unet_pipeline.datasets.scan.content import content_key
from unet_pipeline.files import make_writable_folder, write_atomic

_TURNED = "images turned upright"
_NO_ALPHA = "images without their alpha channel"
_CONVERTED = "images converted to RGB"
_MASK_TURNED = "masks turned as the orientation of their image says"
_SNAPPED = "masks snapped to the nearest class"
_INDEXED = "masks written as indexed PNG"
_COPIED = "files copied as they are"


@dataclass(frozen=True)
class Repairs:
    """The repaired copy, and what was changed in how many files."""

    manifest: Manifest
    counts: Mapping[str, int]


class _Mended(NamedTuple):
    """The content of a file of the copy, and what was changed."""

    suffix: str
    data: bytes
    changes: tuple[str, ...] = ()


def write_repaired(
    manifest: Manifest,
    folder: Path,
    *,
    turned: Mapping[str, int],
    on_progress: Progress | None = None,
) -> Repairs:
    """Write images/, masks/ and classes.txt into `folder`; the source is only read.

    Images hold the pixels that `read_image` gives of the originals: upright, without alpha, RGB;
    masks hold class indices, 255 void. Files that are so already are copied byte for byte, so that
    the repaired copy of a repaired copy is equal to it.
    manifest: of the pairs to keep; it is not saved. turned: sample id -> the orientation (1..8) by
        which its mask must be turned, because it was drawn over the picture as stored.
    Raises `DatasetError` for files that cannot be read and masks that do not fit their images.
    """
    classes, names = manifest.facts.classes, file_names(manifest.samples)
    make_writable_folder(folder)

    def one(sample: Sample) -> tuple[Sample, tuple[str, ...]]:
        name = names[sample.sample_id]
        image = _mended_image(sample)
        mask = _mended_mask(sample, classes, turned.get(sample.sample_id, 1))
        copy = replace(
            sample,
            image_file=write_file(folder / "images" / name, image.suffix, image.data),
            mask_file=write_file(folder / "masks" / name, mask.suffix, mask.data),
            content=content_digest(content_key(image.data), content_key(mask.data)),
        )
        return copy, (*(image.changes or (_COPIED,)), *(mask.changes or (_COPIED,)))

    samples, counts = [], Counter[str]()
    for _, (copy, changes) in each_sample(one, manifest, on_progress):
        samples.append(copy)
        counts.update(changes)
    write_atomic(folder / "classes.txt", class_lines(classes))
    facts = manifest.facts.model_copy(
        update={"classes": _of_indices(classes), "fingerprint": fingerprint(samples)}
    )
    order = (_TURNED, _NO_ALPHA, _CONVERTED, _MASK_TURNED, _SNAPPED, _INDEXED, _COPIED)
    return Repairs(
        replace(manifest, root=folder, facts=facts, samples=tuple(samples)),
        {what: counts[what] for what in order if counts[what]},
    )


def _mended_image(sample: Sample) -> _Mended:
    data = read_bytes(sample.image)
    kind = file_kind(data)
    suffix = sample.image.suffix.lower()
    turned, converted = kind.orientation != 1, _is_converted(data, kind.name)
    if not (turned or converted or kind.may_hold_alpha):
        return _Mended(suffix, data)
    image = decode_image_and_alpha(data, source=str(sample.image))
    # of a GIF only its pixels say whether the transparent colour is there
    alpha = image.alpha if kind.name == "gif" else kind.may_hold_alpha
    changes = [
        what
        for what, applies in ((_TURNED, turned), (_NO_ALPHA, alpha), (_CONVERTED, converted))
        if applies
    ]
    if not changes:
        return _Mended(suffix, data)
    return _Mended(*encode_lossless(image.pixels), tuple(changes))


def _is_converted(data: bytes, kind: str) -> bool:
    """Whether the file holds CMYK or Lab, which `read_image` makes RGB of."""
    if kind == "jpeg":
        with JpegImagePlugin.JpegImageFile(io.BytesIO(data)) as picture:
            return picture.mode == "CMYK"
    if kind == "tiff":
        with tifffile.TiffFile(io.BytesIO(data), _multifile=False) as tif:
            return tif.pages.first.photometric in (
                tifffile.PHOTOMETRIC.SEPARATED,
                tifffile.PHOTOMETRIC.CIELAB,
            )
    return False


def _mended_mask(sample: Sample, classes: Classes, orientation: int) -> _Mended:
    assert sample.mask is not None
    source = str(sample.mask)
    data = read_bytes(sample.mask)
    mask = decode_mask(data, source=source)
    colored = classes.encoding == "rgb" and mask.palette is not None
    values = mask.palette[mask.values] if colored and mask.palette is not None else mask.values
    indices = classes.to_indices(values, source=source)
    snapped = mask.lossy or (
        classes.snap and not np.array_equal(classes.to_values(indices), values)
    )
    indices = upright(indices, orientation)
    check_size(indices, sample)
    changes = [
        what for what, applies in ((_MASK_TURNED, orientation != 1), (_SNAPPED, snapped)) if applies
    ]
    if not changes and _is_indexed_png(data) and np.array_equal(indices, mask.values):
        return _Mended(".png", data)
    return _Mended(".png", indexed_png(indices, classes), (*changes, _INDEXED))


def _is_indexed_png(data: bytes) -> bool:
    kind = file_kind(data)
    palette = kind.name == "png" and data[25] == 3
    return palette and kind.orientation == 1 and not kind.may_hold_alpha


def _of_indices(classes: Classes) -> Classes:
    """`classes` for masks that hold their indices."""
    return classes.model_copy(
        update={
            "values": tuple(range(classes.num_classes)),
            "ignore_values": (IGNORE_INDEX,) if classes.ignore_values else (),
            "other": None,
            "snap": False,
            "encoding": "palette",
        }
    )
