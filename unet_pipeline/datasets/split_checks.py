"""What is wrong with splits, groups and folds: one function a question, each giving findings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from unet_pipeline.datasets.findings import Finding
from unet_pipeline.datasets.groups import probable_groups
from unet_pipeline.datasets.manifest import Split
from unet_pipeline.datasets.options import Options


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
    """A val split that the data came with, now divided into folds together with train.

    folds: those that are dealt now; None for samples that were in a fold before.
    """
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


def empty_splits(
    splits: Sequence[Split], *, groups: Sequence[str], options: Options
) -> Iterator[Finding]:
    """Splits without which nothing can be trained."""
    empty = [split for split in ("train", "val") if split not in splits]
    if empty:
        yield Finding(
            "empty-splits",
            "warning",
            f"there are no {' and no '.join(empty)} samples: it cannot be trained on yet",
            len(empty),
            (),
            why_empty(
                groups,
                group_regex=options.group_regex,
                val_fraction=options.val_fraction if "val" in empty else None,
            )
            or "add images, or set the column `split` of samples.csv",
        )


def why_empty(
    groups: Sequence[str], *, group_regex: str | None, val_fraction: float | None
) -> str | None:
    """What to do about an empty split where an option is the cause; None where none is.

    val_fraction: None where it is not the val split that is empty.
    """
    if val_fraction == 0:
        return (
            "--val 0 (data.val_fraction) holds none out: leave it out, or give a share such as 0.15"
        )
    if group_regex is not None and len(groups) > 1 and len(set(groups)) == 1:
        return (
            f"--group-regex {group_regex!r} (data.group_regex) makes one group of all samples, "
            "and a group stays in one split: choose one that tells groups apart, or leave it out"
        )
    return None


def parted_groups(groups: Sequence[str], parts: Sequence[str]) -> Iterator[Finding]:
    """Named groups whose members the splits that the data came with have parted."""
    first: dict[str, str] = {}  # one part each, for a set takes 216 bytes
    rows = zip(groups, parts, strict=True)
    elsewhere = {group for group, part in rows if first.setdefault(group, part) != part}
    parted = [group for group in first if group in elsewhere]
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
