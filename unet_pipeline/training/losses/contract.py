"""What every loss for masks shares: the pixels that count, their truth, and how to average.

Where several processes train, each with a part of the batch, sums are taken over all parts before
anything is divided (`over_processes`): the loss is that of the whole batch, and the same in each.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from unet_pipeline.distributed import all_reduce_sum, num_processes
from unet_pipeline.errors import UserError


class Regions(NamedTuple):
    """Soft counts of the valid pixels of a batch by class, (K,) each."""

    overlap: Tensor
    predicted: Tensor
    true: Tensor


class Pixels:
    """Logits and target of a batch with the ignored pixels made harmless, and what follows of them.

    A softmax, and all that is a property here, is computed when it is first asked for, and once for
    all losses that are given these pixels. What is a method is computed anew: only few losses need
    it, and kept for the others it would be one more map in memory. Nothing waits for a GPU.
    """

    given: Tensor
    """Logits (N, K, H, W) in float32 or better; below ignored pixels they hold anything."""
    labels: Tensor
    """(N, H, W) class indices, 0 where the target is ignored."""
    valid: Tensor
    """(N, H, W) bool: the pixels that count."""

    def __init__(self, logits: Tensor, target: Tensor, ignore_index: int) -> None:
        """Of logits (N, K, H, W) and class indices (N, H, W).

        Raises `UserError` for shapes that do not belong together, which would be broadcast, for an
        empty batch, and for targets that are no class indices of these logits.
        """
        _check(logits, target)
        self.given = logits if logits.dtype == torch.float64 else logits.float()
        target = target.long()  # masks come as uint8, too
        self.valid = target != ignore_index
        self.labels = torch.where(self.valid, target, 0)
        if target.device.type == "cpu":  # elsewhere it would wait for the device at every step
            _check_range(self.labels, self.num_classes)

    @property
    def num_classes(self) -> int:
        """K"""
        return self.given.shape[1]

    def logits(self) -> Tensor:
        """(N, K, H, W), 0 where the target is ignored.

        `where` cuts the gradient as well: a NaN below an ignored pixel meets no multiplication.
        """
        return torch.where(self.valid.unsqueeze(1), self.given, 0.0)

    def one_hot(self) -> Tensor:
        """The truth as (N, K, H, W), 1 at the true class and 0 elsewhere; 0 on ignored pixels."""
        counts = self.valid.unsqueeze(1).to(self.given.dtype)
        return torch.zeros_like(self.given).scatter_(1, self.labels.unsqueeze(1), counts)

    @cached_property
    def log_probabilities(self) -> Tensor:
        """The logarithm of the softmax, (N, K, H, W); -log K on ignored pixels."""
        return self.logits().log_softmax(1)

    @cached_property
    def probabilities(self) -> Tensor:
        """The softmax, (N, K, H, W); 1 / K on ignored pixels."""
        return self.log_probabilities.exp()

    @cached_property
    def true_log_probabilities(self) -> Tensor:
        """log p_i(y_i) of the true class of each pixel, (N, H, W); -log K on ignored pixels."""
        return self.log_probabilities.gather(1, self.labels.unsqueeze(1)).squeeze(1)

    @cached_property
    def regions(self) -> Regions:
        """Overlap, predicted and true size of every class over the batch, in pixels.

        The batch is that of all processes (see `over_processes`).
        """
        valid = self.valid.to(self.given.dtype)
        predicted = (self.probabilities * valid.unsqueeze(1)).sum((0, 2, 3))
        overlap = self._by_class(self.true_log_probabilities.exp() * valid)
        return Regions(*over_processes(torch.stack([overlap, predicted, self._by_class(valid)])))

    def _by_class(self, values: Tensor) -> Tensor:
        """The sum (K,) of `values` (N, H, W) over the pixels of each true class.

        Row by row first: a sum of millions of pixels in a single float32 would stop to grow at
        2^24, and on a GPU all of them would queue for the same few numbers.
        """
        rows = values.new_zeros(*values.shape[:2], self.num_classes)
        return rows.scatter_add(2, self.labels, values).sum((0, 1))

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


def _check(logits: Tensor, target: Tensor) -> None:
    shapes = f"logits {tuple(logits.shape)}, target {tuple(target.shape)}"
    matching = logits.ndim == 4 and target.shape == logits.shape[:1] + logits.shape[2:]
    require(matching, f"{shapes}: a loss takes (N, K, H, W) and class indices (N, H, W)")
    require(target.numel() > 0, f"{shapes}: the batch is empty")
    whole = not target.is_floating_point()
    require(whole, f"the target is {target.dtype}: class indices are whole numbers")


def _check_range(labels: Tensor, num_classes: int) -> None:
    least, most = labels.aminmax()
    if not 0 <= int(least) <= int(most) < num_classes:
        strange = labels[(labels < 0) | (labels >= num_classes)][0]
        raise UserError(
            f"the target holds the class index {strange}: use 0 to {num_classes - 1}, the classes "
            "of the logits, or ignore_index"
        )


def require(ok: bool, message: str) -> None:
    """Raise `UserError` with `message` unless `ok`."""
    if not ok:
        raise UserError(message)
