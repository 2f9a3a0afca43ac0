"""What training needs to know of the data, from the scans of the training samples."""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from unet_pipeline.classes import IGNORE_INDEX, Classes, pack_value
from unet_pipeline.datasets.manifest import (
    SPLITS,
    DatasetFacts,
    Extent,
    FoldFacts,
    ImageSize,
    ObjectSizes,
    Split,
)
from unet_pipeline.datasets.rows import chosen
from unet_pipeline.datasets.scan import Objects, PairScan
from unet_pipeline.datasets.value_table import ClassPixels, class_totals

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
    pixels: Sequence[ClassPixels],
    classes: Classes,
    *,
    splits: Sequence[Split],
    folds: Sequence[int | None],
    fingerprint: str,
    histogram: Histogram,
    value_range: ValueRange,
) -> DatasetFacts:
    """The facts of a dataset; scans, the pixels of their classes, splits and folds in one order.

    value_range: `bits` takes the bit depth, `percentiles` the 0.1st and 99.9th of the training
        pixels; `auto` the bit depth for whole numbers and percentiles for floats.
    """
    heights, widths, in_channels = array("Q"), array("Q"), 0
    for image in (scan.image for scan in scans):
        heights.append(image.height)
        widths.append(image.width)
        in_channels = max(in_channels, image.channels)

    def of(trains: Iterable[bool]) -> _Training:
        places = array("Q", itertools.compress(range(len(scans)), trains))
        return _Training(chosen(scans, places), chosen(pixels, places), in_channels, histogram)

    train = of(split == "train" for split in splits)
    quantiles = _percentiles(train)
    return DatasetFacts(
        name=name,
        classes=classes,
        in_channels=in_channels,
        dtype=scans[0].image.dtype,
        **_fold_facts(train, classes, value_range, quantiles).model_dump(),
        num_samples={name: splits.count(name) for name in SPLITS},
        image_size=ImageSize(height=_extent(heights), width=_extent(widths)),
        percentiles={f"p{p:g}": quantiles[k] for k, p in enumerate(PERCENTILES)},
        objects=_objects(train.scans, classes),
        folds=tuple(
            _fold_facts(of(own not in (None, fold) for own in folds), classes, value_range)
            for fold in sorted({fold for fold in folds if fold is not None})
        ),
        fingerprint=fingerprint,
    )


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
    channels = _sums(train.scans, train.in_channels)
    mean, std = _mean_and_std(channels, low, high)
    return FoldFacts(
        value_range=(low, high),
        mean=mean,
        std=std,
        class_pixel_counts=tuple(class_totals(train.pixels, classes)),
        ignored_pixels=sum(counts.get(IGNORE_INDEX, 0) for counts in train.pixels),
        image_spread=_image_spread(channels),
    )


def _bit_range(scans: Sequence[PairScan]) -> tuple[float, float]:
    """0 to the largest of 8, 10, 12, 14 or 16 bits that the training images fit into.

    Many cameras put 12 bits into 16. Floats have no bits: their smallest and largest value.
    """
    if scans[0].image.dtype == "uint8":
        return 0.0, 255.0
    low, high = _ends(scans)
    if scans[0].image.dtype == "uint16":
        return 0.0, next(2.0**bits - 1 for bits in (8, 10, 12, 14, 16) if high < 2**bits)
    return low, high


def _ends(scans: Iterable[PairScan]) -> tuple[float, float]:
    """The lowest and the highest value of all images."""
    low, high = math.inf, -math.inf
    for image in (scan.image for scan in scans):
        low, high = min(low, image.low), max(high, image.high)
    return low, high


@dataclass(frozen=True)
class _Sums:
    """Of one channel, a number an image: its pixels, their sum and the sum of their squares.

    As doubles in arrays, so that 100,000 images take 2.4 MB, and sums over them are exact.
    """

    pixels: array[float]
    values: array[float]
    squares: array[float]


def _sums(train: Sequence[PairScan], in_channels: int) -> list[_Sums]:
    """The sums of each channel; a grey image among RGB ones counts as three equal channels."""
    pixels = array("d")
    channels = [_Sums(pixels, array("d"), array("d")) for _ in range(in_channels)]
    for image in (scan.image for scan in train):
        pixels.append(image.height * image.width)
        values, squares, last = image.sums, image.squares, image.channels - 1
        for c, channel in enumerate(channels):
            channel.values.append(values[min(c, last)])
            channel.squares.append(squares[min(c, last)])
    return channels


