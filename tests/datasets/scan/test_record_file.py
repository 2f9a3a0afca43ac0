"""Records that go to disk before they fill memory."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unet_pipeline.datasets.scan import record_file
from unet_pipeline.datasets.scan.record_file import RecordFile


def filled(number: int) -> tuple[RecordFile, list[bytes], list[int]]:
    rng = np.random.default_rng(0)
    records = [rng.bytes(int(size)) for size in rng.integers(0, 400, number)]
    table = RecordFile()
    return table, records, [0, *(table.append(record) for record in records)]


@pytest.mark.parametrize("number", [3, 20_000])
def test_records_are_given_back_in_any_order(number: int) -> None:
    table, records, ends = filled(number)
    order = np.random.default_rng(1).permutation(number)
    for place in [*range(number), *reversed(range(number)), *order.tolist()]:
        assert table.read(ends[place], ends[place + 1]) == records[place]
    assert table.read(0, ends[-1]) == b"".join(records)


def test_records_are_read_while_others_come() -> None:
    table, starts = RecordFile(), [0]
    for number in range(6000):
        record = bytes([number % 251]) * 300
        starts.append(table.append(record))
        for place in (number, number // 2, number // 7):
            read = table.read(starts[place], starts[place + 1])
            assert read == bytes([place % 251]) * 300


def test_several_threads_read_at_once() -> None:
    table, records, ends = filled(8000)
    places = np.random.default_rng(2).integers(0, 8000, 40_000).tolist()
    with ThreadPoolExecutor(4) as pool:
        read = pool.map(lambda place: table.read(ends[place], ends[place + 1]), places)
        assert list(read) == [records[place] for place in places]


def test_records_are_not_in_memory() -> None:
    record = bytes(200)
    table = RecordFile()
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

    monkeypatch.setattr(record_file.tempfile, "TemporaryFile", no_room)
    check_that_all_is_there(*filled(10_000))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_where_the_disk_fills_up_the_rest_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    write = RecordFile._write

    def writing(self: RecordFile) -> None:
        """The first time to the file, then to a full disk."""
        own = self._file if self._written else None
        if own is not None:
            self._file = full
        write(self)
        if own is not None:
            self._file = own

    monkeypatch.setattr(RecordFile, "_write", writing)
    with open("/dev/full", "r+b", buffering=0) as full:  # noqa: PTH123
        table, records, ends = filled(10_000)
    assert 0 < table._written < ends[-1]
    check_that_all_is_there(table, records, ends)


def check_that_all_is_there(table: RecordFile, records: list[bytes], ends: list[int]) -> None:
    assert not table._may_write
    for place in range(len(records)):
        assert table.read(ends[place], ends[place + 1]) == records[place]


@pytest.mark.parametrize("takes", [1, 1000, 300_000])
def test_a_disk_that_takes_a_part_of_what_is_written(
    monkeypatch: pytest.MonkeyPatch, takes: int
) -> None:
    """So many bytes at the second time, then it is full."""
    write = RecordFile._write

    class Filling:
        def __init__(self, file: Any, left: int) -> None:
            self.file, self.left = file, left
            self.seek = file.seek

        def write(self, data: memoryview) -> int:
            if not self.left:
                raise OSError(28, "No space left on device")
            taken, self.left = self.file.write(data[: self.left]), 0
            return int(taken)

    def writing(self: RecordFile) -> None:
        if not self._written:
            write(self)
            return
        own, self._file = self._file, Filling(self._file, takes)  # type: ignore[assignment]
        write(self)
        self._file = own

    monkeypatch.setattr(RecordFile, "_write", writing)
    check_that_all_is_there(*filled(10_000))
