"""The splits of the pairs that a format found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from unet_pipeline.datasets.findings import name_five
from unet_pipeline.datasets.formats.contract import Pair
from unet_pipeline.datasets.formats.layout import counted
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
