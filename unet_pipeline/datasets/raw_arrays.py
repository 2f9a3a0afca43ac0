"""Images with their masks as raw arrays in files, which all processes of a run map into memory."""

from __future__ import annotations

import logging
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from unet_pipeline.datasets.scratch import SUFFIX, Scratch, lock
from unet_pipeline.files import resource_reason

logger = logging.getLogger(__name__)

Arrays = tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]

# Mark and version, name of the file, type of the image, height, width, channels, length in bytes
_HEAD = struct.Struct("=8s16s4sQQQQ")
_MAGIC = b"unet raw"
_START = 128  # bytes before the image: the head, and what aligns rows to a line of the processor
_DTYPES = {np.dtype(name).str: np.dtype(name) for name in ("uint8", "uint16", "float32")}


class RawArrays:
    """Pairs of arrays in the files of a temporary folder, each written once, as many as fit.

    folder: made here, shared with processes that are given the same one, and removed when the last
        of them calls `close`; see `Scratch`. A copy that is sent to a worker process uses it as
        long as it is there, and so does a forked one.
    byte_limit: what the files may take together, heads of 128 bytes included, whoever writes them.

    Nothing here raises because of the disk: what cannot be written is not there to be read. Where
    that is the fault of the folder or the disk, it is said, once for all processes, and nothing
    more is written.
    """

    def __init__(self, folder: Path, *, byte_limit: int) -> None:
        self.folder = folder.absolute()
        self.byte_limit = byte_limit
        self._pid: int | None = os.getpid()
        self._scratch: Scratch | None = None
        self._accepts = True
        try:
            self._scratch = Scratch(self.folder, prepare=self._begin)
        except OSError as error:
            self._accepts = False
            self._say(error)

    @property
    def lent(self) -> bool:
        """Whether this process got the folder from the one that made it."""
        return self._pid != os.getpid()

    def read(self, name: str) -> Arrays | None:
        """Image (H, W, C) and mask (H, W), mapped and not writable; None for what is not there.

        name: 32 hexadecimal digits. A file that is not what was written under that name, whole, is
        none. What was read stays good when the folder is removed.
        """
        try:
            with self._path(name).open("rb", buffering=0) as file:
                return _mapped(file, name)
        except OSError:
            return None

    def write(self, name: str, image: npt.NDArray[Any], mask: npt.NDArray[np.uint8]) -> bool:
        """Whether image (H, W, C) and mask (H, W) can be read from now on.

        Not so where they would exceed the limit, while another thread or process writes them, and
        for an image that is not uint8, uint16 or float32.
        """
        assert image.shape[:2] == mask.shape, (image.shape, mask.shape)
        assert mask.dtype == np.uint8
        if not self._accepts or image.dtype.str not in _DTYPES or not image.size:
            return False
        try:
            return self._write(name, np.ascontiguousarray(image), np.ascontiguousarray(mask))
        except OSError as error:
            self._give_up(error)
            return False

    def close(self) -> None:
        """Write nothing more; the process that made the folder removes it, if no other uses it."""
        self._accepts = False
        if self._scratch is not None:
            self._scratch.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pid": None, "_scratch": None}

    def _begin(self) -> None:
        self._used.write_bytes(b"0")

    @property
    def _used(self) -> Path:
        """The file that says how many bytes are taken; where there is none, nothing is written."""
        return self.folder / f"used{SUFFIX}"

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{SUFFIX}"

    def _write(self, name: str, image: npt.NDArray[Any], mask: npt.NDArray[np.uint8]) -> bool:
        # Made by one writer alone; if that one is killed, this is never written, and decoded anew
        temporary = self.folder / f"{name}.part{SUFFIX}"
        try:
            descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            return False
        try:
            with os.fdopen(descriptor, "wb") as file:
                if self._has(name):  # written while this process decoded
                    return True
                length = _START + image.nbytes + mask.nbytes
                if not self._reserve(length):
                    return False
                kind = image.dtype.str.encode()
                head = _HEAD.pack(_MAGIC, bytes.fromhex(name), kind, *image.shape, length)
                file.write(head.ljust(_START, b"\0"))
                file.write(image.data)
                file.write(mask.data)
            # Not flushed to the disk: after a power cut, the next run begins with an empty folder
            os.replace(temporary, self._path(name))
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def _has(self, name: str) -> bool:
        try:
            with self._path(name).open("rb", buffering=0) as file:
                return _read_head(file, name) is not None
        except FileNotFoundError:
            return False

    def _reserve(self, num_bytes: int) -> bool:
        # Opened anew, because locks part neither threads nor forked processes that share a file
        with self._used.open("r+b") as file:
            lock(file.fileno(), wait=True)
            taken = file.read()
            if not taken.isdigit() or int(taken) + num_bytes > self.byte_limit:
                return False
            file.seek(0)
            file.write(b"%d" % (int(taken) + num_bytes))
        return True

    def _give_up(self, error: OSError) -> None:
        """End all writing, in every process; whoever is first to do so says why."""
        self._accepts = False
        try:
            self._used.unlink()  # the one change that a full disk never refuses
        except FileNotFoundError:
            return
        except OSError:
            if self.lent:
                return
        self._say(error)

    def _say(self, error: OSError) -> None:
        logger.warning(
            "%s: decoded images cannot be kept there: %s; what is not kept is decoded every epoch",
            self.folder,
            resource_reason(error) or error.strerror or error,
        )


class _Layout(NamedTuple):
    dtype: np.dtype[Any]
    shape: tuple[int, int, int]


def _read_head(file: BinaryIO, name: str) -> _Layout | None:
    """What the file says that it holds; None if it is not the one of that name, whole."""
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    magic, digest, kind, height, width, channels, length = _HEAD.unpack(head)
    dtype = _DTYPES.get(kind.rstrip(b"\0").decode("latin-1"))
    num_values = height * width * channels
    if magic != _MAGIC or digest != bytes.fromhex(name) or dtype is None or not num_values:
        return None
    if length != _START + num_values * dtype.itemsize + height * width:
        return None
    if length != os.fstat(file.fileno()).st_size:
        return None
    return _Layout(dtype, (height, width, channels))


def _mapped(file: BinaryIO, name: str) -> Arrays | None:
    layout = _read_head(file, name)
    if layout is None:
        return None
    dtype, (height, width, channels) = layout
    whole = np.memmap(file, np.uint8, mode="r")
    end = len(whole) - height * width
    image = whole[_START:end].view(dtype).reshape(height, width, channels)
    # Plain arrays on the same pages: slices of the subclass cost more, and nothing needs it
    return image.view(np.ndarray), whole[end:].reshape(height, width).view(np.ndarray)
