"""What every loss for masks shares: the pixels that count, their truth, and how to average.

Where several processes train, each with a part of the batch, sums are taken over all parts before
anything is divided (`over_processes`): the loss is that of the whole batch, and the same in each.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, NamedTuple, ParamSpec, cast

import torch
from torch import Tensor

from unet_pipeline.distributed import all_reduce_sum, num_processes
from unet_pipeline.errors import UserError

_Options = ParamSpec("_Options")
_Loss = Callable[Concatenate[Tensor, Tensor, _Options], Tensor]


class Pixels(NamedTuple):
    """Logits and target with the ignored pixels made harmless."""

    logits: Tensor
    """(N, K, H, W), float32 or better, 0 where the target is ignored."""
    labels: Tensor
    """(N, H, W) class indices, 0 where the target is ignored."""
    valid: Tensor
    """(N, H, W) bool: the pixels that count."""

    def one_hot(self) -> Tensor:
        """The truth as (N, K, H, W), 1 at the true class and 0 elsewhere; 0 on ignored pixels."""
        counts = self.valid.unsqueeze(1).to(self.logits.dtype)
        return torch.zeros_like(self.logits).scatter_(1, self.labels.unsqueeze(1), counts)

    def mean(self, values: Tensor, weights: Tensor | None = None) -> Tensor:
        """sum_i w_i v_i / sum_i w_i over the valid pixels i, 0 where there is none.

        values, weights: (N, H, W); None weighs all alike. The sums are those `over_processes`.
        """
        counts = self.valid.to(values.dtype) if weights is None else weights * self.valid
        return ratio_over_processes((values * counts).sum(), counts.sum())


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sums: Tensor) -> Tensor:
        return all_reduce_sum(sums)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * num_processes()


def over_processes(sums: Tensor) -> Tensor:
    """`sums` over the batch, of all processes together where several train one model.

    The gradient is that of this process's part, times the number of processes:
    DistributedDataParallel divides by it when it averages, and what comes out is the gradient of
    the loss of the whole batch. Every process takes part, whatever it has: one that has only void
    gives zeros. What has no gradient trains nothing, and stays this process's own: a validation may
    have other numbers of batches in each, and a loss may be tried in one alone.
    """
    if num_processes() == 1 or not sums.requires_grad:
        return sums
    return cast(Tensor, _SumOverProcesses.apply(sums))


def ratio_over_processes(total: Tensor, scale: Tensor) -> Tensor:
    """total / scale, both scalars summed `over_processes`; 0 where nothing was counted."""
    total, scale = over_processes(torch.stack([total, scale]))
    return total / torch.where(scale > 0, scale, torch.ones_like(scale))


def valid_pixels(logits: Tensor, target: Tensor, ignore_index: int) -> Pixels:
    """The pixels that count, of logits (N, K, H, W) and class indices (N, H, W).

    `where` cuts the gradient as well: a NaN below an ignored pixel meets no multiplication.
    Raises `UserError` for shapes that do not belong together, which would be broadcast, for an
    empty batch, and for targets that are no class indices of these logits.
    """
    _check(logits, target)
    target = target.long()  # masks come as uint8, too
    valid = target != ignore_index
    if target.device.type == "cpu":  # elsewhere it would wait for the device at every step
        _check_range(target[valid], logits.shape[1])
    return Pixels(
        torch.where(valid.unsqueeze(1), logits, 0.0), torch.where(valid, target, 0), valid
    )


def _check(logits: Tensor, target: Tensor) -> None:
    shapes = f"logits {tuple(logits.shape)}, target {tuple(target.shape)}"
    matching = logits.ndim == 4 and target.shape == logits.shape[:1] + logits.shape[2:]
    require(matching, f"{shapes}: a loss takes (N, K, H, W) and class indices (N, H, W)")
    require(target.numel() > 0, f"{shapes}: the batch is empty")
    whole = not target.is_floating_point()
    require(whole, f"the target is {target.dtype}: class indices are whole numbers")


def _check_range(labels: Tensor, num_classes: int) -> None:
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        strange = labels[(labels < 0) | (labels >= num_classes)][0]
        raise UserError(
            f"the target holds the class index {strange}: use 0 to {num_classes - 1}, the classes "
            "of the logits, or ignore_index"
        )


def in_float32(loss: _Loss[_Options]) -> _Loss[_Options]:
    """`loss` computed in float32 at least, whatever the autocast around it."""

    @functools.wraps(loss)
    def computed(
        logits: Tensor, target: Tensor, *args: _Options.args, **options: _Options.kwargs
    ) -> Tensor:
        wide = logits if logits.dtype == torch.float64 else logits.float()
        with torch.autocast(logits.device.type, enabled=False):
            return loss(wide, target, *args, **options)

    return cast("_Loss[_Options]", computed)


def require(ok: bool, message: str) -> None:
    """Raise `UserError` with `message` unless `ok`."""
    if not ok:
        raise UserError(message)
