"""A training of several processes, as torchrun starts them: what the main one does alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from unet_pipeline.console import quiet
from unet_pipeline.distributed import (
    World,
    broadcast_object,
    job_id,
    open_world,
    world_of_environment,
)
from unet_pipeline.errors import UserError
from unet_pipeline.files import write_atomic
from unet_pipeline.training.checkpoints import STATE_NAMES

T = TypeVar("T")

_JOB_NAME = "torchrun-job.txt"


@contextlib.contextmanager
def joined(device: str) -> Iterator[World]:
    """The processes of this training; all but the main one say nothing but warnings."""
    with open_world(device) as world, contextlib.nullcontext() if world.is_main else quiet():
        yield world


def by_main(world: World, compute: Callable[[], T]) -> T:
    """What `compute` gives in the main process, in all of them."""
    return broadcast_object(compute() if world.is_main else None)  # type: ignore[return-value]


def refuse_several(option: str) -> None:
    """Raise `UserError` where torchrun has started several processes for what takes one."""
    size = world_of_environment().size
    if size > 1:
        raise UserError(f"{option} takes one process, torchrun has started {size}: leave it out")


def sign_job(folder: Path, world: World) -> None:
    """Note in a run folder which torchrun job it is of, for `former_attempt`."""
    job = job_id()
    if job is not None and world.is_main:
        write_atomic(folder / _JOB_NAME, job)


def end_job(folder: Path) -> None:
    """Take the note away: the run is finished, and the job's next one is another."""
    (folder / _JOB_NAME).unlink(missing_ok=True)


def former_attempt(runs_dir: Path, world: World) -> Path | None:
    """The run folder that this torchrun job has begun before a process of it failed, if any."""
    job = job_id()
    if job is None:
        return None

    def look() -> Path | None:
        for note in sorted(runs_dir.glob(f"*/*/{_JOB_NAME}")):
            has_state = any((note.parent / name).exists() for name in STATE_NAMES)
            if has_state and note.read_text(encoding="utf-8") == job:
                return note.parent
        return None

    return by_main(world, look)
