"""Device, precision, seeds, signals."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from unet_pipeline import runtime
from unet_pipeline.errors import ResourceError, UserError
from unet_pipeline.runtime import (
    choose_device,
    choose_precision,
    describe_machine,
    evaluation_mode,
    free_memory,
    keeping_modes,
    memory_errors,
    num_cores,
    place,
    seed_everything,
    stop_on_signals,
)

CPU = torch.device("cpu")


def test_auto_takes_a_device_that_is_there() -> None:
    device = choose_device("auto")
    assert torch.zeros(1, device=device).device.type == device.type


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cuda:99", "is not there"),
        ("gpu", "unknown device 'gpu'"),
        ("xla", "is not supported"),
        ("cpu:1", "is not there"),
    ],
)
def test_a_device_that_is_not_there_is_one_clear_line(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        choose_device(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("capabilities", "amp", "expected"),
    [
        ({"avx512_bf16": True}, "auto", torch.bfloat16),
        ({"avx512_bf16": False, "avx2": True}, "auto", None),
        ({"avx512_bf16": False}, "on", torch.bfloat16),
        ({"avx512_bf16": True}, "off", None),
    ],
)
def test_bf16_is_chosen_where_the_cpu_has_it_natively(
    capabilities: dict[str, bool],
    amp: str,
    expected: torch.dtype | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert choose_precision(amp, CPU) == expected


def test_one_seed_gives_the_same_weights() -> None:
    seed_everything(3)
    first = torch.rand(4)
    seed_everything(3)
    assert torch.equal(first, torch.rand(4))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_is_remembered_and_the_former_handler_comes_back(number: int, code: int) -> None:
    former = signal.getsignal(number)
    with stop_on_signals() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop
        assert stop.exit_code == code
    assert signal.getsignal(number) == former


def test_work_within_work_that_was_asked_to_end_is_asked_from_the_beginning() -> None:
    with stop_on_signals() as outer:
        with stop_on_signals() as stop:
            assert not stop
        signal.raise_signal(signal.SIGTERM)
        with stop_on_signals() as stop:
            assert stop
            assert stop.exit_code == 143
        assert outer.exit_code == 143
    with stop_on_signals() as stop:
        assert not stop


def test_a_closed_terminal_is_no_signal_where_it_is_ignored() -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` starts a command
    try:
        with stop_on_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop
    finally:
        signal.signal(signal.SIGHUP, former)


class LeftError(Exception):
    """In place of the end of the process."""


@pytest.mark.parametrize(
    ("by_torchrun", "seconds", "leaves"),
    [(False, 0.1, False), (False, 1.0, True), (True, 1.0, False), (True, 15.0, True)],
)
def test_a_second_signal_ends_the_process_unless_it_is_an_echo_of_the_first(
    by_torchrun: bool, seconds: float, leaves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0

    def leave(code: int) -> None:
        raise LeftError(code)

    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if by_torchrun:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr(runtime.time, "monotonic", lambda: now)
    monkeypatch.setattr(runtime.os, "_exit", leave)
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        now += seconds
        with pytest.raises(LeftError) if leaves else contextlib.nullcontext():
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.exit_code == 143


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
def test_a_lack_of_memory_becomes_advice(error: Exception) -> None:
    with (
        pytest.raises(ResourceError, match="smaller --batch-size"),
        memory_errors("use a smaller --batch-size"),
    ):
        raise error


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="another"), memory_errors("advice"):
        raise RuntimeError("another")


def test_the_machine_is_described_in_words() -> None:
    facts = describe_machine(CPU)
    assert facts["device"] == "cpu"
    assert all(isinstance(value, str) and value for value in facts.values())


@pytest.mark.parametrize(
    ("stat", "expected"),
    [(None, 600_000), ("anon 1\n", 600_000), ("anon 1\ninactive_file 150000\n", 750_000)],
)
def test_memory_of_a_container_is_what_its_limit_leaves_with_that_of_files_read(
    stat: str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.read_text

    def read(path: Path) -> str:
        if path.parent != Path("/sys/fs/cgroup"):
            return real(path)
        if path.name == "memory.stat" and stat is None:
            raise FileNotFoundError(path)
        files = {"memory.max": "1000000\n", "memory.current": "400000\n", "memory.stat": stat}
        return str(files[path.name])

    monkeypatch.setattr(Path, "read_text", read)
    assert free_memory() == expected


def test_free_memory_and_cores_are_positive() -> None:
    assert free_memory() > 0
    assert num_cores() >= 1


def two_parts() -> nn.Sequential:
    return nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.BatchNorm1d(1), nn.Dropout()))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_modes_of_all_parts_are_afterwards_as_they_were(training: bool, fails: bool) -> None:
    module = two_parts().train(training)
    module[1][0].train(not training)  # one part alone in another mode
    before = [part.training for part in module.modules()]
    with contextlib.suppress(ZeroDivisionError), keeping_modes(module):
        module.train(not training)
        assert all(part.training != training for part in module.modules())
        if fails:
            raise ZeroDivisionError
    assert [part.training for part in module.modules()] == before


def test_keeping_modes_changes_none_by_itself_and_nothing_of_gradients() -> None:
    module = two_parts()
    module[1][1].eval()
    before = [part.training for part in module.modules()]
    with keeping_modes(module):
        assert [part.training for part in module.modules()] == before
        assert torch.is_grad_enabled()


@pytest.mark.parametrize("grad", [True, False])
def test_evaluation_mode_ends_with_the_modes_and_gradients_of_before(grad: bool) -> None:
    module = two_parts()
    module[1][0].eval()
    before = [part.training for part in module.modules()]
    with torch.set_grad_enabled(grad):
        with contextlib.suppress(ZeroDivisionError), evaluation_mode(module):
            assert not any(part.training for part in module.modules())
            assert not torch.is_grad_enabled()
            raise ZeroDivisionError
        assert torch.is_grad_enabled() == grad
    assert [part.training for part in module.modules()] == before


GLIBC = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="for the C library glibc alone"
)


FAULTS = """
import ctypes, resource
from unet_pipeline.runtime import keep_freed_memory
keep_freed_memory()
c = ctypes.CDLL(None)
c.malloc.restype, size = ctypes.c_void_p, 2**26
for turn in range(5):
    block = ctypes.c_void_p(c.malloc(size))  # 64 MB, which always had a mapping of its own
    c.memset(block, 1, size)
    c.free(block)
    if turn == 0:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@GLIBC
def test_memory_of_freed_tensors_is_used_again() -> None:
    """Given back to the system and asked for again, each 4 KB of it are a page fault."""
    done = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True)
    assert int(done.stdout) < 1000


@GLIBC
def test_memory_that_is_kept_counts_as_free() -> None:
    """Else what one training has kept would be missing where the next one asks.

    In a process of its own: in one that has been busy the heap may have no room to grow, and then
    the C library keeps nothing.
    """
    code = """
import psutil, torch
from unet_pipeline.runtime import free_memory, keep_freed_memory
keep_freed_memory()
torch.ones(2**26)  # 256 MB
kept = psutil.Process().memory_info().rss
free_memory()
print(kept - psutil.Process().memory_info().rss)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 2**27


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_only_what_computes_on_a_cpu_keeps_memory(
    monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    asked = []
    monkeypatch.setattr(runtime, "keep_freed_memory", lambda: asked.append(device))
    place(nn.Conv2d(1, 1, 1), torch.device(device))
    assert bool(asked) == (device == "cpu")
