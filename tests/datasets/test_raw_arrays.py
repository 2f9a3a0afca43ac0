"""Arrays in files: what is read is what was written, bit for bit, or nothing at all."""

from __future__ import annotations

import fcntl
import logging
import multiprocessing
import os
import pickle
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from unet_pipeline.datasets import raw_arrays
from unet_pipeline.datasets.raw_arrays import RawArrays
from unet_pipeline.datasets.scratch import SUFFIX

NAME, OTHER = "0123456789abcdef" * 2, "f" * 32
HEAD = 128


def arrays(
    dtype: str = "uint8", channels: int = 3, size: tuple[int, int] = (7, 5), seed: int = 0
) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 2**8, (*size, channels)).astype(dtype)
    return image, rng.integers(0, 4, size).astype(np.uint8)


def length(image: npt.NDArray[Any], mask: npt.NDArray[np.uint8]) -> int:
    return HEAD + image.nbytes + mask.nbytes


def name_of(number: int) -> str:
    return f"{number:032x}"


def data_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.name.split(".")[0] not in ("lock", "used"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RawArrays]:
    made = RawArrays(tmp_path / "arrays", byte_limit=10**6)
    yield made
    made.close()


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_arrays_come_back_bit_for_bit_and_cannot_be_written_to(
    store: RawArrays, dtype: str, channels: int
) -> None:
    image, mask = arrays(dtype, channels)
    if dtype == "float32":
        image[0, :4, 0] = np.nan, -0.0, np.inf, 1e-45
    assert store.write(NAME, image, mask)
    found = store.read(NAME)
    assert found is not None
    for array, expected in zip(found, (image, mask), strict=True):
        assert array.dtype == expected.dtype
        assert array.shape == expected.shape
        assert array.tobytes() == expected.tobytes()
        assert array.flags.c_contiguous
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.setflags(write=True)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_what_is_read_is_mapped_and_not_copied(store: RawArrays) -> None:
    assert store.write(NAME, *arrays())
    found = store.read(NAME)
    assert found is not None
    for array in found:
        base: Any = array
        while isinstance(base.base, np.ndarray):
            base = base.base
        assert isinstance(base, np.memmap)
        assert base.mode == "r"


def test_views_are_stored_as_what_they_show(store: RawArrays) -> None:
    image, mask = arrays(size=(8, 6))
    image, mask = image[::-1, ::2].transpose(1, 0, 2), mask[::-1, ::2].T
    assert store.write(NAME, image, mask)
    found = store.read(NAME)
    assert found is not None
    np.testing.assert_array_equal(found[0], image)
    np.testing.assert_array_equal(found[1], mask)


def test_what_was_not_written_is_not_there(store: RawArrays) -> None:
    assert store.write(NAME, *arrays())
    assert store.read(OTHER) is None


def test_other_types_and_empty_images_are_not_taken(store: RawArrays) -> None:
    image, mask = arrays()
    assert not store.write(NAME, image.astype(np.float64), mask)
    assert not store.write(NAME, image.astype(">u2"), mask)
    assert not store.write(NAME, image[:0], mask[:0])
    assert data_files(store.folder) == []


# ---- files that are not to be trusted


