"""Which samples a training sees when: a function of seed and epoch, divided among processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from unet_pipeline.distributed import shard
from unet_pipeline.errors import UserError


class EpochKey(NamedTuple):
    """What a sampler hands to the dataset."""

    epoch: int
    number: int
    """Of the sample, from 0."""
    stand_in: bool = False
    """Whether it only fills a batch that would be empty."""


class KeyedBatchSampler:
    """Batches of (epoch, index), each sample once an epoch, in an order made of (seed, epoch).

    The last batch may be smaller. It is left out only where it would be a single sample beside
    others: batch normalisation has no variance to measure in one.
    Of `world_size` processes, each takes its part of the same batches: `batch_size` is that of all
    together. All take the same number of steps, so where a small batch has nothing for a process,
    it takes the first sample, to stand in.
    Set `epoch` and `start_batch` before iterating.
    """

    def __init__(
        self, num_samples: int, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        if num_samples < 1:
            raise UserError("no samples to train on: the split 'train' is empty")
        if batch_size < 1:
            raise UserError(f"batch_size = {batch_size}: use at least 1")
        if batch_size < world_size:
            raise UserError(
                f"batch_size = {batch_size} for {world_size} processes: use at least {world_size}, "
                "one sample for each, or fewer processes"
            )
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.start_batch = 0

    def __len__(self) -> int:
        """Batches of a whole epoch, wherever it is entered."""
        full, rest = divmod(self.num_samples, self.batch_size)
        return full + (rest > 1 or (rest == 1 and full == 0))

    def global_size(self, batch: int) -> int:
        """Samples of batch number `batch` (from 0) in all processes together."""
        return min(self.batch_size, self.num_samples - batch * self.batch_size)

    def __iter__(self) -> Iterator[list[EpochKey]]:
        epoch, start_batch = self.epoch, self.start_batch
        order = np.random.default_rng([self.seed, epoch]).permutation(self.num_samples)
        for batch in range(start_batch, len(self)):
            chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            own = shard(chosen.tolist(), self.rank, self.world_size)
            yield [EpochKey(epoch, number) for number in own] or [
                EpochKey(epoch, int(chosen[0]), stand_in=True)
            ]
