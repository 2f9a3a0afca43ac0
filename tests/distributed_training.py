"""Losses and steps of one of two processes beside those of one (see `distributed_cases`)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.training.loss_cases import options_of, variants
from unet_pipeline.distributed import shard
from unet_pipeline.models import UNet
from unet_pipeline.training.losses import LOSSES, ce, parse_loss

Facts = dict[str, Any]
Measured = dict[str, tuple[float, list[Tensor]]]
STEPS = 10


# ---- losses


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 4, 1)
    )


def loss_batches() -> dict[str, tuple[Tensor, Tensor]]:
    """Four samples, every other of which is the part of a process; by what is odd about them."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 6, 7, generator=generator)
    target = torch.randint(3, (4, 6, 7), generator=generator)
    target[0, 0] = 3  # a class that the other process never sees
    draws = torch.rand(target.shape, generator=generator)
    draws[0, 0] = 1
    target[0::2][draws[0::2] < 0.1] = 255
    target[1::2][draws[1::2] < 0.7] = 255
    void = target.clone()
    void[1::2] = 255
    return {"uneven": (images, target), "void": (images, void)}


def measure(network: nn.Module, rank: int, size: int) -> Measured:
    """Loss and gradients of every loss and option, of the part that process `rank` of `size` has.

    The key: what is odd about the batch, the loss, its options where they are not the defaults.
    """
    found: Measured = {}
    for odd, (images, target) in loss_batches().items():
        for name, options in (variant.values for variant in variants()):
            network.zero_grad()
            own, labels = images[rank::size], target[rank::size]
            value = LOSSES[name](network(own), labels, **options)
            value.backward()
            gradients = [parameter.grad.clone() for parameter in network.parameters()]
            defaults = options_of(name)
            changed = {key: options[key] for key in options if options[key] != defaults[key]}
            found[f"{odd} {name} {json.dumps(changed)}"] = value.item(), gradients
    return found


def loss_facts(whole: Measured, rank: int) -> Facts:
    """By case: this process's loss, that of the whole batch, and how far gradients are apart."""
    parts = measure(DistributedDataParallel(small_network()), rank, 2)
    facts = {}
    for case, (value, gradients) in parts.items():
        expected, of_whole = whole[case]
        facts[case] = {
            "value": value,
            "whole": expected,
            "apart": max(
                float((a - b).abs().max()) for a, b in zip(gradients, of_whole, strict=True)
            ),
        }
    return facts


def quiet_facts(rank: int) -> Facts:
    """Losses that only one process computes, or each of its own: nobody waits for the other."""
    images, target = loss_batches()["uneven"]
    own, labels = small_network()(shard(images, rank, 2)).detach(), shard(target, rank, 2)
    if rank == 1:
        parse_loss("ce + dice + lovasz", num_classes=4)  # it is tried on a pixel
    of_torch = nn.functional.cross_entropy(own, labels, ignore_index=255)
    return {"value": ce(own, labels).item(), "own": of_torch.item()}


# ---- steps


def small_unet() -> UNet:
    torch.manual_seed(0)
    return UNet(in_channels=3, num_classes=4, norm="group", base_channels=8, depth=2)


def train(wrap: Callable[[nn.Module], nn.Module], rank: int, size: int) -> list[Tensor]:
    """The weights of a small U-Net after ten steps, of which process `rank` takes its part."""
    unet = small_unet()
    network, loss = wrap(unet), parse_loss("ce + dice")
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(1)
    for number in range(STEPS):
        count = 1 if number == STEPS // 2 else 4  # once nothing is left for the other process
        images = torch.randn(count, 3, 16, 16, generator=generator)
        target = torch.randint(4, (count, 16, 16), generator=generator)
        target[1:, :12] = 255
        own, labels = images[rank::size], target[rank::size]
        if not len(own):  # as the loader does it
            own, labels = images[:1], torch.full_like(target[:1], 255)
        optimizer.zero_grad()
        loss(network(own), labels).backward()
        optimizer.step()
    return [parameter.detach() for parameter in unet.parameters()]


def step_facts(whole: list[Tensor], rank: int) -> Facts:
    """How far weights of two processes are from those of one, and how far those have moved."""
    weights = train(DistributedDataParallel, rank, 2)
    start = [parameter.detach() for parameter in small_unet().parameters()]
    return {
        "apart": max(float((a - b).abs().max()) for a, b in zip(weights, whole, strict=True)),
        "moved": min(float((a - b).abs().max()) for a, b in zip(start, whole, strict=True)),
    }
