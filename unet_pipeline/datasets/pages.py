"""Files of several pages (TIFF stacks, animations): each page a sample, or each a channel."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from unet_pipeline.datasets.decoders import count_frames, decode_frame
from unet_pipeline.datasets.formats.contract import Found, Made, Pair
from unet_pipeline.datasets.images import ImageArray, image_of, mask_of, one_line, open_regular
from unet_pipeline.datasets.raster import Raster
from unet_pipeline.datasets.tiff import decode_tiff_page, tiff_pages
from unet_pipeline.errors import DatasetError, UserError

Pages = Literal["refuse", "channels", "samples"]
"""What the pages of a file are; with refuse, a file of several cannot be read."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a file, the first is 0. Is `Made`. as_mask: its values are a mask."""

    path: Path
    index: int
    as_mask: bool

    @property
    def source(self) -> str:
        """The file and the page, counted from 0 as in sample ids."""
        return f"{self.path}, page {self.index}"

    def digest(self) -> bytes:
        """16 bytes over the content of the whole file, and the number of the page."""
        digest = hashlib.blake2b(f"page {self.index}".encode(), digest_size=16)
        digest.update(_file_digest(self.path))
        return digest.digest()

    def pixels(self) -> npt.NDArray[Any]:
        """An image (H, W, C) or the values of a mask (H, W)."""
        raster = _page(self.path, self.index, self.source)
        if not self.as_mask:
            return image_of(raster, self.source)
        mask = mask_of(raster, self.source)
        if mask.void or mask.values.ndim != 2:
            seen = "holds -1" if mask.void else "is a coloured mask"
            raise DatasetError(f"{self.source}: {seen}; save its pages as files of their own")
        return mask.values


@dataclass(frozen=True, slots=True)
class StackedPages:
    """An image whose channels are the pages of a file, in their order. Is `Made`."""

    path: Path

    @property
    def source(self) -> str:
        """The file."""
        return str(self.path)

    def digest(self) -> bytes:
        """16 bytes over the content of the file."""
        return _file_digest(self.path)

    def pixels(self) -> ImageArray:
        """The image (H, W, pages); pages of several channels lie one after the other."""
        count = count_pages(self.path)
        pages = [image_of(_page(self.path, k, self.source), self.source) for k in range(count)]
        kinds = {(page.shape, str(page.dtype)) for page in pages}
        if len(kinds) > 1:
            shown = ", ".join(f"{shape} {dtype}" for shape, dtype in sorted(kinds)[:3])
            raise DatasetError(f"{self.path}: its pages differ ({shown}); they cannot be channels")
        return np.ascontiguousarray(np.concatenate(pages, axis=2))


def count_pages(path: Path) -> int:
    """How many pages a file holds, from its tags; 1 where its format knows no pages.

    Raises `DatasetError` for a file that cannot be opened or whose tags are damaged.
    """
    with open_regular(path) as file, one_line(str(path)):
        return len(tiff_pages(file, str(path))) if _is_tiff(file) else count_frames(file)


def expand_pages(found: Found, mode: Pages) -> Found:
    """`found` with the pages of its files as samples or as channels.

    samples: a pair of n pages each becomes n pairs `<id>/p0000`, ..., one group, one split.
    channels: an image of n pages has n channels, its mask has one page.
    Raises `DatasetError` where the pages of an image and its mask do not fit together, `UserError`
    where no file has several pages. A damaged file is left as it is: whoever reads it says so.
    """
    if mode == "refuse":
        return found
    expand = _as_samples if mode == "samples" else _as_channels
    pairs = tuple(new for pair in found.pairs for new in expand(pair))
    if pairs == found.pairs:
        raise UserError(f"--pages {mode}: no image has several pages; leave it out")
    return replace(found, pairs=pairs, sentence=f"{found.sentence}; pages as {mode}")


def _as_samples(pair: Pair) -> Iterator[Pair]:
    num_image, num_mask = _num_pages(pair.image), _num_pages(pair.mask)
    if num_image != num_mask:
        raise DatasetError(
            f"{_name(pair.image)}: has {num_image} pages, its mask {_name(pair.mask)} has "
            f"{num_mask}: with --pages samples both need as many"
        )
    if num_image == 1:
        yield pair
        return
    assert isinstance(pair.image, Path)
    assert isinstance(pair.mask, Path)
    for index in range(num_image):
        yield Pair(
            f"{pair.sample_id}/p{index:04d}",
            Page(pair.image, index, as_mask=False),
            Page(pair.mask, index, as_mask=True),
            pair.split,
            pair.group or pair.sample_id,
            pair.fold,
        )


def _as_channels(pair: Pair) -> Iterator[Pair]:
    num_mask = _num_pages(pair.mask)
    if num_mask > 1:
        raise DatasetError(
            f"{_name(pair.mask)}: a mask of {num_mask} pages: with --pages channels it needs one"
        )
    if isinstance(pair.image, Path) and _num_pages(pair.image) > 1:
        pair = pair.with_files(StackedPages(pair.image), pair.mask_file)
    yield pair


def _num_pages(picture: Path | Made) -> int:
    try:
        return count_pages(picture) if isinstance(picture, Path) else 1
    except DatasetError:
        return 1


def _name(picture: Path | Made) -> str:
    return str(picture) if isinstance(picture, Path) else picture.source


def _is_tiff(file: BinaryIO) -> bool:
    head = file.read(4)
    file.seek(0)
    return head in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _page(path: Path, index: int, source: str) -> Raster:
    with open_regular(path) as file, one_line(source):
        if not _is_tiff(file):
            return decode_frame(file, index, source)
        numbers = _numbers_of(*_version(path))
        if index >= len(numbers):
            raise DatasetError(f"{path}: holds no page {index}, counted from 0, of {len(numbers)}")
        return decode_tiff_page(file, numbers[index], source)


def _version(path: Path) -> tuple[Path, int, int]:
    """A file as it is now: once changed it is another to a cache."""
    status = path.stat()
    return path, status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=64)
def _numbers_of(path: Path, size: int, changed: int) -> list[int]:
    """`tiff_pages`, once a file: the tags of 500 pages take 0.1 s."""
    with open_regular(path) as file:
        return tiff_pages(file, str(path))


def _file_digest(path: Path) -> bytes:
    """16 bytes over the content of a file, computed once for all of its pages."""
    with open_regular(path):  # says what is wrong with a place that is no file
        return _digest_of(*_version(path))


@functools.lru_cache(maxsize=64)
def _digest_of(path: Path, size: int, changed: int) -> bytes:
    with open_regular(path) as file:
        digest = hashlib.blake2b(digest_size=16)
        while block := file.read(2**20):
            digest.update(block)
    return digest.digest()
