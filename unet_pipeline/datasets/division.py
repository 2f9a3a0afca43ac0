"""Where each sample of a dataset goes: its group, its split and its fold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from unet_pipeline.classes import IGNORE_INDEX
from unet_pipeline.datasets import split_checks
from unet_pipeline.datasets.findings import Finding
from unet_pipeline.datasets.groups import group_by_regex
from unet_pipeline.datasets.manifest import SPLITS, Sample, Split
from unet_pipeline.datasets.options import Options
from unet_pipeline.datasets.scan import PairScan
from unet_pipeline.datasets.splits import (
    assign_folds,
    assign_splits,
    match_former,
    merge_duplicates,
)
from unet_pipeline.datasets.value_table import ClassPixels


@dataclass(frozen=True)
class Division:
    """Group, split and fold of each sample, in the order of the scans.

    folds: None for samples of the test split, and everywhere without folds.
    former: which sample of the earlier dataset each is, None for a new one.
    fixed: the splits that no option changes, as the data or the earlier dataset gives them.
    findings: what was noticed on the way.
    """

    groups: Sequence[str]
    splits: Sequence[Split]
    folds: Sequence[int | None]
    former: tuple[Sample | None, ...]
    fixed: frozenset[Split]
    findings: tuple[Finding, ...]


class _Place(NamedTuple):
    """Where a sample was before."""

    split: Split
    fold: int | None


def divide(
    scans: Sequence[PairScan],
    pixels: Iterable[ClassPixels],
    class_names: Sequence[str],
    options: Options,
) -> Division:
    """The division of the samples behind `scans`; pixels: of each class in each mask.

    Equal pictures share a group, unless every pixel of them is the same: black slices and blank
    tiles are usual, and tie nothing together. Where the samples have folds, the first fold is val
    and all others train, but for samples that were in folds before, which keep their split.
    Raises as `assign_splits`, `assign_folds` and `group_by_regex` do.
    """
    ids, given = [s.pair.sample_id for s in scans], [s.pair.split for s in scans]
    named, findings = _named_groups(scans, options)
    # Of the file, not of its pixels: decoders of another version must not deal all splits anew
    keys = [g if g is not None else s.image.key.hex() for g, s in zip(named, scans, strict=True)]
    groups = merge_duplicates(
        [own if own is not None else sample_id for own, sample_id in zip(named, ids, strict=True)],
        [s.pair.sample_id if s.image.is_flat else s.image.picture for s in scans],
    )
    former = match_former(options.former, ids, [s.content for s in scans])
    places = _places(scans, former)
    presence = _presence(pixels)
    splits, notes = assign_splits(
        groups,
        keys=keys,
        given=given,
        val_fraction=options.val_fraction,
        test_fraction=options.test_fraction,
        by=options.split_by,
        seed=options.seed,
        presence=presence,
        class_names=class_names,
        former=[None if place is None else place.split for place in places],
    )
    kept = [None if place is None else place.fold for place in places]
    folds = _folds(groups, keys, splits, presence, kept, options)
    dealt = [f if old is None else None for f, old in zip(folds, kept, strict=True)]
    findings += [Finding("splits", "note", note) for note in notes]
    findings += split_checks.dissolved_splits(given, dealt)
    return Division(
        groups,
        _by_folds(splits, folds, places),
        folds,
        tuple(former),
        _fixed(given, places),
        tuple(findings),
    )


def _named_groups(
    scans: Sequence[PairScan], options: Options
) -> tuple[list[str | None], list[Finding]]:
    """The group that the data or the user names for each sample, or None."""
    own = [s.pair.group for s in scans]
    if options.group_regex is None:
        return own, []
    ids = [s.pair.sample_id for s in scans]
    groups, unmatched = group_by_regex(ids, options.group_regex)
    if not unmatched:
        return list(groups), []
    alone = set(unmatched)
    finding = Finding(
        "ungrouped",
        "warning",
        f"{len(unmatched)} sample ids do not match --group-regex {options.group_regex!r}: each "
        "stays in the group that the data gives it, or is one of its own",
        len(unmatched),
        tuple(unmatched[:5]),
        "widen the expression if they belong to others",
    )
    rows = zip(ids, groups, own, strict=True)
    return [data if i in alone else group for i, group, data in rows], [finding]


def _places(scans: Sequence[PairScan], former: Sequence[Sample | None]) -> list[_Place | None]:
    """Where each sample was: in the earlier dataset, else in the one with folds that is read."""
    has_folds = any(s.pair.fold is not None for s in scans)
    places: list[_Place | None] = []
    for scan, old in zip(scans, former, strict=True):
        if old is not None:
            places.append(_Place(old.split, old.fold))
        elif has_folds and scan.pair.split is not None:
            places.append(_Place(scan.pair.split, scan.pair.fold))
        else:
            places.append(None)
    return places


def _folds(
    groups: Sequence[str],
    keys: Sequence[str],
    splits: Sequence[Split],
    presence: Sequence[frozenset[int]],
    kept: Sequence[int | None],
    options: Options,
) -> list[int | None]:
    """The fold of each sample that is not held out for the test; None without folds."""
    folds: list[int | None] = [None] * len(groups)
    if options.num_folds is None:
        return folds
    places = [i for i, split in enumerate(splits) if split != "test"]
    chosen = assign_folds(
        [groups[i] for i in places],
        [keys[i] for i in places],
        num_folds=options.num_folds,
        seed=options.seed,
        presence=[presence[i] for i in places],
        former=[kept[i] for i in places],
    )
    for i, fold in zip(places, chosen, strict=True):
        folds[i] = fold
    return folds


def _by_folds(
    splits: Sequence[Split], folds: Sequence[int | None], places: Sequence[_Place | None]
) -> list[Split]:
    """The splits of samples in folds; a person may have given others to those that were in some."""
    remembered = any(place is not None and place.fold is not None for place in places)
    return [
        split
        if fold is None or (remembered and place is not None)
        else ("val" if fold == 0 else "train")
        for split, fold, place in zip(splits, folds, places, strict=True)
    ]


def _fixed(given: Iterable[Split | None], places: Iterable[_Place | None]) -> frozenset[Split]:
    """The splits that are there before any is drawn; all of them where train and val are."""
    present = {split for split in given if split} | {place.split for place in places if place}
    return frozenset(SPLITS if {"train", "val"} <= present else present - {"train"})


def _presence(pixels: Iterable[ClassPixels]) -> list[frozenset[int]]:
    """The classes of each mask; masks of the same classes share one set."""
    known: dict[frozenset[int], frozenset[int]] = {}
    return [
        known.setdefault(present, present)
        for counts in pixels
        for present in [frozenset(counts) - {IGNORE_INDEX}]
    ]
