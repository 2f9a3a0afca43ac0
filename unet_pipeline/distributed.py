"""Several processes that train one model: who each of them is, and what they tell each other.

`torchrun` starts them, one a device; the main one, rank 0, writes files and reports. What they say
they say together: a function here that talks is called by all of them, in the same order, or those
that call it wait. Alone, a process needs no group, and each function gives back what it is given.
Importing this loads no torch.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from unet_pipeline.errors import ResourceError, UserError

if TYPE_CHECKING:
    import torch
    from torch._C._distributed_c10d import Store

T = TypeVar("T")

_PAUSE = 0.05  # seconds between two looks for the main process, when processes meet


@dataclass(frozen=True)
class World:
    """Which process this is, of how many: rank in all, local_rank on this machine, both from 0.

    local_size: how many there are on this machine.
    """

    rank: int = 0
    local_rank: int = 0
    size: int = 1
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes, tracks and reports."""
        return self.rank == 0


ALONE = World()

# ---- who this is


def world_of_environment() -> World:
    """What torchrun has said about this process; alone where it has said nothing.

    Raises `UserError` for an environment that only half says it.
    """
    size = _number("WORLD_SIZE", 1)
    if size <= 1:
        return World()
    if "RANK" not in os.environ:
        raise UserError(f"WORLD_SIZE = {size}, but RANK is not set: start processes with torchrun")
    rank = _number("RANK", 0)
    if rank >= size:
        raise UserError(f"RANK = {rank} with WORLD_SIZE = {size}: ranks go from 0 to {size - 1}")
    return World(rank, _number("LOCAL_RANK", 0), size, max(1, _number("LOCAL_WORLD_SIZE", size)))


def job_id() -> str | None:
    """A name for the torchrun job, the same in all processes and after each restart; else None.

    It is the `--rdzv-id` where the user gave one: who uses it again continues that job. Otherwise
    it is made from the launch, so that a second launch is another job. All processes call it.
    """
    run = os.environ.get("TORCHELASTIC_RUN_ID")
    if run is None:
        return None
    return broadcast_object(run if run != "none" else _launch())


def restart_count() -> int:
    """How often torchrun has restarted the processes after one failed; 0 without torchrun.

    Machines that come and go in an elastic job restart them too, but are not counted.
    """
    return _number("TORCHELASTIC_RESTART_COUNT", 0)


def _launch() -> str:
    """The folder that torchrun makes for a launch and keeps over its restarts.

    Its random part is what is unique: in containers the process numbers of two launches are often
    the same, and so are their addresses.
    """
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if error_file:  # <logs>/<run id>_<random>/attempt_<restarts>/<local rank>/error.json
        folder = Path(error_file).parents[2]
        return f"{folder.parent.name}-{folder.name}"
    address, port = (os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    return f"{address}-{port}-{os.getppid()}"


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdigit()):
        raise UserError(f"{name} = {text!r}: torchrun sets a whole number there; unset it or use 0")
    return int(text)


# ---- together


@contextlib.contextmanager
def open_world(device: torch.device | str, *, timeout_seconds: float = 1800.0) -> Iterator[World]:
    """This process among those that torchrun has started with it, connected until the block ends.

    device: what they compute on; cuda talks by NCCL, and by gloo about what lies in main memory,
    so that no question waits for a GPU. Where processes are connected already, they stay so.
    timeout_seconds: how long to wait for another process, which may be reading a dataset.
    Raises `UserError` for a device that processes cannot share, and `ResourceError` where another
    process is not there, ends or hangs; an error of this process goes its way.
    """
    world = world_of_environment()
    if world.size == 1 or is_connected():
        yield world
        return
    backend = _backend(str(device), world)
    with _one_line_for_lost_processes(world):
        import torch.distributed as dist

        timeout = timedelta(seconds=timeout_seconds)
        dist.init_process_group(
            backend, store=_meet(world, timeout), rank=world.rank, world_size=world.size,
            timeout=timeout,
        )  # fmt: skip
        try:
            yield world
        finally:
            dist.destroy_process_group()


def is_connected() -> bool:
    """Whether this process can talk to others now."""
    dist = sys.modules.get("torch.distributed")  # a group that exists has it loaded
    return dist is not None and dist.is_available() and dist.is_initialized()


def num_processes() -> int:
    """How many processes are connected; 1 where this one is alone."""
    if not is_connected():
        return 1
    import torch.distributed as dist

    return dist.get_world_size()


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of every process's `tensor`, all of one shape and type, without a gradient.

    `tensor` itself stays as it is. Sums of whole numbers are exact.
    """
    if not is_connected():
        return tensor
    import torch
    import torch.distributed as dist

    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def any_rank(flag: bool) -> bool:
    """Whether `flag` is true in any process: what one is told to do, all do at the same step."""
    return agree_max(float(flag)) > 0


def agree_max(value: float) -> float:
    """The largest `value` of all processes: of elapsed seconds, so that schedules agree."""
    if not is_connected():
        return value
    import torch
    import torch.distributed as dist

    largest = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return float(largest)


def broadcast_object(value: T) -> T:
    """The main process's `value`, in every process; what the others give is not looked at."""
    if not is_connected():
        return value
    import torch.distributed as dist

    objects = [value]
    dist.broadcast_object_list(objects, src=0)
    return objects[0]


