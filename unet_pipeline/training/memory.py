"""How much memory a training step takes, known before it is taken.

A GPU refuses what it cannot hold, and the batch then goes through in parts. A CPU's memory is
promised without end: whoever uses more of it than there is, is killed without a word.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

_PLENTY = 16_384
"""Bytes a pixel of a batch, which no network here has come near: below it nothing is counted, which
takes 3 s the first time."""

_PEAK = 2.2
"""Of what is kept, the memory that a step takes: 1.4 to 2.1 times as much (docs/log.md)."""


def samples_at_once(
    network: nn.Module,
    *,
    in_channels: int,
    num_classes: int,
    image_size: tuple[int, int],
    batch_size: int,
    autocast_dtype: torch.dtype | None,
    available: int,
) -> int:
    """How many samples of a batch cross `network` together in `available` bytes of memory.

    `batch_size` where that is enough, else it halved as often as it takes; 0 where not even one
    sample can.
    """
    pixels = image_size[0] * image_size[1]
    if batch_size * pixels * _PLENTY <= available:
        return batch_size
    # of two, as some layers refuse a single one
    one = kept_bytes(network, (2, in_channels, *image_size), autocast_dtype) // 2
    one += 3 * 4 * num_classes * pixels  # logits, probabilities and their gradient, float32
    size = batch_size
    while size > 1 and _PEAK * size * one > available:
        size = math.ceil(size / 2)
    return size if _PEAK * size * one <= available else 0


def kept_bytes(
    network: nn.Module, shape: tuple[int, int, int, int], autocast_dtype: torch.dtype | None
) -> int:
    """Bytes that the forward pass of `network` on (N, C, H, W) keeps for the backward pass.

    Counted on a copy without contents, so nothing of that size is made. Layers that compute in
    `autocast_dtype` keep half of what they do in float32.
    """
    shadow = copy.deepcopy(network).to("meta").train()
    weights = {tensor.untyped_storage()._cdata for tensor in shadow.state_dict().values()}
    kept: dict[int, torch.UntypedStorage] = {}  # held, as an address may be given out again

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        shadow(torch.empty(shape, device="meta"))
        total = sum(storage.nbytes() for storage in kept.values())
    return total if autocast_dtype is None else total // 2
