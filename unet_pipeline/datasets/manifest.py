"""The manifest: what `prepare` writes and everything else reads.

`dataset.yaml` holds the facts of the data, `samples.csv` one row a sample with paths relative to
the manifest, so that a person can move a sample to another split in a spreadsheet.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, Self

import pydantic
import yaml

from unet_pipeline.classes import Classes
from unet_pipeline.datasets.findings import Finding
from unet_pipeline.datasets.samples_csv import SPLITS, Sample, Split, dump_samples, load_samples
from unet_pipeline.errors import DatasetError, ResourceError, UserError, did_you_mean
from unet_pipeline.files import make_writable_folder, write_atomic

__all__ = [
    "FACTS_FILE",
    "FORMAT_VERSION",
    "SAMPLES_FILE",
    "SPLITS",
    "DatasetFacts",
    "Extent",
    "FoldFacts",
    "ImageSize",
    "Manifest",
    "ObjectSizes",
    "Sample",
    "Split",
    "count_splits",
    "fingerprint",
    "natural_key",
]

FORMAT_VERSION: Final = 1
FACTS_FILE = "dataset.yaml"
SAMPLES_FILE = "samples.csv"


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


class ObjectSizes(pydantic.BaseModel):
    """The objects of one class in the training masks; areas in pixels.

    Connected pixels, or those of one number where masks number their objects. median_area: the
    median of the images' medians, each as often as it has objects.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    num_objects: int
    min_area: int
    median_area: int
    max_area: int


