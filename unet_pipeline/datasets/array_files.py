"""Files that hold arrays and not pictures -> rasters: NumPy's .npy and .npz, MATLAB's .mat."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from unet_pipeline.datasets.raster import MAX_BYTES, Header, Raster, channel_axis
from unet_pipeline.errors import DatasetError

Role = Literal["image", "mask"]
"""What is wanted of a file that may hold both."""

_NAMES: dict[Role, tuple[str, ...]] = {
    "image": ("image", "img", "im", "arr_0"),
    "mask": (
        *("mask", "label", "labels", "seg", "segmentation", "gt", "groundtruth", "gtcls"),
        *("annotation", "arr_0"),
    ),
}
"""What people call such an array, in lower case."""


# ---- NPY ----------------------------------------------------------------------------------------


def npy_header(file: BinaryIO, source: str) -> Header:
    """The size of the picture in an NPY file, from its head."""
    shape, dtype = _npy_layout(file)
    if dtype.hasobject:
        raise DatasetError(f"{source}: holds Python objects, not numbers; they are never loaded")
    size = int(np.prod(shape, dtype=np.float64)) * dtype.itemsize
    if size > MAX_BYTES or not size:
        raise DatasetError(f"{source}: claims {size} bytes of pixels in the shape {shape}")
    return _header_of(shape)


def _npy_layout(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    return shape, dtype


def decode_npy(data: bytes, source: str) -> Raster:
    """The array of an NPY file, as (H, W, C)."""
    return _raster_of(np.load(io.BytesIO(data), allow_pickle=False))


# ---- NPZ ----------------------------------------------------------------------------------------


def npz_header(file: BinaryIO, source: str, role: Role) -> Header:
    """The size of the picture in an NPZ file: its one array, or the one with a usual name."""
    with (
        zipfile.ZipFile(file) as archive,
        archive.open(_npz_member(archive, source, role)) as entry,
    ):
        return npy_header(entry, source)  # type: ignore[arg-type]  # all it does is read


def decode_npz(data: bytes, source: str, role: Role) -> Raster:
    """The array of an NPZ file, as (H, W, C); see `npz_header`, which is to be called first.

    No more is decompressed than the array's own header claims.
    """
    with (
        zipfile.ZipFile(io.BytesIO(data)) as archive,
        archive.open(_npz_member(archive, source, role)) as entry,
    ):
        return _raster_of(np.lib.format.read_array(entry, allow_pickle=False))


def _npz_member(archive: zipfile.ZipFile, source: str, role: Role) -> str:
    names = [name for name in archive.namelist() if name.endswith(".npy")]
    if not names:
        raise DatasetError(f"{source}: is a ZIP file without NumPy arrays")
    return _chosen({name: name.removesuffix(".npy") for name in names}, source, role)


# ---- MATLAB -------------------------------------------------------------------------------------


def mat_header(file: BinaryIO, source: str, role: Role) -> Header:
    """The size of the picture in a MATLAB file, all of which is read: it may lie anywhere."""
    pixels = decode_mat(file.read(), source, role).pixels
    return Header(pixels.shape[1], pixels.shape[0], pixels.shape[2])


def decode_mat(data: bytes, source: str, role: Role) -> Raster:
    """The picture in a MATLAB file of version 5: an array of numbers (H, W) or (H, W, C).

    Structs and cells are searched; of several arrays it is the one with a usual name, such as
    groundTruth.Segmentation of CrackForest or GTcls.Segmentation of SBD.
    """
    if data.startswith(b"MATLAB 7.3"):
        raise DatasetError(f"{source}: is a MATLAB file of version 7.3; save it with -v7")
    from scipy.io import loadmat

    _check_mat_claims(data, source)
    arrays = dict(_arrays_of(loadmat(io.BytesIO(data)), ""))
    if not arrays:
        raise DatasetError(f"{source}: holds no array of numbers that could be a picture")
    return _raster_of(arrays[_chosen({path: path for path in arrays}, source, role)])


def _check_mat_claims(data: bytes, source: str) -> None:
    """Refuse a file whose compressed parts claim more than `MAX_BYTES`, by their first 8 bytes."""
    order = "<" if data[126:128] == b"IM" else ">"
    place, claimed = 128, 0
    while place + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, place)
        if kind == 15:  # compressed: the true size is inside
            head = zlib.decompressobj().decompress(data[place + 8 : place + 8 + size], 8)
            claimed += struct.unpack(f"{order}II", head)[1]
        place += 8 + size
    if claimed > MAX_BYTES:
        raise DatasetError(
            f"{source}: claims {claimed} bytes of data, more than the {MAX_BYTES} that are read"
        )


def _arrays_of(value: Any, path: str) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """The pictures in what `loadmat` gives, by their path: groundTruth.Segmentation."""
    if isinstance(value, dict):
        for name, part in value.items():
            if not name.startswith("__"):
                yield from _arrays_of(part, name)
    elif not isinstance(value, np.ndarray):
        return
    elif value.dtype.names is not None:  # a struct, or an array of them
        for number, element in enumerate(value.flat):
            here = path if value.size == 1 else f"{path}({number + 1})"
            for name in value.dtype.names:
                yield from _arrays_of(element[name], f"{here}.{name}")
    elif value.dtype == object:  # cells
        for number, element in enumerate(value.flat):
            yield from _arrays_of(element, path if value.size == 1 else f"{path}{{{number + 1}}}")
    elif value.dtype.kind in "biuf" and min(value.shape[:2]) >= 2 and value.ndim in (2, 3):
        yield path, value


# ---- what all share -----------------------------------------------------------------------------


def _chosen(names: dict[str, str], source: str, role: Role) -> str:
    """The key of the one array among `names` (key -> name with dots) that `role` can mean."""
    if len(names) == 1:
        return next(iter(names))
    parts = {key: name.lower().split(".") for key, name in names.items()}
    last = [key for key in names if parts[key][-1] in _NAMES[role]]
    if len(last) == 1:
        return last[0]
    listed = ", ".join(list(names.values())[:8]) + (", ..." if len(names) > 8 else "")
    reason = "several of them can be" if last else f"none has a usual name ({_NAMES[role][0]}, ...)"
    raise DatasetError(
        f"{source}: holds {len(names)} arrays ({listed}); which is the {role} is open, for "
        f"{reason}: save that one alone"
    )


def _header_of(shape: tuple[int, ...]) -> Header:
    if len(shape) == 2:
        return Header(shape[1], shape[0], 1)
    if channel_axis(shape) == 2:
        return Header(shape[1], shape[0], shape[2])
    return Header(shape[2], shape[1], shape[0])


def _raster_of(array: npt.NDArray[Any]) -> Raster:
    if array.ndim == 2:
        return Raster(array[..., None])
    return Raster(np.moveaxis(array, channel_axis(array.shape), 2))
