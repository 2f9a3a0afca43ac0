from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from unet_pipeline import files
from unet_pipeline.errors import OutputInUseError, ResourceError, UserError
from unet_pipeline.files import (
    atomic_path,
    folder_lock,
    holds_nothing,
    make_writable_folder,
    resource_errors,
    staged_folder,
    write_atomic,
)


def test_a_file_is_written_whole_with_the_usual_rights(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_atomic(tmp_path / "text", "grün\n")
    write_atomic(tmp_path / "bytes", b"\0\1")
    assert (tmp_path / "text").read_text(encoding="utf-8") == "grün\n"
    assert (tmp_path / "bytes").read_bytes() == b"\0\1"
    assert (tmp_path / "text").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bytes", "plain", "text"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_link_is_replaced_and_its_target_untouched(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_atomic(tmp_path / "link", "new")
    assert (tmp_path / "target").read_text() == "precious"
    assert not (tmp_path / "link").is_symlink()


def test_names_of_full_length_can_be_written(tmp_path: Path) -> None:
    write_atomic(tmp_path / ("x" * 255), "a")
    write_atomic(tmp_path / ("ü" * 127), "a")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "permission denied"),
        (errno.EROFS, "read-only"),
    ],
)
def test_refusals_of_the_machine_are_resource_errors(number: int, words: str) -> None:
    with pytest.raises(ResourceError, match=f"cannot write /out/x: .*{words}") as caught:  # noqa: SIM117
        with resource_errors(Path("/out/x")):
            raise OSError(number, os.strerror(number))
    assert caught.value.exit_code == 5


def test_other_failures_pass_as_they_are() -> None:
    with pytest.raises(FileNotFoundError), resource_errors(Path("x")):
        raise FileNotFoundError(errno.ENOENT, "gone")


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    code = f"""
import resource
from pathlib import Path
from unet_pipeline.errors import ResourceError
from unet_pipeline.files import write_atomic
path = Path({str(tmp_path / "file")!r})
write_atomic(path, "old")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomic(path, b"x" * 5000)
except ResourceError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "the file would exceed the size limit" in done.stdout
    assert (tmp_path / "file").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_is_made_and_proved_to_be_writable(tmp_path: Path) -> None:
    made = make_writable_folder(tmp_path / "a" / "b")
    assert made.is_dir()
    assert list(made.iterdir()) == []
    assert make_writable_folder(made) == made


def test_a_file_in_the_way_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="a file is in the way") as caught:
            make_writable_folder(path)
        assert caught.value.exit_code == 2


def test_a_folder_without_permission_is_a_resource_error(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ResourceError, match="permission denied"):
            make_writable_folder(tmp_path / "out")
    finally:
        tmp_path.chmod(0o700)


HOLDER = """
import sys
from collections.abc import Callable
from pathlib import Path
from unet_pipeline.files import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_has_one_holder_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(OutputInUseError, match=f"in use by process {other.pid}") as caught:  # noqa: SIM117
            with folder_lock(tmp_path):
                pass
        assert caught.value.exit_code == 7
        other.kill()
    assert (tmp_path / ".lock").exists()  # a killed process leaves the file, not the lock
    with folder_lock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_file_removed_between_opening_and_locking_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    real = fcntl.flock
    calls = []

    def flock(file: int, operation: int) -> None:
        if not calls:
            (tmp_path / ".lock").unlink()  # the last holder leaves in just this moment
        calls.append(operation)
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with folder_lock(tmp_path):
        assert len(calls) == 2
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} ")
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_is_used_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def flock(file: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with folder_lock(tmp_path):
        pass


def test_a_folder_that_could_be_made_is_not_made_by_asking(tmp_path: Path) -> None:
    files.require_writable(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        files.require_writable(tmp_path / "file" / "b")


@pytest.mark.parametrize("check", [files.make_writable_folder, files.require_writable])
@pytest.mark.parametrize("above", ["", "new/newer", "x" * 300 + "/new"])
def test_a_name_that_is_too_long_is_one_line(
    above: str, check: Callable[[Path], object], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"File name too long; choose another") as caught:
        check(tmp_path / above / ("x" * 300))
    assert caught.value.exit_code == 2


def test_a_lock_on_a_full_disk_is_told_with_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(ResourceError, match=r"cannot write .*\.lock: no space left"):  # noqa: SIM117
        with folder_lock(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []


# ---- staged folders -----------------------------------------------------------------------------


def fill(staged: Path) -> None:
    (staged / "images").mkdir()
    (staged / "images" / "a").write_text("a")
    (staged / "list").write_text("l")


def names_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_staged_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    with folder_lock(folder):
        with staged_folder(folder) as staged:
            fill(staged)
            assert names_in(folder) == {".lock"}
            assert holds_nothing(folder)
        assert not (folder / ".lock").exists()
    assert names_in(folder) == {"images", "images/a", "list"}
    assert names_in(tmp_path) == {"out", *(f"out/{name}" for name in names_in(folder))}


def test_what_a_killed_process_has_left_goes_and_an_error_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    places = []

    def fail() -> None:
        with staged_folder(folder) as staged:
            fill(staged)
            places.append(staged)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert names_in(tmp_path) == {"out"}
    (left,) = places
    left.mkdir()
    fill(left)
    with staged_folder(folder) as staged:
        assert staged == left
        assert not list(staged.iterdir())
        (staged / "new").touch()
    assert names_in(tmp_path) == {"out", "out/new"}


def test_a_folder_with_files_of_the_user_gets_the_staged_ones_beside_them(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "mine").touch()
    (tmp_path / "link").symlink_to(folder)
    with staged_folder(tmp_path / "link") as staged:
        fill(staged)
    assert names_in(folder) == {"mine", "images", "images/a", "list"}
    with staged_folder(folder):
        pass
    assert names_in(folder) == {"mine", "images", "images/a", "list"}


def test_a_folder_below_one_that_cannot_be_written_is_staged_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    monkeypatch.setattr(files.os, "access", lambda path, mode: Path(path) != tmp_path)
    with staged_folder(folder) as staged:
        fill(staged)
        assert staged.parent == folder
        assert holds_nothing(folder)
    assert names_in(folder) == {"images", "images/a", "list"}


@pytest.mark.parametrize("kind", ["unnamed", "named", "told"])
def test_a_full_disk_is_told_of_the_folder_that_was_asked_for(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()

    def fill_the_disk() -> None:
        with staged_folder(folder) as staged:
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if kind == "unnamed":
                raise full
            full.filename = str(staged / "a.png")
            if kind == "told":
                with resource_errors(staged / "a.png"):
                    raise full
            raise full

    with pytest.raises(ResourceError) as caught:
        fill_the_disk()
    place = folder if kind == "unnamed" else folder / "a.png"
    assert str(caught.value).startswith(f"cannot write {place}: no space left")
    assert ".unfinished" not in str(caught.value)


def test_what_cannot_be_read_elsewhere_is_not_told_of_the_output(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/source/a.png")
    with pytest.raises(PermissionError), staged_folder(folder):
        raise denied


def test_a_read_only_file_system_has_one_name_whoever_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ReadOnly:
        f_flag = os.ST_RDONLY

    def refuse(**_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ResourceError, match=r"permission denied; free or choose"):
        files.require_writable(tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda _: ReadOnly)
    monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)
    said = []
    for check in (files.require_writable, files.make_writable_folder):
        with pytest.raises(ResourceError, match="the file system is read-only") as caught:
            check(tmp_path)
        said.append(str(caught.value))
    assert said[0] == said[1]
