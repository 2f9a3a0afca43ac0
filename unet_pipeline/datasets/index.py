"""A plain folder of images and masks -> a dataset in memory; the folder is never written to."""

from __future__ import annotations

import functools
import math
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

from unet_pipeline.classes import IGNORE_INDEX, Classes, MaskValue
from unet_pipeline.datasets.checks import check_scans, name_five
from unet_pipeline.datasets.class_list import read_class_list
from unet_pipeline.datasets.formats import find_pairs
from unet_pipeline.datasets.images import probe
from unet_pipeline.datasets.manifest import (
    DatasetFacts,
    Extent,
    ImageSize,
    Manifest,
    Sample,
    Split,
    count_splits,
    fingerprint,
)
from unet_pipeline.datasets.mask_values import count_values, find_classes, keyed_counts
from unet_pipeline.datasets.scan import PairScan, Progress, in_threads, pack, scan_pair
from unet_pipeline.datasets.splits import SplitBy, assign_splits, merge_duplicates


def index_folder(
    source: Path,
    *,
    val_fraction: float,
    test_fraction: float,
    split_by: SplitBy,
    seed: int,
    images: str | None = None,
    masks: str | None = None,
    ignore_values: Sequence[MaskValue] = (),
    class_names: Sequence[str] | None = None,
    values: Sequence[MaskValue] | None = None,
    other: int | None = None,
    on_progress: Progress | None = None,
) -> Manifest:
    """The dataset in the folder `source`: recognised, read once, checked, divided.

    images, masks: the folders of either, where they are not recognised.
    ignore_values: mask values that mean void. class_names: in the order of the mask values.
    values: the mask value of each class, where the masks hold others too; other: the class index
    of those others.
    split_by: "random" or "order"; splits that the folder has are kept. Equal pictures share one.
    on_progress: called as on_progress(done, total) after each pair.
    Raises `UserError` for a folder that does not exist or options that do not fit the data, and
    `DatasetError`, with counts and the first five files, for data that cannot be trained on.
    """
    source = Path(os.path.normpath(source.absolute()))
    found = find_pairs(source, images=images, masks=masks)
    keep = [pack(value) for value in (*(values or ()), *ignore_values)]
    scans = []
    for scan in in_threads(functools.partial(scan_pair, keep=keep), found.pairs):
        scans.append(scan)
        if on_progress is not None:
            on_progress(len(scans), len(found.pairs))
    good = check_scans(source, scans)
    classes, notes = find_classes(
        count_values((scan.pair.sample_id, scan.mask) for scan in good),
        source=source,
        listed=read_class_list(source),
        ignore_values=ignore_values,
        class_names=class_names,
        values=values,
        other=other,
    )
    ids = [scan.pair.sample_id for scan in good]
    groups = merge_duplicates(ids, [scan.image.picture for scan in good])
    splits = assign_splits(
        groups,
        given=[scan.pair.split for scan in good],
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        by=split_by,
        seed=seed,
    )
    samples = tuple(map(_sample, good, splits, groups))
    facts = _facts(source, good, samples, classes)
    notes = [found.sentence, *found.left_out, *notes, *_about_duplicates(samples)]
    return Manifest(source, facts, samples, tuple(notes))


def list_samples(
    source: Path, *, images: str | None = None, masks: str | None = None
) -> list[Sample]:
    """The pairs in the folder `source` as they lie, without reading a mask or making facts.

    For scoring a model that knows its classes already. Splits that the folder has are kept, all
    else is test. Raises what `find_pairs` raises, and `DatasetError` for an image without a size.
    """
    source = Path(os.path.normpath(source.absolute()))
    samples = []
    for pair in find_pairs(source, images=images, masks=masks).pairs:
        header = probe(pair.image)
        samples.append(
            Sample(
                sample_id=pair.sample_id,
                image=pair.image,
                mask=pair.mask,
                split=pair.split or "test",
                group=pair.sample_id,
                width=header.width,
                height=header.height,
            )
        )
    return samples


