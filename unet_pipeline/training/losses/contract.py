"""What every loss for masks shares: valid pixels, class weights, checks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from unet_pipeline.errors import UserError


def valid_logits(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Logits in float32 or better, 0 where the target is ignored, and the mask of valid pixels.

    `where` cuts the gradient as well: a NaN below an ignored pixel meets no multiplication.
    """
    valid = target != ignore_index
    if logits.dtype != torch.float64:
        logits = logits.float()
    return torch.where(valid.unsqueeze(1), logits, 0.0), valid


def class_weights_as_tensor(class_weights: Sequence[float] | None, logits: Tensor) -> Tensor | None:
    if class_weights is None:
        return None
    num_classes = logits.shape[1]
    require(
        len(class_weights) == num_classes,
        f"ce: class_weights has {len(class_weights)} numbers for {num_classes} classes",
    )
    require(
        all(w >= 0 and math.isfinite(w) for w in class_weights) and any(class_weights),
        f"ce: class_weights = {list(class_weights)}: use numbers >= 0, not all of them 0",
    )
    return torch.tensor(class_weights, dtype=logits.dtype, device=logits.device)


def require(ok: bool, message: str) -> None:
    if not ok:
        raise UserError(message)
