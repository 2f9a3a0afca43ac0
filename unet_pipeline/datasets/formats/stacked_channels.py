"""An image made of several files, one a channel."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unet_pipeline.datasets.findings import counted
from unet_pipeline.datasets.images import read_bytes, read_image
from unet_pipeline.errors import DatasetError


@dataclass(frozen=True, slots=True)
class StackedChannels:
    """An image whose channels are one file each, in this order. Is `Made`."""

    paths: tuple[Path, ...]

    @property
    def source(self) -> str:
        """The file of the first channel, and how many more there are."""
        return f"{self.paths[0]} (and {counted(len(self.paths) - 1, 'channel')} beside it)"

    def digest(self) -> bytes:
        """16 bytes over the bytes of all files."""
        digest = hashlib.blake2b(digest_size=16)
        for path in self.paths:
            content = read_bytes(path)
            digest.update(len(content).to_bytes(8, "big"))
            digest.update(content)
        return digest.digest()

    def pixels(self) -> npt.NDArray[Any]:
        """The image (H, W, C), in the smallest type that holds the values of all channels.

        Raises `DatasetError` for a file that cannot be read, has another size than the first, or
        holds more than one channel.
        """
        channels = [read_image(path) for path in self.paths]
        height, width = channels[0].shape[:2]
        for path, channel in zip(self.paths, channels, strict=True):
            if channel.shape[2] != 1:
                raise DatasetError(
                    f"{path}: holds {channel.shape[2]} channels, but is one of "
                    f"{len(self.paths)} files with a channel each: save it as grey"
                )
            if channel.shape[:2] != (height, width):
                raise DatasetError(
                    f"{path}: is {channel.shape[1]}x{channel.shape[0]} pixels, but "
                    f"{self.paths[0].name} is {width}x{height}: save the channels of one image in "
                    "one size"
                )
        return np.concatenate(channels, axis=2)
