"""States on disk: whole or absent, two generations, a damaged one never used."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from unet_pipeline.errors import ResourceError, UserError
from unet_pipeline.training.checkpoints import STATE_NAMES, load_state, save_state

LAST, PREVIOUS = STATE_NAMES


def state(step: int) -> dict[str, Any]:
    return {"step": step, "network": {"w": torch.full((100, 100), float(step))}, "best": {"a": 0.5}}


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    save_state(tmp_path, state(3))
    loaded = load_state(tmp_path)
    assert loaded["step"] == 3
    assert torch.equal(loaded["network"]["w"], torch.full((100, 100), 3.0))


def test_the_state_before_the_last_is_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_state(tmp_path, state(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(STATE_NAMES)
    assert torch.load(tmp_path / PREVIOUS, weights_only=True)["step"] == 2


@pytest.mark.parametrize("damage", ["empty", "half", "byte"])
def test_a_damaged_state_is_set_aside_and_the_one_before_used(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_state(tmp_path, state(1))
    save_state(tmp_path, state(2))
    data = bytearray((tmp_path / LAST).read_bytes())
    if damage == "empty":
        data = bytearray()
    elif damage == "half":
        data = data[: len(data) // 2]
    else:
        data[len(data) // 2] ^= 0xFF
    (tmp_path / LAST).write_bytes(data)
    assert load_state(tmp_path)["step"] == 1
    assert (tmp_path / "last.corrupt").exists()
    assert str(tmp_path / LAST) in caplog.text


def test_without_a_whole_state_there_is_nothing_to_resume(tmp_path: Path) -> None:
    save_state(tmp_path, state(1))
    (tmp_path / LAST).write_bytes(b"no state")
    with pytest.raises(UserError, match="no training state"):
        load_state(tmp_path)


def test_a_state_with_code_in_it_is_not_loaded(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'owned'}",)

    torch.save({"step": Evil()}, tmp_path / LAST)
    with pytest.raises(UserError, match="no training state"):
        load_state(tmp_path)
    assert not (tmp_path / "owned").exists()


# At the very end torch speaks of its own stream, before that of positions
@pytest.mark.parametrize("missing_bytes", [1, 500, 2000, 390_000])
def test_a_full_disk_leaves_the_former_states(missing_bytes: int, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    save_state(folder, state(1))
    (tmp_path / "other").mkdir()
    save_state(tmp_path / "other", {"step": 2, "w": torch.zeros(100_000)})
    limit = (tmp_path / "other" / LAST).stat().st_size - missing_bytes
    program = f"""
import resource, signal, sys, torch
from pathlib import Path
from unet_pipeline.errors import ResourceError
from unet_pipeline.training.checkpoints import save_state
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    save_state(Path({str(folder)!r}), {{"step": 2, "w": torch.zeros(100_000)}})
except ResourceError as error:
    print(error)
    sys.exit(5)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 5, done.stderr
    reason = "the file would exceed the size limit; free or choose another place"
    assert done.stdout == f"cannot write {folder / LAST}: {reason}\n"
    assert load_state(folder)["step"] == 1
    assert [path.name for path in folder.iterdir()] == [LAST]


def test_the_reason_of_a_refusal_is_told_whatever_torch_makes_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(io.FileIO):
        def write(self, data: object) -> int:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(io, "FileIO", Refusing)
    with pytest.raises(ResourceError, match=r"cannot write .*last\.pt: the disk quota is used up"):
        save_state(tmp_path, state(1))
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_of_our_own_is_not_taken_for_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(*_: object) -> None:
        raise RuntimeError("inline_container.cc: odd")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(RuntimeError, match="odd"):
        save_state(tmp_path, state(1))


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_state_that_loads(tmp_path: Path) -> None:
    program = f"""
import torch
from pathlib import Path
from unet_pipeline.training.checkpoints import save_state
step = 0
while True:
    step += 1
    save_state(Path({str(tmp_path)!r}), {{"step": step, "w": torch.full((2_000_000,), step)}})
    print(step, flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(3):
            saved = int(process.stdout.readline())
        for _ in range(1000):  # a temporary file is there: a save is under way
            if list(tmp_path.glob(".*.tmp")):
                break
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    loaded = load_state(tmp_path)
    assert loaded["step"] >= saved
    assert bool((loaded["w"] == loaded["step"]).all())


def test_a_state_of_another_version_is_named_and_kept(tmp_path: Path) -> None:
    torch.save({"version": 99, "step": 1}, tmp_path / LAST)
    with pytest.raises(UserError, match="state version 99"):
        load_state(tmp_path)
    assert (tmp_path / LAST).exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_state_that_may_not_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    save_state(tmp_path, state(1))
    (tmp_path / LAST).chmod(0)
    with pytest.raises(ResourceError, match="cannot read"):
        load_state(tmp_path)
    assert (tmp_path / LAST).exists()
