"""TIFF files -> arrays, for `images.py`: the one format with any number of channels and depths."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

import cv2
import numpy as np
import numpy.typing as npt
import tifffile
from PIL import TiffImagePlugin

from unet_pipeline.datasets.raster import (
    MAX_BYTES,
    MAX_PIXELS,
    PAGES_HINT,
    Header,
    Raster,
    channel_axis,
    raster_of_pillow,
    upright,
)
from unet_pipeline.errors import DatasetError

# What tifffile has to say about odd files reaches the user as our one line, not as log lines of
# its own on stderr.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_ALPHA = (tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA)
CONVERTED = (
    tifffile.PHOTOMETRIC.SEPARATED,
    tifffile.PHOTOMETRIC.YCBCR,
    tifffile.PHOTOMETRIC.CIELAB,
)
"""What is converted to RGB, by Pillow."""

LOSSY = (
    tifffile.COMPRESSION.OJPEG,
    tifffile.COMPRESSION.JPEG,
    tifffile.COMPRESSION.JPEG_LOSSY,
    tifffile.COMPRESSION.ALT_JPEG,
)
"""Compressions that blur values."""

_CHANNEL_AXES = ({"C", "Y", "X"}, {"S", "Y", "X"})


def tiff_header(file: BinaryIO, source: str) -> Header:
    """Width, height and channels of a TIFF file, from its tags alone."""
    _check_page_list(file, source)
    with tifffile.TiffFile(file, _multifile=False) as tif:
        page, series, axis = single_picture(tif, source)
        height, width = page.imagelength, page.imagewidth
        channels = page.samplesperpixel
        if series is not None:
            sizes = [n for place, n in enumerate(series.shape) if place != axis]
            height, width, channels = sizes[0], sizes[1], series.shape[axis]
        elif page.photometric in (tifffile.PHOTOMETRIC.PALETTE, *CONVERTED):
            channels = 3
        elif has_alpha(page):
            channels -= 1
        if orientation_of(page) in (5, 6, 7, 8):
            height, width = width, height
        return Header(width, height, channels)


def decode_tiff(data: bytes, source: str) -> Raster:
    """The single picture of a TIFF file.

    Raises `DatasetError` for a file of several pictures (pages, z or time), and whatever the
    decoder raises for a damaged one; the caller turns that into one line that names the file.
    """
    with tifffile.TiffFile(io.BytesIO(data), _multifile=False) as tif:
        page, series, axis = single_picture(tif, source)
        if series is None:
            return _decode_page(page, len(data), lambda: data, source)
        check_segments(page, len(data), source)
        _check_claim(series.nbytes, source)
        pixels = np.moveaxis(series.asarray(), axis, 2)
        return Raster(upright(pixels, orientation_of(page)), lossy=page.compression in LOSSY)


def tiff_pages(file: BinaryIO, source: str) -> list[int]:
    """The numbers of the pages of a TIFF file that are pictures, from its tags alone.

    Pages that the file itself calls the channels of one picture count as one. The pictures behind
    the one page of an ImageJ stack, which it does not list, are numbered too.
    """
    _check_page_list(file, source)
    with tifffile.TiffFile(file, _multifile=False) as tif:
        series = tif.series[0]
        if len(tif.series) == 1 and set(series.axes) in _CHANNEL_AXES:
            return [0]
        pages = _pictures(tif)
        if len(pages) == 1:
            return list(range(_virtual_depth(tif, pages[0])))
        return [page.index for page in pages]


def decode_tiff_page(file: BinaryIO, number: int, source: str) -> Raster:
    """The picture of one page of a TIFF file, by its number in `tiff_pages`.

    Of the file no more is read than the list of its pages and this one.
    """
    _check_page_list(file, source)

    def load() -> bytes:
        file.seek(0)
        return file.read()

    with tifffile.TiffFile(file, _multifile=False) as tif:
        first, size = tif.pages.first, tif.filehandle.size
        if len(tif.pages) > 1 or _virtual_depth(tif, first) == 1:
            page = tif.pages.get(number)
            assert isinstance(page, tifffile.TiffPage)
            return _decode_page(page, size, load, source)
        _check_claim(first.nbytes, source)
        place, dtype = tif.series[0].dataoffset, first.dtype
        if dtype is None or place is None:
            raise DatasetError(f"{source}: its pages do not lie one behind the other; save it anew")
        tif.filehandle.seek(place + number * first.nbytes)
        pixels = tif.filehandle.read_array(tif.byteorder + dtype.char, first.size)
        return Raster(upright(pixels.reshape(stored_shape(first)), orientation_of(first)))


def _pictures(tif: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """The pages without reduced copies (overviews) and transparency masks."""
    every = [page for page in tif.pages if isinstance(page, tifffile.TiffPage)]
    return [page for page in every if not (page.is_reduced or page.is_mask)]


def _virtual_depth(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> int:
    """The pictures behind the only page of a file: ImageJ lists no more than the first."""
    return max(1, int(tif.series[0].size // max(page.size, 1)))


def _decode_page(
    page: tifffile.TiffPage, size: int, load: Callable[[], bytes], source: str
) -> Raster:
    """The picture of one page. size: of the file, in bytes; load: reads all of them."""
    if page.imagelength * page.imagewidth > MAX_PIXELS:
        raise DatasetError(f"{source}: claims {page.imagewidth}x{page.imagelength} pixels")
    if page.photometric in CONVERTED or not tifffile_decodes(page):
        return _decode_elsewhere(load(), page, source)._replace(lossy=page.compression in LOSSY)
    check_segments(page, size, source)
    _check_claim(page.nbytes, source)
    pixels = page.asarray().reshape(stored_shape(page))
    if has_planes(page):
        pixels = np.moveaxis(pixels, 0, 2)
    return page_raster(page, pixels)


def page_raster(page: tifffile.TiffPage, pixels: npt.NDArray[Any]) -> Raster:
    """What the pixels (h, w, C) of a page mean, or a part of them, as tifffile decodes them."""
    palette, scale, alpha = None, 1, False
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
        colors = np.moveaxis(np.asarray(page.colormap), 0, 1)  # 16 bits, by some writers 8
        palette = (colors >> 8 if colors.max() > 255 else colors).astype(np.uint8)
    elif page.bitspersample in (1, 2, 4):
        scale = 255 // (2**page.bitspersample - 1)
        pixels = pixels.astype(np.uint8) * np.uint8(scale)
    if has_alpha(page):
        pixels, last = pixels[..., :-1], pixels[..., -1]
        alpha = bool((last != _opaque(last.dtype)).any())
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and pixels.dtype.kind == "u":
        pixels = np.iinfo(pixels.dtype).max - pixels
    pixels = upright(pixels, orientation_of(page))
    return Raster(pixels, palette, scale, page.compression in LOSSY, alpha)


def _opaque(dtype: np.dtype[Any]) -> int:
    return int(np.iinfo(dtype).max) if dtype.kind == "u" else 1


def _check_claim(num_bytes: int, source: str) -> None:
    if num_bytes > MAX_BYTES:
        raise DatasetError(
            f"{source}: claims {num_bytes} bytes of pixels, more than the {MAX_BYTES} read"
        )


def single_picture(
    tif: tifffile.TiffFile, source: str
) -> tuple[tifffile.TiffPage, tifffile.TiffPageSeries | None, int]:
    """The page that holds the picture, or the series and the axis along which pages are channels.

    Reduced copies (overviews) and transparency masks are not counted as pictures.
    """
    pages, page = _pictures(tif), tif.pages.first
    if not pages or pages[0].index != page.index or page.imagedepth > 1:
        raise DatasetError(
            f"{source}: holds no plain picture as its first page; save the picture alone"
        )
    series = tif.series[0]
    if len(pages) == 1 and series.size == page.size:
        return page, None, 2
    if len(tif.series) == 1 and len(series.shape) == 3:
        if set(series.axes) in _CHANNEL_AXES:
            return page, series, max(series.axes.find("C"), series.axes.find("S"))
        if series.kind == "shaped" and "Z" not in series.axes and "T" not in series.axes:
            with contextlib.suppress(ValueError):  # too many pages to be channels: a stack
                return page, series, channel_axis(series.shape)
    depth = max(len(pages), series.size // max(page.size, 1))  # ImageJ: a stack behind one page
    raise DatasetError(f"{source}: holds {depth} pages (a stack); {PAGES_HINT}")


def _check_page_list(file: BinaryIO, source: str) -> None:
    """Refuse a file whose list of pages leads back into itself: tifffile would follow it for ever.

    Leaves the file at its beginning.
    """
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:4] in (b"+\0", b"\0+")
    count_format, tag_size, link_format = ("Q", 20, "Q") if big else ("H", 12, "I")
    (place,) = struct.unpack_from(order + link_format, head, 8 if big else 4)
    seen: set[int] = set()
    while place:
        if place in seen:
            raise DatasetError(f"{source}: is damaged (its list of pages goes round in a circle)")
        seen.add(place)
        file.seek(place)
        (num_tags,) = struct.unpack(
            order + count_format, file.read(struct.calcsize("=" + count_format))
        )
        file.seek(num_tags * tag_size, os.SEEK_CUR)
        link = file.read(struct.calcsize("=" + link_format))
        place = struct.unpack(order + link_format, link)[0]
    file.seek(0)


def has_planes(page: tifffile.TiffPage) -> bool:
    """Whether each channel is stored as a picture of its own."""
    separate = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
    return bool(separate) and page.samplesperpixel > 1


def stored_shape(page: tifffile.TiffPage) -> tuple[int, int, int]:
    """(H, W, C) of the pixels of a page as they are stored, or (C, H, W)."""
    size = (page.imagelength, page.imagewidth)
    if has_planes(page):
        return (page.samplesperpixel, *size)
    return (*size, page.samplesperpixel)


def orientation_of(page: tifffile.TiffPage) -> int:
    """The orientation of a page, 1..8; 1 where it has none or another number."""
    value = page.tags.valueof(274, 1)
    return int(value) if isinstance(value, int) and 1 <= value <= 8 else 1


def has_alpha(page: tifffile.TiffPage) -> bool:
    """Whether the last sample is an alpha channel; an unspecified one is data, such as infrared."""
    return bool(page.extrasamples) and page.extrasamples[-1] in _ALPHA


def check_segments(page: tifffile.TiffPage, size: int, source: str) -> None:
    """Refuse a file whose strips or tiles lie beyond its end: some readers would fill with zeros.

    An offset and a length of zero mean a tile that was left out on purpose, all zero.
    """
    pairs = zip(page.dataoffsets, page.databytecounts, strict=False)
    if any(count and offset + count > size for offset, count in pairs):
        raise DatasetError(f"{source}: is cut off (its pixels lie beyond the end of the file)")


def tifffile_decodes(page: tifffile.TiffPage) -> bool:
    """Whether tifffile has the codec; without the package imagecodecs it lacks LZW, JPEG, ..."""
    try:
        tifffile.TIFF.DECOMPRESSORS[page.compression]
        tifffile.TIFF.UNPREDICTORS[page.predictor]
    except (KeyError, NotImplementedError, ImportError):
        return False
    return True


def _decode_elsewhere(data: bytes, page: tifffile.TiffPage, source: str) -> Raster:
    """The picture by Pillow, or by OpenCV where Pillow would cut 16 bits down to 8."""
    samples, bits = page.samplesperpixel, page.bitspersample
    if bits == 16 and samples in (3, 4) and orientation_of(page) == 1 and page.index == 0:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None or pixels.dtype != np.uint16 or pixels.shape[2:] != (samples,):
            raise DatasetError(f"{source}: is damaged (its pixels cannot be decoded)")
        # OpenCV orders colours blue, green, red
        dropped = samples == 4 and has_alpha(page)
        order = [2, 1, 0] if samples == 3 or dropped else [2, 1, 0, 3]
        alpha = dropped and bool((pixels[..., 3] != _opaque(pixels.dtype)).any())
        return Raster(np.ascontiguousarray(pixels[..., order]), alpha=alpha)
    if samples > 4 or (samples > 1 and bits > 8):
        raise DatasetError(
            f"{source}: is a TIFF of {samples} channels, {bits} bits, compressed by "
            f"{tifffile.COMPRESSION(page.compression).name}: install the package imagecodecs to "
            "read it, or save it with deflate or without compression"
        )
    picture = TiffImagePlugin.TiffImageFile(io.BytesIO(data))
    picture.seek(page.index)
    raster = raster_of_pillow(picture)
    grey = raster.palette is None and samples == 1
    return raster._replace(scale=255 // (2**bits - 1)) if grey and bits in (2, 4) else raster
