"""What training needs to know of the data, from the scans of the training samples."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from unet_pipeline.classes import IGNORE_INDEX, Classes, pack_value
from unet_pipeline.datasets.manifest import (
    DatasetFacts,
    Extent,
    FoldFacts,
    ImageSize,
    ObjectSizes,
    Sample,
    count_splits,
    fingerprint,
)
from unet_pipeline.datasets.scan import Objects, PairScan
from unet_pipeline.datasets.value_table import ClassPixelRows, ClassPixels, class_totals

Histogram = Callable[[PairScan], npt.NDArray[np.int64] | None]
"""The counts (C, 256) of an image between its own lowest and highest value (0..255 for uint8)."""

ValueRange = Literal["auto", "bits", "percentiles"]

PERCENTILES = (0.1, 1.0, 50.0, 99.0, 99.9)

_GRID = 4096

_RANGE_PERCENTILES = (0.1, 99.9)
"""Which percentiles become 0 and 1 where the bit depth says nothing: a hot pixel must not."""


def make_facts(
    name: str,
    scans: Sequence[PairScan],
    samples: Sequence[Sample],
    pixels: Sequence[ClassPixels],
    classes: Classes,
    *,
    histogram: Histogram,
    value_range: ValueRange,
) -> DatasetFacts:
    """The facts of a dataset; scans, samples and the pixels of their classes are in one order.

    value_range: `bits` takes the bit depth, `percentiles` the 0.1st and 99.9th of the training
        pixels; `auto` the bit depth for whole numbers and percentiles for floats.
    """
    in_channels = max(scan.image.channels for scan in scans)

    def of(chosen: Callable[[Sample], bool]) -> _Training:
        places = [i for i, sample in enumerate(samples) if chosen(sample)]
        rows = ClassPixelRows(pixels[i] for i in places)
        return _Training([scans[i] for i in places], rows, in_channels, histogram)

    train = of(lambda sample: sample.split == "train")
    quantiles = _percentiles(train)
    folds = sorted({sample.fold for sample in samples if sample.fold is not None})
    return DatasetFacts(
        name=name,
        classes=classes,
        in_channels=in_channels,
        dtype=scans[0].image.dtype,
        **_fold_facts(train, classes, value_range, quantiles).model_dump(),
        num_samples=count_splits(samples),
        image_size=ImageSize(
            height=_extent([scan.image.height for scan in scans]),
            width=_extent([scan.image.width for scan in scans]),
        ),
        percentiles={f"p{p:g}": quantiles[k] for k, p in enumerate(PERCENTILES)},
        objects=_objects(train.scans, classes),
        folds=tuple(
            _fold_facts(of(functools.partial(_trains_beside, fold)), classes, value_range)
            for fold in folds
        ),
        fingerprint=fingerprint(samples),
    )


def _trains_beside(fold: int, sample: Sample) -> bool:
    return sample.fold not in (None, fold)


@dataclass(frozen=True)
class _Training:
    """The samples that train, in the dataset or beside one fold."""

    scans: Sequence[PairScan]
    pixels: Sequence[ClassPixels]
    in_channels: int
    histogram: Histogram


def _fold_facts(
    train: _Training,
    classes: Classes,
    value_range: ValueRange,
    quantiles: Sequence[tuple[float, ...]] | None = None,
) -> FoldFacts:
    """What depends on which samples train; quantiles: their percentiles, where they are known."""
    if value_range == "auto":
        value_range = "percentiles" if train.scans[0].image.dtype == "float32" else "bits"
    if value_range == "percentiles":
        quantiles = quantiles or _percentiles(train)
        ends = [PERCENTILES.index(p) for p in _RANGE_PERCENTILES]
        low, high = min(quantiles[ends[0]]), max(quantiles[ends[1]])
    else:
        low, high = _bit_range(train.scans)
    high = high if high > low else low + 1
    mean, std = mean_and_std(train.scans, train.in_channels, low, high)
    return FoldFacts(
        value_range=(low, high),
        mean=mean,
        std=std,
        class_pixel_counts=tuple(class_totals(train.pixels, classes)),
        ignored_pixels=sum(counts.get(IGNORE_INDEX, 0) for counts in train.pixels),
    )


def _bit_range(scans: Sequence[PairScan]) -> tuple[float, float]:
    """0 to the largest of 8, 10, 12, 14 or 16 bits that the training images fit into.

    Many cameras put 12 bits into 16. Floats have no bits: their smallest and largest value.
    """
    low, high = min(s.image.low for s in scans), max(s.image.high for s in scans)
    if scans[0].image.dtype == "uint8":
        return 0.0, 255.0
    if scans[0].image.dtype == "uint16":
        return 0.0, next(2.0**bits - 1 for bits in (8, 10, 12, 14, 16) if high < 2**bits)
    return low, high


def mean_and_std(
    train: Sequence[PairScan], in_channels: int, low: float, high: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all training pixels, range scaled to 0..1.

    A grey image among RGB ones counts as three equal channels. A constant channel gets sd 1.
    """
    num_pixels = sum(scan.image.height * scan.image.width for scan in train)
    means, stds = [], []
    for c in range(in_channels):
        own = [min(c, scan.image.channels - 1) for scan in train]
        total = math.fsum(scan.image.sums[k] for scan, k in zip(train, own, strict=True))
        square = math.fsum(scan.image.squares[k] for scan, k in zip(train, own, strict=True))
        mean = total / num_pixels
        std = math.sqrt(max(square / num_pixels - mean**2, 0.0)) / (high - low)
        means.append((mean - low) / (high - low))
        stds.append(std if std > 1e-6 else 1.0)
    return tuple(means), tuple(stds)


