"""What an output folder holds: which image, which model, which files. It makes reruns cheap.

One JSON object a line in `predictions.jsonl`, ASCII throughout, so that any file name fits:
{"input": "cells/7.tif", "size": ..., "mtime_ns": ..., "digest": ..., "outputs": {"cells/7.png":
<bytes>}, "pixels": [<pixels of each class>]}
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unet_pipeline.files import write_atomic
from unet_pipeline.inference.inputs import INDEX_NAME, Job

if TYPE_CHECKING:
    from unet_pipeline.models.segmenter import Segmenter

# Seconds between saves while work goes on: whatever a kill makes us forget is merely done again.
_SAVE_EVERY = 10.0


def prediction_digest(segmenter: Segmenter, **settings: Any) -> str:
    """A SHA-256 of all that decides what a mask looks like: weights, card and `settings`."""
    card = segmenter.card.model_dump(mode="json", exclude={"facts", "package_version"})
    digest = hashlib.sha256(json.dumps([card, settings], sort_keys=True, default=str).encode())
    for name, tensor in sorted(segmenter.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(flat.numpy().data)
    return digest.hexdigest()


class Ledger:
    """The predictions of an output folder, read at the start and saved as work goes on."""

    def __init__(self, output: Path, *, digest: str) -> None:
        self._path = output / INDEX_NAME
        self._output = output
        self._digest = digest
        self._entries = _read(self._path)
        self._unsaved = True
        self._saved_at = 0.0
        self.save()  # the folder is marked as ours before the first mask is written

    def holds(self, job: Job) -> bool:
        """Whether all outputs of `job` stand as this model wrote them for the image as it is."""
        entry = self._entries.get(job.input.relative.as_posix())
        image = _status(job.input.path)
        if entry is None or image is None or not self._concerns(entry, image):
            return False
        sizes = entry.get("outputs", {})
        return all(
            (status := _status(path)) is not None
            and status.st_mtime_ns >= image.st_mtime_ns
            and status.st_size == sizes.get(self._name(path))
            for path in job.outputs.values()
        )

    def record(self, job: Job, image: os.stat_result, pixels: Iterable[int]) -> None:
        """Note that `job` is done. image: the status of its file before it was read."""
        name = job.input.relative.as_posix()
        former = self._entries.get(name, {})
        # Earlier outputs of other kinds stay listed where they fit this image and model
        outputs = former.get("outputs", {}) if self._concerns(former, image) else {}
        for path in job.outputs.values():
            outputs[self._name(path)] = path.stat().st_size
        self._entries[name] = {
            "input": name,
            "size": image.st_size,
            "mtime_ns": image.st_mtime_ns,
            "digest": self._digest,
            "outputs": outputs,
            "pixels": [int(count) for count in pixels],
        }
        self._unsaved = True
        if time.monotonic() - self._saved_at > _SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Write the file, whole or not at all."""
        if self._unsaved:
            lines = [json.dumps(entry) for entry in self._entries.values()]
            write_atomic(self._path, "".join(line + "\n" for line in lines))
            self._unsaved, self._saved_at = False, time.monotonic()

    def _concerns(self, entry: dict[str, Any], image: os.stat_result) -> bool:
        """Whether `entry` is about the image as it is now and about this model."""
        now = (self._digest, image.st_size, image.st_mtime_ns)
        return (entry.get("digest"), entry.get("size"), entry.get("mtime_ns")) == now

    def _name(self, path: Path) -> str:
        return path.relative_to(self._output).as_posix()


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """The entries by input; lines that are none (someone edited the file) are left out."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return {}
    entries = {}
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if (
            isinstance(entry, dict)
            and isinstance(entry.get("input"), str)
            and isinstance(entry.get("outputs"), dict)
        ):
            entries[entry["input"]] = entry
    return entries


def _status(path: Path) -> os.stat_result | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None
