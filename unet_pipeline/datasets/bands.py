"""The rows of an image or a mask, a band at a time, in bounded memory.

Of TIFF and .npy files no more is in memory than the rows of one band, whatever their size; every
other format is decoded whole, and must be small enough for that.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import tifffile

from unet_pipeline.datasets import tiff
from unet_pipeline.datasets.array_files import Role
from unet_pipeline.datasets.formats.contract import Made
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
from unet_pipeline.datasets.raster import Raster, channel_axis, upright
from unet_pipeline.errors import DatasetError

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NPY = b"\x93NUMPY"


class BandedPicture(NamedTuple):
    """An upright image or mask that gives its rows.

    rows: (top, bottom) -> an image (h, W, C), or the values of a mask (h, W) or (h, W, 3).
    palette: of mask values that are indices, 256 colours.
    """

    source: str
    height: int
    width: int
    rows: Callable[[int, int], npt.NDArray[Any]]
    palette: list[Color] | None = None


@contextlib.contextmanager
def open_bands(part: Path | Made, role: Role) -> Iterator[BandedPicture]:
    """An image or a mask, opened for reading its rows."""
    if not isinstance(part, Path):
        yield _in_memory(part.pixels(), part.source)
        return
    with open_regular(part, limit=None) as file, contextlib.ExitStack() as stack:
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


def _in_memory(
    pixels: npt.NDArray[Any], source: str, palette: npt.NDArray[np.uint8] | None = None
) -> BandedPicture:
    height, width = pixels.shape[:2]
    return BandedPicture(
        source, height, width, lambda top, bottom: pixels[top:bottom], _full(palette)
    )


def _full(palette: npt.NDArray[np.uint8] | None) -> list[Color] | None:
    """A palette of 256 colours: with fewer, a PNG would cut larger values down."""
    if palette is None or len(palette) > 256:
        return None
    padded = np.zeros((256, 3), dtype=np.uint8)
    padded[: len(palette)] = palette
    return [(red, green, blue) for red, green, blue in padded.tolist()]


def _whole(path: Path, role: Role) -> BandedPicture:
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


def _by_rows(rasters: _Rasters, source: str, role: Role) -> BandedPicture:
    """The image or the mask in a file that is read in parts: what each is, the whole file says."""
    height, width, rows = rasters
    if role == "image":
        return BandedPicture(source, height, width, lambda t, b: _image_rows(rows(t, b), source))
    first = _telling(mask_of(rows(0, 1), source), source)
    read = functools.partial(_mask_rows, source=source)
    return BandedPicture(source, height, width, lambda t, b: read(rows(t, b)), _full(first.palette))


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
    page, series, axis = tiff.single_picture(tif, str(path))
    region = _page_region(page, path) if series is None else _series_region(tif, series, axis, path)
    if region is None:
        return None
    lossy, orientation = page.compression in tiff.LOSSY, tiff.orientation_of(page)
    turned = orientation in (5, 6, 7, 8)  # what is stored as columns are rows

    def rows(top: int, bottom: int) -> Raster:
        if orientation in (3, 4, 7, 8):  # stored from the last row to the first
            top, bottom = header.height - bottom, header.height - top
        box = (0, header.width, top, bottom) if turned else (top, bottom, 0, header.width)
        pixels = region(*box)
        if series is None:
            return tiff.page_raster(page, pixels)
        return Raster(upright(pixels, orientation), lossy=lossy)

    return _Rasters(header.height, header.width, rows)


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
        key.photometric == tifffile.PHOTOMETRIC.YCBCR and key.compression in tiff.LOSSY
    )
    if (key.photometric in tiff.CONVERTED and not as_rgb) or not tiff.tifffile_decodes(key):
        return None
    tiff.check_segments(page, page.parent.filehandle.size, str(path))
    if key.is_final:
        shape, axis = tiff.stored_shape(key), 0 if tiff.has_planes(key) else 2
        return _mapped(page.parent, path, page.dataoffsets[0], key.dtype, shape, axis)
    if key.is_contiguous or key.jpegheader is not None:  # odd kinds of one huge segment
        return None
    return functools.partial(_read_segments, page)


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
    planes = key.samplesperpixel if tiff.has_planes(key) else 1
    num_rows, num_columns = math.ceil(key.imagelength / height), math.ceil(key.imagewidth / width)
    shape = (bottom - top, right - left, key.samplesperpixel)
    result = np.full(shape, key.nodata, dtype=key.dtype)  # what a segment that is left out means
    tables = {"jpegtables": page.jpegtables} if key.compression in tiff.LOSSY else {}
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
