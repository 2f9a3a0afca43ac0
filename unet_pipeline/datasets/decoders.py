"""The bytes of PNG, JPEG, BMP, GIF and WebP files -> rasters, and the list of all formats.

TIFF is in `tiff.py`, files of arrays are in `array_files.py`. The content decides, never the name
of a file, and the list of formats is closed.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from unet_pipeline.datasets.array_files import (
    Role,
    decode_mat,
    decode_npy,
    decode_npz,
    mat_header,
    npy_header,
    npz_header,
)
from unet_pipeline.datasets.raster import PAGES_HINT, Header, Raster, raster_of_pillow, upright
from unet_pipeline.datasets.tiff import decode_tiff, tiff_header
from unet_pipeline.errors import DatasetError


class Reader(NamedTuple):
    """One format: the header of an opened file, and the picture in its bytes.

    whole: the header is found only by decoding the file, which refuses by itself what is too large.
    """

    header: Callable[[BinaryIO, str], Header]
    decode: Callable[[bytes, str], Raster]
    whole: bool = False


def reader_for(head: bytes, source: str, *, role: Role) -> Reader:
    """The reader for a file that begins with `head`, its first 16 bytes.

    role: what is wanted of a file that holds several arrays.
    """
    for signature, reader in _READERS:
        if head.startswith(signature):
            return reader
    if head.startswith(b"PK\x03\x04"):
        header = functools.partial(npz_header, role=role)
        return Reader(header, functools.partial(decode_npz, role=role))
    if head.startswith((b"MATLAB 5.0 MAT", b"MATLAB 7.3 MAT")):
        header = functools.partial(mat_header, role=role)
        return Reader(header, functools.partial(decode_mat, role=role), whole=True)
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":  # its length lies in between
        return Reader(_pillow_header(WebPImagePlugin.WebPImageFile), _decode_webp)
    if head.startswith(b"version https://"):
        raise DatasetError(f"{source}: is a Git LFS pointer, not the image; run `git lfs pull`")
    known = "PNG, JPEG, TIFF, BMP, GIF, WebP, NPY, NPZ, MAT"
    raise DatasetError(f"{source}: is none of the formats that are read ({known})")


def _pillow_header(
    opener: Callable[[BinaryIO], Image.Image],
) -> Callable[[BinaryIO, str], Header]:
    """The header reader for a format that Pillow opens by the class `opener`."""

    def header(file: BinaryIO, source: str) -> Header:
        picture = opener(file)
        if getattr(picture, "n_frames", 1) > 1:
            count = getattr(picture, "n_frames", 0)
            raise DatasetError(f"{source}: is an animation of {count} frames; {PAGES_HINT}")
        channels = 1 if picture.mode in ("1", "L", "LA", "I;16", "I", "F") else 3
        if picture.mode == "P":
            colors = np.array(picture.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
            # What read_image gives depends on the colours in use; of the palette all are known
            channels = 1 if (colors == colors[:, :1]).all() else 3
        width, height = picture.size
        if _exif_orientation(picture.info.get("exif")) >= 5:
            width, height = height, width
        return Header(width, height, channels)

    return header


def _decode_by_pillow(picture: Image.Image) -> Raster:
    # Another library may have set this global; half a picture is never what a mask fits to
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    raster = raster_of_pillow(picture)
    orientation = _exif_orientation(picture.info.get("exif"))
    return raster._replace(pixels=upright(raster.pixels, orientation))


def _decode_jpeg(data: bytes, source: str) -> Raster:
    if b"\xff\xd9" not in data:
        raise DatasetError(f"{source}: is cut off (a JPEG without its end mark)")
    picture = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    return _decode_by_pillow(picture)._replace(lossy=True)


def _decode_webp(data: bytes, source: str) -> Raster:
    raster = _decode_by_pillow(WebPImagePlugin.WebPImageFile(io.BytesIO(data)))
    return raster._replace(lossy=b"VP8L" not in data)


class _Png(NamedTuple):
    width: int
    height: int
    depth: int
    color: int  # 0 grey, 2 RGB, 3 palette, 4 grey + alpha, 6 RGBA
    orientation: int
    transparent: bytes  # the content of the tRNS chunk, where it was looked for


def _png_chunks(file: BinaryIO, source: str, *, check: bool) -> _Png:
    """Walk the chunks of a PNG file; with `check`, every checksum too.

    Pillow alone accepts pixels whose checksum is wrong.
    """
    file.seek(8)
    fields, orientation, transparent, kind = (0, 0, 0, 0), 1, b"", b""
    while kind != b"IEND":
        head = file.read(8)
        if len(head) < 8:
            raise DatasetError(f"{source}: is cut off (a PNG without its end mark)")
        length, kind = struct.unpack(">I4s", head)
        if not check and kind not in (b"IHDR", b"eXIf", b"acTL"):
            file.seek(length + 4, os.SEEK_CUR)
            continue
        body, checksum = file.read(length), file.read(4)
        if len(body) < length or len(checksum) < 4:
            raise DatasetError(f"{source}: is cut off (in the PNG chunk {kind!r})")
        if check and zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(checksum, "big"):
            raise DatasetError(f"{source}: is damaged (wrong checksum of the PNG chunk {kind!r})")
        if kind == b"IHDR":
            fields = struct.unpack(">IIBB", body[:10])
        elif kind == b"eXIf":
            orientation = _exif_orientation(body)
        elif kind == b"tRNS":
            transparent = body
        elif kind == b"acTL":
            raise DatasetError(f"{source}: is an animation; {PAGES_HINT}")
    return _Png(*fields, orientation, transparent)


def _png_header(file: BinaryIO, source: str) -> Header:
    png = _png_chunks(file, source, check=False)
    if not png.width or not png.height:
        raise DatasetError(f"{source}: claims {png.width}x{png.height} pixels")
    channels = 1 if png.color in (0, 4) else 3
    if png.color == 3:
        file.seek(0)
        channels = _pillow_header(PngImagePlugin.PngImageFile)(file, source).channels
    size = (png.width, png.height) if png.orientation < 5 else (png.height, png.width)
    return Header(*size, channels)


def _decode_png(data: bytes, source: str) -> Raster:
    png = _png_chunks(io.BytesIO(data), source, check=True)
    if png.depth == 16:
        # Pillow cuts 16-bit colour down to 8; OpenCV orders colours blue, green, red
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None or pixels.dtype != np.uint16:
            raise DatasetError(f"{source}: is damaged (its pixels cannot be decoded)")
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        grey = png.color in (0, 4)
        if pixels.shape[2] == 4:  # transparent colours too come as alpha, transparent grey does not
            alpha = bool((pixels[..., 3] != 65535).any())
        else:
            alpha = grey and _has_transparent_grey(png, pixels)
        pixels = pixels[..., :1] if grey else pixels[..., 2::-1]
        return Raster(upright(pixels, png.orientation), alpha=alpha)
    picture = PngImagePlugin.PngImageFile(io.BytesIO(data))
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # as in _decode_by_pillow
    raster = raster_of_pillow(picture)
    if png.color == 0 and png.depth in (2, 4):
        scale = 255 // (2**png.depth - 1)
        # Pillow spreads the pixels to 0..255, and not the grey that is transparent
        alpha = _has_transparent_grey(png, raster.pixels // scale)
        raster = raster._replace(scale=scale, alpha=alpha)
    return raster._replace(pixels=upright(raster.pixels, png.orientation))


def _has_transparent_grey(png: _Png, values: npt.NDArray[Any]) -> bool:
    """Whether one of the `values` of a grey picture is the one that is called transparent."""
    return bool(png.transparent) and bool((values == int.from_bytes(png.transparent[:2])).any())


def count_frames(file: BinaryIO) -> int:
    """The pictures of an animated GIF, WebP or PNG; 1 for every other file. Decodes none."""
    with _opened_frames(file) as picture:
        return 1 if picture is None else getattr(picture, "n_frames", 1)


def decode_frame(file: BinaryIO, index: int, source: str) -> Raster:
    """One picture of an animation as it is shown, with what lies below it: RGB, or grey."""
    with _opened_frames(file) as picture:
        if picture is None:
            raise DatasetError(f"{source}: is no animation")
        picture.seek(index)
        pixels = np.asarray(picture.convert("RGB"))
    if (pixels == pixels[..., :1]).all():
        pixels = pixels[..., :1]
    return Raster(np.ascontiguousarray(pixels), lossy=picture.format == "WEBP")


@contextlib.contextmanager
def _opened_frames(file: BinaryIO) -> Iterator[Image.Image | None]:
    """The file as Pillow opens a format that may be animated, None for other formats."""
    head = file.read(16)
    file.seek(0)
    if head.startswith(b"GIF8"):
        opener: Callable[[BinaryIO], Image.Image] = GifImagePlugin.GifImageFile
    elif head.startswith(b"\x89PNG"):
        opener = PngImagePlugin.PngImageFile
    elif head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        opener = WebPImagePlugin.WebPImageFile
    else:
        yield None
        return
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # as in _decode_by_pillow
    with opener(file) as picture:
        yield picture


def _exif_orientation(exif: bytes | None) -> int:
    """The orientation 1..8 in a block of EXIF data; 1 where there is none or it is damaged.

    Read here and not by Pillow, which warns about damage in the rest of the block.
    """
    if not exif:
        return 1
    block = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, start)
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", block, place)
            if tag == 0x0112 and kind == 3:
                return value if 1 <= value <= 8 else 1
    except struct.error:  # the block ends before its own list does
        pass
    return 1


def _by_pillow(opener: Callable[[BinaryIO], Image.Image]) -> Reader:
    def decode(data: bytes, _: str) -> Raster:
        return _decode_by_pillow(opener(io.BytesIO(data)))

    return Reader(_pillow_header(opener), decode)


_TIFF = Reader(tiff_header, decode_tiff)
_GIF = _by_pillow(GifImagePlugin.GifImageFile)
_READERS: tuple[tuple[bytes, Reader], ...] = (
    (b"\x89PNG\r\n\x1a\n", Reader(_png_header, _decode_png)),
    (b"\xff\xd8\xff", Reader(_pillow_header(JpegImagePlugin.JpegImageFile), _decode_jpeg)),
    (b"II*\0", _TIFF),
    (b"MM\0*", _TIFF),
    (b"II+\0", _TIFF),  # BigTIFF
    (b"MM\0+", _TIFF),
    (b"GIF87a", _GIF),
    (b"GIF89a", _GIF),
    (b"BM", _by_pillow(BmpImagePlugin.BmpImageFile)),
    (b"\x93NUMPY", Reader(npy_header, decode_npy)),
)
