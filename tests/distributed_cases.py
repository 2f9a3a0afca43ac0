"""What two processes of a torchrun do for `test_distributed.py`: each writes down what it found.

    torchrun --nproc-per-node 2 --max-restarts 1 -m tests.distributed_cases FOLDER

In the first attempt a process is killed; the second goes through all cases. What one process makes
of the whole batch is computed before the two are connected.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from unet_pipeline import distributed
from unet_pipeline.errors import UserError

Facts = dict[str, Any]


def open_world() -> AbstractContextManager[distributed.World]:
    """Short of patience: where the test is ended, no process stays behind."""
    return distributed.open_world(torch.device("cpu"), timeout_seconds=60)


# ---- what processes tell each other


def talk_facts(world: distributed.World) -> Facts:
    counts = torch.tensor([[2**60, world.rank], [5, 7]])
    shares = distributed.gather_objects(distributed.shard(range(7), world.rank, world.size))
    return {
        "world": [world.rank, world.local_rank, world.size, world.is_main],
        "broadcast": distributed.broadcast_object({"from": world.rank}),
        "gathered": distributed.gather_objects(f"of {world.rank}"),
        "shares": [list(share) for share in shares],
        "sum": distributed.all_reduce_sum(counts.T).tolist(),
        "summed": counts.tolist(),
        "any": [distributed.any_rank(world.rank == 1), distributed.any_rank(False)],
        "max": distributed.agree_max(0.1 + world.rank),
        "num_processes": distributed.num_processes(),
        "nested": nested_facts(),
    }


def nested_facts() -> Facts:
    with open_world() as world:
        size = world.size
    return {"size": size, "connected_after": distributed.is_connected()}


def order_facts(world: distributed.World, folder: Path) -> Facts:
    """Whether a file was there that every process makes where it is missing."""
    path = folder / "made once"
    with distributed.main_first():
        there = path.exists()
        path.touch()
    return {"there": there}


def failure_in_the_main_process() -> str:
    with catching() as caught, open_world() as world, distributed.main_first():
        if world.is_main:
            raise UserError("cannot read it")
    return caught[0]


def failure_in_another_process() -> str:
    with catching() as caught, open_world() as world:
        if world.rank == 1:
            raise UserError("cannot read it")
        distributed.any_rank(False)
    return caught[0]


@contextlib.contextmanager
def catching() -> Iterator[list[str]]:
    """Filled with the class and message of the error that ends the block."""
    caught: list[str] = []
    try:
        yield caught
    except UserError as error:
        caught.append(f"{type(error).__name__}: {error}")


# ---- attempts


def job_facts() -> Facts:
    return {"job_id": distributed.job_id(), "restart_count": distributed.restart_count()}


def killed(folder: Path) -> Facts:
    """One process is ended by SIGKILL, while the other waits for it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, which may come before the facts
    facts: Facts = {}
    with catching() as caught, open_world() as world:
        facts = job_facts()
        if world.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        distributed.any_rank(False)
    return facts | {"caught": caught}


def restarted(folder: Path) -> Facts:
    """All cases, in processes that follow those of the attempt before."""
    from tests import distributed_training as training

    losses = training.measure(training.small_network(), 0, 1)
    weights = training.train(copy.copy, 0, 1)
    with open_world() as world:
        facts = job_facts() | {
            "talk": talk_facts(world),
            "order": order_facts(world, folder),
            "losses": training.loss_facts(losses, world.rank),
            "quiet": training.quiet_facts(world.rank),
            "steps": training.step_facts(weights, world.rank),
        }
    return facts | {
        "connected_after": distributed.is_connected(),
        "main_failed": failure_in_the_main_process(),
        "other_failed": failure_in_another_process(),
    }


if __name__ == "__main__":
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    attempt = killed if distributed.restart_count() == 0 else restarted
    name = f"{attempt.__name__} {distributed.world_of_environment().rank}.json"
    (Path(sys.argv[1]) / name).write_text(json.dumps(attempt(Path(sys.argv[1]))))
