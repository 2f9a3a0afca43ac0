"""From what a pixel or a class costs to a loss: the mean, weighed by class, in float32.

A loss is written as the costs alone, or as a function of `Pixels`; the decorators here add what
losses share. The options `ignore_index` and, where costs are averaged, `class_weights` come with
them, and the signature says so to whoever asks (the catalogue does).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from inspect import Parameter
from typing import Any, Concatenate, ParamSpec, Protocol

import torch
from torch import Tensor

from unet_pipeline.classes import IGNORE_INDEX
from unet_pipeline.training.losses.class_weights import ClassWeights, weights_as_tensor
from unet_pipeline.training.losses.contract import Pixels, Regions

Options = ParamSpec("Options")


class Loss(Protocol):
    """loss(logits, target, *, ignore_index=255, ...options) -> scalar."""

    of_pixels: Callable[..., Tensor]
    """(pixels, ...options) -> the same scalar, of pixels that other losses read, too."""

    def __call__(
        self, logits: Tensor, target: Tensor, *, ignore_index: int = IGNORE_INDEX, **options: Any
    ) -> Tensor: ...


def mask_loss(function: Callable[Concatenate[Pixels, Options], Tensor]) -> Loss:
    """The loss that is `function(pixels, *, ...options)`, a scalar."""
    return _loss(function, function, _options(function))


def pixel_loss(costs: Callable[Concatenate[Pixels, Options], Tensor]) -> Loss:
    """The loss that is the mean of `costs(pixels, *, ...options)`, (N, H, W), over valid pixels.

    sum_i w(y_i) l_i / sum_i w(y_i), with w the class weights; 0 where no pixel is valid.
    """

    def mean(pixels: Pixels, weights: Tensor | None, options: dict[str, Any]) -> Tensor:
        of_pixels = None if weights is None else weights[pixels.labels]
        return pixels.mean(costs(pixels, **options), of_pixels)  # type: ignore[call-arg]

    return _mean_loss(costs, mean)


def region_loss(costs: Callable[Concatenate[Regions, Options], Tensor]) -> Loss:
    """The loss that is the mean of `costs(regions, *, ...options)`, (K,), over the classes.

    Weighed by the class weights, over those classes that occur in the truth of the batch; 0 where
    none does.
    """

    def mean(pixels: Pixels, weights: Tensor | None, options: dict[str, Any]) -> Tensor:
        regions = pixels.regions
        losses = costs(regions, **options)  # type: ignore[call-arg]
        counts = (regions.true > 0).to(losses.dtype)
        if weights is not None:
            counts = counts * weights
        scale = counts.sum()
        total = torch.where(counts > 0, losses * counts, 0.0).sum()
        return total / torch.where(scale > 0, scale, torch.ones_like(scale))

    return _mean_loss(costs, mean)


def _mean_loss(
    costs: Callable[..., Tensor], mean: Callable[[Pixels, Tensor | None, dict[str, Any]], Tensor]
) -> Loss:
    """The loss that averages by `mean`, with the name, words and options of `costs`."""

    def averaged(pixels: Pixels, *, class_weights: ClassWeights = None, **options: Any) -> Tensor:
        weights = weights_as_tensor(class_weights, pixels.given, label=costs.__name__)
        return mean(pixels, weights, options)

    weights = _option("class_weights", None, ClassWeights)
    return _loss(averaged, costs, [*_options(costs), weights])


def _loss(
    function: Callable[..., Tensor], described: Callable[..., Tensor], options: Sequence[Parameter]
) -> Loss:
    """`function(pixels, ...options)` as a loss, with the name and the words of `described`.

    It computes in float32 at least, whatever the autocast around it.
    """

    def of_pixels(pixels: Pixels, **options: Any) -> Tensor:
        with torch.autocast(pixels.given.device.type, enabled=False):
            return function(pixels, **options)

    @functools.wraps(described)
    def loss(
        logits: Tensor, target: Tensor, *, ignore_index: int = IGNORE_INDEX, **options: Any
    ) -> Tensor:
        return of_pixels(Pixels(logits, target, ignore_index), **options)

    batch = [
        Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, annotation=Tensor)
        for name in ("logits", "target")
    ]
    own = [_option("ignore_index", IGNORE_INDEX, int), *options]
    loss.__signature__ = inspect.Signature([*batch, *own])  # type: ignore[attr-defined]
    loss.__annotations__ = {option.name: option.annotation for option in own}
    loss.of_pixels = of_pixels  # type: ignore[attr-defined]
    return loss  # type: ignore[return-value]


def _options(function: Callable[..., Tensor]) -> list[Parameter]:
    """The parameters of `function` after the first."""
    return list(inspect.signature(function).parameters.values())[1:]


def _option(name: str, default: Any, annotation: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