def _sample(scan: PairScan, split: Split, group: str) -> Sample:
    return Sample(
        sample_id=scan.pair.sample_id,
        image=scan.pair.image,
        mask=scan.pair.mask,
        split=split,
        group=group,
        width=scan.image.width,
        height=scan.image.height,
        content=scan.content,
    )


def _about_duplicates(samples: Sequence[Sample]) -> list[str]:
    """A sentence about pictures that occur more than once, and one where they cross splits."""
    members: dict[str, list[Sample]] = {}
    for sample in samples:
        members.setdefault(sample.group, []).append(sample)
    equal = [group for group in members.values() if len(group) > 1]
    crossing = [group for group in equal if len({s.split for s in group}) > 1]
    equal = [group for group in equal if group not in crossing]
    notes = []
    for groups, where in ((equal, "in one split"), (crossing, "in several splits (a leak)")):
        if groups:
            shown = name_five([" = ".join(s.sample_id for s in group[:3]) for group in groups])
            notes.append(f"equal pictures {where}, {len(groups)} times: {shown}")
    return notes


def _facts(
    source: Path, scans: Sequence[PairScan], samples: Sequence[Sample], classes: Classes
) -> DatasetFacts:
    train = [scan for scan, sample in zip(scans, samples, strict=True) if sample.split == "train"]
    in_channels = max(scan.image.channels for scan in scans)
    low, high = _value_range(scans, train)
    mean, std = _mean_and_std(train, in_channels, low, high)
    counts = _class_counts(train, classes)
    heights = [scan.image.height for scan in scans]
    widths = [scan.image.width for scan in scans]
    return DatasetFacts(
        name=source.name,
        classes=classes,
        in_channels=in_channels,
        dtype=scans[0].image.dtype,
        value_range=(low, high),
        mean=mean,
        std=std,
        class_pixel_counts=tuple(counts[k] for k in range(classes.num_classes)),
        ignored_pixels=counts[IGNORE_INDEX],
        num_samples=count_splits(samples),
        image_size=ImageSize(height=_extent(heights), width=_extent(widths)),
        fingerprint=fingerprint(samples),
    )


def _value_range(scans: Sequence[PairScan], train: Sequence[PairScan]) -> tuple[float, float]:
    """The pixel values that become 0 and 1, one pair for the whole dataset.

    Whole numbers: 0 to the largest of 8, 10, 12, 14 or 16 bits that all images fit into, since
    cameras put 12 bits into 16. Floats: the smallest and the largest training value.
    """
    if scans[0].image.dtype == "uint8":
        return 0.0, 255.0
    if scans[0].image.dtype == "uint16":
        top = max(scan.image.high for scan in scans)
        return 0.0, next(2.0**bits - 1 for bits in (8, 10, 12, 14, 16) if top < 2**bits)
    low = min(scan.image.low for scan in train)
    high = max(scan.image.high for scan in train)
    return low, high if high > low else low + 1


def _mean_and_std(
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


def _class_counts(train: Sequence[PairScan], classes: Classes) -> dict[int, int]:
    """Training pixels of each class index, `IGNORE_INDEX` included."""
    index_of = {pack(value): k for k, value in enumerate(classes.values)}
    index_of |= {pack(value): IGNORE_INDEX for value in classes.ignore_values}
    counts = dict.fromkeys([*range(classes.num_classes), IGNORE_INDEX], 0)
    for scan in train:
        listed = 0
        for key, pixels in keyed_counts(scan.mask, classes.encoding).items():
            if key in index_of:
                counts[index_of[key]] += pixels
                listed += pixels
        if classes.other is not None:
            counts[classes.other] += scan.mask.height * scan.mask.width - listed
    return counts


def _extent(sides: Sequence[int]) -> Extent:
    return Extent(min=min(sides), median=round(statistics.median(sides)), max=max(sides))
