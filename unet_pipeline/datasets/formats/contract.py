"""What a format is: how it is recognised, and the pairs of image and mask that it reads.

An annotation need not be a mask file. What no file of the source holds as it is (polygons, one
file an object, a page of a stack, a picture inside a JSON file) is `Made`: it knows how to give
its pixels, is read by the checks like any file, and is written out by `prepare` beside the
manifest.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

import numpy.typing as npt

from unet_pipeline.classes import MaskValue
from unet_pipeline.datasets.findings import Finding, name_five
from unet_pipeline.datasets.formats.class_list import ClassList
from unet_pipeline.datasets.manifest import Split, natural_key
from unet_pipeline.errors import DatasetError, UserError
from unet_pipeline.files import LOCK_NAME


class Made(Protocol):
    """Pixels that no file of the source holds as they are.

    Implementations are small frozen dataclasses: they cross to other processes, and ten thousand
    of them are held at once, so they keep paths and coordinates, never pixels.
    """

    @property
    def source(self) -> str:
        """What messages call it: the file it is made of, with the place inside."""

    def digest(self) -> bytes:
        """16 bytes over all that the pixels depend on, without computing them where possible.

        Raises `DatasetError` where a file it needs cannot be read.
        """

    def pixels(self) -> npt.NDArray[Any]:
        """An image (H, W, C), uint8, uint16 or float32; or a mask (H, W), uint8 or uint16.

        Raises `DatasetError`, naming the file, where that cannot be.
        """


class _Around(NamedTuple):
    """What stands before and after the name of a sample in the path of its file."""

    before: str
    after: str


@dataclass(frozen=True, slots=True, init=False)
class Pair:
    """An image and its mask; split is None where the data names none, group and fold likewise.

    Twenty thousand pairs are held at once. Of a path whose file is named after the sample only the
    rest is kept, which is one object for all files of a folder: however long, it takes no memory.
    """

    sample_id: str
    _image: _Around | str | Made
    _mask: _Around | str | Made
    split: Split | None
    group: str | None
    fold: int | None

    def __init__(
        self,
        sample_id: str,
        image_file: str | Path | Made,
        mask_file: str | Path | Made,
        split: Split | None = None,
        group: str | None = None,
        fold: int | None = None,
    ) -> None:
        values = (sample_id, _kept(image_file, sample_id), _kept(mask_file, sample_id))
        for name, value in zip(self.__slots__, (*values, split, group, fold), strict=True):
            object.__setattr__(self, name, value)  # as frozen dataclasses do

    @property
    def image_file(self) -> str | Made:
        """The path as text, or what stands for a file."""
        return _file(self._image, self.sample_id)

    @property
    def mask_file(self) -> str | Made:
        """As `image_file`."""
        return _file(self._mask, self.sample_id)

    @property
    def image(self) -> Path | Made:
        file = self.image_file
        return Path(file) if isinstance(file, str) else file

    @property
    def mask(self) -> Path | Made:
        file = self.mask_file
        return Path(file) if isinstance(file, str) else file

    def with_files(self, image_file: str | Path | Made, mask_file: str | Path | Made) -> Pair:
        """The same sample with other files."""
        return Pair(self.sample_id, image_file, mask_file, self.split, self.group, self.fold)

    def renamed(self, sample_id: str) -> Pair:
        """The same files under another id."""
        return Pair(sample_id, self.image_file, self.mask_file, self.split, self.group, self.fold)


def _kept(file: str | Path | Made, sample_id: str) -> _Around | str | Made:
    """What a `Pair` keeps of a file."""
    if not isinstance(file, str | Path):
        return file
    path, name = str(file), _name(sample_id)
    start = path.find(name, path.rfind(os.sep) + 1)
    return path if start < 0 else _around(path[:start], path[start + len(name) :])


def _file(kept: _Around | str | Made, sample_id: str) -> str | Made:
    """The file of which `_kept` made `kept`."""
    if isinstance(kept, _Around):
        return f"{kept.before}{_name(sample_id)}{kept.after}"
    return kept


def _name(sample_id: str) -> str:
    """An id without its folders."""
    return sample_id.rpartition("/")[2]


@functools.lru_cache(maxsize=1024)  # so that the files of a folder share one
def _around(before: str, after: str) -> _Around:
    return _Around(before, after)


@dataclass(frozen=True, slots=True)
class Found:
    """What a format reads: pairs in natural order of their ids, and all that it says of them.

    sentence: what was recognised. left_out: a sentence about each part that was not used.
    class_list: the classes that the annotations declare; values given where masks are `Made`.
    ignore_values: mask values that mean void, whether they occur or not.
    findings: faults met while reading: files without a partner, shapes outside their image, ...
    """

    pairs: tuple[Pair, ...]
    sentence: str
    left_out: tuple[str, ...] = ()
    class_list: ClassList | None = None
    ignore_values: tuple[MaskValue, ...] = ()
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Tree:
    """The files below a folder, listed once for all formats that look at them.

    root: the folder. only: the name of the one file that was given instead of a folder.
    folders: path of each folder below root ("" for root itself, with slashes) -> names of its
        files in natural order; links to folders are followed, loops are not.
    hidden: paths of files that are passed over: hidden, or in hidden folders.
    """

    root: Path
    folders: dict[str, tuple[str, ...]] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()
    only: str | None = None

    def files(self, *suffixes: str, under: str | None = None) -> list[str]:
        """Paths (inside root, with slashes) of the files whose lower-case name ends so.

        under: only those in this folder itself.
        """
        return [
            self.join(folder, name)
            for folder, names in self.folders.items()
            if under is None or folder == under
            for name in names
            if (not suffixes or name.lower().endswith(suffixes))
            and (self.only is None or name == self.only)
        ]

    @staticmethod
    def join(folder: str, name: str) -> str:
        """The path of `name` in a folder; "" is the root itself."""
        return f"{folder}/{name}" if folder else name

    def path(self, relative: str | PurePosixPath) -> Path:
        """Where a file of the tree is."""
        return self.root / relative

    def the_one(self, folders: Sequence[str]) -> str:
        """The folder of the only data set. Raises `DatasetError` where there are several."""
        if len(folders) > 1:
            raise DatasetError(
                f"{self.root}: holds several data sets, {name_five(folders)}: give the folder of "
                "one"
            )
        return folders[0]


class Format(NamedTuple):
    """One way in which people keep images with masks.

    about: one line for lists.
    recognise: why a tree is of this format, in words that name the file or folder that says so;
        None where it is not. Looks at names and at the heads of a few files, no more.
    read: (tree, images, masks) -> the pairs. images, masks: folders that the user named, or None;
        a format for which one has no effect raises `UserError`. Raises `DatasetError` where the
        annotations cannot be read at all; smaller faults are findings.
    """

    about: str
    recognise: Callable[[Tree], str | None]
    read: Callable[[Tree, str | None, str | None], Found]


def list_tree(source: Path) -> Tree:
    """The tree of a folder, or of the one annotation file `source`.

    Raises `UserError` where there is no such place, `DatasetError` where a folder cannot be listed.
    """
    if not source.exists():
        raise UserError(f"{source} does not exist: check the path")
    if source.is_file():
        return Tree(source.parent, {"": (source.name,)}, only=source.name)
    if not source.is_dir():
        raise UserError(f"{source} is neither a folder nor a file")

    def refuse(error: OSError) -> None:
        raise DatasetError(f"{error.filename}: cannot be listed: {error.strerror}") from error

    folders: dict[str, tuple[str, ...]] = {}
    hidden: list[str] = []
    seen: set[str] = set()
    for path, names, files in os.walk(source, followlinks=True, onerror=refuse):
        real = os.path.realpath(path)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        here = os.path.relpath(path, source).replace(os.sep, "/")
        here = "" if here == "." else here
        hidden += [Tree.join(here, f"{name}/") for name in names if _is_hidden(name)]
        hidden += [Tree.join(here, n) for n in files if _is_hidden(n) and n != LOCK_NAME]
        names[:] = sorted((n for n in names if not _is_hidden(n)), key=natural_key)
        folders[here] = tuple(sorted((n for n in files if not _is_hidden(n)), key=natural_key))
    return Tree(source, folders, tuple(sorted(hidden)))


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__")) or name in ("Thumbs.db", "desktop.ini")
