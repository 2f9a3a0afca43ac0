"""prepare that does not come to its end: interrupted, or on a full disk."""

from __future__ import annotations

import errno
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.stages import sources
from unet_pipeline import cli, files
from unet_pipeline.datasets import manifest as manifest_module
from unet_pipeline.datasets import repair
from unet_pipeline.datasets.exports import writing as exports_writing
from unet_pipeline.datasets.manifest import Manifest
from unet_pipeline.stages import prepare as stage
from unet_pipeline.stages import writing

FORMS: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "as it is": (sources.plain, []),
    "drawn masks": (sources.coco, []),
    "tiles": (sources.plain, ["--tile", "16"]),
    "repaired": (sources.plain, ["--fix"]),
    "exported": (sources.coco, ["--export", "plain"]),
}


def interrupted(*_: object, **__: object) -> NoReturn:
    raise KeyboardInterrupt


@pytest.fixture(params=FORMS)
def arguments(request: pytest.FixtureRequest) -> list[str]:
    """A command whose output, where it may, holds a file of the user."""
    make, options = FORMS[request.param]
    make(Path("cells"))
    if request.param not in ("repaired", "exported"):  # these are refused then
        Path("out").mkdir()
        Path("out/classes.txt").write_text("mine")
    return ["prepare", "cells", "-o", "out", *options]


def in_output() -> dict[str, bytes]:
    return sources.contents(Path("out")) if Path("out").exists() else {}


@pytest.mark.parametrize("place", ["examine", "log_findings"])
def test_an_interrupted_run_leaves_nothing_and_can_be_repeated(
    place: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = in_output()
    with monkeypatch.context() as patched:
        patched.setattr(stage, place, interrupted)
        assert cli.run(arguments) == 130
    assert in_output() == mine
    assert cli.run(arguments) == 0
    assert len(in_output()) > len(mine)


def test_an_interruption_before_the_manifest_leaves_nothing(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = in_output()
    monkeypatch.setattr(Manifest, "save", interrupted)
    if "--export" in arguments:  # which has no manifest
        assert cli.run(arguments) == 0
    else:
        assert cli.run(arguments) == 130
        assert in_output() == mine


def test_an_interruption_after_the_manifest_keeps_a_whole_dataset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sources.coco(Path("cells"))
    save = writing._save

    def save_and_stop(*arguments: Any) -> NoReturn:
        save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, "_save", save_and_stop)
    assert cli.run(["prepare", "cells", "-o", "out"]) == 130
    assert sources.pixels_by_class(Path("out")) == sources.expected_pixels()


def full_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the disk be full after `count` more files that are written atomically.

    The last step of every such write is patched, so that it does not matter who imported what.
    """
    move, left = files.os.replace, [count]

    def full(source: Path, target: Path) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        move(source, target)

    monkeypatch.setattr(files.os, "replace", full)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    count: int,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine = in_output()
    full_after(count, monkeypatch)
    assert "no space left on the device" in sources.error_of(capsys, arguments, 5)
    assert in_output() == mine


def test_an_output_that_is_in_use_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    sources.plain(Path("cells"))
    Path("out").mkdir()
    with files.folder_lock(Path("out")):
        message = sources.error_of(capsys, ["prepare", "cells", "-o", "out", "--tile", "16"], 7)
    assert "in use" in message
    assert not sources.contents(Path("out"))


@pytest.mark.parametrize("form", ["tiles", "repaired", "exported"])
def test_a_run_that_is_killed_leaves_no_half_of_a_copy_and_can_be_repeated(
    form: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make, options = FORMS[form]
    make(Path("cells"))
    arguments = ["prepare", "cells", "-o", "out", *options]
    disks: list[Path] = []  # what is on the disk before each fifth file, as a kill would leave it
    write = files.write_atomic
    calls, one_at_a_time = 0, threading.Lock()  # a file that others write would come and go

    def spied(path: Path, *given: Any, **more: Any) -> None:
        nonlocal calls
        with one_at_a_time:
            calls += 1
            if calls % 5 == 0:
                disks.append(tmp_path / f"disk{calls}")
                shutil.copytree(tmp_path, disks[-1], ignore=shutil.ignore_patterns("disk*"))
            write(path, *given, **more)

    for module in (exports_writing, repair, writing, manifest_module):
        if hasattr(module, "write_atomic"):
            monkeypatch.setattr(module, "write_atomic", spied)
    assert cli.run(arguments) == 0
    whole = set(in_output())
    assert len(disks) > 2
    for disk in disks[:: len(disks) - 1]:
        monkeypatch.chdir(disk)
        assert set(in_output()) <= {".lock"}
        assert cli.run(arguments) == 0
        assert set(in_output()) == whole
        assert {path.name for path in Path().iterdir()} == {"cells", "out"}


def test_an_interruption_says_that_nothing_was_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sources.plain(Path("cells"))
    monkeypatch.setattr(stage, "examine", interrupted)
    error = sources.error_of(capsys, ["prepare", "cells", "-o", "out"], 130)
    assert error == "error: interrupted; no dataset was written or changed"
