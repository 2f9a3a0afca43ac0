"""One loader for training, evaluation and prediction: image and mask files -> arrays.

Bytes are read here and handed to decoders; no decoder opens a file itself. Measured reasons: a
named pipe hangs all of them, cv2.imread accepts truncated JPEGs, torchvision's crash on damaged
PNGs, and Pillow's convert() clips 16 bits to 255.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from unet_pipeline.datasets.array_files import Role
from unet_pipeline.datasets.decoders import reader_for
from unet_pipeline.datasets.raster import MAX_BYTES, MAX_PIXELS, Header, Raster
from unet_pipeline.errors import DatasetError, UserError

IMAGE_EXTENSIONS = (
    ".png",
    ".jpg",
    ".jpeg",
    ".tif",
    ".tiff",
    ".bmp",
    ".gif",
    ".webp",
    ".npy",
    ".npz",
)
"""What a folder is searched for, in lower case; the content decides how a file is decoded."""

MASK_EXTENSIONS = (*IMAGE_EXTENSIONS, ".mat")
"""The same for masks: MATLAB files hold annotations."""

ImageArray = npt.NDArray[np.uint8 | np.uint16 | np.float32]
Encoding = Literal["grey", "palette", "rgb"]
Color = tuple[int, int, int]


class MaskPixels(NamedTuple):
    """A mask as its file holds it.

    values: (H, W) uint8 or uint16, or (H, W, 3) uint8 for a coloured mask.
    palette: the colours (N, 3) where the values are palette indices, else None. Masks of 1, 2 or
        4 bits have one too: the grey levels that a viewer shows for their values.
    lossy: the file's compression blurs values (JPEG).
    void: the file held -1, which is read as 255, or as 65535 where other values reach 255.
    alpha: some pixel is not opaque in the file.
    """

    values: npt.NDArray[np.uint8 | np.uint16]
    palette: npt.NDArray[np.uint8] | None = None
    lossy: bool = False
    void: bool = False
    alpha: bool = False

    @property
    def encoding(self) -> Encoding:
        """How the values are to be understood, judged from this file alone."""
        if self.values.ndim == 3:
            return "rgb"
        return "grey" if self.palette is None else "palette"


class DecodedImage(NamedTuple):
    """An image as `read_image` gives it; alpha: some pixel is not opaque in the file."""

    pixels: ImageArray
    alpha: bool


def read_image(path: Path) -> ImageArray:
    """The pixels of an image file, (H, W, C) uint8, uint16 or float32, upright.

    C is 1 for grey, 3 for colour, N for a multi-channel TIFF or .npy array; alpha is dropped.
    8 and 16 bits without sign are kept as they are; signed, wider and floating numbers become
    float32. Raises `DatasetError`, one line that names the file, for anything that cannot be read.
    """
    return decode_image(read_bytes(path), source=str(path))


def read_mask(path: Path, *, encoding: Encoding | None = None) -> npt.NDArray[np.uint8 | np.uint16]:
    """The values of a mask file as it holds them: (H, W), or (H, W, 3) for a coloured mask.

    Palette images give their indices, 1-, 2- and 4-bit grey its own small numbers, colours with
    R = G = B a single channel, whole floats integers; alpha is dropped; -1, the mark of void in
    many arrays, becomes 255, or 65535 where other values reach 255.
    encoding: of the dataset (`Classes.encoding`); "rgb" gives the colours of a palette image.
    Raises `DatasetError` for a file that cannot be read or holds no mask: fractions, negative
    values, values over 65535, more than three channels.
    """
    mask = decode_mask(read_bytes(path), source=str(path))
    if encoding == "rgb" and mask.palette is not None:
        return mask.palette[mask.values]
    return mask.values


def probe(path: Path) -> Header:
    """Width, height and channels that `read_image` would give, from the head of the file."""
    with open_regular(path) as file, one_line(str(path)):
        reader = reader_for(file.read(16), str(path), role="image")
        file.seek(0)
        return reader.header(file, str(path))


def read_bytes(path: Path) -> bytes:
    """The content of a regular file; `DatasetError` for anything else, without ever blocking."""
    with open_regular(path) as file:
        try:
            return file.read()
        except OSError as error:
            raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error


def decode_image(data: bytes, *, source: str) -> ImageArray:
    """`read_image` for the content of a file; source: what messages call it."""
    return decode_image_and_alpha(data, source=source).pixels


def decode_image_and_alpha(data: bytes, *, source: str) -> DecodedImage:
    """`decode_image` that also tells whether the alpha that it drops carries information."""
    raster = _decode(data, source, "image")
    return DecodedImage(image_of(raster, source), raster.alpha)


def decode_mask(data: bytes, *, source: str) -> MaskPixels:
    """`read_mask` for the content of a file, with its palette; source: what messages call it."""
    return mask_of(_decode(data, source, "mask"), source)


def image_of(raster: Raster, source: str) -> ImageArray:
    """What a file holds, taken as an image; see `read_image`."""
    if raster.palette is not None:
        colors = raster.palette[raster.pixels[..., 0]]
        grey = (colors == colors[..., :1]).all()
        return np.ascontiguousarray(colors[..., :1]) if grey else colors
    pixels: npt.NDArray[Any] = np.require(raster.pixels, raster.pixels.dtype.newbyteorder("="))
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    elif pixels.dtype.kind not in "iuf":
        raise DatasetError(f"{source}: holds numbers of type {pixels.dtype}, which are no image")
    elif pixels.dtype not in (np.uint8, np.uint16):
        with np.errstate(over="ignore"):  # what is too large becomes infinite, refused below
            pixels = pixels.astype(np.float32)
        if not np.isfinite(pixels).all():
            count = pixels.size - int(np.isfinite(pixels).sum())
            raise DatasetError(f"{source}: {count} values are not finite (NaN or infinite)")
    array: ImageArray = np.require(pixels, requirements=["C", "W"])  # as torch wants its arrays
    return array


def mask_of(raster: Raster, source: str) -> MaskPixels:
    """What a file holds, taken as a mask; see `read_mask`."""
    pixels, palette = raster.pixels, raster.palette
    if raster.scale > 1:
        pixels = pixels // raster.scale
        palette = np.repeat(np.arange(256 // raster.scale + 1)[:, None], 3, axis=1).astype(np.uint8)
        palette *= np.uint8(raster.scale)
    if pixels.shape[2] > 1 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., :1]
    if pixels.shape[2] == 1:
        values, void = _whole_numbers(pixels[..., 0], source)
        if palette is not None and (palette == np.arange(len(palette))[:, None]).all():
            palette = None  # a grey ramp: the index is the grey level
        return MaskPixels(values, palette, raster.lossy, void, raster.alpha)
    if pixels.shape[2] == 3 and pixels.dtype == np.uint8:
        values = np.require(pixels, requirements=["C", "W"])
        return MaskPixels(values, lossy=raster.lossy, alpha=raster.alpha)
    raise DatasetError(
        f"{source}: a mask of {pixels.shape[2]} channels ({pixels.dtype}): one channel of class "
        "values or an 8-bit colour picture is needed"
    )


def to_channels(image: ImageArray, in_channels: int, source: str) -> ImageArray:
    """`image` (H, W, C) with the `in_channels` that a model takes.

    Grey is repeated to RGB; RGB becomes grey by its luma (0.299 R + 0.587 G + 0.114 B, ITU-R
    BT.601); a fourth channel beside RGB and a second beside grey are dropped. Raises
    `DatasetError`, naming `source`, for every other pair.
    """
    have = image.shape[2]
    if have == in_channels:
        return image
    if have in (1, 2) and in_channels in (1, 3):
        return np.repeat(image[..., :1], in_channels, axis=2)
    if have in (3, 4) and in_channels == 3:
        return np.ascontiguousarray(image[..., :3])
    if have in (3, 4) and in_channels == 1:
        rgb = np.ascontiguousarray(image[..., :3])
        luma: npt.NDArray[Any] = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        return luma[..., None]
    raise DatasetError(
        f"{source}: an image of {have} channels where {in_channels} are needed; "
        "only grey, RGB and RGBA are converted into each other"
    )


# ---- files ------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_regular(path: Path, *, limit: int | None = MAX_BYTES) -> Iterator[BinaryIO]:
    """The regular file at `path`, opened so that a pipe or a device cannot hang us.

    limit: bytes beyond which it is refused; None for a file that is read in parts.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    try:
        file = open(path, "rb", opener=opener)  # noqa: SIM115  closed below
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        missing = isinstance(error, OSError) and error.errno == errno.ENOENT
        reason = getattr(error, "strerror", None) or str(error)
        raise DatasetError(
            f"{path}: {'no such file' if missing else f'cannot be opened: {reason}'}"
        ) from error
    with file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise DatasetError(f"{path}: is not a regular file (a folder, a pipe or a device)")
        if status.st_size == 0:
            raise DatasetError(f"{path}: is empty (0 bytes)")
        if limit is not None and status.st_size > limit:
            raise DatasetError(
                f"{path}: {status.st_size} bytes are more than the {limit} that are read"
            )
        yield file


