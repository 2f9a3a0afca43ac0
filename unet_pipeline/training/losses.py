"""Losses for dense prediction, by name and by expression: `ce + 0.5*dice`.

The contract: `loss(logits, target, *, ignore_index=255, ...options) -> scalar`, with logits
(N, K, H, W), raw scores before any softmax, and target (N, H, W) int64 class indices. Every loss
computes in float32 at least, whatever the autocast. A pixel whose target is `ignore_index` may hold
anything, NaN included, and changes neither the value nor a gradient; where every pixel is ignored
the loss is 0 and so is its gradient.
"""

from __future__ import annotations

import ast
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unet_pipeline.catalogue import complete, lookup
from unet_pipeline.classes import IGNORE_INDEX
from unet_pipeline.errors import UserError

_MAX_EXPRESSION = 1000  # characters; the parser's own stack overflows on absurd nesting


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
    _require(0 <= label_smoothing < 1, f"ce: label_smoothing = {label_smoothing}: use 0 up to 1")
    with torch.autocast(logits.device.type, enabled=False):
        logits, valid = _valid_logits(logits, target, ignore_index)
        weights = _class_weights(class_weights, logits)
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
    _require(smooth >= 0, f"dice: smooth = {smooth}: use 0 or more pixels")
    with torch.autocast(logits.device.type, enabled=False):
        logits, valid = _valid_logits(logits, target, ignore_index)
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


LOSSES: dict[str, Callable[..., Tensor]] = {"ce": cross_entropy, "dice": dice}
"""Name -> loss; `ignore_index` comes from the run, other keyword-only parameters are options."""


@dataclass(frozen=True)
class LossTerm:
    """One summand of an expression."""

    name: str
    """As written, with its options: `ce(label_smoothing=0.1)`. What logs call it."""
    weight: float
    loss: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class LossSum:
    """A weighted sum of losses: `loss(logits, target) -> scalar`."""

    expression: str
    terms: tuple[LossTerm, ...]

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """The sum, to be minimised."""
        return self.total(self.loss_parts(logits, target))

    def loss_parts(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Each term's own value, without its weight, by the term's name: what is worth logging."""
        return {term.name: term.loss(logits, target) for term in self.terms}

    def total(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of what `loss_parts` returned; nothing is computed twice."""
        return sum((t.weight * parts[t.name] for t in self.terms[1:]), self._first(parts))

    def _first(self, parts: Mapping[str, Tensor]) -> Tensor:
        return self.terms[0].weight * parts[self.terms[0].name]


def parse_loss(
    expression: str, *, num_classes: int | None = None, ignore_index: int = IGNORE_INDEX
) -> LossSum:
    """The loss that `expression` describes: a sum of names of `LOSSES`, weighted, with options.

    >>> parse_loss("ce + 0.5*dice").expression
    'ce + 0.5*dice'
    >>> [term.name for term in parse_loss("ce(label_smoothing=0.1) + 2*dice(smooth=1)").terms]
    ['ce(label_smoothing=0.1)', 'dice(smooth=1)']

    num_classes: when it is known, the loss is tried on one pixel of so many classes, and an option
    that does not fit is found now, not in the first batch.
    Raises `UserError`, quoting the part that cannot be read, for anything but such a sum, for
    unknown names and options, and for weights that are not positive.
    """
    expression = expression.strip()
    terms: list[LossTerm] = []
    for weight, node in _summands(_parse(expression), expression, 1.0):
        name, loss = _component(node, expression, ignore_index)
        if any(term.name == name for term in terms):
            raise UserError(f"loss {expression!r}: {name} is there twice; write 2*{name} instead")
        terms.append(LossTerm(name, weight, loss))
    result = LossSum(expression, tuple(terms))
    if num_classes is not None:
        result(torch.zeros(1, num_classes, 1, 1), torch.zeros(1, 1, 1, dtype=torch.int64))
    return result


def _valid_logits(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Logits in float32 or better, 0 where the target is ignored, and the mask of valid pixels.

    `where` cuts the gradient as well: a NaN below an ignored pixel meets no multiplication.
    """
    valid = target != ignore_index
    if logits.dtype != torch.float64:
        logits = logits.float()
    return torch.where(valid.unsqueeze(1), logits, 0.0), valid


def _class_weights(class_weights: Sequence[float] | None, logits: Tensor) -> Tensor | None:
    if class_weights is None:
        return None
    num_classes = logits.shape[1]
    _require(
        len(class_weights) == num_classes,
        f"ce: class_weights has {len(class_weights)} numbers for {num_classes} classes",
    )
    _require(
        all(w >= 0 and math.isfinite(w) for w in class_weights) and any(class_weights),
        f"ce: class_weights = {list(class_weights)}: use numbers >= 0, not all of them 0",
    )
    return torch.tensor(class_weights, dtype=logits.dtype, device=logits.device)


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise UserError(message)


def _parse(expression: str) -> ast.expr:
    if len(expression) > _MAX_EXPRESSION:
        raise UserError(f"the loss has {len(expression)} characters: use {_MAX_EXPRESSION} at most")
    try:
        return ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _unreadable(expression) from error


def _summands(node: ast.expr, expression: str, weight: float) -> list[tuple[float, ast.expr]]:
    """(weight, component) of each summand below `node`, parentheses multiplied out."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [
            *_summands(node.left, expression, weight),
            *_summands(node.right, expression, weight),
        ]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        for number, other in ((node.left, node.right), (node.right, node.left)):
            factor = _number(number)
            if factor is not None:
                if not 0 < factor < math.inf:
                    raise UserError(
                        f"loss {expression!r}: weight {factor:g}: use a positive number"
                    )
                return _summands(other, expression, weight * factor)
    if isinstance(node, ast.Name | ast.Call):
        return [(weight, node)]
    raise _unreadable(expression, node)


def _number(node: ast.expr) -> float | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return None if isinstance(node.value, bool) else float(node.value)
    return None


def _component(
    node: ast.expr, expression: str, ignore_index: int
) -> tuple[str, Callable[[Tensor, Tensor], Tensor]]:
    """The name, as written, and the function of `ce` or `ce(label_smoothing=0.1)`."""
    options: dict[str, Any] = {}
    function = node
    if isinstance(node, ast.Call):
        function = node.func
        for keyword in node.keywords:
            try:
                value = ast.literal_eval(keyword.value)
            except ValueError as error:
                raise _unreadable(expression, keyword.value) from error
            if keyword.arg is None:
                raise _unreadable(expression, node)
            options[keyword.arg] = value
    if not isinstance(function, ast.Name):
        raise _unreadable(expression, node)
    name = function.id
    factory = lookup(LOSSES, name, kind="loss")
    if isinstance(node, ast.Call) and node.args:
        known = complete(factory, {}, label=name, given=("ignore_index",))
        raise UserError(
            f"loss {expression!r}: an option of {name} is written by its name: "
            f"{name}({next(iter(known))}=...); its options are {', '.join(known)}"
        )
    options = complete(factory, options, label=f"loss {name}", given=("ignore_index",))
    return ast.unparse(node), functools.partial(factory, ignore_index=ignore_index, **options)


def _unreadable(expression: str, node: ast.expr | None = None) -> UserError:
    part = "" if node is None else f" at {ast.get_source_segment(expression, node)!r}"
    return UserError(
        f"cannot read the loss {expression!r}{part}: write a sum such as "
        "ce + 0.5*dice or ce(label_smoothing=0.1) + 2*dice(smooth=1)"
    )