class FoldFacts(pydantic.BaseModel):
    """Those of the `DatasetFacts` that depend on which samples train, when one fold validates."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    value_range: tuple[float, float]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_pixel_counts: tuple[int, ...]
    ignored_pixels: int
    image_spread: float | None = None


class DatasetFacts(pydantic.BaseModel):
    """What training needs to know about the data and nobody may set by hand.

    value_range: the pixel values that become 0 and 1: of the bit depth for whole numbers, the
        0.1st and 99.9th percentiles of the training pixels for float32.
    mean, std: one number a channel over the training pixels, in units of that range.
    class_pixel_counts, ignored_pixels: over the training masks.
    image_spread: the share of the variance of the training pixels that lies between images, the
        mean over the channels: 0 where all have one mean, 1 where each is of one brightness.
    fingerprint: sha256 over sample ids, splits and file contents; independent of the folder.
    percentiles: name, such as p1, -> one number a channel over the training pixels, in the values
        of the files. objects: class name -> its objects in the training masks. For reports.
    folds: entry i holds when fold i validates and all others train.
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
    percentiles: dict[str, tuple[float, ...]] = {}
    objects: dict[str, ObjectSizes] = {}
    image_spread: float | None = None  # of datasets that were prepared before it was known
    folds: tuple[FoldFacts, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """A dataset: its facts and its samples.

    root: the folder of the manifest, or the data folder where it was indexed in memory.
    findings: what was recognised, assumed, left out or looks wrong; not saved.
    """

    root: Path
    facts: DatasetFacts
    samples: tuple[Sample, ...]
    findings: tuple[Finding, ...] = ()

    def split(self, name: Split) -> list[Sample]:
        """The samples of one split, in the order of the manifest."""
        if name not in SPLITS:
            raise UserError(f"unknown split {name!r}{did_you_mean(name, SPLITS)}")
        return [sample for sample in self.samples if sample.split == name]

    def fold(self, number: int) -> Self:
        """The dataset in which fold `number` validates and all other folds train.

        Test samples stay what they are, samples without a fold train. The facts are those that
        `prepare` took of the other folds, whatever was edited since; percentiles and objects are
        not known for a fold. Folds of the result can be taken again.
        Raises `UserError` where there is no such fold.
        """
        count = len(self.facts.folds)
        if not count:
            raise UserError(
                f"{self.root} has no folds: make them with `unet prepare SOURCE --folds 5` and "
                "another --output"
            )
        if not 0 <= number < count:
            raise UserError(f"fold {number}: {self.root} has the folds 0 to {count - 1}")

        def role(sample: Sample) -> Split:
            if sample.split == "test":
                return "test"
            return "val" if sample.fold == number else "train"

        samples = tuple(replace(sample, split=role(sample)) for sample in self.samples)
        changes = self.facts.folds[number].model_dump()
        changes |= {"percentiles": {}, "objects": {}, **_of_rows(samples)}
        return replace(self, facts=self.facts.model_copy(update=changes), samples=samples)

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Whether `folder` holds a manifest, rather than plain images and masks."""
        try:
            return (folder / FACTS_FILE).is_file() and (folder / SAMPLES_FILE).is_file()
        except PermissionError as error:
            raise ResourceError(
                f"{folder}: permission denied: it cannot be looked into; give yourself the right "
                "to read it"
            ) from error

    def save(self, folder: Path) -> None:
        """Write dataset.yaml and samples.csv into `folder`, each whole or not at all."""
        make_writable_folder(folder)
        facts = yaml.safe_dump(
            self.facts.model_dump(mode="json"), sort_keys=False, allow_unicode=True
        )
        write_atomic(folder / SAMPLES_FILE, dump_samples(self.samples, folder))
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
        facts = load_facts(folder / FACTS_FILE)
        samples, gone = load_samples(folder / SAMPLES_FILE)
        if gone:
            shown = ", ".join(str(file) for file in gone[:5])
            number = sum(1 + (sample.mask is not None) for sample in samples)
            raise DatasetError(
                f"{folder}: {len(gone)} of {number} files of the dataset are not there any more "
                f"(the first: {shown}); put them back where they were, or prepare again"
            )
        highest = max((s.fold for s in samples if s.fold is not None), default=-1)
        if highest >= len(facts.folds):
            raise DatasetError(
                f"{folder / SAMPLES_FILE}: has a fold {highest}, but {FACTS_FILE} knows "
                f"{len(facts.folds)} folds, counted from 0; correct the column, or prepare again"
            )
        return cls(folder, facts.model_copy(update=_of_rows(samples)), tuple(samples))


def _of_rows(samples: Sequence[Sample]) -> dict[str, Any]:
    """The facts that follow from the rows of samples.csv, whoever wrote them."""
    return {"num_samples": count_splits(samples), "fingerprint": fingerprint(samples)}


def count_splits(samples: Iterable[Sample]) -> dict[Split, int]:
    """The number of samples in each split, empty ones included."""
    counts = Counter(sample.split for sample in samples)
    return {name: counts[name] for name in SPLITS}


def fingerprint(samples: Sequence[Sample]) -> str:
    """Sha256 over ids, splits and contents, whatever the order of the rows and the folder."""
    digest = hashlib.sha256()
    ids = [s.sample_id for s in samples]
    for place in sorted(range(len(ids)), key=ids.__getitem__):
        s = samples[place]  # one at a time: they may be made when they are asked for
        # with their lengths, so that no two lists are alike
        row = (
            f"{len(s.sample_id)}:{s.sample_id}{len(s.split)}:{s.split}{len(s.content)}:{s.content}"
        )
        digest.update(row.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def natural_key(text: str) -> tuple[list[tuple[int, int, str]], str]:
    """A sort key as people count: image2 comes before image10, whatever the case.

    >>> sorted(["img10.png", "IMG2.png", "img1.png"], key=natural_key)
    ['img1.png', 'IMG2.png', 'img10.png']
    """
    parts = re.split(r"([0-9]+)", text)
    key = [(0, int(p), "") if p.isdigit() and p.isascii() else (1, 0, p.casefold()) for p in parts]
    return key, text  # names that differ in case alone still have an order


def load_facts(path: Path) -> DatasetFacts:
    """The facts in a dataset.yaml. Raises `DatasetError` for a file that is damaged or newer."""
    again = f"remove {path.parent} and prepare again"
    try:
        content = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = " ".join(str(error).split())
        raise DatasetError(f"{path}: is no valid YAML ({where}); {again}") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: holds no dataset facts; {again}")
    version = content.get("format_version", FORMAT_VERSION)
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise DatasetError(
            f"{path}: has the format version {version}, this program reads up to "
            f"{FORMAT_VERSION}: upgrade unet-pipeline, or {again}"
        )
    try:
        return DatasetFacts.model_validate(content)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise DatasetError(f"{path}: {place}: {problem['msg']}; {again}") from error