def _percentiles(train: _Training) -> list[tuple[float, ...]]:
    """`PERCENTILES` of each channel over the training pixels, in raw pixel values.

    Exact for uint8. Else each image contributes 256 steps between its own ends, so the error is
    that of its steps. They are merged on a grid that is laid closer around the percentiles until
    it no longer shrinks: between the ends of all pixels, one hot pixel would leave it no steps.
    """
    images = [scan.image for scan in train.scans]
    if images[0].dtype == "uint8":
        return _on_grid(train, 0.0, 255.0, 256)
    low, high = min(image.low for image in images), max(image.high for image in images)
    while True:
        found = _on_grid(train, low, high, _GRID)
        margin = (high - low) / (_GRID - 1)
        closer = max(low, min(found[0]) - margin), min(high, max(found[-1]) + margin)
        if closer[1] - closer[0] >= (high - low) / 2:
            return found
        low, high = closer


def _on_grid(train: _Training, low: float, high: float, num_steps: int) -> list[tuple[float, ...]]:
    """The percentiles, to the next of `num_steps` values from `low` to `high`."""
    step = (high - low) / (num_steps - 1) or 1.0
    merged = np.zeros((train.in_channels, num_steps), dtype=np.int64)
    for scan in train.scans:
        counts = train.histogram(scan)
        if counts is None:  # the file is gone since it was read
            continue
        exact = scan.image.dtype == "uint8"
        ends = (0.0, 255.0) if exact else (scan.image.low, scan.image.high)
        places = np.rint((np.linspace(*ends, 256) - low) / step)
        places = np.clip(places, 0, num_steps - 1).astype(np.int64)
        for c in range(train.in_channels):
            np.add.at(merged[c], places, counts[min(c, len(counts) - 1)])
    below = merged.cumsum(axis=1)
    return [
        tuple(float(low + step * np.searchsorted(r, max(r[-1] * p / 100, 1))) for r in below)
        for p in PERCENTILES
    ]


def _objects(train: Iterable[PairScan], classes: Classes) -> dict[str, ObjectSizes]:
    """Number and sizes of the objects of each class but background.

    Connected pixels of one value; where masks number their objects, the pixels of each number.
    """
    found: dict[str, list[Objects]] = {}
    names = {pack_value(v): n for v, n in zip(classes.values[1:], classes.names[1:], strict=True)}
    for scan in train:
        if classes.other is not None and scan.mask.encoding == "grey":
            own = {pack_value(value) for value in (*classes.values, *classes.ignore_values)} - {255}
            areas = sorted(n for value, n in scan.mask.counts.items() if value not in own)
            if areas:
                middle = areas[(len(areas) - 1) // 2]
                sizes = Objects(len(areas), areas[0], middle, areas[-1])
                found.setdefault(classes.names[classes.other], []).append(sizes)
            continue
        for key, sizes in (scan.mask.objects or {}).items():
            if key in names:
                found.setdefault(names[key], []).append(sizes)
    return {
        name: ObjectSizes(
            num_objects=sum(row[0] for row in rows),
            min_area=min(row[1] for row in rows),
            median_area=_weighted_median([(row[2], row[0]) for row in rows]),
            max_area=max(row[3] for row in rows),
        )
        for name, rows in found.items()
    }


def _weighted_median(rows: list[tuple[int, int]]) -> int:
    """The median of the images' medians, each as often as it has objects."""
    rows.sort()
    half = sum(weight for _, weight in rows) / 2
    passed = 0
    for value, weight in rows:
        passed += weight
        if passed >= half:
            return value
    return 0


def _extent(sides: Sequence[int]) -> Extent:
    return Extent(min=min(sides), median=round(statistics.median(sides)), max=max(sides))
