"""How long a training step takes here, found out by taking a few."""

from __future__ import annotations

import time

import torch
from torch import nn

from unet_pipeline.training.losses.deep import full_logits

LONG_SECONDS = 3.0


def seconds_per_step(
    network: nn.Module,
    *,
    in_channels: int,
    num_classes: int,
    image_size: tuple[int, int],
    batch_size: int,
    autocast_dtype: torch.dtype | None,
    repeats: int = 2,
) -> float:
    """Seconds of a forward and a backward pass of `network` on a batch of random crops.

    The shortest of `repeats`, after one that warms up, unless that is long itself. The update of
    the weights, a few percent of a step, is left out. The network is left with gradients; its
    weights stay as they were.
    """
    device = next(network.parameters()).device
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, in_channels, *image_size)
    images = torch.rand(shape, generator=generator).to(device)
    masks = torch.randint(0, num_classes, (batch_size, *image_size), generator=generator).to(device)

    def step() -> float:
        started = time.perf_counter()
        with torch.autocast(device.type, autocast_dtype, enabled=autocast_dtype is not None):
            logits = full_logits(network(images))
        nn.functional.cross_entropy(logits.float(), masks).backward()  # type: ignore[no-untyped-call]
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    network.train()
    first = step()
    if first > LONG_SECONDS:  # a warm-up is a small part of it
        return first
    return min(step() for _ in range(repeats))
