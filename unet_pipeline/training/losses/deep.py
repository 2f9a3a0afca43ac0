"""One loss of the logits of several levels: deep supervision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unet_pipeline.errors import UserError

Outputs = Tensor | tuple[Tensor, ...]
"""What a network gives: logits (N, K, H, W), or a tuple of them, the full resolution first."""

_MAX_HALVINGS = 16


class Level(NamedTuple):
    """What one level of a decoder says, and how much it counts."""

    weight: float
    """Of its loss; those of all levels add up to 1."""
    logits: Tensor
    """(N, K, h, w)"""
    target: Tensor
    """(N, h, w) class indices."""


def deep_loss(
    loss: Callable[[Tensor, Tensor], Tensor],
) -> Callable[[Outputs, Tensor], Tensor]:
    """`loss` for networks that predict at several levels: the weighted mean of all levels' losses.

        sum_k w_k loss(logits_k, target_k) / sum_k w_k,   w_k = 1, 1/2, 1/4, ...

    from the full resolution down, as nnU-Net weighs them (Isensee et al. 2021; it leaves out the
    decoder's coarsest level, which here counts least). For a plain tensor of logits it is `loss`.
    Raises `UserError` for logits whose size is no level of the target's.
    """

    def of_levels(outputs: Outputs, target: Tensor) -> Tensor:
        first, *others = (
            level.weight * loss(level.logits, level.target)
            for level in deep_levels(outputs, target)
        )
        return sum(others, first)

    def of_outputs(outputs: Outputs, target: Tensor) -> Tensor:
        if isinstance(outputs, Tensor):
            return loss(outputs, target)
        return of_levels(outputs, target)

    return of_outputs


def deep_levels(outputs: Outputs, target: Tensor) -> list[Level]:
    """The levels of `outputs`, each with its weight and its share of `target` (N, H, W).

    A logit (i, j) that speaks for s x s pixels is scored by the one in their middle, in row
    s i + s // 2 and column s j + s // 2, or the last there are: class indices cannot be averaged,
    and ignored pixels stay ignored. A plain tensor is one level.
    Raises `UserError` for logits whose size is no level of the target's.
    """
    levels = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    total = sum(0.5**k for k in range(len(levels)))
    return [
        Level(0.5**k / total, logits, _coarse(target, logits.shape[-2:]))
        for k, logits in enumerate(levels)
    ]


def full_logits(outputs: Outputs) -> Tensor:
    """The logits of the full resolution: what scores and pictures are made of."""
    return outputs if isinstance(outputs, Tensor) else outputs[0]


def _coarse(target: Tensor, size: Sequence[int]) -> Tensor:
    """`target` (N, H, W) at the `size` (h, w) of a level."""
    if target.shape[-2:] == tuple(size):
        return target
    square = _square(target.shape[-2:], size)
    rows, columns = (
        (torch.arange(few, device=target.device) * square + square // 2).clamp(max=many - 1)
        for few, many in zip(size, target.shape[-2:], strict=True)
    )
    return target[:, rows[:, None], columns]


def _square(full: Sequence[int], size: Sequence[int]) -> int:
    """The side of the squares of pixels that the logits of a level speak for.

    A power of two, for levels halve. The ratio of the sizes would not do: levels leave out what is
    no whole square, and with that in the ratio squares would move away from their logits.
    """
    for halvings in range(1, _MAX_HALVINGS + 1):
        side = 1 << halvings
        if all(few == max(1, many // side) for few, many in zip(size, full, strict=True)):
            return side
    raise UserError(
        f"logits of {size[0]}x{size[1]} (height x width) for a target of {full[0]}x{full[1]}: "
        "levels of a network halve height and width"
    )