@contextlib.contextmanager
def one_line(source: str) -> Iterator[None]:
    """Turn whatever a decoder raises into one `DatasetError` that names the file."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # decoders that are fed with hostile bytes raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DatasetError(f"{source}: cannot be decoded: {reason}") from error


def _decode(data: bytes, source: str, role: Role) -> Raster:
    with one_line(source):
        reader = reader_for(data[:16], source, role=role)
        if reader.whole:
            return reader.decode(data, source)
        header = reader.header(io.BytesIO(data), source)
        if header.width * header.height > MAX_PIXELS:
            raise DatasetError(
                f"{source}: claims {header.width}x{header.height} pixels, more than the "
                f"{MAX_PIXELS} that are read; cut it into tiles"
            )
        return reader.decode(data, source)


def _whole_numbers(
    values: npt.NDArray[Any], source: str
) -> tuple[npt.NDArray[np.uint8 | np.uint16], bool]:
    """`values` (H, W) of any type as uint8 or, where they are larger, uint16; whether -1 was there.

    See `MaskPixels.void` for what becomes of -1.
    """
    if values.dtype == np.uint8:
        return np.require(values, requirements=["C", "W"]), False
    if values.dtype == np.bool_:
        return values.astype(np.uint8), False
    if values.dtype.kind not in "iuf":
        raise DatasetError(f"{source}: a mask cannot hold numbers of type {values.dtype}")
    if values.dtype.kind == "f":
        parts = values[~(np.isfinite(values) & (np.rint(values) == values))]
        if parts.size:
            raise DatasetError(
                f"{source}: a mask must hold whole numbers, but {parts.size} pixels do not "
                f"({parts.flat[0]:g}, for one): is it a soft mask? Save class values instead"
            )
    low, high = values.min(), values.max()
    void = bool(low == -1)
    if void:
        low = 0
        mark = 255 if high < 255 else 65535
        if high >= mark:
            raise DatasetError(f"{source}: holds -1 (void) beside {high:g}: too many values")
        values = np.where(values < 0, np.int64(mark), values)
        high = mark
    if low < 0 or high > 65535:
        raise DatasetError(
            f"{source}: holds the mask value {low if low < 0 else high:g}; values from 0 to 65535 "
            "are possible, so save another number there (255 for void, as a rule)"
        )
    return values.astype(np.uint8 if high <= 255 else np.uint16), void
