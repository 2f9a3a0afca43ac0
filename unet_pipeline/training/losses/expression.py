"""Losses by expression: a weighted sum of names, such as `ce + 0.5*dice`."""

from __future__ import annotations

import ast
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from unet_pipeline.catalogue import complete, lookup
from unet_pipeline.classes import IGNORE_INDEX
from unet_pipeline.errors import UserError
from unet_pipeline.training.losses.catalogue import LOSSES
from unet_pipeline.training.losses.class_weights import Rule, weights_by_rule
from unet_pipeline.training.losses.contract import Pixels
from unet_pipeline.training.losses.criteria import CRITERIA

_MAX_EXPRESSION = 1000  # characters; the parser's own stack overflows on absurd nesting


@dataclass(frozen=True)
class LossTerm:
    """One summand of an expression."""

    name: str
    """As written, with its options: `ce(label_smoothing=0.1)`. What logs call it."""
    entry: str
    """Its key in `LOSSES`."""
    weight: float
    loss: Callable[[Tensor, Tensor], Tensor]
    of_pixels: Callable[[Pixels], Tensor] | None = None
    """The same, of pixels that several terms read; None where `loss` reads the batch itself."""


@dataclass(frozen=True)
class LossSum:
    """A weighted sum of losses: `loss(logits, target) -> scalar`."""

    expression: str
    terms: tuple[LossTerm, ...]
    ignore_index: int = IGNORE_INDEX

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """The sum, to be minimised."""
        return self.total(self.loss_parts(logits, target))

    def loss_parts(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Each term's own value, without its weight, by the term's name: what is worth logging.

        The softmax and whatever else several terms need is computed once.
        """
        pixels = Pixels(logits, target, self.ignore_index)
        return {
            term.name: term.of_pixels(pixels) if term.of_pixels else term.loss(logits, target)
            for term in self.terms
        }

    def total(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of what `loss_parts` returned; nothing is computed twice."""
        return sum((t.weight * parts[t.name] for t in self.terms[1:]), self._first(parts))

    def _first(self, parts: Mapping[str, Tensor]) -> Tensor:
        return self.terms[0].weight * parts[self.terms[0].name]


def parse_loss(
    expression: str,
    *,
    num_classes: int | None = None,
    class_pixel_counts: Sequence[int] | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> LossSum:
    """The loss that `expression` describes: a sum of names of `LOSSES`, weighted, with options.

    >>> parse_loss("ce + 0.5*dice").expression
    'ce + 0.5*dice'
    >>> [term.name for term in parse_loss("ce(label_smoothing=0.1) + 2*dice(smooth=1)").terms]
    ['ce(label_smoothing=0.1)', 'dice(smooth=1)']

    num_classes: when it is known, the loss is tried on one pixel of so many classes, and an option
    that does not fit is found now, not in the first batch.
    class_pixel_counts: of the training masks, from which `class_weights=balanced` is made.
    Raises `UserError`, quoting the part that cannot be read, for anything but such a sum, for
    unknown names and options, and for weights that are not positive.
    """
    expression = expression.strip()
    terms: list[LossTerm] = []
    for weight, node in _summands(_parse(expression), expression, 1.0):
        name, factory, options = _component(node, expression)
        if any(term.name == name for term in terms):
            raise UserError(f"loss {expression!r}: {name} is there twice; write 2*{name} instead")
        rule = options.get("class_weights")
        if isinstance(rule, str):
            if class_pixel_counts is None:
                raise UserError(
                    f"loss {name}: class_weights={rule} needs the pixel counts of the training data"
                )
            options["class_weights"] = weights_by_rule(cast(Rule, rule), class_pixel_counts)
        loss = functools.partial(factory, ignore_index=ignore_index, **options)
        shared = getattr(factory, "of_pixels", None)  # a loss from elsewhere is a plain function
        of_pixels = shared and functools.partial(shared, **options)
        terms.append(LossTerm(name, name.partition("(")[0], weight, loss, of_pixels))
    result = LossSum(expression, tuple(terms), ignore_index)
    if num_classes is not None:
        result(torch.zeros(1, num_classes, 1, 1), torch.zeros(1, 1, 1, dtype=torch.int64))
    return result


def _parse(expression: str) -> ast.expr:
    if "#" in expression:  # Python would take the rest for a comment
        raise _unreadable(expression)
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
    if not isinstance(node, ast.Constant) or isinstance(node.value, bool):
        return None
    if not isinstance(node.value, int | float):
        return None
    try:
        return float(node.value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf


def _component(
    node: ast.expr, expression: str
) -> tuple[str, Callable[..., Tensor], dict[str, Any]]:
    """The name, as written, the function and all options of `ce` or `ce(label_smoothing=0.1)`."""
    options: dict[str, Any] = {}
    function = node
    if isinstance(node, ast.Call):
        function = node.func
        for keyword in node.keywords:
            if keyword.arg is None:
                raise _unreadable(expression, node)
            if keyword.arg in options:
                raise UserError(f"loss {expression!r}: {keyword.arg} is given twice; keep one")
            options[keyword.arg] = _option_value(keyword.value, expression)
    if not isinstance(function, ast.Name):
        raise _unreadable(expression, node)
    name = function.id
    factory = _lookup(name)
    known = complete(factory, {}, label=name, given=("ignore_index",))
    if isinstance(node, ast.Call) and node.args:
        example = f"written by its name: {name}({next(iter(known), '')}=...)"
        raise UserError(
            f"loss {expression!r}: an option of {name} is {example}; "
            f"its options are {', '.join(known)}"
            if known
            else f"loss {expression!r}: {name} has no options; write {name} alone"
        )
    options = complete(factory, options, label=f"loss {name}", given=("ignore_index",))
    written = ast.unparse(node) if isinstance(node, ast.Call) and node.keywords else name
    return written, factory, options


def _option_value(node: ast.expr, expression: str) -> Any:
    """A number, a list or a word, quoted or not: shells eat quotes, so `=balanced` is enough."""
    if isinstance(node, ast.Name):  # none, true and false as YAML and `unet list` have them
        return {"none": None, "true": True, "false": False}.get(node.id, node.id)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise _unreadable(expression, node) from error


def _lookup(name: str) -> Callable[..., Tensor]:
    """The loss called `name`; one that cannot score a mask is refused with the reason."""
    criterion = CRITERIA.get(name)
    if name not in LOSSES and criterion is not None:
        if criterion.dense is not None:
            raise UserError(f"loss {name!r} is called {criterion.dense!r} here")
        raise UserError(
            f"loss {name!r} cannot train on masks: {criterion.reason}; "
            f"use one of {', '.join(LOSSES)}"
        )
    return lookup(LOSSES, name, kind="loss")


def _unreadable(expression: str, node: ast.expr | None = None) -> UserError:
    part = "" if node is None else f" at {ast.get_source_segment(expression, node)!r}"
    return UserError(
        f"cannot read the loss {expression!r}{part}: write a sum such as "
        "ce + 0.5*dice or ce(label_smoothing=0.1) + 2*dice(smooth=1)"
    )
