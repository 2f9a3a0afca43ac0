"""The manifest: what `prepare` writes and everything else reads.

`dataset.yaml` holds the facts of the data, `samples.csv` one row a sample with paths relative to
the manifest, so that a person can move a sample to another split in a spreadsheet.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self, get_args

import pydantic
import yaml

from unet_pipeline.classes import Classes
from unet_pipeline.errors import DatasetError, UserError, did_you_mean
from unet_pipeline.files import make_writable_folder, write_atomic

FORMAT_VERSION: Final = 1
FACTS_FILE = "dataset.yaml"
SAMPLES_FILE = "samples.csv"

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with its mask.

    sample_id: unique in the dataset; the path inside the data folder, without roles and extension.
    image, mask: absolute paths; mask is None where there is none.
    group: samples of one group are never parted by a split.
    width, height: in pixels, upright.
    content: a digest of the bytes of both files, from which the fingerprint is made.
    """

    sample_id: str
    image: Path
    mask: Path | None
    split: Split
    group: str
    width: int
    height: int
    content: str = ""


class Extent(pydantic.BaseModel):
    """The spread of one side of the images, in pixels."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    min: int
    median: int
    max: int


class ImageSize(pydantic.BaseModel):
    """How tall and how wide the images are."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    height: Extent
    width: Extent


