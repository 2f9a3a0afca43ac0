"""Weights of classes: given as a list, or made from how often each class occurs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from unet_pipeline.errors import UserError
from unet_pipeline.training.losses.contract import require

Rule = Literal["balanced", "sqrt"]

ClassWeights = Rule | list[float] | None
"""One number >= 0 a class, background first; a rule by which the training data gives them; None."""


def weights_by_rule(rule: Rule, class_pixel_counts: Sequence[int]) -> list[float]:
    """The weight of each class from its number of training pixels n_c.

        balanced: w_c = N / (K n_c)        sqrt: w_c = sqrt(N / (K n_c))

    with N the sum of the n_c over the K classes that occur: scikit-learn's rule (King and Zeng
    2001), after which all classes count alike in sum, and its square root, which is gentler to
    rare classes whose truth is noisy. A class without a pixel is weighed as the rarest one.

    >>> weights_by_rule("balanced", [75, 25])
    [0.6666666666666666, 2.0]
    """
    present = [count for count in class_pixel_counts if count > 0]
    require(bool(present), f"class_weights={rule}: the training masks hold no class at all")
    rarest = min(present)
    mean = sum(present) / len(present)
    weights = [mean / (count or rarest) for count in class_pixel_counts]
    return weights if rule == "balanced" else [math.sqrt(weight) for weight in weights]


def weights_as_tensor(class_weights: ClassWeights, logits: Tensor, *, label: str) -> Tensor | None:
    """`class_weights` as (K,), in the type of `logits` (N, K, H, W); None stays None.

    label: what messages call the loss.
    Raises `UserError` for a list that does not fit, and for a rule: the loss knows no counts.
    """
    if class_weights is None:
        return None
    if isinstance(class_weights, str):
        raise UserError(
            f"{label}: class_weights={class_weights} needs the pixel counts of the training data; "
            "give a list of numbers, or `class_pixel_counts` to parse_loss"
        )
    num_classes = logits.shape[1]
    require(
        len(class_weights) == num_classes,
        f"{label}: class_weights has {len(class_weights)} numbers for {num_classes} classes",
    )
    require(
        # their sum over pixels must neither overflow nor vanish in float32
        all(0 <= w <= 1e30 for w in class_weights) and max(class_weights) >= 1e-30,
        f"{label}: class_weights = {list(class_weights)}: use numbers >= 0, not all of them 0, "
        "and none above 1e30",
    )
    weights = torch.tensor(class_weights, dtype=logits.dtype, device="cpu")
    return weights.to(logits.device, non_blocking=True)  # a plain copy waits for the GPU
