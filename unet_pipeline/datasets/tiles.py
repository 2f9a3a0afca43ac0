"""Huge images cut into tiles on disk, a band of rows at a time.

Of TIFF and .npy files no more is in memory than the rows of one band, whatever their size; every
other format is decoded whole, and must be small enough for that.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import tifffile

from unet_pipeline.datasets import tiff
from unet_pipeline.datasets.array_files import Role
from unet_pipeline.datasets.encoders import encode_lossless, encode_png
from unet_pipeline.datasets.exports.writing import (
    write_file,
)
from unet_pipeline.datasets.formats.contract import Found, Made, Pair
from unet_pipeline.datasets.images import (
    Color,
    MaskPixels,
    decode_mask,
    image_of,
    mask_of,
    one_line,
    open_regular,
    read_bytes,
    read_image,
)
from unet_pipeline.datasets.made import _safe
from unet_pipeline.datasets.raster import MAX_BYTES, Raster, channel_axis, upright
from unet_pipeline.datasets.scan import Progress, in_threads
from unet_pipeline.errors import DatasetError, UserError
from unet_pipeline.files import make_writable_folder

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NPY = b"\x93NUMPY"


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
    if size < 1 or not 0 <= overlap < 1:
        raise UserError(
            f"tiles of {size} pixels, an overlap of {overlap:g}: use at least 1 pixel, and a "
            "fraction from 0 to less than 1"
        )
    if errors := [f.sentence() for f in found.findings if f.severity == "error"]:
        raise DatasetError("; ".join(errors))  # before hours of cutting, not after
    make_writable_folder(folder)
    tiles: list[Pair] = []
    for done, pair in enumerate(found.pairs, start=1):
        tiles += _cut(pair, folder, size, overlap)
        if on_progress is not None:
            on_progress(done, len(found.pairs))
    shared = f" that share {overlap:g} with their neighbours" if overlap else ""
    sentence = f"{found.sentence}; cut into {len(tiles)} tiles of {size}x{size} pixels{shared}"
    return replace(found, pairs=tuple(tiles), sentence=sentence)


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


class _Picture(NamedTuple):
    """An upright image or mask that gives its rows.

    rows: (top, bottom) -> an image (h, W, C), or the values of a mask (h, W) or (h, W, 3).
    palette: of mask values that are indices, 256 colours.
    """

    source: str
    height: int
    width: int
    rows: Callable[[int, int], npt.NDArray[Any]]
    palette: list[Color] | None = None


class _Window(NamedTuple):
    """One tile: its name, and its columns of a band."""

    name: str
    columns: slice


def _cut(pair: Pair, folder: Path, size: int, overlap: float) -> list[Pair]:
    """The tiles of one pair, written."""
    name = _safe(pair.sample_id)
    tiles: list[Pair] = []
    with _opened(pair.image, "image") as image, _opened(pair.mask, "mask") as mask:
        if (image.height, image.width) != (mask.height, mask.width):
            raise DatasetError(
                f"{image.source}: is {image.width}x{image.height} pixels, its mask {mask.source} "
                f"{mask.width}x{mask.height}: --check says more"
            )
        digits = max(4, len(str(max(image.height, image.width))))
        lefts = offsets(image.width, size, overlap)
        for top in offsets(image.height, size, overlap):
            windows = [
                _Window(f"r{top:0{digits}d}_c{left:0{digits}d}", slice(left, left + size))
                for left in lefts
            ]
            bottom = min(top + size, image.height)
            images = _write_band(image, top, bottom, windows, folder / "images" / name)
            masks = _write_band(mask, top, bottom, windows, folder / "masks" / name)
            tiles += [
                replace(
                    pair,
                    sample_id=f"{pair.sample_id}/{window.name}",
                    image=image_path,
                    mask=mask_path,
                    group=pair.group or pair.sample_id,
                )
                for window, image_path, mask_path in zip(windows, images, masks, strict=True)
            ]
    return tiles


def _write_band(
    picture: _Picture, top: int, bottom: int, windows: list[_Window], folder: Path
) -> list[Path]:
    """Write the tiles of one band; their paths."""
    with one_line(picture.source):
        band = picture.rows(top, bottom)

    def write(window: _Window) -> Path:
        tile = band[:, window.columns]
        if picture.palette is not None or tile.ndim == 2:
            suffix, data = ".png", encode_png(tile, picture.palette)
        else:
            suffix, data = encode_lossless(tile)
        return write_file(folder / window.name, suffix, data)

    return list(in_threads(write, windows))


# ---- rows of a file -----------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(part: Path | Made, role: Role) -> Iterator[_Picture]:
    """An image or a mask, opened for reading its rows."""
    if not isinstance(part, Path):
        yield _in_memory(part.pixels(), part.source)
        return
    with _open_any_size(part) as file, contextlib.ExitStack() as stack:
        with one_line(str(part)):
            head = file.read(8)
            file.seek(0)
            rasters = None
            if head.startswith(_NPY):
                rasters = _rows_of_npy(part)
            elif head.startswith(_TIFF):
                rasters = _rows_of_tiff(file, part, stack)
            picture = None if rasters is None else _by_rows(rasters, str(part), role)
        yield picture or _whole(part, role)


def _open_any_size(path: Path) -> contextlib.AbstractContextManager[BinaryIO]:
    """`open_regular` without its limit of size."""
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        return path.open("rb")
    return open_regular(path)


def _in_memory(
    pixels: npt.NDArray[Any], source: str, palette: npt.NDArray[np.uint8] | None = None
) -> _Picture:
    height, width = pixels.shape[:2]
    return _Picture(source, height, width, lambda top, bottom: pixels[top:bottom], _full(palette))


def _full(palette: npt.NDArray[np.uint8] | None) -> list[Color] | None:
    """A palette of 256 colours: with fewer, a PNG would cut larger values down."""
    if palette is None or len(palette) > 256:
        return None
    padded = np.zeros((256, 3), dtype=np.uint8)
    padded[: len(palette)] = palette
    return [(red, green, blue) for red, green, blue in padded.tolist()]


def _whole(path: Path, role: Role) -> _Picture:
    """A file that is decoded whole, within the limits of all other reading."""
    if role == "image":
        return _in_memory(read_image(path), str(path))
    mask = _telling(decode_mask(read_bytes(path), source=str(path)), str(path))
    return _in_memory(mask.values, str(path), mask.palette)


def _telling(mask: MaskPixels, source: str) -> MaskPixels:
    """`mask`, if its tiles can say all that it does."""
    if mask.lossy:
        raise DatasetError(
            f"{source}: is a mask whose compression blurs values (JPEG), which tiles would not "
            "tell: run --fix first, and cut what that writes"
        )
    if mask.void:
        raise DatasetError(
            f"{source}: is a mask with -1 for void, which tiles would not tell: run --fix first, "
            "or save void as 255"
        )
    return mask


class _Rasters(NamedTuple):
    """A file that is read in parts. rows: (top, bottom) -> these rows, upright."""

    height: int
    width: int
    rows: Callable[[int, int], Raster]


def _by_rows(rasters: _Rasters, source: str, role: Role) -> _Picture:
    """The image or the mask in a file that is read in parts: what each is, the whole file says."""
    height, width, rows = rasters
    if role == "image":
        return _Picture(source, height, width, lambda t, b: _image_rows(rows(t, b), source))
    first = _telling(mask_of(rows(0, 1), source), source)
    read = functools.partial(_mask_rows, source=source)
    return _Picture(source, height, width, lambda t, b: read(rows(t, b)), _full(first.palette))


def _image_rows(raster: Raster, source: str) -> npt.NDArray[Any]:
    palette = raster.palette
    if palette is not None and not (palette == palette[:, :1]).all():
        colors: npt.NDArray[np.uint8] = palette[raster.pixels[..., 0]]
        return colors  # in colour, even where a band is grey by chance
    return image_of(raster, source)


def _mask_rows(raster: Raster, *, source: str) -> npt.NDArray[Any]:
    if raster.pixels.shape[2] == 3 and raster.pixels.dtype == np.uint8:
        return raster.pixels
    values = _telling(mask_of(raster, source), source).values
    # A band of small values is one of 16 bits still: what those mean is judged by all tiles
    return values.astype(np.uint16) if raster.pixels.dtype == np.uint16 else values


def _rows_of_npy(path: Path) -> _Rasters:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    axis = 2 if array.ndim == 2 else channel_axis(array.shape)
    image = array[..., None] if array.ndim == 2 else np.moveaxis(array, axis, 2)
    native = array.dtype.newbyteorder("=")
    height, width = image.shape[:2]
    return _Rasters(height, width, lambda t, b: Raster(np.array(image[t:b], dtype=native)))


# ---- TIFF ---------------------------------------------------------------------------------------

_Region = Callable[[int, int, int, int], npt.NDArray[Any]]
"""(top, bottom, left, right) of the pixels as they are stored -> (h, w, C)."""


def _rows_of_tiff(file: BinaryIO, path: Path, stack: contextlib.ExitStack) -> _Rasters | None:
    """The picture of a TIFF file, open as long as `stack`; None for a kind that is decoded whole.

    Raises `DatasetError` as `decode_tiff` does.
    """
    header = tiff.tiff_header(file, str(path))  # refuses what is damaged, and stacks
    file.seek(0)
    tif = stack.enter_context(tifffile.TiffFile(file, _multifile=False))
    page, series, axis = tiff._single_picture(tif, str(path))
    region = _page_region(page, path) if series is None else _series_region(tif, series, axis, path)
    if region is None:
        return None
    lossy, orientation = page.compression in tiff._LOSSY, tiff._orientation(page)
    turned = orientation in (5, 6, 7, 8)  # what is stored as columns are rows

    def rows(top: int, bottom: int) -> Raster:
        if orientation in (3, 4, 7, 8):  # stored from the last row to the first
            top, bottom = header.height - bottom, header.height - top
        box = (0, header.width, top, bottom) if turned else (top, bottom, 0, header.width)
        pixels = region(*box)
        raster = Raster(pixels) if series is not None else _page_raster(page, pixels)
        return raster._replace(pixels=upright(raster.pixels, orientation), lossy=lossy)

    return _Rasters(header.height, header.width, rows)


def _page_raster(page: tifffile.TiffPage, pixels: npt.NDArray[Any]) -> Raster:
    """What the stored pixels (h, w, C) of a page mean, as `decode_tiff` has it."""
    palette, scale = None, 1
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
        colors = np.moveaxis(np.asarray(page.colormap), 0, 1)  # 16 bits, by some writers 8
        palette = (colors >> 8 if colors.max() > 255 else colors).astype(np.uint8)
    elif page.bitspersample in (1, 2, 4):
        scale = 255 // (2**page.bitspersample - 1)
        pixels = pixels.astype(np.uint8) * np.uint8(scale)
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and pixels.dtype.kind == "u":
        pixels = np.iinfo(pixels.dtype).max - pixels
    if tiff._has_alpha(page):
        pixels = pixels[..., :-1]
    return Raster(pixels, palette, scale)


def _series_region(
    tif: tifffile.TiffFile, series: tifffile.TiffPageSeries, axis: int, path: Path
) -> _Region | None:
    """Reads of pages that are the channels of one picture; None where they are its rows."""
    if series.dataoffset is not None:  # one after the other, as ImageJ has them
        return _mapped(tif, path, series.dataoffset, series.dtype, series.shape, axis)
    if axis != 0 or len(series.pages) != series.shape[0]:
        return None
    regions = [_page_region(page, path) for page in series.pages]
    if not all(regions):
        return None
    return lambda *box: np.concatenate([region(*box) for region in regions if region], axis=2)


def _page_region(page: Any, path: Path) -> _Region | None:
    """Reads of one page, a `TiffPage` or `TiffFrame`; None where it is to be decoded whole."""
    key = page.keyframe
    as_rgb = (  # tifffile gives RGB for it, of all photometrics that are converted
        key.photometric == tifffile.PHOTOMETRIC.YCBCR and key.compression in tiff._LOSSY
    )
    if (key.photometric in tiff._CONVERTED and not as_rgb) or not tiff._tifffile_decodes(key):
        return None
    tiff._check_segments(page, page.parent.filehandle.size, str(path))
    if key.is_final:
        shape, axis = tiff._page_shape(key), 0 if _num_planes(key) > 1 else 2
        return _mapped(page.parent, path, page.dataoffsets[0], key.dtype, shape, axis)
    if key.is_contiguous or key.jpegheader is not None:  # odd kinds of one huge segment
        return None
    return functools.partial(_read_segments, page)


def _num_planes(page: tifffile.TiffPage) -> int:
    """How many planes of one channel each a page is stored as."""
    separate = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
    return int(page.samplesperpixel) if separate else 1


def _mapped(
    tif: tifffile.TiffFile,
    path: Path,
    offset: int,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    axis: int,
) -> _Region:
    """Reads of pixels that lie in the file as in memory; axis: where the channels are."""
    stored = np.dtype(tif.byteorder + dtype.char)
    array = np.moveaxis(np.memmap(path, stored, "r", offset, shape), axis, 2)

    def region(top: int, bottom: int, left: int, right: int) -> npt.NDArray[Any]:
        return np.array(array[top:bottom, left:right], dtype=dtype)

    return region


def _read_segments(page: Any, top: int, bottom: int, left: int, right: int) -> npt.NDArray[Any]:
    """A part (h, w, C) of a page in strips or tiles, of which those that it touches are decoded."""
    key, file = page.keyframe, page.parent.filehandle
    height, width = (
        (key.tilelength, key.tilewidth) if key.is_tiled else (key.rowsperstrip, key.imagewidth)
    )
    planes = _num_planes(key)
    num_rows, num_columns = math.ceil(key.imagelength / height), math.ceil(key.imagewidth / width)
    shape = (bottom - top, right - left, key.samplesperpixel)
    result = np.full(shape, key.nodata, dtype=key.dtype)  # what a segment that is left out means
    tables = {"jpegtables": page.jpegtables} if key.compression in tiff._LOSSY else {}
    for plane, row, column in itertools.product(
        range(planes),
        range(top // height, min(math.ceil(bottom / height), num_rows)),
        range(left // width, min(math.ceil(right / width), num_columns)),
    ):
        index = (plane * num_rows + row) * num_columns + column
        if not page.databytecounts[index]:
            continue
        file.seek(page.dataoffsets[index])
        data = file.read(page.databytecounts[index])
        segment, (_, _, y, x, _), _ = key.decode(data, index, _fullsize=key.is_tiled, **tables)
        if segment is None:
            continue
        # the part of the result that the segment covers, and of the segment that is in the result
        y0, y1 = max(y, top), min(y + segment.shape[1], bottom)
        x0, x1 = max(x, left), min(x + segment.shape[2], right)
        part = segment[0, y0 - y : y1 - y, x0 - x : x1 - x]
        channels = slice(plane, plane + 1) if planes > 1 else slice(None)
        result[y0 - top : y1 - top, x0 - left : x1 - left, channels] = part
    return result
