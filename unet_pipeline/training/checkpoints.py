"""The state of a training on disk: everything that a resumed run needs, two generations of it.

The state is plain Python and tensors, so it loads with `weights_only=True`: no pickled code. Each
write makes the file whole before it takes its name, and the former one is kept as `previous.pt`.
"""

from __future__ import annotations

import logging
import pickle  # for the name of the error that weights_only raises
import zipfile
from pathlib import Path
from typing import Any

import torch

from unet_pipeline.errors import UserError
from unet_pipeline.files import atomic_path

STATE_NAMES = ("last.pt", "previous.pt")
"""State files of a run folder, newest first."""

logger = logging.getLogger(__name__)

_DAMAGED = (OSError, RuntimeError, ValueError, KeyError, EOFError, zipfile.BadZipFile,
            pickle.UnpicklingError)  # fmt: skip


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write `state` as `folder/last.pt`; what was there becomes `previous.pt`.

    A kill at any moment leaves at least one whole state. Raises `ResourceError` on a full disk,
    with the former states intact.
    """
    last, previous = (folder / name for name in STATE_NAMES)
    with atomic_path(last) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:
            # torch reports a full disk as its own error; the cause carries the errno where known
            raise OSError(28, f"torch could not write the state: {error}") from error
        if last.exists():
            last.replace(previous)


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
    return state