def _patched(place: int, new: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:place] + new + data[place + len(new) :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut in the head": lambda data: data[:20],
    "cut after the head": lambda data: data[:HEAD],
    "a byte short": lambda data: data[:-1],
    "a byte long": lambda data: data + b"\0",
    "another format": lambda _: b"\x89PNG\r\n\x1a\n" + bytes(500),
    "another version": _patched(7, b"x"),
    "another name": _patched(8, bytes(16)),
    "another type": _patched(24, b"<f8\0"),
    "no type": _patched(24, b"\xff\xfe\0\0"),
    "no rows": _patched(28, bytes(8)),
    "more rows": _patched(28, b"\x08"),
    "rows beyond all measure": _patched(28, b"\xff" * 8),
    "fewer channels": _patched(44, b"\x02"),
    "another length": _patched(52, b"\x01"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_or_foreign_file_is_not_read_but_written_anew(
    store: RawArrays, damage: Callable[[bytes], bytes]
) -> None:
    image, mask = arrays()
    assert store.write(NAME, image, mask)
    (path,) = data_files(store.folder)
    good = path.read_bytes()
    assert damage(good) != good
    path.write_bytes(damage(good))
    assert store.read(NAME) is None
    assert store.write(NAME, image, mask)
    assert path.read_bytes() == good


def test_the_file_of_another_name_is_not_taken_for_this_one(store: RawArrays) -> None:
    assert store.write(NAME, *arrays())
    (path,) = data_files(store.folder)
    path.rename(path.with_name(OTHER + SUFFIX))
    assert store.read(OTHER) is None


# ---- writers


def in_fork(function: Callable[[], object]) -> int | None:
    child = multiprocessing.get_context("fork").Process(target=function)
    child.start()
    child.join()
    return child.exitcode


def test_a_killed_writer_leaves_nothing_that_is_read(
    store: RawArrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_and_die() -> None:
        monkeypatch.setattr(os, "replace", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        store.write(NAME, *arrays())

    assert in_fork(write_and_die) == -signal.SIGKILL
    (left,) = data_files(store.folder)
    assert left.stat().st_size == length(*arrays())  # all but its name was there
    assert store.read(NAME) is None
    assert store.write(OTHER, *arrays())
    store.close()
    assert not store.folder.exists()


def test_a_sample_is_written_by_one_writer_alone(
    store: RawArrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, mask = arrays()
    writing, go_on = threading.Event(), threading.Event()
    replace = os.replace

    def wait(*paths: Any) -> None:
        writing.set()
        assert go_on.wait(30)
        replace(*paths)

    monkeypatch.setattr(os, "replace", wait)
    first = threading.Thread(target=store.write, args=(NAME, image, mask))
    first.start()
    assert writing.wait(30)
    assert store.read(NAME) is None
    assert not store.write(NAME, image, mask)
    assert in_fork(lambda: os._exit(store.write(NAME, image, mask))) == 0
    go_on.set()
    first.join()
    before = [(path, path.stat().st_ino) for path in data_files(store.folder)]
    assert len(before) == 1
    assert store.write(NAME, image, mask)  # it is there already
    assert [(path, path.stat().st_ino) for path in data_files(store.folder)] == before
    assert (store.folder / f"used{SUFFIX}").read_text() == str(length(image, mask))


def test_other_processes_find_what_one_has_written(store: RawArrays) -> None:
    image, mask = arrays()
    assert in_fork(lambda: os._exit(store.write(NAME, image, mask))) == 1
    found = store.read(NAME)
    assert found is not None
    np.testing.assert_array_equal(found[0], image)
    copy = pickle.loads(pickle.dumps(store))
    assert copy.lent
    assert not store.lent
    assert copy.read(NAME) is not None
    assert copy.write(OTHER, image, mask)
    copy.close()
    assert store.read(OTHER) is not None


# ---- limits


def test_the_limit_holds_to_the_byte(tmp_path: Path) -> None:
    image, mask = arrays()
    size = length(image, mask)
    for limit, count in ((3 * size, 3), (3 * size - 1, 2), (0, 0)):
        store = RawArrays(tmp_path / "arrays", byte_limit=limit)
        written = [store.write(name_of(n), image, mask) for n in range(5)]
        assert written == [True] * count + [False] * (5 - count)
        assert sum(path.stat().st_size for path in data_files(store.folder)) == count * size
        small = arrays(size=(1, 1))
        assert store.write(OTHER, *small) == (limit - count * size >= length(*small))
        store.close()


def test_threads_and_processes_keep_the_limit_together(tmp_path: Path) -> None:
    image, mask = arrays()
    size = length(image, mask)
    store = RawArrays(tmp_path / "arrays", byte_limit=50 * size + 7)

    def write_some(start: int) -> None:
        for number in range(start, start + 20):
            store.write(name_of(number), image, mask)

    def write_many(start: int) -> None:
        threads = [
            threading.Thread(target=write_some, args=(start + 10 * number,)) for number in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    context = multiprocessing.get_context("fork")
    children = [context.Process(target=write_many, args=(start,)) for start in (0, 25)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    files = data_files(store.folder)
    assert len(files) == 50
    assert (store.folder / f"used{SUFFIX}").read_text() == str(50 * size)
    found = [store.read(path.name.split(".")[0]) for path in files]
    assert all(pair is not None and np.array_equal(pair[0], image) for pair in found)
    store.close()


def test_what_another_takes_while_one_waits_for_the_count_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, mask = arrays()
    store = RawArrays(tmp_path / "arrays", byte_limit=length(image, mask))
    used = store.folder / f"used{SUFFIX}"

    def flock(file: int, operation: int) -> None:
        assert operation == fcntl.LOCK_EX
        assert os.path.samestat(os.fstat(file), used.stat())
        used.write_text("1")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", flock)
        assert not store.write(NAME, image, mask)
    assert used.read_text() == "1"
    store.close()


def test_a_full_disk_ends_writing_for_all_and_is_said_once(
    store: RawArrays, caplog: pytest.LogCaptureFixture
) -> None:
    small, large = arrays(), arrays(size=(99, 99))
    assert store.write(NAME, *small)
    copy = pickle.loads(pickle.dumps(store))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        assert not store.write(OTHER, *large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not store.write(OTHER, *small)
    assert not copy.write(OTHER, *small)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "arrays: decoded images cannot be kept there: the file would exceed" in caplog.text
    assert [path.name for path in data_files(store.folder)] == [NAME + SUFFIX]
    found = store.read(NAME)
    assert found is not None
    np.testing.assert_array_equal(found[0], small[0])


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    (tmp_path / "file").touch()
    store = RawArrays(tmp_path / place, byte_limit=10**6)
    copy = pickle.loads(pickle.dumps(store))
    for user in (store, copy):
        assert not user.write(NAME, *arrays())
        assert user.read(NAME) is None
    store.close()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_folder_without_permission_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    try:
        store = RawArrays(tmp_path / "arrays", byte_limit=10**6)
        assert not store.write(NAME, *arrays())
    finally:
        tmp_path.chmod(0o700)
    assert len(caplog.records) == 1
    assert "permission denied" in caplog.text


def test_a_folder_that_vanishes_costs_not_even_a_warning(
    store: RawArrays, caplog: pytest.LogCaptureFixture
) -> None:
    assert store.write(NAME, *arrays())
    for path in store.folder.iterdir():
        path.unlink()
    store.folder.rmdir()
    assert store.read(NAME) is None
    assert not store.write(NAME, *arrays())
    assert caplog.records == []


def test_a_foreign_count_of_bytes_lets_nothing_be_written(store: RawArrays) -> None:
    for text in ("", "-5", "many"):
        (store.folder / f"used{SUFFIX}").write_text(text)
        assert not store.write(NAME, *arrays())


# ---- the end


def test_the_folder_goes_and_what_was_read_stays(
    store: RawArrays, caplog: pytest.LogCaptureFixture
) -> None:
    image, mask = arrays()
    assert store.write(NAME, image, mask)
    found = store.read(NAME)
    assert found is not None
    store.close()
    store.close()
    assert list(store.folder.parent.iterdir()) == []
    np.testing.assert_array_equal(found[0], image)
    np.testing.assert_array_equal(found[1], mask)
    assert not store.write(NAME, image, mask)
    assert store.read(NAME) is None
    assert caplog.records == []


def test_the_offsets_of_the_tests_are_those_of_the_head() -> None:
    assert raw_arrays._HEAD.size == 60
    assert raw_arrays._START == HEAD
