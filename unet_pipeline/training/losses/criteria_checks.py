"""What `criteria` refuses: the shapes and numbers that torch takes silently.

`name` is the loss, as messages call it. A check raises `UserError` with the first bad number it
saw, or returns nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unet_pipeline.errors import UserError
from unet_pipeline.training.losses.contract import require


def same_shape(name: str, **tensors: Tensor) -> None:
    """torch broadcasts most of these, with a warning at best: (N, 1) by (N) is an (N, N) loss."""
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        seen = ", ".join(f"{key} {_shape(tensor)}" for key, tensor in tensors.items())
        raise UserError(f"{name}: unequal shapes {seen}: reshape to one shape")


def inside(name: str, message: str, values: Tensor, low: float, high: float = math.inf) -> None:
    """Numbers from low to high; NaN is not. The first other one is the {} of the message."""
    _refuse(_outside(values, low, high), values, f"{name}: {message}")


def signs(name: str, target: Tensor) -> None:
    """+1 and -1."""
    bad = (target != 1) & (target != -1)
    _refuse(bad, target, f"{name}: the target holds {{}}: use +1 and -1 only")


def log_probabilities(name: str, log_probs: Tensor) -> None:
    """Nothing above 0, as logits and probabilities are; 0.001 is left for rounding."""
    advice = "give log-probabilities, such as log_softmax of logits"
    _refuse(log_probs > 1e-3, log_probs, f"{name}: {{}} is no log-probability: {advice}")


def score_rows(name: str, logits: Tensor) -> None:
    """Logits (N, K), without positions."""
    require(logits.ndim == 2, f"{name}: the logits have shape {_shape(logits)}: use (N, K)")


def indices(name: str, target: Tensor, low: int, high: int, what: str) -> None:
    """Integers from low to high, which are `what`."""
    require(
        not target.is_floating_point(),
        f"{name}: the target is {str(target.dtype).removeprefix('torch.')}: "
        "use class indices, integers",
    )
    inside(name, f"the target holds {{}}: use {low} to {high}, {what}", target, low, high)


def classes(name: str, logits: Tensor, target: Tensor, ignore_index: int | None = None) -> None:
    """Logits (N, K, ...) against class indices (N, ...)."""
    require(
        logits.ndim >= 2 and target.shape == logits.shape[:1] + logits.shape[2:],
        f"{name}: logits {_shape(logits)} and target {_shape(target)}: "
        "use (N, K, ...) and (N, ...), class indices",
    )
    if ignore_index is not None:
        target = target[target != ignore_index]
    indices(name, target, 0, logits.shape[1] - 1, "the classes of the logits")


def vector_pairs(name: str, first: Tensor, second: Tensor, target: Tensor) -> None:
    """Vectors (N, D) against signs (N), or (D) against one sign."""
    same_shape(name, first=first, second=second)
    require(
        first.ndim in (1, 2) and target.shape == first.shape[:-1],
        f"{name}: vectors {_shape(first)} and target {_shape(target)}: "
        "use (N, D) and (N), or (D) and a scalar",
    )
    signs(name, target)


def sequences(
    name: str,
    log_probs: Tensor,
    target: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank: int,
) -> None:
    """Log-probabilities (T, N, C) against labels (N, S), or all in one row, with their lengths."""
    require(log_probs.ndim == 3, f"{name}: log_probs have shape {_shape(log_probs)}: use (T, N, C)")
    num_steps, num_samples, num_classes = log_probs.shape
    require(0 <= blank < num_classes, f"{name}: blank = {blank}: use 0 to {num_classes - 1}")
    log_probabilities(name, log_probs)
    padded = target.ndim == 2
    longest = target.shape[1] if padded else target.numel()
    for kind, lengths, most in (
        ("input_lengths", input_lengths, num_steps),
        ("target_lengths", target_lengths, longest),
    ):
        require(
            lengths.shape == (num_samples,),
            f"{name}: {kind} has shape {_shape(lengths)}: use ({num_samples},), one a sample",
        )
        inside(name, f"{kind} holds {{}}: use 0 to {most}, what there is", lengths, 0, most)
    total = int(target_lengths.sum())
    require(
        target.shape == ((num_samples, longest) if padded else (total,)),
        f"{name}: the target has shape {_shape(target)}: use ({num_samples}, S), or ({total},), "
        "the sum of target_lengths",
    )
    if padded:
        positions = torch.arange(longest, device=target.device)
        target = target[positions < target_lengths.to(target.device).unsqueeze(1)]
    indices(name, target, 0, num_classes - 1, "the classes of log_probs")
    _refuse(
        target == blank, target, f"{name}: the target holds {{}}, the blank: use the other classes"
    )


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _outside(values: Tensor, low: float, high: float) -> Tensor:
    return ~((values >= low) & (values <= high))


def _refuse(bad: Tensor, values: Tensor, message: str) -> None:
    """Raise where anything is bad: the message, the first such value in the place of its {}."""
    if bad.any():
        raise UserError(message.format(f"{values[bad].flatten()[0].item():g}"))
