"""The machine: device, precision, seeds, memory, and signals that ask to stop."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TypeVar

import numpy as np
import psutil
import torch
from torch import nn

from unet_pipeline.errors import ResourceError, UserError

Module = TypeVar("Module", bound=nn.Module)

ECHO_SECONDS = 0.3
"""A signal that comes so soon after the first is the same request, which no person sends twice in
that time: `timeout` signals the process and then its group."""
ECHO_SECONDS_OF_TORCHRUN = 10.0
"""A scheduler signals all processes, and torchrun hands on what it is sent itself; saving is done
within that time."""

_KEEP_ALL = {-1: -1, -4: 0}
"""Of glibc's malloc.h: M_TRIM_THRESHOLD, never; M_MMAP_MAX, no block that the main heap can hold
has a mapping of its own."""


class StopRequest:
    """Whether SIGINT, SIGTERM or SIGHUP has asked the run to end, and with which exit code.

    The first signal is remembered, so that the work ends between two steps and is saved; a second
    one ends the process at once, if it comes more than `echo_seconds` after the first.
    """

    def __init__(self, echo_seconds: float = ECHO_SECONDS) -> None:
        self.signal: int | None = None
        self.echo_seconds = echo_seconds
        self._asked = 0.0
        self._lost: Callable[[], object] = lambda: None

    def __bool__(self) -> bool:
        return self.signal is not None or self._lost() is not None

    @property
    def exit_code(self) -> int:
        """128 + the signal: 130 for Ctrl-C, 143 for SIGTERM, 129 for a terminal that was closed.

        5 where something that is needed was lost.
        """
        return ResourceError.exit_code if self.signal is None else 128 + self.signal

    def also_where(self, lost: Callable[[], object]) -> None:
        """Ask the run to end also once `lost`, which is called every step, gives a reason."""
        self._lost = lost

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Remember the first signal; leave at once on a second that is no echo of it."""
        if self.signal is None:
            self.signal, self._asked = number, time.monotonic()
        elif time.monotonic() - self._asked > self.echo_seconds:
            with contextlib.suppress(OSError):  # as bytes: a signal may come within a print
                os.write(2, b"\nerror: asked twice, so left at once; what was saved before stays\n")
            os._exit(128 + number)

    def take_over(self, former: object) -> None:
        """Be asked to end, too, where `former`, a handler of a signal, is a request that was."""
        outer = getattr(former, "__self__", None)
        if isinstance(outer, StopRequest) and outer.signal is not None and self.signal is None:
            self.signal, self._asked = outer.signal, outer._asked


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """A `StopRequest` that listens to SIGINT, SIGTERM and SIGHUP; former handlers come back after.

    SIGHUP stays ignored where it is, as under `nohup`. Work within work that was asked to end
    already, as a trial of a sweep, is asked from the beginning.
    """
    # Also where torchrun has started one process alone: it is signalled twice all the same
    by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    request = StopRequest(ECHO_SECONDS_OF_TORCHRUN if by_torchrun else ECHO_SECONDS)
    try:
        former = {
            number: signal.signal(number, request.handle)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
        }
    except ValueError:  # signals reach the main thread only; elsewhere the caller keeps them
        yield request
        return
    for handler in former.values():
        request.take_over(handler)
    try:
        yield request
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def choose_device(name: str) -> torch.device:
    """The device called `name`; `auto` takes CUDA, then MPS, then the CPU.

    Raises `UserError` for a device that is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"unknown device {name!r}: use auto, cpu, cuda, cuda:1 or mps") from error
    available = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    count = available.get(device.type)
    if count is None:
        raise UserError(f"device {name!r} is not supported: use auto, cpu, cuda or mps")
    if (device.index or 0) >= count:
        raise UserError(
            f"device {name!r} is not there: this machine has {count} of type {device.type}; "
            "use --device auto or cpu"
        )
    return device


def choose_precision(amp: str, device: torch.device) -> torch.dtype | None:
    """The type that autocast computes in, or None for float32 throughout.

    `auto` takes bfloat16 where the hardware has it natively, and float16 on other CUDA devices.
    Emulated bfloat16 is slower than float32, so a CPU without AVX512-BF16 or AMX gets None.
    """
    if amp == "off":
        return None
    if device.type == "cuda":
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        native = any(capabilities.get(key) for key in ("avx512_bf16", "amx_bf16", "bf16"))
        return torch.bfloat16 if native or amp == "on" else None
    return torch.bfloat16 if amp == "on" else None


@contextlib.contextmanager
def memory_errors(advice: str) -> Iterator[None]:
    """Turn what torch and Python say when memory is short into a `ResourceError` with `advice`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(f"out of memory: {advice}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` is how Python, torch or a device says that memory is short."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # The CPU allocator has no class of its own
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def place(module: Module, device: torch.device, memory_format: str = "channels_last") -> Module:
    """`module` on `device`, in a memory layout: channels_last or contiguous.

    With channels first, a U-Net's training step in bf16 took 1.3 times as long (2 cores, width 32:
    scripts/bench_width.py); results are the same up to rounding. On a CPU, see `keep_freed_memory`.
    """
    if device.type == "cpu":
        keep_freed_memory()
    layouts = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
    return module.to(device=device).to(memory_format=layouts[memory_format])


@contextlib.contextmanager
def keeping_modes(module: nn.Module) -> Iterator[None]:
    """Afterwards every part of `module` is in training or evaluation mode as it was before."""
    former = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, training in former:
            part.training = training


@contextlib.contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """No gradients, and every part of `module` in evaluation mode; afterwards as it was."""
    with keeping_modes(module), torch.no_grad():
        module.eval()
        yield


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators, which weights and dropout draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def keep_freed_memory() -> None:
    """Have the C library keep the memory of freed tensors for the next ones of this process.

    glibc gives large blocks back to the system at once, which hands the next ones out empty, 4 KB
    at a time: a U-Net's training step takes 0.78 of the time without that, on a quiet machine
    (scripts/bench_memory.py). So the process stays as large as it has been, until `free_memory` is
    asked for. Does nothing where the C library is another one.
    """
    for parameter, value in _KEEP_ALL.items():
        _tell_glibc("mallopt", parameter, value)


def _tell_glibc(function: str, *arguments: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            getattr(ctypes.CDLL(None), function)(*arguments)


def free_memory() -> int:
    """Bytes of memory that this process may still take without swapping.

    In a container that is what its own limit leaves, not what the host has. What is kept of freed
    memory is free as well, and given back first.
    """
    _tell_glibc("malloc_trim", 0)
    available = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (
            (group / name).read_text().strip() for name in ("memory.max", "memory.current")
        )
    except OSError:  # not Linux, or an older kind of container
        return available
    if limit == "max":
        return available
    cached = 0  # bytes of files that were read: they count as used, but make room when asked to
    with contextlib.suppress(OSError):
        for line in (group / "memory.stat").read_text().splitlines():
            if line.startswith("inactive_file "):
                cached = int(line.split()[1])
    return max(0, min(available, int(limit) - int(used) + cached))


def num_cores() -> int:
    """Processor cores that this process may use, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_machine(device: torch.device) -> dict[str, str]:
    """What computes, in words: device, its name, threads."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "device": str(device),
        "device_name": name or platform.machine(),
        "threads": str(torch.get_num_threads()),
    }
