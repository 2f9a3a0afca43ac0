"""Records that go to disk before they fill memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unet_pipeline.datasets.scan import packed
from unet_pipeline.datasets.scan.packed import Packed


def filled(number: int) -> tuple[Packed, list[bytes], list[int]]:
    rng = np.random.default_rng(0)
    records = [rng.bytes(int(size)) for size in rng.integers(0, 400, number)]
    table = Packed()
    return table, records, [0, *(table.append(record) for record in records)]


@pytest.mark.parametrize("number", [3, 20_000])
def test_records_are_given_back_in_any_order(number: int) -> None:
    table, records, ends = filled(number)
    order = np.random.default_rng(1).permutation(number)
    for place in [*range(number), *reversed(range(number)), *order.tolist()]:
        assert table.read(ends[place], ends[place + 1]) == records[place]
    assert table.read(0, ends[-1]) == b"".join(records)


def test_records_are_not_in_memory() -> None:
    record = bytes(200)
    table = Packed()
    tracemalloc.start()
    try:
        for _ in range(50_000):
            end = table.append(record)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert end == 10**7
    assert held < 10**6


def test_where_no_file_can_be_made_memory_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(**options: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packed.tempfile, "TemporaryFile", no_room)
    check_that_all_is_there(*filled(10_000))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_where_the_disk_fills_up_the_rest_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    write = Packed._write

    def writing(self: Packed) -> None:
        """The first time to the file, then to a full disk."""
        own = self._file if self._written else None
        if own is not None:
            self._file = full
        write(self)
        if own is not None:
            self._file = own

    monkeypatch.setattr(Packed, "_write", writing)
    with open("/dev/full", "r+b", buffering=0) as full:  # noqa: PTH123
        table, records, ends = filled(10_000)
    assert 0 < table._written < ends[-1]
    check_that_all_is_there(table, records, ends)


def check_that_all_is_there(table: Packed, records: list[bytes], ends: list[int]) -> None:
    assert not table._may_write
    for place in range(len(records)):
        assert table.read(ends[place], ends[place + 1]) == records[place]
