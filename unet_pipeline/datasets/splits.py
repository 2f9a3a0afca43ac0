"""Which samples train, which choose the model (val), which give the final figures (test)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

from unet_pipeline.datasets.manifest import Split
from unet_pipeline.errors import DatasetError, UserError

SplitBy = Literal["random", "order"]


def assign_splits(
    groups: Sequence[str],
    *,
    given: Sequence[Split | None] | None = None,
    val_fraction: float,
    test_fraction: float,
    by: SplitBy,
    seed: int,
) -> list[Split]:
    """The split of every sample; samples of one group always share theirs.

    groups: the group of each sample, in natural order.
    given: the split that the data came with, or None. Given splits are kept. What is missing is
        carved out of train: val, and test unless both train and val were given.
    by: "random" ranks the groups by a hash of (seed, group); "order" holds out contiguous blocks
        at the end, in the order train, val, test, as consecutive slices or frames demand.
    Fractions are of all samples that are divided. Every split whose fraction is not 0 gets at
    least one group where there are enough of them, val before test; train always has one.
    Raises `UserError` for fractions that leave nothing to train on, `DatasetError` where the data
    came with held-out splits but nothing to train on.
    """
    _check_fractions(val_fraction, test_fraction)
    known = list(given) if given is not None else [None] * len(groups)
    present = set(known) - {None}
    if present and "train" not in present:
        raise DatasetError(
            f"the data has splits ({', '.join(sorted(str(p) for p in present))}) but none to train "
            "on: add a folder train, or give a folder without splits, which is then divided"
        )
    parts: list[Split] = []
    if "test" not in present and not {"train", "val"} <= present and test_fraction > 0:
        parts.append("test")
    if "val" not in present and val_fraction > 0:
        parts.append("val")
    result: list[Split] = [split or "train" for split in known]
    pool = [i for i, split in enumerate(result) if split == "train"]
    sizes: dict[str, int] = {}
    for i in pool:
        sizes[groups[i]] = sizes.get(groups[i], 0) + 1
    fractions = {"val": val_fraction, "test": test_fraction}
    targets = {part: fractions[part] * len(pool) for part in parts}
    chosen = _by_rank(sizes, targets, seed) if by == "random" else _by_order(sizes, targets)
    for i in pool:
        result[i] = chosen.get(groups[i], "train")
    return result


def merge_duplicates(groups: Sequence[str], contents: Sequence[object]) -> list[str]:
    """`groups` with those joined that share an equal content, so that no split can part them.

    A joined group takes the name of its first member. Joining is transitive.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    first: dict[object, str] = {}
    for group, content in zip(groups, contents, strict=True):
        earlier = root(first.setdefault(content, group))
        parent[root(group)] = earlier
    return [root(group) for group in groups]


def _check_fractions(val_fraction: float, test_fraction: float) -> None:
    for name, value in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        if not 0 <= value < 1:
            raise UserError(f"{name} = {value}: must be at least 0 and less than 1")
    if val_fraction + test_fraction >= 1:
        raise UserError(
            f"val_fraction {val_fraction} and test_fraction {test_fraction} leave nothing to "
            "train on; their sum must be less than 1"
        )


def _by_rank(sizes: dict[str, int], targets: dict[Split, float], seed: int) -> dict[str, Split]:
    """Fill each part to its target with the groups that come next in the order of their hash."""

    def rank(group: str) -> bytes:
        return hashlib.blake2b(f"{seed}:{group}".encode("utf-8", "surrogateescape")).digest()

    free = sorted(sizes, key=rank)
    chosen: dict[str, Split] = {}
    possible = _possible(targets, len(sizes))
    for place, (part, target) in enumerate(possible):
        budget = len(free) - (len(possible) - place)  # one group for train and each later part
        taken: list[str] = []
        count = 0
        for group in free:
            # a group is skipped where it would overshoot by more than is missing now
            if len(taken) < budget and abs(count + sizes[group] - target) <= abs(count - target):
                taken.append(group)
                count += sizes[group]
        taken = taken or [min(free, key=lambda group: sizes[group])]
        chosen.update(dict.fromkeys(taken, part))
        free = [group for group in free if group not in chosen]
    return chosen


def _by_order(sizes: dict[str, int], targets: dict[Split, float]) -> dict[str, Split]:
    """Give each part, test first, the groups at the end that are still free."""
    free = list(sizes)  # in the order of their first sample
    chosen: dict[str, Split] = {}
    possible = _possible(targets, len(sizes))
    for place, (part, target) in enumerate(possible):
        count = 0
        while len(free) > len(possible) - place:  # one group for train and each later part
            size = sizes[free[-1]]
            if count and abs(count + size - target) > abs(count - target):
                break
            chosen[free.pop()] = part
            count += size
    return chosen


def _possible(targets: dict[Split, float], num_groups: int) -> list[tuple[Split, float]]:
    """The parts that `num_groups` groups can fill beside train; val goes before test."""
    parts = list(targets.items())
    return parts[max(0, len(parts) - (num_groups - 1)) :] if num_groups > 1 else []
