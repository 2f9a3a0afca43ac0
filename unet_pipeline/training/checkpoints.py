"""The state of a training on disk: everything that a resumed run needs, two generations of it.

The state is plain Python and tensors, so it loads with `weights_only=True`: no pickled code. Each
write makes the file whole before it takes its name, and the former one is kept as `previous.pt`.
"""

from __future__ import annotations

import io
import logging
import os
import pickle  # for the name of the error that weights_only raises
import zipfile
from pathlib import Path
from typing import Any

import torch

from unet_pipeline.errors import ResourceError, UserError
from unet_pipeline.files import atomic_path

STATE_NAMES = ("last.pt", "previous.pt")
"""State files of a run folder, newest first."""

STATE_VERSION = 2
"""Of what a state holds; a run is resumed by the version that it was begun with."""

logger = logging.getLogger(__name__)

_DAMAGED = (RuntimeError, ValueError, KeyError, EOFError, zipfile.BadZipFile,
            pickle.UnpicklingError)  # fmt: skip


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write `state` as `folder/last.pt`; what was there becomes `previous.pt`.

    A kill at any moment leaves at least one whole state. Raises `ResourceError` where the machine
    refuses to write, on a full disk say, with the former states intact.
    """
    last, previous = (folder / name for name in STATE_NAMES)
    with atomic_path(last) as temporary:
        with _StateFile(io.FileIO(temporary, "w")) as file:
            try:
                torch.save(state | {"version": STATE_VERSION}, file)
            except RuntimeError as error:
                if file.refusal is None:
                    raise
                raise file.refusal from error
            file.flush()
            os.fsync(file.fileno())  # before the former state loses its name
        if last.exists():
            last.replace(previous)


class _StateFile(io.BufferedWriter):
    """A file that remembers what the system refused: torch tells it as an odd error of its own."""

    refusal: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.refusal = error
            raise


def load_state(folder: Path) -> dict[str, Any]:
    """The newest whole state of a run folder, on the CPU.

    A damaged file is renamed `*.corrupt`, named in a warning, and the one before is used.
    Raises `UserError` where no state can be read.
    """
    for path in (folder / name for name in STATE_NAMES):
        if not path.exists():
            continue
        try:
            return _read(path)
        except OSError as error:
            raise ResourceError(f"cannot read {path}: {error.strerror or error}") from error
        except _DAMAGED as error:
            corrupt = path.with_suffix(".corrupt")
            path.replace(corrupt)
            reason = " ".join(str(error).split())[:120]
            logger.warning("%s is damaged (%s); kept as %s", path, reason, corrupt.name)
    raise UserError(f"{folder} holds no training state to resume from: start a new run")


def _read(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()  # torch.load does not compare the checksums
        if damaged is not None:
            raise ValueError(f"checksum of {damaged} differs")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    version = state.get("version")
    if version != STATE_VERSION:
        raise UserError(
            f"{path} has state version {version}, this package reads {STATE_VERSION}: "
            "resume with the version of unet-pipeline that began the run"
        )
    return state
