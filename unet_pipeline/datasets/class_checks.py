"""What is wrong with the classes of masks: one function a question, each giving findings."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from unet_pipeline.classes import IGNORE_INDEX, Classes, pack_value, unpack_value
from unet_pipeline.datasets.findings import Finding, agree, counted
from unet_pipeline.datasets.found_classes import show_values, snapping_option
from unet_pipeline.datasets.manifest import SPLITS, Split
from unet_pipeline.datasets.scan import PairScan
from unet_pipeline.datasets.value_table import ClassPixels, ValueTable, class_totals, snapping

RARE_CLASS = 0.001
"""Share of the pixels below which a class is hardly ever learned without class weights."""


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


def soft_edges(table: ValueTable, classes: Classes) -> Iterator[Finding]:
    """Masks whose other values are shades of a few: soft edges or noise, not compressed."""
    if table.lossy or not table.shades_of:
        return
    around = [unpack_value(key, table.encoding) for key in table.shades_of]
    shades = f"{len(table.uses) - len(around)} of {len(table.uses)} mask values"
    if classes.snap:
        pixels, furthest = snapping(table, classes)
        message = (
            f"{pixels / table.num_pixels:.2%} of the pixels hold shades, at soft edges or by "
            f"noise, and are snapped to the nearest class (the furthest by {furthest:.0f})"
        )
        remedy = "look at the overlays in report.html, or save the masks without smoothing"
    elif classes.other is not None:
        pixels = table.num_pixels - sum(
            table.uses[key].pixels
            for value in (*classes.values, *classes.ignore_values)
            if (key := pack_value(value)) in table.uses
        )
        message = (
            f"{pixels / table.num_pixels:.2%} of the pixels count as "
            f"{classes.names[classes.other]} (--other), though they hold shades of "
            f"{show_values(around)}"
        )
        remedy = snapping_option(around)
    elif len(classes.values) > len(around):
        message = (
            f"{shades} look like shades of {show_values(around)} (soft, anti-aliased edges): each "
            "counts as a class"
        )
        remedy = snapping_option(around)
    else:
        return
    yield Finding("soft-edges", "warning", message, len(table.uses), (), remedy)


def one_class_masks(
    scans: Sequence[PairScan], pixels: Sequence[ClassPixels], classes: Classes
) -> Iterator[Finding]:
    """Masks that hold a single class, or nothing but void."""
    alone: dict[str, list[str]] = {}
    for place, counts in enumerate(pixels):
        present = [classes.names[k] for k in counts if k != IGNORE_INDEX]
        if len(present) <= 1:
            name = present[0] if present else "void"
            alone.setdefault(name, []).append(scans[place].pair.sample_id)
    for name, ids in alone.items():
        background = name == classes.names[0]
        code = "empty-masks" if background else "void-masks" if name == "void" else "full-masks"
        few = background and len(ids) < len(scans) / 2
        nothing = name == "void" and len(ids) == len(scans)
        yield Finding(
            code,
            "error" if nothing else "note" if few else "warning",
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
            f"{counted(len(rare), 'class')} {agree(len(rare), 'have')} less than {RARE_CLASS:.1%} "
            "of the pixels",
            len(rare),
            tuple(f"{name} {share:.4%}" for name, share in rare[:5]),
            'train with --loss "ce(class_weights=sqrt) + dice", or merge them with --values and '
            "--other",
        )


def absent_classes(
    pixels: Sequence[ClassPixels],
    splits: Sequence[Split],
    classes: Classes,
    *,
    fixed: Collection[Split],
) -> Iterator[Finding]:
    """Classes without a single pixel in a split; fixed: the splits that no option changes."""
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
            # with void alone there is a finding of its own
            "error" if sum(map(bool, everywhere)) == 1 else "warning",
            f"{counted(len(nowhere), 'class')} {agree(len(nowhere), 'are')} declared and "
            f"{agree(len(nowhere), 'occur')} in no mask",
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
                f"{counted(len(absent), 'class')} {agree(len(absent), 'have')} no pixel in {part}"
                + (", so they cannot be learned" if part == "train" else ", so no score there"),
                len(absent),
                tuple(absent[:5]),
                f"add images of them, or move some to {part} in samples.csv of the prepared dataset"
                if part in fixed
                else "another --seed, more images of them, or --val and --test larger",
            )
