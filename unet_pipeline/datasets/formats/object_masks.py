"""A mask made of several files, one an object."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from unet_pipeline.datasets.images import decode_mask, probe, read_bytes
from unet_pipeline.errors import DatasetError


@dataclass(frozen=True, slots=True)
class ObjectMasks:
    """A mask made of one file for each object; 0 where none is. Is `Made`.

    folder: where the files are. names, values: the path of each file in it, and the mask value of
    its object. image: the picture that they belong to, whose size a mask without objects has.
    """

    folder: Path
    names: tuple[str, ...]
    values: tuple[int, ...]
    image: Path

    @property
    def source(self) -> str:
        """The folder of the files."""
        return str(self.folder)

    def digest(self) -> bytes:
        """16 bytes over the bytes of all files and their values."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr(self.values if self.names else self._size_of_image()).encode())
        for name in self.names:
            content = read_bytes(self.folder / name)
            digest.update(len(content).to_bytes(8, "big"))
            digest.update(content)
        return digest.digest()

    def pixels(self) -> npt.NDArray[np.uint8]:
        """The mask (H, W), uint8; where objects overlap, the smaller one is seen.

        A pixel belongs to an object where its file is not 0 (over 127 in a JPEG, which blurs).
        Raises `DatasetError` for a file that cannot be read or has another size than the first.
        """
        if not self.names:
            return np.zeros(self._size_of_image(), dtype=np.uint8)
        objects = [(value, inside.shape, np.flatnonzero(inside)) for value, inside in self._read()]
        objects.sort(key=lambda part: -len(part[2]))
        canvas = np.zeros(objects[0][1], dtype=np.uint8)
        for value, _, places in objects:
            canvas.ravel()[places] = value
        return canvas

    def overlap(self) -> int:
        """How many pixels belong to more than one object. Raises as `pixels` does."""
        counts: npt.NDArray[np.uint16] = np.zeros((1, 1), dtype=np.uint16)
        for _, inside in self._read():
            counts = counts + inside
        return int(np.count_nonzero(counts > 1))

    def _read(self) -> Iterator[tuple[int, npt.NDArray[np.bool_]]]:
        """The value and the pixels (H, W) of each object."""
        first: tuple[int, ...] = ()
        for name, value in zip(self.names, self.values, strict=True):
            path = self.folder / name
            mask = decode_mask(read_bytes(path), source=str(path))
            level = mask.values if mask.values.ndim == 2 else mask.values.max(axis=2)
            inside: npt.NDArray[np.bool_] = level > (127 if mask.lossy else 0)
            first = first or inside.shape
            if inside.shape != first:
                raise DatasetError(
                    f"{path}: is {inside.shape[1]}x{inside.shape[0]} pixels, but "
                    f"{self.names[0]} of the same image is {first[1]}x{first[0]}: save the masks "
                    "of one image in one size"
                )
            yield value, inside

    def _size_of_image(self) -> tuple[int, int]:
        header = probe(self.image)
        return header.height, header.width
