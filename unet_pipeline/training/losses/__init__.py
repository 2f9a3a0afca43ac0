"""Losses for dense prediction, by name and by expression: `ce + 0.5*dice`.

The contract: `loss(logits, target, *, ignore_index=255, ...options) -> scalar`, with logits
(N, K, H, W), raw scores before any softmax, and target (N, H, W) int64 class indices. Every loss
computes in float32 at least, whatever the autocast. A pixel whose target is `ignore_index` may hold
anything, NaN included, and changes neither the value nor a gradient; where every pixel is ignored
the loss is 0 and so is its gradient.

`criteria` has the losses of the learning notes as torch defines them, for any kind of prediction.
"""

from __future__ import annotations

from unet_pipeline.training.losses.catalogue import LOSSES, NEED_MAPS
from unet_pipeline.training.losses.criteria import CRITERIA
from unet_pipeline.training.losses.expression import LossSum, LossTerm, parse_loss
from unet_pipeline.training.losses.pixelwise import ce
from unet_pipeline.training.losses.regions import dice

__all__ = [
    "CRITERIA",
    "LOSSES",
    "NEED_MAPS",
    "LossSum",
    "LossTerm",
    "ce",
    "dice",
    "parse_loss",
]