def share_buffers(module: torch.nn.Module) -> None:
    """Give all processes the main one's buffers of `module`: the statistics of its norms."""
    if not is_connected():
        return
    import torch.distributed as dist

    for buffer in module.buffers():
        dist.broadcast(buffer, src=0)


def gather_objects(value: T) -> list[T]:
    """Every process's `value`, by rank, in every process."""
    if not is_connected():
        return [value]
    import torch.distributed as dist

    objects: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(objects, value)
    return cast("list[T]", objects)


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """The main process goes through the block alone, then the others: they find what it made.

    Where it fails, its error goes its way and the others raise `ResourceError`.
    """
    if not is_connected():
        yield
        return
    import torch.distributed as dist

    is_main, done = dist.get_rank() == 0, False
    if not is_main and not broadcast_object(done):
        raise ResourceError("the main process has failed: see its message")
    try:
        yield
        done = True
    finally:
        if is_main:
            broadcast_object(done)


# ---- parts of a list


def shard(items: Sequence[T], rank: int, world_size: int) -> Sequence[T]:
    """What process `rank` has of `items`: every so many-th, so that shares differ by one at most.

    >>> shard("abcde", 0, 2), shard("abcde", 1, 2)
    ('ace', 'bd')
    """
    assert 0 <= rank < world_size, (rank, world_size)
    return items[rank::world_size]


# ---- how they meet, and part


def _backend(device: str, world: World) -> str:
    """What carries messages between processes that compute on `device`."""
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (kind == "cuda" and index):
        raise UserError(
            f"device {device!r} with {world.size} processes: use --device cuda, which gives each "
            "process a GPU of its own, or cpu"
        )
    if kind == "cpu":
        return "gloo"
    import torch
    import torch.distributed as dist

    if world.local_rank >= torch.cuda.device_count():
        raise UserError(
            f"process {world.local_rank + 1} of this machine has no GPU, there are "
            f"{torch.cuda.device_count()}: use torchrun --nproc-per-node gpu"
        )
    torch.cuda.set_device(world.local_rank)
    return "cpu:gloo,cuda:nccl" if dist.is_nccl_available() else "gloo"


def _meet(world: World, timeout: timedelta) -> Store:
    """A store that exactly these processes share, and nobody before them.

    torchrun keeps one store for all restarts of a job. Left to itself, torch finds the addresses in
    it of processes that are gone, and often spends a restart on that (torch 2.15: after two of
    three kills); so it does where processes connect a second time. Here the main process opens a
    numbered room, and answers each name that it reads in it: names are never used twice.
    """
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    store = _store_of_launcher(world, timeout)
    if world.is_main:
        room = PrefixStore(f"room {store.add('rooms', 1)}", store)
        guests = [f"guest {rank}" for rank in range(1, world.size)]
        room.wait(guests, timeout)
        for guest in guests:
            room.set(f"welcome {room.get(guest).decode()}", "")
        return room
    name, number = uuid.uuid4().hex, -1
    deadline = time.monotonic() + timeout.total_seconds()
    while time.monotonic() < deadline:
        latest = store.add("rooms", 0)
        room = PrefixStore(f"room {latest}", store)
        if latest != number:  # the room before was one of processes that are gone
            room.set(f"guest {world.rank}", name)
            number = latest
        if room.check([f"welcome {name}"]):
            return room
        time.sleep(_PAUSE)
    raise ResourceError(f"process {world.rank} of {world.size} waits in vain for the main process")


@functools.cache  # the main process may be what keeps it, so it stays until the process ends
def _store_of_launcher(world: World, timeout: timedelta) -> Store:
    from torch.distributed.rendezvous import rendezvous

    handler = rendezvous("env://", world.rank, world.size, timeout=timeout)
    store: Store = next(handler)[0]
    store.set_timeout(timeout)
    return store


@contextlib.contextmanager
def _one_line_for_lost_processes(world: World) -> Iterator[None]:
    """Turn what the libraries say when another process is gone into a `ResourceError`."""
    import torch.distributed as dist

    try:
        yield
    except RuntimeError as error:
        # gloo has no class of its own; its messages begin with where in its code they come from
        if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
            raise
        raise ResourceError(
            f"process {world.rank} of {world.size} has lost another one, which ended or hangs: "
            "its message says why, if it was not killed (for want of memory, as a rule)"
        ) from error
