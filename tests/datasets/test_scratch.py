"""The temporary folder of a run: shared while it is used, and removed by whoever is left."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from unet_pipeline.datasets.scratch import SUFFIX, Scratch

OPENER = """
import sys
from pathlib import Path
from unet_pipeline.datasets.scratch import SUFFIX, Scratch
folder = Path(sys.argv[1])
scratch = Scratch(folder, prepare=(folder / f"first{SUFFIX}").touch)
print("open", flush=True)
sys.stdin.readline()
"""


@contextmanager
def another_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """One that has the folder open, and leaves it when it is told anything."""
    with subprocess.Popen(
        [sys.executable, "-c", OPENER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


def end(process: subprocess.Popen[str]) -> None:
    process.communicate("\n")
    assert process.returncode == 0


def nothing() -> None:
    pass


def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", flock)


def abandon(folder: Path, holder: str) -> None:
    folder.mkdir()
    (folder / f"lock{SUFFIX}").write_text(holder)
    (folder / f"some{SUFFIX}").touch()


def dead_process() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_the_folder_is_made_with_what_it_needs_and_removed_at_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "above" / "folder"
    scratch = Scratch(folder, prepare=lambda: (folder / f"first{SUFFIX}").touch())
    assert (folder / f"first{SUFFIX}").exists()
    assert folder.stat().st_mode & 0o777 == 0o700
    scratch.close()
    scratch.close()
    assert list((tmp_path / "above").iterdir()) == []


def test_the_end_of_the_interpreter_closes_what_was_left_open(tmp_path: Path) -> None:
    with another_process(tmp_path / "folder") as other:
        end(other)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next_one_beside_it(tmp_path: Path) -> None:
    with another_process(tmp_path / "killed") as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert (tmp_path / "killed").exists()
    Scratch(tmp_path / "next", prepare=nothing).close()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_under_the_same_name_is_not_used(tmp_path: Path) -> None:
    with another_process(tmp_path / "folder") as other:
        (tmp_path / "folder" / f"some{SUFFIX}").touch()
        other.send_signal(signal.SIGKILL)
        other.wait()
    scratch = Scratch(tmp_path / "folder", prepare=nothing)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == [f"lock{SUFFIX}"]
    scratch.close()


def test_the_folder_of_a_living_process_stays(tmp_path: Path) -> None:
    with another_process(tmp_path / "living"):
        Scratch(tmp_path / "next", prepare=nothing).close()
        assert (tmp_path / "living" / f"first{SUFFIX}").exists()


def test_processes_share_a_folder_and_the_last_removes_it(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with another_process(folder) as other:
        prepared: list[int] = []
        scratch = Scratch(folder, prepare=lambda: prepared.append(1))
        assert not prepared  # it is in use, not empty
        end(other)
        assert (folder / f"first{SUFFIX}").exists()
        scratch.close()
    assert not folder.exists()
    with another_process(folder) as other:
        Scratch(folder, prepare=nothing).close()
        assert (folder / f"first{SUFFIX}").exists()
        end(other)
    assert not folder.exists()


def test_a_forked_child_leaves_the_folder_to_its_parent(tmp_path: Path) -> None:
    import multiprocessing

    scratch = Scratch(tmp_path / "folder", prepare=nothing)
    child = multiprocessing.get_context("fork").Process(target=scratch.close)
    child.start()
    child.join()
    assert child.exitcode == 0
    assert (tmp_path / "folder").exists()
    scratch.close()
    assert not (tmp_path / "folder").exists()


def test_files_and_folders_of_others_are_never_removed(tmp_path: Path) -> None:
    mine, elsewhere = tmp_path / "mine", tmp_path / "elsewhere"
    abandon(mine, "process 1 on nowhere")
    (mine / "photo.png").touch()
    abandon(elsewhere, "process 1 on nowhere")
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "link").symlink_to(elsewhere, target_is_directory=True)
    (runs / "data").mkdir()
    (runs / "data" / f"some{SUFFIX}").touch()  # without a lock: not known to be ours
    Scratch(runs / "next", prepare=nothing).close()
    assert sorted(path.name for path in runs.iterdir()) == ["data", "link"]
    assert (runs / "data" / f"some{SUFFIX}").exists()
    assert (elsewhere / f"some{SUFFIX}").exists()
    scratch = Scratch(mine, prepare=nothing)
    scratch.close()
    assert [path.name for path in mine.iterdir()] == ["photo.png"]


def test_a_folder_that_is_just_being_made_is_not_taken_for_abandoned(tmp_path: Path) -> None:
    abandon(tmp_path / "young", "")
    Scratch(tmp_path / "next", prepare=nothing).close()
    assert (tmp_path / "young" / f"some{SUFFIX}").exists()


def change_while_it_is_locked(monkeypatch: pytest.MonkeyPatch, change: Callable[[], None]) -> None:
    import fcntl

    real, calls = fcntl.flock, []

    def flock(file: int, operation: int) -> None:
        calls.append(operation)
        if len(calls) == 1:
            change()
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_folder_removed_between_opening_and_locking_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, prepared = tmp_path / "folder", []

    def remove() -> None:
        (folder / f"lock{SUFFIX}").unlink()
        folder.rmdir()

    change_while_it_is_locked(monkeypatch, remove)
    scratch = Scratch(folder, prepare=lambda: prepared.append(1))
    assert (folder / f"lock{SUFFIX}").exists()
    assert prepared == [1]
    scratch.close()


def test_a_folder_that_another_is_removing_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    folder, prepared = tmp_path / "folder", []
    abandon(folder, f"process {dead_process()} on {os.uname().nodename}")
    removing = [os.open(folder / f"lock{SUFFIX}", os.O_RDWR)]
    fcntl.flock(removing[0], fcntl.LOCK_EX)
    real = fcntl.flock

    def flock(file: int, operation: int) -> None:
        if removing and operation == fcntl.LOCK_SH:  # we wait: the other comes to its end
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
            os.close(removing.pop())
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    scratch = Scratch(folder, prepare=lambda: prepared.append(1))
    assert (folder / f"lock{SUFFIX}").exists()
    assert prepared == [1]
    scratch.close()


def test_a_folder_removed_before_its_lock_is_opened_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, real = tmp_path / "folder", Path.mkdir
    calls: list[Path] = []

    def mkdir(path: Path, **options: Any) -> None:
        real(path, **options)
        calls.append(path)
        if len(calls) == 1:
            path.rmdir()

    monkeypatch.setattr(Path, "mkdir", mkdir)
    scratch = Scratch(folder, prepare=nothing)
    assert calls == [folder, folder]
    scratch.close()


def test_one_who_looked_for_abandoned_folders_does_not_leave_it_unprepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    folder, prepared, looking = tmp_path / "folder", [], []
    real = fcntl.flock

    def look() -> None:
        looking.append(os.open(folder / f"lock{SUFFIX}", os.O_RDWR))
        real(looking[0], fcntl.LOCK_EX | fcntl.LOCK_NB)

    change_while_it_is_locked(monkeypatch, look)
    counted = fcntl.flock

    def flock(file: int, operation: int) -> None:
        if looking and operation == fcntl.LOCK_SH:
            os.close(looking.pop())
        counted(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    scratch = Scratch(folder, prepare=lambda: prepared.append(1))
    assert prepared == [1]
    scratch.close()
    assert not folder.exists()


def test_a_file_in_the_way_and_a_failing_preparation_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match="file"):
            Scratch(path, prepare=nothing)

    def fail() -> None:
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        Scratch(tmp_path / "folder", prepare=fail)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# ---- file systems without locks


def test_without_locks_the_living_of_this_machine_keep_their_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_locks(monkeypatch)
    here = os.uname().nodename
    abandon(tmp_path / "dead", f"process {dead_process()} on {here}")
    abandon(tmp_path / "living", f"process {os.getppid()} on {here}")
    abandon(tmp_path / "elsewhere", f"process {dead_process()} on another machine")
    scratch = Scratch(tmp_path / "next", prepare=nothing)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["elsewhere", "living", "next"]
    scratch.close()
    assert not (tmp_path / "next").exists()


def test_without_locks_a_folder_is_shared_with_the_living_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_locks(monkeypatch)
    abandon(tmp_path / "folder", f"process {os.getppid()} on {os.uname().nodename}")
    Scratch(tmp_path / "folder", prepare=nothing).close()
    assert (tmp_path / "folder" / f"some{SUFFIX}").exists()
    (tmp_path / "folder" / f"lock{SUFFIX}").write_text(
        f"process {dead_process()} on {os.uname().nodename}"
    )
    Scratch(tmp_path / "folder", prepare=nothing).close()
    assert not (tmp_path / "folder").exists()
