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
        Raises `DatasetError` for a file that cannot be read, and for files of several sizes.
        """
        return self.pixels_and_overlap()[0]

    def pixels_and_overlap(self) -> tuple[npt.NDArray[np.uint8], int]:
        """The mask as `pixels` gives it, and how many pixels belong to more than one object."""
        if not self.names:
            return np.zeros(self._size_of_image(), dtype=np.uint8), 0
        objects = [(value, inside.shape, np.flatnonzero(inside)) for value, inside in self._read()]
        objects.sort(key=lambda part: -len(part[2]))
        canvas = np.zeros(objects[0][1], dtype=np.uint8)
        counts = np.zeros(canvas.size, dtype=np.uint16)
        for value, _, places in objects:
            canvas.ravel()[places] = value
            counts[places] += 1
        return canvas, int(np.count_nonzero(counts > 1))

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
                raise self._of_two_sizes(name, inside.shape, first)
            yield value, inside

    def _of_two_sizes(
        self, name: str, size: tuple[int, ...], first: tuple[int, ...]
    ) -> DatasetError:
        """The error about two files of other sizes; the one that fits the image is not at fault."""
        wanted = self._size_of_image()
        if size == wanted:
            name, size = self.names[0], first
        return DatasetError(
            f"{self.folder / name}: is {size[1]}x{size[0]} pixels, its image {self.image.name} "
            f"{wanted[1]}x{wanted[0]}: save all masks of an image in its size"
        )

    def _size_of_image(self) -> tuple[int, int]:
        header = probe(self.image)
        return header.height, header.width
