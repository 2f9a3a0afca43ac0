"""Parts that a hash has left empty or without a class get the group that comes nearest to them.

Which group that is depends on all others, so such a move, and none else, may be undone or made
with another group when images are added. `fixed` groups, those of an earlier samples.csv, stay.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from unet_pipeline.datasets.findings import name_five

Part = TypeVar("Part", bound=Hashable)
Interval = tuple[float, float]

_MAX_NOTES = 5


@dataclass(slots=True)
class Group(Generic[Part]):
    """Samples that stay together: their hash u in [0, 1), classes, and the part they are in.

    fixed: it must not be moved.
    """

    name: str
    u: float
    classes: frozenset[int]
    part: Part
    fixed: bool = False


def top_up(
    groups: Sequence[Group[Part]],
    intervals: Mapping[Part, Interval],
    *,
    class_names: Sequence[str] = (),
) -> list[str]:
    """Move as few groups as it takes (greedily) to what follows; a sentence about each move.

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
            moved = next((g for g in table.candidates(part, missing) if g.classes & missing), None)
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

    def __init__(self, groups: Sequence[Group[Part]], intervals: Mapping[Part, Interval]) -> None:
        self.groups = sorted(groups, key=lambda group: (group.u, group.name))
        self.intervals = intervals
        self.needed = list(intervals)[: len(groups)]
        self.sizes = Counter(group.part for group in groups)
        self.holders: dict[Part, Counter[int]] = defaultdict(Counter)
        for group in groups:
            self.holders[group.part].update(group.classes)
        everywhere = Counter(k for group in groups for k in group.classes)
        self.common = {k for k, count in everywhere.items() if count >= len(intervals)}

    def missing(self, part: Part) -> set[int]:
        """The classes that every part is to have and this one has not."""
        return {k for k in self.common if not self.holders[part][k]}

    def candidates(self, part: Part, wanted: set[int]) -> Iterator[Group[Part]]:
        """The best group to move to `part` at each degree of scruple; the first is the one."""
        low, high = self.intervals[part]

        def rank(group: Group[Part]) -> tuple[int, float]:
            return -len(group.classes & wanted), max(low - group.u, group.u - high, 0.0)

        free = [g for g in self.groups if not g.fixed and g.part != part and self._may_leave(g)]
        harmless = [g for g in free if self._keeps(g, g.classes)]
        yield from sorted(harmless, key=rank)[:1]
        bearable = [g for g in free if self._keeps(g, g.classes & self.common)]
        yield from sorted(bearable, key=rank)[:1]
        if not self.sizes[part]:  # an empty part is worse than a missing class
            yield from sorted(free, key=rank)[:1]

    def move(self, group: Group[Part], part: Part) -> str:
        """Put `group` into `part`; the end of a sentence about it."""
        words = f"moved {group.name} there from {_label(group.part)}"
        self.sizes.subtract([group.part])
        self.holders[group.part].subtract(group.classes)
        self.sizes.update([part])
        self.holders[part].update(group.classes)
        group.part = part
        return words

    def _may_leave(self, group: Group[Part]) -> bool:
        return self.sizes[group.part] > 1 or group.part not in self.needed

    def _keeps(self, group: Group[Part], classes: frozenset[int] | set[int]) -> bool:
        """Whether the part of `group` keeps all of `classes` without it."""
        holders = self.holders[group.part]
        return all(holders[k] > 1 for k in classes) or group.part not in self.needed


def _label(part: object) -> str:
    return f"fold {part}" if isinstance(part, int) else str(part)


def _name(index: int, class_names: Sequence[str]) -> str:
    return class_names[index] if index < len(class_names) else f"class {index}"
