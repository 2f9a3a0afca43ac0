"""Rows that are made when they are asked for."""

from __future__ import annotations

import pytest

from unet_pipeline.datasets.rows import Rows, chosen


def test_rows_are_a_sequence() -> None:
    rows = Rows(lambda i: i * i, 5)
    assert (len(rows), list(rows), rows[-1], rows[1:3]) == (5, [0, 1, 4, 9, 16], 16, [1, 4])
    assert not Rows(lambda i: i, 0)
    with pytest.raises(IndexError):
        rows[5]


def test_chosen_rows_are_those_at_the_places() -> None:
    rows = chosen("abcde", [4, 0, 2])
    assert (list(rows), rows[-1], len(rows)) == (["e", "a", "c"], "c", 3)
