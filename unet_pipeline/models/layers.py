"""What several networks need: padding to a size they can work on, and the normalisation layers."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

Norm = Literal["batch", "group", "instance", "none"]

NORM_GROUPS = 8
"""Groups of `group`: divides every usual width, and Wu & He 2018 (table 3) find 4 to 64 alike."""


def pad_to(x: torch.Tensor, *, stride: int = 1, min_size: int = 1) -> torch.Tensor:
    """`x` (N, C, H, W), padded below and to the right; crop the result with `[..., :H, :W]`.

    Height and width become multiples of `stride` and at least `min_size`. The last row and column
    are repeated, which unlike zeros invents no edge and unlike reflection works from one pixel on.
    """
    height, width = x.shape[-2:]
    below = _padded(height, stride, min_size) - height
    right = _padded(width, stride, min_size) - width
    if below == 0 and right == 0:
        return x
    return F.pad(x, [0, right, 0, below], mode="replicate")


def make_norm(norm: Norm, channels: int) -> nn.Module:
    """The normalisation layer `norm` for maps of `channels` channels; `none` passes maps through.

    `instance` has a scale and a shift to learn, as the others have.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        return nn.GroupNorm(NORM_GROUPS, channels)
    if norm == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    return nn.Identity()


def _padded(size: int, stride: int, min_size: int) -> int:
    return -(-max(size, min_size) // stride) * stride
