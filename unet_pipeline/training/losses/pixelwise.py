"""Losses of single pixels, averaged over the valid ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unet_pipeline.classes import IGNORE_INDEX
from unet_pipeline.training.losses.contract import class_weights_as_tensor, require, valid_logits


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = IGNORE_INDEX,
    label_smoothing: float = 0.0,
    class_weights: list[float] | None = None,
) -> Tensor:
    """Cross-entropy of the softmax, averaged over the valid pixels.

        loss = sum_i w(y_i) l_i / sum_i w(y_i),   l_i = -log p_i(y_i),   p_i = softmax(logits_i)

    over the pixels i with a class y_i. With label smoothing e, the truth is (1 - e) on y_i plus
    e/K on every class: w(y_i) l_i = (1 - e) w(y_i) (-log p_i(y_i)) + e/K sum_c w(c) (-log p_i(c)),
    divided by the same sum (Szegedy et al. 2016, "Rethinking the Inception Architecture").
    Equal logits give log K. Classes of weight 0 take no part.

    label_smoothing: e, from 0 up to, not including, 1.
    class_weights: w, one number >= 0 a class, background first; None weighs all alike.
    Raises `UserError` for options out of range.
    """
    require(0 <= label_smoothing < 1, f"ce: label_smoothing = {label_smoothing}: use 0 up to 1")
    with torch.autocast(logits.device.type, enabled=False):
        logits, valid = valid_logits(logits, target, ignore_index)
        weights = class_weights_as_tensor(class_weights, logits)
        total = F.cross_entropy(
            logits,
            target,
            weight=weights,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            reduction="sum",
        )
        if weights is None:
            return total / valid.sum().clamp_min(1)
        of_pixels = weights[torch.where(valid, target, 0)] * valid
        scale = of_pixels.sum()
        return total / torch.where(scale > 0, scale, torch.ones_like(scale))
