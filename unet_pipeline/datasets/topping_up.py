"""Parts that a hash has left empty or without a class get the group that comes nearest to them.

Which group that is depends on all others, so such a move, and none else, may be undone or made
with another group when images are added. `fixed` groups, those of an earlier samples.csv, stay.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from unet_pipeline.datasets.findings import name_five

Part = TypeVar("Part", bound=Hashable)
Interval = tuple[float, float]

_MAX_NOTES = 5


@dataclass(frozen=True)
class Groups(Generic[Part]):
    """Samples that stay together: for each group its name, hash u in [0, 1), classes, and part.

    Columns, for mostly there are as many groups as samples, and an object each takes three times as
    much memory. fixed: the names of those that must not be moved.
    """

    names: Sequence[str]
    u: array[float]
    classes: Sequence[frozenset[int]]
    parts: list[Part]
    fixed: Collection[str] = ()


def top_up(
    groups: Groups[Part],
    intervals: Mapping[Part, Interval],
    *,
    class_names: Sequence[str] = (),
) -> list[str]:
    """Move as few groups as it takes (greedily) to what follows; a sentence about each move.

    groups: their `parts` are changed.
    intervals: the parts, the most important first, with the range of u that belongs to each.
    No part stays empty where there are groups enough, and every part has each class that occurs in
    at least as many groups as there are parts. The group is taken that brings most of the missing
    classes, and of those alike the one whose u is nearest to the interval. A part gives away
    neither its last group nor its last one of any class, or where that is too much to ask, of any
    class that every part is to have.
    The result depends on neither the order of the groups nor anything but their values.
    """
    table = _Table(groups, intervals)
    notes = []
    for part in table.needed:
        if not table.sizes[part]:
            moved = next(table.candidates(part, table.common), None)
            if moved is not None:
                notes.append(f"{_label(part)} was empty: {table.move(moved, part)}")
    for part in table.needed:
        hopeless: set[int] = set()
        while missing := table.missing(part) - hopeless:
            names = name_five([_name(k, class_names) for k in sorted(missing)])
            moved = next(
                (g for g in table.candidates(part, missing) if groups.classes[g] & missing), None
            )
            if moved is None:
                hopeless |= missing
                notes.append(
                    f"{_label(part)} has no {names}: every group that has would be missed elsewhere"
                )
            else:
                notes.append(f"{_label(part)} had no {names}: {table.move(moved, part)}")
    if len(notes) > _MAX_NOTES:
        notes[_MAX_NOTES:] = [f"and {len(notes) - _MAX_NOTES} more such moves"]
    if notes:
        notes.append(
            "when images are added, such moves may fall out differently; `prepare --update`, or "
            "--splits-from with the folder of this dataset, keeps them"
        )
    return notes


class _Table(Generic[Part]):
    """The groups with the counts that decide which of them can be spared."""

    def __init__(self, groups: Groups[Part], intervals: Mapping[Part, Interval]) -> None:
        self.groups = groups
        self.intervals = intervals
        self.needed = list(intervals)[: len(groups.names)]
        self.sizes = Counter(groups.parts)
        self.holders: dict[Part, Counter[int]] = defaultdict(Counter)
        for part, classes in zip(groups.parts, groups.classes, strict=True):
            self.holders[part].update(classes)
        everywhere = Counter(k for classes in groups.classes for k in classes)
        self.common = {k for k, count in everywhere.items() if count >= len(intervals)}

    def missing(self, part: Part) -> set[int]:
        """The classes that every part is to have and this one has not."""
        return {k for k in self.common if not self.holders[part][k]}

    def candidates(self, part: Part, wanted: set[int]) -> Iterator[int]:
        """The best group to move to `part` at each degree of scruple; the first is the one."""
        low, high = self.intervals[part]
        names, u, classes = self.groups.names, self.groups.u, self.groups.classes

        def rank(group: int) -> tuple[int, float, float, str]:
            away = max(low - u[group], u[group] - high, 0.0)
            return -len(classes[group] & wanted), away, u[group], names[group]

        free = self._free(part)
        harmless = (g for g in free if self._keeps(g, classes[g]))
        yield from _first(harmless, rank)
        bearable = (g for g in free if self._keeps(g, classes[g] & self.common))
        yield from _first(bearable, rank)
        if not self.sizes[part]:  # an empty part is worse than a missing class
            yield from _first(free, rank)

    def move(self, group: int, part: Part) -> str:
        """Put a group into `part`; the end of a sentence about it."""
        former, classes = self.groups.parts[group], self.groups.classes[group]
        self.sizes.subtract([former])
        self.holders[former].subtract(classes)
        self.sizes.update([part])
        self.holders[part].update(classes)
        self.groups.parts[group] = part
        return f"moved {self.groups.names[group]!r} there from {_label(former)}"

    def _free(self, part: Part) -> array[int]:
        """The groups that are in other parts than this one and may leave them."""
        own, fixed = self.groups.parts, self.groups.fixed
        return array(
            "Q",
            (
                group
                for group, name in enumerate(self.groups.names)
                if name not in fixed and own[group] != part and self._may_leave(own[group])
            ),
        )

    def _may_leave(self, part: Part) -> bool:
        return self.sizes[part] > 1 or part not in self.needed

    def _keeps(self, group: int, classes: AbstractSet[int]) -> bool:
        """Whether the part of a group keeps all of `classes` without it."""
        part = self.groups.parts[group]
        holders = self.holders[part]
        return all(holders[k] > 1 for k in classes) or part not in self.needed


def _first(groups: Iterable[int], rank: Callable[[int], Any]) -> list[int]:
    """The group of the lowest rank, if there is one."""
    first = min(groups, key=rank, default=None)
    return [] if first is None else [first]


def _label(part: object) -> str:
    return f"fold {part}" if isinstance(part, int) else str(part)


def _name(index: int, class_names: Sequence[str]) -> str:
    return class_names[index] if index < len(class_names) else f"class {index}"
