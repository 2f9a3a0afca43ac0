"""Losses of regions: how well all pixels of a class overlap its truth."""

from __future__ import annotations

import torch
from torch import Tensor

from unet_pipeline.classes import IGNORE_INDEX
from unet_pipeline.training.losses.contract import require, valid_logits


def dice(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = IGNORE_INDEX,
    smooth: float = 1.0,
) -> Tensor:
    """One minus the soft Dice coefficient of the batch, averaged over the classes in its truth.

        loss = 1 - mean_c (2 sum_i p_i(c) t_i(c) + s) / (sum_i p_i(c) + sum_i t_i(c) + s)

    over the classes c that occur in the batch's target, with p the softmax, t the one-hot truth,
    and i all valid pixels of all images together: one small object in one image does not weigh as
    much as a whole batch of large ones. Milletari et al. 2016, "V-Net", with plain sums in the
    denominator where they have squares (as Sudre et al. 2017).

    A class that does not occur in the batch is left out of the mean. To count it (as 0 or as 1)
    would scale the loss with the number of classes absent. False positives of an absent class
    still cost: they take probability from the classes that are there, background included, and
    the cross-entropy beside it, `ce + dice`, presses them down directly.

    smooth: s >= 0, in pixels.
    Raises `UserError` for a negative one.
    """
    require(smooth >= 0, f"dice: smooth = {smooth}: use 0 or more pixels")
    with torch.autocast(logits.device.type, enabled=False):
        logits, valid = valid_logits(logits, target, ignore_index)
        weight = valid.unsqueeze(1).to(logits.dtype)
        truth = torch.zeros_like(logits).scatter_(
            1, torch.where(valid, target, 0).unsqueeze(1), weight
        )
        probabilities = logits.softmax(1) * weight
        dims = (0, 2, 3)
        overlap = (probabilities * truth).sum(dims)
        num_true = truth.sum(dims)
        sizes = probabilities.sum(dims) + num_true
        occurs = num_true > 0
        # sizes of 0 belong to no class that occurs; the 1 keeps their gradient from being NaN
        scores = (2 * overlap + smooth) / torch.where(occurs, sizes + smooth, 1.0)
        losses = torch.where(occurs, 1 - scores, 0.0)
        return losses.sum() / occurs.sum().clamp_min(1)
