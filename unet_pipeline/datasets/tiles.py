"""Huge images cut into tiles on disk, a band of rows at a time; see `bands`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unet_pipeline.datasets.bands import BandedPicture, open_bands
from unet_pipeline.datasets.encoders import encode_lossless, encode_png
from unet_pipeline.datasets.exports.writing import write_file
from unet_pipeline.datasets.formats.contract import Found, Pair
from unet_pipeline.datasets.images import MaskPixels, one_line
from unet_pipeline.datasets.made import safe_name
from unet_pipeline.datasets.scan import MaskScan, Progress
from unet_pipeline.datasets.scan.pixels import scan_mask
from unet_pipeline.datasets.threads import in_threads
from unet_pipeline.errors import DatasetError, UserError
from unet_pipeline.files import make_writable_folder


def cut_into_tiles(
    found: Found,
    folder: Path,
    *,
    size: int,
    overlap: float,
    on_progress: Progress | None = None,
) -> Found:
    """`found` with every pair cut into tiles of `size` x `size` pixels, written below `folder`.

    They go to folder/images/<sample_id>/ and folder/masks/<sample_id>/, named by the place of
    their first pixel: r0512_c1024. No tile is padded: the last one of a row or column is shifted
    back inside, and what is smaller than a tile stays whole in that direction. Pixels and mask
    values are kept exactly: PNG for 8 and 16 bits, TIFF for all else.
    overlap: the share of a tile that its neighbour has too, 0 <= overlap < 1.
    The tiles of an image have its split, and its group or else its id as their group.
    Raises `UserError` for a size or overlap that cannot be; `DatasetError` for findings that are
    errors, files that cannot be read, masks of another size than their image, and masks of which
    tiles would not tell all: compressed with loss, or with -1 for void.
    """
    _refuse_what_cannot_be(found, size, overlap)
    make_writable_folder(folder)
    tiles: list[Pair] = []
    for done, pair in enumerate(found.pairs, start=1):
        tiles += _cut(pair, folder, size, overlap)
        if on_progress is not None:
            on_progress(done, len(found.pairs))
    shared = f" that share {overlap:g} with their neighbours" if overlap else ""
    sentence = f"{found.sentence}; cut into {len(tiles)} tiles of {size}x{size} pixels{shared}"
    return replace(found, pairs=tuple(tiles), sentence=sentence)


def scan_tile_masks(
    found: Found,
    *,
    size: int,
    overlap: float,
    keep: Sequence[int],
    on_progress: Progress | None = None,
) -> Iterator[tuple[str, MaskScan]]:
    """The sample id and the facts of the mask of every tile that `cut_into_tiles` would write.

    A mask costs a second reading this way; but what is wrong with its values is known before hours
    of cutting. keep: mask values (packed) that are counted however rare they are.
    Raises as `cut_into_tiles` does, as far as masks alone tell.
    """
    _refuse_what_cannot_be(found, size, overlap)
    for done, pair in enumerate(found.pairs, start=1):
        with open_bands(pair.mask, "mask") as mask:
            palette = None if mask.palette is None else np.array(mask.palette, dtype=np.uint8)
            for top, bottom, windows in _places(mask.height, mask.width, size, overlap):
                band = _rows(mask, top, bottom)
                for window in windows:
                    values = np.ascontiguousarray(band[:, window.columns])
                    yield pair.sample_id, scan_mask(MaskPixels(values, palette), keep)
        if on_progress is not None:
            on_progress(done, len(found.pairs))


def _refuse_what_cannot_be(found: Found, size: int, overlap: float) -> None:
    if size < 1 or not 0 <= overlap < 1:
        raise UserError(
            f"tiles of {size} pixels, an overlap of {overlap:g}: use at least 1 pixel, and a "
            "fraction from 0 to less than 1"
        )
    if errors := [f.sentence() for f in found.findings if f.severity == "error"]:
        raise DatasetError("; ".join(errors))


def offsets(length: int, size: int, overlap: float) -> list[int]:
    """Where tiles begin along a side of `length` pixels; the last one ends where that does.

    >>> offsets(10, 4, 0.0), offsets(10, 4, 0.5), offsets(3, 4, 0.0)
    ([0, 4, 6], [0, 2, 4, 6], [0])
    """
    if length <= size:
        return [0]
    step = max(1, round(size * (1 - overlap)))
    return [*range(0, length - size, step), length - size]


# ---- one pair -----------------------------------------------------------------------------------


class _Window(NamedTuple):
    """One tile: its name, and its columns of a band."""

    name: str
    columns: slice


def _cut(pair: Pair, folder: Path, size: int, overlap: float) -> list[Pair]:
    """The tiles of one pair, written."""
    name = safe_name(pair.sample_id)
    tiles: list[Pair] = []
    with open_bands(pair.image, "image") as image, open_bands(pair.mask, "mask") as mask:
        if (image.height, image.width) != (mask.height, mask.width):
            raise DatasetError(
                f"{image.source}: is {image.width}x{image.height} pixels, its mask {mask.source} "
                f"{mask.width}x{mask.height}: --check says more"
            )
        for top, bottom, windows in _places(image.height, image.width, size, overlap):
            images = _write_band(image, top, bottom, windows, folder / "images" / name)
            masks = _write_band(mask, top, bottom, windows, folder / "masks" / name)
            tiles += [
                Pair(
                    f"{pair.sample_id}/{window.name}",
                    image_path,
                    mask_path,
                    pair.split,
                    pair.group or pair.sample_id,
                    pair.fold,
                )
                for window, image_path, mask_path in zip(windows, images, masks, strict=True)
            ]
    return tiles


def _places(
    height: int, width: int, size: int, overlap: float
) -> Iterator[tuple[int, int, list[_Window]]]:
    """Top and bottom of each band of tiles, and the tiles in it."""
    digits = max(4, len(str(max(height, width))))
    for top in offsets(height, size, overlap):
        windows = [
            _Window(f"r{top:0{digits}d}_c{left:0{digits}d}", slice(left, left + size))
            for left in offsets(width, size, overlap)
        ]
        yield top, min(top + size, height), windows


def _rows(picture: BandedPicture, top: int, bottom: int) -> npt.NDArray[Any]:
    with one_line(picture.source):
        return picture.rows(top, bottom)


def _write_band(
    picture: BandedPicture, top: int, bottom: int, windows: list[_Window], folder: Path
) -> list[Path]:
    """Write the tiles of one band; their paths."""
    band = _rows(picture, top, bottom)

    def write(window: _Window) -> Path:
        tile = band[:, window.columns]
        if picture.palette is not None or tile.ndim == 2:
            suffix, data = ".png", encode_png(tile, picture.palette)
        else:
            suffix, data = encode_lossless(tile)
        return write_file(folder / window.name, suffix, data)

    return list(in_threads(write, windows))
