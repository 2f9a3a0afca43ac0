"""Rows of a long table that are made when they are asked for, instead of being held at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, overload

Row = TypeVar("Row", covariant=True)


class Rows(Sequence[Row]):
    """`count` rows, of which row i is make(i), made anew whenever it is asked for.

    What is held of twenty thousand pairs decides how much memory a check takes: as an object, a row
    of few numbers takes ten times as much as they do.
    """

    def __init__(self, make: Callable[[int], Row], count: int) -> None:
        self._make = make
        self._places = range(count)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Row]:
        return map(self._make, self._places)

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | Sequence[Row]:
        if isinstance(place, slice):
            return [self._make(i) for i in self._places[place]]
        return self._make(self._places[place])


def chosen(rows: Sequence[Row], places: Sequence[int]) -> Rows[Row]:
    """The rows at these places, without a copy of them."""
    return Rows(lambda i: rows[places[i]], len(places))
