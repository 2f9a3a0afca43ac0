"""One epoch of training or validation with any loader: what the notes' `train` and `validate` do.

For learning and for small experiments: a model, a loader of (input, target), a loss. The command
line trains with the same steps (`engine.train_steps`), and adds all that a long run needs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unet_pipeline.classes import IGNORE_INDEX
from unet_pipeline.errors import UserError
from unet_pipeline.runtime import evaluation_mode, keeping_modes
from unet_pipeline.training.engine import as_targets, points_of, train_steps
from unet_pipeline.training.losses.deep import Outputs, full_logits
from unet_pipeline.training.position import Position

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class EpochResult:
    """What an epoch came to.

    loss: the mean over samples, whatever the sizes of the batches. accuracy: the share of targets
    (a label a sample, or a pixel of a mask) that the largest logit hits; NaN where there are none
    but ignored ones, and for targets that are no class indices. num_samples: how many there were.
    """

    loss: float
    accuracy: float
    num_samples: int


class _Hits:
    """Counts how often the largest logit (N, K, ...) is that of the target (N, ...)."""

    def __init__(self, ignore_index: int | None) -> None:
        self.ignore_index = ignore_index
        self.hits = self.total = 0

    def add(self, outputs: Outputs, targets: Tensor) -> None:
        logits = full_logits(outputs)
        if targets.is_floating_point() or logits.ndim != targets.ndim + 1:
            return  # no class indices: a regression has no hits
        void = self.ignore_index
        if void is None and targets.ndim > 1:
            void = IGNORE_INDEX
        valid = torch.ones_like(targets, dtype=torch.bool) if void is None else targets != void
        self.hits += int(((logits.detach().argmax(1) == targets) & valid).sum())
        self.total += int(valid.sum())

    def share(self) -> float:
        return self.hits / self.total if self.total else float("nan")


def train_epoch(
    model: nn.Module,
    loader: Iterable[Sequence[Any]],
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    *,
    ignore_index: int | None = None,
) -> EpochResult:
    """Take one step for each batch of `loader`; the loss and accuracy are those met on the way.

    loader: yields (inputs, targets): inputs (N, ...), and class indices, (N,) for classification or
    (N, H, W) for segmentation, or numbers for a loss that takes them. They go to the device of the
    model.
    loss: loss(logits, targets) -> the mean over the batch.
    ignore_index: what the accuracy leaves out; None is 255 in masks, and nothing among labels.

    Trains in training mode with gradients, wherever it is called, and leaves modes as they were.
    Raises `UserError` for a loader without batches, `DivergedError` for a loss that is not finite.
    """
    position, hits = Position(), _Hits(ignore_index)
    with keeping_modes(model), torch.inference_mode(False), torch.enable_grad():
        train_steps(model, loader, loss, optimizer, position, watch=hits.add)
    _require_samples(position.samples)
    return EpochResult(position.mean_loss, hits.share(), position.samples)


def validate_epoch(
    model: nn.Module,
    loader: Iterable[Sequence[Any]],
    loss: Loss,
    *,
    ignore_index: int | None = None,
) -> EpochResult:
    """The loss and accuracy of `model` over `loader`, which teaches it nothing.

    loader, loss, ignore_index: as for `train_epoch`. In evaluation mode without gradients; both are
    afterwards as they were. Raises `UserError` for a loader without batches.
    """
    tensors = itertools.chain(model.parameters(), model.buffers())
    device = next((tensor.device for tensor in tensors), torch.device("cpu"))
    hits, loss_sum, num_samples = _Hits(ignore_index), 0.0, 0
    with evaluation_mode(model):
        for inputs, targets, *rest in loader:
            if not len(inputs):
                continue
            targets = as_targets(targets.to(device))
            logits = model(inputs.to(device), *points_of(rest, device))
            loss_sum += float(loss(logits, targets)) * len(inputs)
            num_samples += len(inputs)
            hits.add(logits, targets)
    _require_samples(num_samples)
    return EpochResult(loss_sum / num_samples, hits.share(), num_samples)


def _require_samples(count: int) -> None:
    if not count:
        raise UserError("the loader has no batches: give it at least one sample")