class DatasetFacts(pydantic.BaseModel):
    """What training needs to know about the data and nobody may set by hand.

    value_range: the pixel values that become 0 and 1: of the bit depth for whole numbers, the
        smallest and largest of the training images for float32.
    mean, std: one number a channel over the training pixels, in units of that range.
    class_pixel_counts, ignored_pixels: over the training masks.
    fingerprint: sha256 over sample ids, splits and file contents; independent of the folder.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = FORMAT_VERSION
    name: str
    classes: Classes
    in_channels: int = pydantic.Field(ge=1)
    dtype: Literal["uint8", "uint16", "float32"]
    value_range: tuple[float, float]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_pixel_counts: tuple[int, ...]
    ignored_pixels: int
    num_samples: dict[Split, int]
    image_size: ImageSize
    fingerprint: str


@dataclass(frozen=True)
class Manifest:
    """A dataset: its facts and its samples.

    root: the folder of the manifest, or the data folder where it was indexed in memory.
    notes: what was recognised, assumed or left out, one sentence each, for the user; not saved.
    """

    root: Path
    facts: DatasetFacts
    samples: tuple[Sample, ...]
    notes: tuple[str, ...] = ()

    def split(self, name: Split) -> list[Sample]:
        """The samples of one split, in the order of the manifest."""
        if name not in SPLITS:
            raise UserError(f"unknown split {name!r}{did_you_mean(name, SPLITS)}")
        return [sample for sample in self.samples if sample.split == name]

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Whether `folder` holds a manifest, rather than plain images and masks."""
        return (folder / FACTS_FILE).is_file() and (folder / SAMPLES_FILE).is_file()

    def save(self, folder: Path) -> None:
        """Write dataset.yaml and samples.csv into `folder`, each whole or not at all."""
        make_writable_folder(folder)
        base = folder.resolve()
        parents: dict[Path, str] = {}  # of each folder of files, as seen from the manifest
        for path in (p for s in self.samples for p in (s.image, s.mask) if p is not None):
            if path.parent not in parents:
                # links among the folders are resolved; a link at the file itself is not
                parents[path.parent] = Path(os.path.relpath(path.parent.resolve(), base)).as_posix()

        def relative(path: Path | None) -> str:
            if path is None:
                return ""
            parent = parents[path.parent]
            return path.name if parent == "." else f"{parent}/{path.name}"

        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for s in self.samples:
            files = (relative(s.image), relative(s.mask))
            writer.writerow([s.sample_id, *files, s.split, s.group, s.width, s.height, s.content])
        facts = yaml.safe_dump(
            self.facts.model_dump(mode="json"), sort_keys=False, allow_unicode=True
        )
        # File names need not be UTF-8; what they hold instead goes in and out unchanged
        samples = table.getvalue().encode("utf-8", "surrogateescape")
        write_atomic(folder / SAMPLES_FILE, samples)
        write_atomic(folder / FACTS_FILE, facts)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The dataset that `save` wrote into `folder`, with later edits of samples.csv.

        The counts a split and the fingerprint follow the rows. Raises `UserError` where there is
        no manifest, `DatasetError` for one that is damaged or newer, or whose files are gone.
        """
        folder = folder.absolute()
        if not cls.is_in(folder):
            raise UserError(
                f"{folder} is no prepared dataset (it has no {FACTS_FILE} and {SAMPLES_FILE}); "
                "make one with `unet prepare`"
            )
        facts = _load_facts(folder / FACTS_FILE)
        samples = tuple(_load_samples(folder / SAMPLES_FILE))
        _check_files_exist(folder, samples)
        facts = facts.model_copy(
            update={
                "num_samples": count_splits(samples),
                "fingerprint": fingerprint(samples),
            }
        )
        return cls(folder, facts, samples)


def count_splits(samples: Iterable[Sample]) -> dict[Split, int]:
    """The number of samples in each split, empty ones included."""
    counts = Counter(sample.split for sample in samples)
    return {name: counts[name] for name in SPLITS}


def fingerprint(samples: Iterable[Sample]) -> str:
    """Sha256 over ids, splits and contents, whatever the order of the rows and the folder."""
    rows = sorted((s.sample_id, s.split, s.content) for s in samples)
    text = "".join(f"{len(part)}:{part}" for row in rows for part in row)  # no two lists alike
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def natural_key(text: str) -> tuple[list[tuple[int, int, str]], str]:
    """A sort key as people count: image2 comes before image10, whatever the case.

    >>> sorted(["img10.png", "IMG2.png", "img1.png"], key=natural_key)
    ['img1.png', 'IMG2.png', 'img10.png']
    """
    parts = re.split(r"([0-9]+)", text)
    key = [(0, int(p), "") if p.isdigit() and p.isascii() else (1, 0, p.casefold()) for p in parts]
    return key, text  # names that differ in case alone still have an order


_COLUMNS = ("sample_id", "image", "mask", "split", "group", "width", "height", "content")


def _load_facts(path: Path) -> DatasetFacts:
    try:
        content = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = " ".join(str(error).split())
        raise DatasetError(f"{path}: is no valid YAML ({where}); prepare again") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: holds no dataset facts; prepare again")
    version = content.get("format_version", FORMAT_VERSION)
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise DatasetError(
            f"{path}: has the format version {version}, this program reads up to "
            f"{FORMAT_VERSION}: upgrade unet-pipeline or prepare again"
        )
    try:
        return DatasetFacts.model_validate(content)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise DatasetError(f"{path}: {place}: {problem['msg']}; prepare again") from error


def _load_samples(path: Path) -> list[Sample]:
    # utf-8-sig: spreadsheets put a mark in front; and some write semicolons or tabs
    text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    header = next(rows, [])
    missing = [name for name in _COLUMNS[:-1] if name not in header]
    if missing:
        raise DatasetError(f"{path}: has no column {', '.join(missing)}; prepare again")
    places = [header.index(name) if name in header else None for name in _COLUMNS]
    base = path.parent.resolve()

    @functools.cache
    def folder(relative: str) -> Path:
        return Path(os.path.normpath(base / relative))

    samples = []
    for number, row in enumerate(rows, start=2):
        if any(row):
            cells = ["" if at is None or at >= len(row) else row[at] for at in places]
            samples.append(_sample(cells, folder, f"{path}, row {number}"))
    if not samples:
        raise DatasetError(f"{path}: has no rows; prepare again")
    counts = Counter(s.sample_id for s in samples)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise DatasetError(f"{path}: {len(twice)} sample ids occur twice ({', '.join(twice[:5])})")
    return samples


def _sample(cells: list[str], folder: Callable[[str], Path], source: str) -> Sample:
    sample_id, image, mask, split, group, width, height, content = cells
    if not sample_id or not image:
        raise DatasetError(f"{source}: sample_id or image is empty; remove the row or fill it")
    if split not in SPLITS:
        raise DatasetError(f"{source}: unknown split {split!r}{did_you_mean(split, SPLITS)}")
    if not (width.isdecimal() and height.isdecimal()):
        raise DatasetError(f"{source}: width {width!r} and height {height!r} must be whole numbers")
    return Sample(
        sample_id=sample_id,
        image=_absolute(folder, image),
        mask=_absolute(folder, mask) if mask else None,
        split=split,
        group=group or sample_id,
        width=int(width),
        height=int(height),
        content=content,
    )


def _absolute(folder: Callable[[str], Path], relative: str) -> Path:
    parent, name = os.path.split(relative)
    return folder(parent) / name


def _check_files_exist(folder: Path, samples: Iterable[Sample]) -> None:
    """Refuse a manifest whose files are gone; one listing a folder, not one question a file."""
    files = [f for s in samples for f in (s.image, s.mask) if f is not None]
    present: dict[Path, set[str]] = {}
    for parent in {file.parent for file in files}:
        try:
            present[parent] = {path.name for path in parent.iterdir()}
        except OSError:
            present[parent] = set()
    gone = [file for file in files if file.name not in present[file.parent]]
    if gone:
        shown = ", ".join(str(file) for file in gone[:5])
        raise DatasetError(
            f"{folder}: {len(gone)} of {len(files)} files of the dataset are not there any more "
            f"(the first: {shown}); put them back where they were, or prepare again"
        )
