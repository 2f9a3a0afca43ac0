"""MNIST's IDX files: small pictures with one class each, of which masks are made by a threshold.

`train-images-idx3-ubyte` with `train-labels-idx1-ubyte`, the same with `t10k-` and other first
parts, packed as .gz or not. Facts of the format: the page of MNIST (Y. LeCun, C. Cortes,
C. Burges), "file formats for the MNIST database".
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import math
import re
import struct
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from unet_pipeline.datasets.findings import counted
from unet_pipeline.datasets.formats.class_list import ClassList, read_class_list
from unet_pipeline.datasets.formats.contract import Format, Found, Pair, Tree
from unet_pipeline.datasets.formats.layout import split_of
from unet_pipeline.datasets.images import open_regular
from unet_pipeline.datasets.manifest import SPLITS, Split, natural_key
from unet_pipeline.datasets.raster import MAX_BYTES
from unet_pipeline.errors import DatasetError, UserError

_IMAGES = re.compile(r"(?P<part>.+)-images[-.]idx3-ubyte(\.gz)?")
_LABELS = re.compile(r"(?P<part>.+)-labels[-.]idx1-ubyte(\.gz)?")
_UNSIGNED_BYTES = 0x08  # the type of numbers in the third byte of a file
_HIGHEST_LABEL = 253  # with the background in front the class index is 254; 255 is void


@dataclass(frozen=True, slots=True)
class IdxImage:
    """One picture of a file of pictures, the first is 0. Is `Made`."""

    path: Path
    index: int

    @property
    def source(self) -> str:
        """The file and the picture."""
        return f"{self.path}, picture {self.index}"

    def digest(self) -> bytes:
        """16 bytes over the pixels: they are there already, unpacked once for all pictures."""
        picture = _picture(self.path, self.index)
        return _digest(f"idx image {picture.shape}", picture)

    def pixels(self) -> npt.NDArray[np.uint8]:
        """The image (H, W, 1), uint8. Raises `DatasetError` for a damaged file."""
        return _picture(self.path, self.index)[..., None].copy()


@dataclass(frozen=True, slots=True)
class IdxMask:
    """The mask of one picture: where it is brighter than `threshold`, its label + 1. Is `Made`.

    images, labels: the files; index: the picture in both.
    """

    images: Path
    labels: Path
    index: int
    threshold: int

    @property
    def source(self) -> str:
        """The file of labels and the picture."""
        return f"{self.labels}, picture {self.index}"

    def digest(self) -> bytes:
        """16 bytes over the pixels, the label and the threshold."""
        picture = _picture(self.images, self.index)
        return _digest(f"idx mask {picture.shape} {self._label()} {self.threshold}", picture)

    def pixels(self) -> npt.NDArray[np.uint8]:
        """The mask (H, W), uint8: 0 background, label + 1. Raises `DatasetError` as the image."""
        value = np.uint8(self._label() + 1)
        bright = _picture(self.images, self.index) > self.threshold
        return np.where(bright, value, np.uint8(0))

    def _label(self) -> int:
        return int(_picture(self.labels, self.index))


def recognise(tree: Tree) -> str | None:
    """A file of pictures, by its name."""
    if tree.only:
        return None
    names = [path for path in tree.files() if _IMAGES.fullmatch(PurePosixPath(path).name)]
    return f"{names[0]} is a file of many pictures in MNIST's format" if names else None


def read(tree: Tree, images: str | None, masks: str | None) -> Found:
    """Every picture of every file of pictures, with the mask that its label gives.

    The masks are made, for the data has none: pixels brighter than Otsu's threshold, one for the
    whole dataset, take the class of their picture. Splits are those that the names of files say.
    Raises `UserError` for a file alone and for folders that are named, `DatasetError` for damaged
    files and for files of pictures and labels that do not fit together.
    """
    if images or masks or tree.only:
        raise UserError(
            "--format idx takes the folder with the files of pictures and labels, without --images "
            "and --masks"
        )
    parts = _parts(tree)
    counts = {part.name: _check(part) for part in parts}
    threshold = _otsu(_histogram(part.images for part in parts), tree.root)
    pairs = tuple(
        Pair(
            f"{part.name}/{index:05d}",
            IdxImage(part.images, index),
            IdxMask(part.images, part.labels, index, threshold),
            part.split,
        )
        for part in parts
        for index in range(counts[part.name])
    )
    sizes = Counter(_array(part.images).shape[1:] for part in parts)
    shown = ", ".join(f"{width}x{height}" for height, width in sizes)
    by_split = ", ".join(f"{part.split or part.name} {counts[part.name]}" for part in parts)
    num_labels = 1 + max(int(_array(part.labels).max()) for part in parts)
    class_list, left_out = _classes(tree.root, num_labels)
    return Found(
        pairs,
        f"{counted(len(pairs), 'picture')} of {shown} with one class each ({by_split}) and no "
        f"masks; so masks are made: pixels brighter than {threshold} of 255 (Otsu's threshold "
        "over all pictures) take the class of their picture, all others are background",
        left_out,
        class_list=class_list,
    )


# ---- which files --------------------------------------------------------------------------------


class _Part(NamedTuple):
    """A file of pictures with its file of labels. name: the first part of their names."""

    name: str
    images: Path
    labels: Path
    split: Split | None


def _parts(tree: Tree) -> list[_Part]:
    """The files that belong together, in the order of the splits."""
    pictures, labels = _by_part(tree, _IMAGES), _by_part(tree, _LABELS)
    if not pictures:
        raise DatasetError(f"{tree.root}: no file is called ...-images-idx3-ubyte, packed or not")
    if alone := sorted(pictures.keys() ^ labels.keys(), key=natural_key):
        kind, other = ("images", "labels") if alone[0] in pictures else ("labels", "images")
        raise DatasetError(
            f"{tree.root}: {alone[0]}-{kind} has no {alone[0]}-{other} beside it; add that file"
        )
    parts = [_Part(name, pictures[name], labels[name], _split(name)) for name in pictures]
    splits = Counter(part.split for part in parts)
    if len(parts) > 1 and (None in splits or max(splits.values()) > 1):
        names = ", ".join(sorted(pictures, key=natural_key))
        raise DatasetError(
            f"{tree.root}: holds {names}: which of them is train, val or test cannot be told by "
            "the names; put each dataset into a folder of its own, as train-... and test-..."
        )
    return sorted(parts, key=lambda part: SPLITS.index(part.split or "train"))


def _by_part(tree: Tree, pattern: re.Pattern[str]) -> dict[str, Path]:
    """The files of one kind by the first part of their names; the unpacked one goes first."""
    found: dict[str, Path] = {}
    for path in sorted(tree.files(), key=lambda path: path.endswith(".gz")):
        if not (match := pattern.fullmatch(PurePosixPath(path).name)):
            continue
        former = found.setdefault(match["part"], tree.path(path))
        if former.parent != tree.path(path).parent:
            raise DatasetError(
                f"{tree.root}: {former} and {path} are of several datasets: give the folder of one"
            )
    return found


def _split(part: str) -> Split | None:
    return "test" if part.endswith("t10k") else split_of(part)


# ---- what is in them ----------------------------------------------------------------------------


def _picture(path: Path, index: int) -> npt.NDArray[np.uint8]:
    """One entry of a file. Raises `DatasetError` where it has become shorter."""
    array = _array(path)
    if index >= len(array):
        raise DatasetError(f"{path}: holds {len(array)} entries now, entry {index} is wanted")
    return cast("npt.NDArray[np.uint8]", array[index])


def _digest(head: str, picture: npt.NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(head.encode() + picture.tobytes(), digest_size=16).digest()


def _array(path: Path) -> npt.NDArray[np.uint8]:
    """All entries of a file: pictures (N, H, W) or labels (N,)."""
    try:
        status = path.stat()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    return _unpacked(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=8)
def _unpacked(path: Path, changed: int, size: int) -> npt.NDArray[np.uint8]:
    """The content of a file, once a process: unpacking all of MNIST takes half a second.

    changed, size: a file that has changed is another to the cache.
    """
    with open_regular(path) as file:
        head = file.read(2)
        file.seek(0)
        try:
            if head != b"\x1f\x8b":
                return _parse(file, path)
            with gzip.GzipFile(fileobj=file) as packed:
                return _parse(cast("BinaryIO", packed), path)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DatasetError(f"{path}: cannot be unpacked ({error}); fetch it again") from error


def _parse(file: BinaryIO, path: Path) -> npt.NDArray[np.uint8]:
    """The array in an opened IDX file; no more is read than its head claims."""
    magic = file.read(4)
    wanted = 3 if _IMAGES.fullmatch(path.name) else 1
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise DatasetError(f"{path}: is no IDX file: it begins with {magic.hex(' ') or 'nothing'}")
    if magic[2] != _UNSIGNED_BYTES or magic[3] != wanted:
        raise DatasetError(
            f"{path}: holds numbers of type 0x{magic[2]:02x} in {magic[3]} dimensions; bytes "
            f"(0x08) in {wanted} are read"
        )
    head = file.read(4 * wanted)
    if len(head) < 4 * wanted:
        raise DatasetError(f"{path}: is cut off (in its head)")
    shape = struct.unpack(f">{wanted}I", head)
    claimed = math.prod(shape)
    if not 0 < claimed <= MAX_BYTES:
        raise DatasetError(f"{path}: claims {claimed} bytes in the shape {shape}")
    data = file.read(claimed + 1)
    if len(data) != claimed:
        fault = "is cut off" if len(data) < claimed else "holds more than it claims"
        raise DatasetError(f"{path}: {fault} (its head claims {claimed} bytes in {shape})")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _check(part: _Part) -> int:
    """How many pictures a part has; raises where its labels do not fit."""
    count, labels = len(_array(part.images)), _array(part.labels)
    if len(labels) != count:
        raise DatasetError(
            f"{part.labels}: holds {len(labels)} labels for the {count} pictures of "
            f"{part.images.name}"
        )
    if labels.max() > _HIGHEST_LABEL:
        raise DatasetError(
            f"{part.labels}: holds the label {labels.max()}; labels from 0 to {_HIGHEST_LABEL} "
            "are possible"
        )
    return count


def _histogram(paths: Iterable[Path]) -> npt.NDArray[np.int64]:
    """How often each of the 256 values occurs."""
    counts = np.zeros(256, dtype=np.int64)
    for path in paths:
        flat = _array(path).reshape(-1)
        for start in range(0, len(flat), 2**20):  # bincount takes eight bytes for each of ours
            counts += np.bincount(flat[start : start + 2**20], minlength=256)
    return counts


def _otsu(counts: npt.NDArray[np.int64], root: Path) -> int:
    """The value up to which pixels are dark: the variance between dark and bright is largest.

    N. Otsu, "A threshold selection method from gray-level histograms", 1979, equation 18.
    Raises `DatasetError` where all pixels have one value.
    """
    if np.count_nonzero(counts) < 2:
        raise DatasetError(f"{root}: all pictures have the value {counts.argmax()} everywhere")
    share = counts / counts.sum()
    dark = np.cumsum(share)
    moment = np.cumsum(share * np.arange(256))
    with np.errstate(divide="ignore", invalid="ignore"):  # nothing dark, or nothing bright
        between = (moment[-1] * dark - moment) ** 2 / (dark * (1 - dark))
    return int(np.argmax(np.where(counts.cumsum() < counts.sum(), np.nan_to_num(between), 0)))


def _classes(root: Path, num_labels: int) -> tuple[ClassList, tuple[str, ...]]:
    """Background and one class a label, by a class file beside the data or by their numbers."""
    listed = read_class_list(root)
    values: tuple[Any, ...] = tuple(range(num_labels + 1))
    names = ("background", *map(str, range(num_labels)))
    if listed is None:
        return ClassList("the labels", names, values), ()
    if len(listed.names) == num_labels and "background" not in listed.names:
        return ClassList(listed.source, ("background", *listed.names), values), ()
    return ClassList("the labels", names, values), (
        f"left out: {listed.source}, {len(listed.names)} names for {num_labels} labels (without a "
        "background)",
    )


FORMAT = Format("MNIST's IDX files: bright pixels take the class of their picture", recognise, read)
