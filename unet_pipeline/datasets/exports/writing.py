"""What all exports share: names for files, class indices, images, indexed masks, class lists."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from unet_pipeline.classes import IGNORE_INDEX, Classes
from unet_pipeline.datasets.encoders import encode_lossless, encode_png
from unet_pipeline.datasets.file_kind import file_kind
from unet_pipeline.datasets.formats.contract import Tree
from unet_pipeline.datasets.formats.layout import image_folders, num_common, split_of
from unet_pipeline.datasets.images import Color, decode_image, read_bytes, read_mask
from unet_pipeline.datasets.manifest import Manifest, Sample
from unet_pipeline.datasets.scan import Progress
from unet_pipeline.datasets.threads import in_threads
from unet_pipeline.errors import DatasetError
from unet_pipeline.files import write_atomic

logger = logging.getLogger(__name__)

Indices = npt.NDArray[np.uint8]
Result = TypeVar("Result")

WHITE: Color = (255, 255, 255)

_UNSAFE = re.compile(r'[\\:*?"<>|\x00-\x1f]')  # what some file system refuses in a name


def each_sample(
    write: Callable[[Sample], Result], manifest: Manifest, on_progress: Progress | None
) -> Iterator[tuple[Sample, Result]]:
    """What `write` makes of each sample, in their order; it is called by several threads."""
    total = len(manifest.samples)
    results = in_threads(write, manifest.samples)
    for done, (sample, result) in enumerate(zip(manifest.samples, results, strict=True), start=1):
        if on_progress is not None:
            on_progress(done, total)
        yield sample, result


# ---- names --------------------------------------------------------------------------------------


def file_names(samples: Iterable[Sample], *, subfolders: bool = True) -> dict[str, str]:
    """Sample id -> the name of its files without their suffix; no two differ in case alone.

    subfolders: the folders of an id become folders, without those that all ids share, which
        readers drop. Where the name of one means something to readers (val, masks), and without
        subfolders, they are joined by underscores.
    """
    ids = [sample.sample_id for sample in samples]
    parts = [_parts(sample_id) for sample_id in ids]
    common = num_common(own[:-1] for own in parts)
    names: dict[str, str] = {}
    taken: set[str] = set()
    plain: dict[str, bool] = {}
    for sample_id, own in zip(ids, parts, strict=True):
        own = own[common:]
        for folder in own[:-1]:
            plain.setdefault(folder, _means_nothing(folder))
        keep = subfolders and all(plain[folder] for folder in own[:-1])
        name = unique = ("/" if keep else "_").join(own)
        number = 1
        while _folded(unique) in taken:
            number += 1
            unique = f"{name}_{number}"
        taken.add(_folded(unique))
        names[sample_id] = unique
    return names


def _parts(sample_id: str) -> list[str]:
    """The parts of an id as names of files that no listing passes over."""
    parts = [_UNSAFE.sub("_", part) for part in sample_id.replace("\\", "/").split("/")]
    parts = [part for part in parts if part not in ("", ".", "..")]
    if not parts:
        raise DatasetError(f"sample id {sample_id!r} is no name for a file; rename the image")
    return [f"x{part}" if part.startswith((".", "__")) else part for part in parts]


def _means_nothing(folder: str) -> bool:
    """Whether readers see no role and no split in the name of a folder."""
    seen = image_folders(Tree(Path(), {folder: ()}))[0]
    return seen.role is None and seen.split is None and split_of(folder) is None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


# ---- images -------------------------------------------------------------------------------------


def write_image(sample: Sample, base: Path, *, kept: Collection[str]) -> Path:
    """Write the image of `sample` to `base` and a suffix; the path of the new file.

    kept: suffixes of files that are copied byte for byte; others, and those that an EXIF or TIFF
    orientation turns, are written anew: masks are upright, and not every reader turns images.
    """
    data, suffix = read_bytes(sample.image), sample.image.suffix.lower()
    if suffix not in kept or file_kind(data).orientation != 1:
        suffix, data = encode_lossless(decode_image(data, source=str(sample.image)))
    return write_file(base, suffix, data)


def write_file(base: Path, suffix: str, data: bytes | str) -> Path:
    """Write a file whose name is `base` and `suffix`, with the folders that it needs."""
    path = base.with_name(base.name + suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data, durable=False)
    return path


# ---- masks --------------------------------------------------------------------------------------


def read_indices(sample: Sample, classes: Classes) -> Indices:
    """The class indices (H, W) of the mask of `sample`, 255 void.

    Raises `DatasetError` where it cannot be read or is of another size than its image.
    """
    assert sample.mask is not None
    mask = read_mask(sample.mask, encoding=classes.encoding)
    indices = classes.to_indices(mask, source=str(sample.mask))
    check_size(indices, sample)
    return indices


def check_size(indices: Indices, sample: Sample) -> None:
    """Raise `DatasetError` for a mask of another size than its image."""
    height, width = indices.shape
    if (height, width) != (sample.height, sample.width):
        raise DatasetError(
            f"{sample.mask}: is {width}x{height} pixels, its image {sample.width}x{sample.height}; "
            "prepare again"
        )


def indexed_png(indices: Indices, classes: Classes) -> bytes:
    """An 8-bit palette PNG of class indices in the colours of their classes; 255, void, is white.

    The palette has all of its 256 colours: with fewer, 255 would be cut down to 4 bits or less.
    """
    unused = [(0, 0, 0)] * (IGNORE_INDEX - classes.num_classes)
    return encode_png(indices, [*classes.colors, *unused, WHITE])


def class_lines(classes: Classes) -> str:
    """A classes.txt of the indices that masks hold: `index name`, and `255 void` where it is."""
    lines = [f"{index} {' '.join(name.split())}" for index, name in enumerate(classes.names)]
    if classes.ignore_values:
        lines.append(f"{IGNORE_INDEX} void")
    return "".join(f"{line}\n" for line in lines)


class Numbering(NamedTuple):
    """Classes as formats want them where the background has no name.

    names: of the classes 1, 2, ... table: class index -> number, 0 for the background, 255 void.
    """

    names: Sequence[str]
    table: Indices

    @classmethod
    def of(cls, classes: Classes, *, kind: str, lacking: str = "name") -> Numbering:
        """Class 0 is the background, unless another one is called so; the log tells the former.

        kind, lacking: for the log: the format, and what it does not give to a background.
        """
        called = [name.strip("_ ").casefold() for name in classes.names]
        ground = called.index("background") if "background" in called else 0
        if called[ground] != "background":
            logger.warning(
                "class 0, %r, becomes the background, to which %s gives no %s of its own",
                classes.names[0],
                kind,
                lacking,
            )
        others = [index for index in range(classes.num_classes) if index != ground]
        table = np.zeros(256, dtype=np.uint8)
        table[others] = np.arange(1, len(others) + 1)
        table[IGNORE_INDEX] = IGNORE_INDEX
        return cls([classes.names[index] for index in others], table)


def splits_of(manifest: Manifest) -> list[str]:
    """The splits that have samples."""
    return [name for name, count in manifest.facts.num_samples.items() if count]


def relative(path: Path, folder: Path) -> str:
    """The path of a file below `folder`, with slashes."""
    return PurePosixPath(path.relative_to(folder)).as_posix()
