"""The splits of the pairs that a format found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from unet_pipeline.datasets.findings import Finding, agree, counted, name_five
from unet_pipeline.datasets.formats.contract import Pair
from unet_pipeline.datasets.manifest import SPLITS


def about_splits(pairs: Iterable[Pair], by: str = "") -> str:
    """The end of a sentence: how many pairs each split has; empty where there are none.

    by: what says the split of a pair, as in "by folder".
    """
    counts = Counter(pair.split for pair in pairs)
    shown = ", ".join(f"{split} {counts[split]}" for split in SPLITS if counts[split])
    return f"; splits {by}".rstrip() + f": {shown}" if shown else ""


def in_splits(pairs: Sequence[Pair]) -> tuple[list[Pair], list[str]]:
    """All pairs, or those in a split where some are; a sentence about the others."""
    loose = [pair.sample_id for pair in pairs if pair.split is None]
    if not loose or len(loose) == len(pairs):
        return list(pairs), []
    sentence = f"left out: {counted(len(loose), 'pair')} in no split ({name_five(loose)})"
    return [pair for pair in pairs if pair.split], [sentence]


def in_several_splits(twice: Iterable[str], noun: str, total: int) -> tuple[Finding, ...]:
    """The error about samples that lists of splits name for several of them; none without any.

    noun: what is listed, of which there are `total`.
    """
    ids = tuple(dict.fromkeys(twice))
    if not ids:
        return ()
    message = (
        f"{len(ids)} of {counted(total, noun)} {agree(len(ids), 'are')} in the lists of several "
        "splits"
    )
    remedy = "keep each in one list"
    return (Finding("in-several-splits", "error", message, len(ids), ids[:5], remedy),)


def with_ids_of_their_own(pairs: Sequence[Pair]) -> tuple[tuple[Pair, ...], tuple[Finding, ...]]:
    """The first pair of each sample id, and the error about those that share the id of another."""
    first: dict[str, Pair] = {}
    shared = [pair for pair in pairs if first.setdefault(pair.sample_id, pair) is not pair]
    if not shared:
        return tuple(pairs), ()
    examples = tuple(
        f"{pair.sample_id}: {_place(first[pair.sample_id])} and {_place(pair)}"
        for pair in shared[:5]
    )
    message = (
        f"{len(shared)} of {counted(len(pairs), 'pair')} {agree(len(shared), 'have')} the sample "
        "id of another"
    )
    remedy = "give these images names of their own, or leave them out with --fix"
    return tuple(first.values()), (
        Finding("repeated-ids", "error", message, len(shared), examples, remedy),
    )


def _place(pair: Pair) -> str:
    return str(pair.image) if isinstance(pair.image, Path) else pair.image.source
