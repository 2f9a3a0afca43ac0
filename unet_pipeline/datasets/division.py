"""Where each sample of a dataset goes: its group, its split and its fold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from unet_pipeline.classes import IGNORE_INDEX
from unet_pipeline.datasets import split_checks
from unet_pipeline.datasets.duplicates import first_equal
from unet_pipeline.datasets.findings import Finding
from unet_pipeline.datasets.formats import Pair
from unet_pipeline.datasets.groups import group_by_regex
from unet_pipeline.datasets.manifest import SPLITS, Sample, Split
from unet_pipeline.datasets.options import Options
from unet_pipeline.datasets.rows import Rows
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
    former: Sequence[Sample | None]
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
    pairs = [scan.pair for scan in scans]
    named, findings = _named_groups(pairs, options)
    own_groups = (
        pair.sample_id if own is None else own for own, pair in zip(named, pairs, strict=True)
    )
    groups = _with_equal_pictures(scans, own_groups)
    former = match_former(
        options.former, [pair.sample_id for pair in pairs], (scan.content for scan in scans)
    )
    given, places = [pair.split for pair in pairs], _places(pairs, former)
    presence = _presence(pixels)

    def key(place: int) -> str:
        own = named[place]
        # Of the file, not of its pixels: decoders of another version must not deal all splits anew
        return own if own is not None else scans[place].image.key.hex()

    keys = Rows(key, len(scans))
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
        former,
        _fixed(given, places),
        tuple(findings),
    )


def _named_groups(
    pairs: Sequence[Pair], options: Options
) -> tuple[list[str | None], list[Finding]]:
    """The group that the data or the user names for each sample, or None."""
    own = [pair.group for pair in pairs]
    if options.group_regex is None:
        return own, []
    ids = [pair.sample_id for pair in pairs]
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


def _with_equal_pictures(scans: Sequence[PairScan], groups: Iterable[str]) -> list[str]:
    """The group of each sample, one for all equal pictures."""
    first = first_equal(scans)
    is_alone = np.bincount(first, minlength=len(first)) == 1
    contents = (None if is_alone[head] else int(head) for head in first)
    return merge_duplicates(groups, contents)


def _places(pairs: Sequence[Pair], former: Sequence[Sample | None]) -> list[_Place | None]:
    """Where each sample was: in the earlier dataset, else in the one with folds that is read."""
    has_folds = any(pair.fold is not None for pair in pairs)
    if not has_folds and not any(former):
        return [None] * len(pairs)
    places: list[_Place | None] = []
    for pair, old in zip(pairs, former, strict=True):
        if old is not None:
            places.append(_Place(old.split, old.fold))
        elif has_folds and pair.split is not None:
            places.append(_Place(pair.split, pair.fold))
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
