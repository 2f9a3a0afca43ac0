"""What is wrong with files, pairs and classes: one function a question, each giving findings."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from unet_pipeline.classes import IGNORE_INDEX, Classes
from unet_pipeline.datasets.findings import Finding, Severity
from unet_pipeline.datasets.groups import probable_groups
from unet_pipeline.datasets.manifest import SPLITS, Sample, Split
from unet_pipeline.datasets.scan import BadPair, ImageScan, MaskScan, PairScan
from unet_pipeline.datasets.value_table import (
    ClassPixels,
    ValueTable,
    class_totals,
    snapping,
)

RARE_CLASS = 0.001
"""Share of the pixels below which a class is hardly ever learned without class weights."""

OUTLIER_RATIO = 4
"""Sides that many times longer or shorter than the median mostly belong to other data."""


def unreadable(bad: Sequence[BadPair]) -> Iterator[Finding]:
    """Files that cannot be decoded, each with its reason."""
    reasons = [reason for pair in bad for reason in pair.reasons]
    if reasons:
        yield Finding(
            "unreadable-files",
            "error",
            f"{len(reasons)} file{'s' * (len(reasons) != 1)} cannot be read",
            len(reasons),
            tuple(reasons[:5]),
            "replace or remove them, or leave their pairs out with --fix",
        )


def other_sizes(scans: Sequence[PairScan]) -> Iterator[Finding]:
    """Masks of another size than their image: turned by EXIF, transposed, or simply other."""
    wrong = [s for s in scans if _size(s.image) != _size(s.mask)]
    by_exif = [s for s in wrong if turned_by_exif(s)]
    rest = [s for s in wrong if not turned_by_exif(s)]
    turned = [s for s in rest if _size(s.image) == _size(s.mask)[::-1]]
    plain = [s for s in rest if _size(s.image) != _size(s.mask)[::-1]]

    def finding(code: str, some: list[PairScan], what: str, remedy: str) -> Finding:
        return Finding(
            code,
            "error",
            f"{len(some)} of {len(scans)} masks {what}",
            len(some),
            tuple(
                f"{s.pair.sample_id}: image {s.image.width}x{s.image.height}, "
                f"mask {s.mask.width}x{s.mask.height}"
                for s in some[:5]
            ),
            remedy,
        )

    if by_exif:
        yield finding(
            "masks-not-turned",
            by_exif,
            "were drawn over the picture as stored, before its EXIF orientation",
            "--fix writes a copy in which both are upright",
        )
    if turned:
        yield finding(
            "masks-transposed",
            turned,
            "have another size than their image and fit when turned by a quarter",
            "rows and columns were swapped, or the mask was drawn over a turned picture: turn "
            "these masks",
        )
    if plain:
        yield finding(
            "other-sizes",
            plain,
            "have another size than their image",
            "save both in one size; if the image was resized, resize its mask by nearest neighbour",
        )


def turned_by_exif(scan: PairScan) -> bool:
    """Whether the mask fits the image as it is stored, not as its EXIF orientation shows it."""
    image, mask = scan.image, scan.mask
    return (
        image.orientation >= 5
        and mask.orientation < 5
        and _size(image) != _size(mask)
        and _size(image) == _size(mask)[::-1]
    )


def exif_disagrees(scans: Sequence[PairScan]) -> Iterator[Finding]:
    """Images that EXIF turns upside down or mirrors while their masks have no such mark."""
    odd = [
        s
        for s in scans
        if s.image.orientation in (2, 3, 4)
        and s.mask.orientation == 1
        and _size(s.image) == _size(s.mask)
    ]
    square = [
        s
        for s in scans
        if s.image.orientation >= 5
        and s.mask.orientation == 1
        and _size(s.image) == _size(s.mask) == _size(s.mask)[::-1]
    ]
    if some := odd + square:
        yield Finding(
            "exif-orientation",
            "warning",
            f"{len(some)} images are turned by their EXIF orientation and their masks carry none; "
            "by size alone both ways fit",
            len(some),
            tuple(s.pair.sample_id for s in some[:5]),
            "look at their overlays in the report.html of `unet prepare`; if masks are turned, "
            "remove the EXIF orientation of these images",
        )


def mixed_channels(scans: Sequence[PairScan]) -> Iterator[Finding]:
    """Images whose channels do not go together; grey beside RGB does."""
    counts = {s.image.channels for s in scans}
    if counts <= {1, 3} and len(counts) > 1:
        yield _mixed(
            scans,
            "mixed-grey-and-color",
            "note",
            "channels",
            lambda image: f"{image.channels} channel{'s' * (image.channels > 1)}",
            "grey images count as RGB with three equal channels",
        )
    elif len(counts) > 1:
        yield _mixed(
            scans,
            "mixed-channels",
            "error",
            "channels",
            lambda image: f"{image.channels} channels",
            "convert them to one kind",
        )


def mixed_types(scans: Sequence[PairScan]) -> Iterator[Finding]:
    """Images of several pixel types, whose values have no common scale."""
    if len({s.image.dtype for s in scans}) > 1:
        yield _mixed(
            scans,
            "mixed-depths",
            "error",
            "pixel types",
            lambda image: image.dtype,
            "convert them to one type",
        )


def mixed_ranges(scans: Sequence[PairScan]) -> Iterator[Finding]:
    """Floating images of which some run from 0 to 1 and others far beyond."""
    if not scans or scans[0].image.dtype != "float32":
        return
    small = [s for s in scans if s.image.low >= 0 and s.image.high <= 1]
    large = [s for s in scans if s.image.high > 16]
    if small and large:
        fewer = min(small, large, key=len)
        yield Finding(
            "mixed-ranges",
            "warning",
            f"{len(small)} images hold values from 0 to 1, {len(large)} reach "
            f"{max(s.image.high for s in large):g}",
            len(fewer),
            tuple(s.pair.sample_id for s in fewer[:5]),
            "bring them to one scale: a value means the same in every image here",
        )


def flat_images(scans: Sequence[PairScan]) -> Iterator[Finding]:
    """Images in which every pixel has the same value."""
    flat = [s for s in scans if s.image.low == s.image.high]
    if flat:
        yield Finding(
            "flat-images",
            "warning",
            f"{len(flat)} images hold one value only: black, white or never written",
            len(flat),
            tuple(s.pair.sample_id for s in flat[:5]),
            "export them again, or remove them with their masks",
        )


def alpha_with_information(scans: Sequence[PairScan]) -> Iterator[Finding]:
    """Images and masks whose alpha channel is not simply opaque: it is dropped."""
    for what, some in (
        ("images", [s for s in scans if s.image.alpha]),
        ("masks", [s for s in scans if s.mask.alpha]),
    ):
        if some:
            yield Finding(
                f"alpha-in-{what}",
                "warning",
                f"{len(some)} {what} have an alpha channel that is not opaque everywhere; alpha is "
                "dropped, and what is transparent counts like the rest",
                len(some),
                tuple(s.pair.sample_id for s in some[:5]),
                "flatten them where transparency matters"
                if what == "images"
                else "if the classes are in the alpha channel, save it as the mask",
            )


def outlier_sizes(scans: Sequence[PairScan]) -> Iterator[Finding]:
    """Images whose longer side is far from that of the others."""
    if len(scans) < 3:
        return
    sides = [max(_size(s.image)) for s in scans]
    median = statistics.median(sides)
    odd = [
        s
        for s, side in zip(scans, sides, strict=True)
        if not median / OUTLIER_RATIO < side < median * OUTLIER_RATIO
    ]
    if odd:
        yield Finding(
            "outlier-sizes",
            "warning",
            f"{len(odd)} of {len(scans)} images are {OUTLIER_RATIO} times larger or smaller than "
            f"the median side of {median:g} pixels",
            len(odd),
            tuple(f"{s.pair.sample_id}: {s.image.width}x{s.image.height}" for s in odd[:5]),
            "check that they belong here; huge ones can be cut with --tile",
        )


def jpeg_masks(table: ValueTable, classes: Classes) -> Iterator[Finding]:
    """Masks whose values were blurred by JPEG and are snapped to the classes."""
    if not table.lossy:
        return
    pixels, furthest = snapping(table, classes)
    yield Finding(
        "jpeg-masks",
        "warning",
        f"masks are stored as JPEG, which blurs their values: {pixels / table.num_pixels:.2%} of "
        f"the pixels are snapped to the nearest class (the furthest by {furthest:.0f})",
        pixels,
        (),
        "save masks as PNG from the original, or take the snapped ones that --fix writes",
    )


def one_class_masks(
    scans: Sequence[PairScan], pixels: Sequence[ClassPixels], classes: Classes
) -> Iterator[Finding]:
    """Masks that hold a single class, or nothing but void."""
    alone: dict[str, list[str]] = {}
    for scan, counts in zip(scans, pixels, strict=True):
        present = [classes.names[k] for k in counts if k != IGNORE_INDEX]
        if len(present) <= 1:
            alone.setdefault(present[0] if present else "void", []).append(scan.pair.sample_id)
    for name, ids in alone.items():
        background = name == classes.names[0]
        code = "empty-masks" if background else "void-masks" if name == "void" else "full-masks"
        yield Finding(
            code,
            "note" if background and len(ids) < len(scans) / 2 else "warning",
            f"{len(ids)} of {len(scans)} masks hold nothing but {name}",
            len(ids),
            tuple(ids[:5]),
            "check that they were annotated at all"
            if background
            else "check that they are masks and not filled by accident",
        )


def rare_classes(pixels: Sequence[ClassPixels], classes: Classes) -> Iterator[Finding]:
    """Classes with less than `RARE_CLASS` of all pixels."""
    counts = class_totals(pixels, classes)
    total = sum(counts)
    rare = [
        (name, count / total)
        for name, count in zip(classes.names, counts, strict=True)
        if 0 < count < RARE_CLASS * total
    ]
    if rare:
        yield Finding(
            "rare-classes",
            "warning",
            f"{len(rare)} classes have less than {RARE_CLASS:.1%} of the pixels",
            len(rare),
            tuple(f"{name} {share:.4%}" for name, share in rare[:5]),
            'train with --loss "ce(class_weights=sqrt) + dice", or merge them with --values and '
            "--other",
        )


def absent_classes(
    pixels: Sequence[ClassPixels], splits: Sequence[Split], classes: Classes
) -> Iterator[Finding]:
    """Classes without a single pixel in a split."""
    totals = {
        part: class_totals(
            (c for c, own in zip(pixels, splits, strict=True) if own == part), classes
        )
        for part in SPLITS
        if part in splits
    }
    everywhere = [sum(counts) for counts in zip(*totals.values(), strict=True)]
    nowhere = [n for n, count in zip(classes.names, everywhere, strict=True) if not count]
    if nowhere:
        yield Finding(
            "absent-classes",
            "warning",
            f"{len(nowhere)} classes are declared and occur in no mask",
            len(nowhere),
            tuple(nowhere[:5]),
            "take them out of the class list, or check that the masks are complete",
        )
    learnable = sum(count > 0 for count in totals.get("train", everywhere))
    for part, counts in totals.items():
        absent = [
            name
            for name, count, total in zip(classes.names, counts, everywhere, strict=True)
            if total and not count
        ]
        if absent:
            yield Finding(
                f"classes-absent-from-{part}",
                "error" if part == "train" and learnable < 2 else "warning",
                f"{len(absent)} classes have no pixel in {part}"
                + (", so they cannot be learned" if part == "train" else ", so no score there"),
                len(absent),
                tuple(absent[:5]),
                "another --seed, more images of them, or --val and --test larger",
            )


def leaking_groups(
    ids: Sequence[str], *, grouped: bool, given: Sequence[Split | None]
) -> Iterator[Finding]:
    """Names that look like pieces of one thing, which a random split would part."""
    if grouped or {"train", "val"} <= set(given):
        return
    hint = probable_groups([i for i, g in zip(ids, given, strict=True) if g in (None, "train")])
    if hint is not None:
        yield Finding(
            "probable-groups",
            "warning",
            f"the names look like {hint.num_groups} groups of several images each (slices, frames, "
            "fields of one thing), which a random split would part",
            hint.num_groups,
            tuple(hint.examples),
            f"keep them together with --group-regex '{hint.pattern}'",
        )


def dissolved_splits(
    given: Sequence[Split | None], folds: Sequence[int | None]
) -> Iterator[Finding]:
    """A val split that the data came with, now divided into folds together with train."""
    count = sum(g == "val" and f is not None for g, f in zip(given, folds, strict=True))
    if count:
        yield Finding(
            "splits",
            "warning",
            f"--folds divides the {count} val samples that the data came with among the folds",
            count,
            (),
            "leave --folds out to keep that split",
        )


def empty_splits(samples: Sequence[Sample]) -> Iterator[Finding]:
    """Splits without which nothing can be trained."""
    present = {sample.split for sample in samples}
    empty = [split for split in ("train", "val") if split not in present]
    if empty:
        yield Finding(
            "empty-splits",
            "warning",
            f"there are no {' and no '.join(empty)} samples: it cannot be trained on yet",
            len(empty),
            (),
            "add images, or set the column `split` of samples.csv",
        )


def parted_groups(groups: Sequence[str], parts: Sequence[str]) -> Iterator[Finding]:
    """Named groups whose members the splits that the data came with have parted."""
    where: dict[str, set[str]] = {}
    for group, part in zip(groups, parts, strict=True):
        where.setdefault(group, set()).add(part)
    parted = [group for group, places in where.items() if len(places) > 1]
    if parted:
        yield Finding(
            "groups-cross-splits",
            "warning",
            f"{len(parted)} groups have samples in several splits (a leak): scores will be too "
            "good",
            len(parted),
            tuple(parted[:5]),
            "move each group to one split in samples.csv, or give the data without splits",
        )


def _size(scan: ImageScan | MaskScan) -> tuple[int, int]:
    return scan.height, scan.width


def _mixed(
    scans: Sequence[PairScan],
    code: str,
    severity: Severity,
    what: str,
    kind_of: Callable[[ImageScan], str],
    remedy: str,
) -> Finding:
    kinds = Counter(kind_of(s.image) for s in scans)
    rarest = kinds.most_common()[-1][0]
    examples = [s.pair.sample_id for s in scans if kind_of(s.image) == rarest]
    counts = ", ".join(f"{kind} in {count}" for kind, count in kinds.most_common())
    return Finding(
        code,
        severity,
        f"the images differ in their {what}: {counts} images",
        len(examples),
        tuple(f"{name} ({rarest})" for name in examples[:5]),
        remedy,
    )
