"""What is wrong with files and pairs: one function a question, each giving findings."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from unet_pipeline.datasets.findings import Finding, Severity, agree, counted
from unet_pipeline.datasets.scan import BadPair, ImageScan, MaskScan, PairScan
from unet_pipeline.datasets.shapes import Drawing

OUTLIER_RATIO = 4
"""Sides that many times longer or shorter than the median mostly belong to other data."""


def unreadable(bad: Sequence[BadPair]) -> Iterator[Finding]:
    """Files that cannot be decoded, each with its reason."""
    reasons = [reason for pair in bad for reason in pair.reasons]
    if reasons:
        yield Finding(
            "unreadable-files",
            "error",
            f"{counted(len(reasons), 'file')} cannot be read",
            len(reasons),
            tuple(reasons[:5]),
            "replace or remove them, or leave their pairs out with --fix",
        )


def other_sizes(scans: Sequence[PairScan]) -> Iterator[Finding]:
    """Masks of another size than their image: turned by EXIF, transposed, or simply other."""
    wrong = [s for s in scans if _size(s.image) != _size(s.mask)]
    by_exif = [s for s in wrong if turned_by_exif(s)]
    rest = [s for s in wrong if not turned_by_exif(s)]
    drawn = [s for s in rest if isinstance(s.pair.mask_file, Drawing)]
    rest = [s for s in rest if not isinstance(s.pair.mask_file, Drawing)]
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

    if drawn:
        yield _other_than_told(drawn, len(scans))
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


def _other_than_told(drawn: Sequence[PairScan], total: int) -> Finding:
    """The error about images whose annotations give them another size."""
    examples = tuple(
        f"{s.pair.sample_id}: image {s.image.width}x{s.image.height}, {s.mask.width}x"
        f"{s.mask.height} by {Path(s.pair.mask.source).name}"
        for s in drawn[:5]
        if isinstance(s.pair.mask, Drawing)
    )
    return Finding(
        "other-sizes",
        "error",
        f"{len(drawn)} of {counted(total, 'image')} {agree(len(drawn), 'have')} another size than "
        "the annotations give",
        len(drawn),
        examples,
        "correct width and height in the annotations where their outlines fit the image; else put "
        "the image there that was annotated",
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
    turned = [s for s in scans if s.image.orientation > 1 and s.mask.orientation == 1]
    alike = [s for s in turned if _size(s.image) == _size(s.mask)]
    odd = [s for s in alike if s.image.orientation < 5]
    square = [s for s in alike if s.image.orientation >= 5 and s.mask.height == s.mask.width]
    if some := odd + square:
        yield Finding(
            "exif-orientation",
            "warning",
            f"{counted(len(some), 'image')} {agree(len(some), 'are')} turned by EXIF orientation "
            "and their masks carry none; by size alone both ways fit",
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
            lambda image: counted(image.channels, "channel"),
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
    """Images in which every pixel has the same value or colour."""
    flat = [s for s in scans if s.image.is_flat]
    if flat:
        yield Finding(
            "flat-images",
            "warning",
            f"{counted(len(flat), 'image')} {agree(len(flat), 'hold')} one value or colour only: "
            "black, white or never written",
            len(flat),
            tuple(s.pair.sample_id for s in flat[:5]),
            "export them again, or remove them with their masks",
        )


def alpha_with_information(scans: Sequence[PairScan]) -> Iterator[Finding]:
    """Images and masks whose alpha channel is not simply opaque: it is dropped."""
    either = [s for s in scans if s.image.alpha or s.mask.alpha]
    for what, some in (
        ("images", [s for s in either if s.image.alpha]),
        ("masks", [s for s in either if s.mask.alpha]),
    ):
        if some:
            yield Finding(
                f"alpha-in-{what}",
                "warning",
                f"{counted(len(some), what[:-1])} {agree(len(some), 'have')} an alpha channel that "
                "is not opaque everywhere; alpha is dropped, and what is transparent counts like "
                "the rest",
                len(some),
                tuple(s.pair.sample_id for s in some[:5]),
                "flatten them where transparency matters"
                if what == "images"
                else "if the classes are in the alpha channel, save it as the mask",
            )


def overlapping_objects(scans: Sequence[PairScan]) -> Iterator[Finding]:
    """Pixels that two objects of one image claim, where each has a mask file of its own."""
    touched = [s for s in scans if s.mask.overlap]
    if touched:
        yield Finding(
            "overlapping-objects",
            "note",
            f"{sum(s.mask.overlap for s in touched)} pixels belong to several objects, in "
            f"{counted(len(touched), 'image')}; they count once",
            len(touched),
            tuple(s.pair.sample_id for s in touched[:5]),
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