def _mean_and_std(
    channels: Sequence[_Sums], low: float, high: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all training pixels, range scaled to 0..1.

    A constant channel gets sd 1.
    """
    means, stds = [], []
    for channel in channels:
        num_pixels = math.fsum(channel.pixels)
        mean = math.fsum(channel.values) / num_pixels
        variance = math.fsum(channel.squares) / num_pixels - mean**2
        std = math.sqrt(max(variance, 0.0)) / (high - low)
        means.append((mean - low) / (high - low))
        stds.append(std if std > 1e-6 else 1.0)
    return tuple(means), tuple(stds)


def _image_spread(channels: Sequence[_Sums]) -> float:
    """The share of the variance of all training pixels that lies between the means of images.

    The mean over the channels that vary; 0 where none does.
    """
    shares = []
    for channel in channels:
        mean_square = math.fsum(channel.values) ** 2 / math.fsum(channel.pixels)
        variance = math.fsum(channel.squares) - mean_square
        if variance > 1e-12 * math.fsum(channel.squares):  # less is rounding
            of_images = zip(channel.values, channel.pixels, strict=True)
            between = math.fsum(value**2 / pixels for value, pixels in of_images) - mean_square
            shares.append(min(max(between / variance, 0.0), 1.0))
    return math.fsum(shares) / len(shares) if shares else 0.0


def _percentiles(train: _Training) -> list[tuple[float, ...]]:
    """`PERCENTILES` of each channel over the training pixels, in raw pixel values.

    Exact for uint8. Else each image contributes 256 steps between its own ends, so the error is
    that of its steps. They are merged on a grid that is laid closer around the percentiles until
    it no longer shrinks: between the ends of all pixels, one hot pixel would leave it no steps.
    """
    if train.scans[0].image.dtype == "uint8":
        return _on_grid(train, 0.0, 255.0, 256)
    low, high = _ends(train.scans)
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

    @functools.lru_cache(maxsize=1)  # of whole numbers, all images have the same
    def places_of(start: float, end: float) -> npt.NDArray[np.int64]:
        places = np.rint((np.linspace(start, end, 256) - low) / step)
        return np.clip(places, 0, num_steps - 1).astype(np.int64)

    for scan in train.scans:
        counts = train.histogram(scan)
        if counts is None:  # the file is gone since it was read
            continue
        exact = scan.image.dtype == "uint8"
        places = places_of(*((0.0, 255.0) if exact else (scan.image.low, scan.image.high)))
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
    found: dict[str, _Sizes] = {}
    names = {pack_value(v): n for v, n in zip(classes.values[1:], classes.names[1:], strict=True)}
    for scan in train:
        if classes.other is not None and scan.mask.encoding == "grey":
            own = {pack_value(value) for value in (*classes.values, *classes.ignore_values)} - {255}
            areas = sorted(n for value, n in scan.mask.counts.items() if value not in own)
            if areas:
                middle = areas[(len(areas) - 1) // 2]
                sizes = Objects(len(areas), areas[0], middle, areas[-1])
                found.setdefault(classes.names[classes.other], _Sizes()).add(sizes)
            continue
        for key, sizes in (scan.mask.objects or {}).items():
            if key in names:
                found.setdefault(names[key], _Sizes()).add(sizes)
    return {name: found[name].result() for name in classes.names if name in found}


class _Sizes:
    """The objects of one class, added up image by image."""

    def __init__(self) -> None:
        self._areas: list[int] = []  # the smallest and the largest so far
        self._medians = Counter[int]()  # of images, each with the number of their objects

    def add(self, objects: Objects) -> None:
        ends = [*self._areas, objects.smallest, objects.largest]
        self._areas = [min(ends), max(ends)]
        self._medians[objects.median] += objects.number

    def result(self) -> ObjectSizes:
        smallest, largest = self._areas
        return ObjectSizes(
            num_objects=self._medians.total(),
            min_area=smallest,
            median_area=_weighted_median(self._medians),
            max_area=largest,
        )


def _weighted_median(weights: Mapping[int, int]) -> int:
    """The median of the images' medians, each as often as it has objects."""
    half = sum(weights.values()) / 2
    passed = 0
    for value in sorted(weights):
        passed += weights[value]
        if passed >= half:
            return value
    return 0


def _extent(sides: Sequence[int]) -> Extent:
    return Extent(min=min(sides), median=round(statistics.median(sides)), max=max(sides))
