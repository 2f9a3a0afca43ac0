"""From what a pixel or a class costs to a loss: the mean, weighed by class, in float32.

A loss is written as the costs alone; the decorators here add what such losses share. The options
`ignore_index` and `class_weights` come with them, and the signature says so to whoever asks (the
catalogue does).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Concatenate, NamedTuple, ParamSpec

import torch
from torch import Tensor

from unet_pipeline.classes import IGNORE_INDEX
from unet_pipeline.training.losses.class_weights import ClassWeights, weights_as_tensor
from unet_pipeline.training.losses.contract import (
    Pixels,
    in_float32,
    over_processes,
    valid_pixels,
)

Options = ParamSpec("Options")
Loss = Callable[..., Tensor]
"""loss(logits, target, *, ignore_index=255, ...options, class_weights=None) -> scalar."""


class Regions(NamedTuple):
    """Soft counts of the valid pixels of a batch by class, (K,) each."""

    overlap: Tensor
    predicted: Tensor
    true: Tensor


def pixel_loss(costs: Callable[Concatenate[Pixels, Options], Tensor]) -> Loss:
    """The loss that is the mean of `costs(pixels, *, ...options)`, (N, H, W), over valid pixels.

    sum_i w(y_i) l_i / sum_i w(y_i), with w the class weights; 0 where no pixel is valid.
    """

    def mean(pixels: Pixels, weights: Tensor | None, options: dict[str, Any]) -> Tensor:
        of_pixels = None if weights is None else weights[pixels.labels]
        return pixels.mean(costs(pixels, **options), of_pixels)  # type: ignore[call-arg]

    return _loss(costs, mean)


def region_loss(costs: Callable[Concatenate[Regions, Options], Tensor]) -> Loss:
    """The loss that is the mean of `costs(regions, *, ...options)`, (K,), over the classes.

    Weighed by the class weights, over those classes that occur in the truth of the batch; 0 where
    none does.
    """

    def mean(pixels: Pixels, weights: Tensor | None, options: dict[str, Any]) -> Tensor:
        regions = count_regions(pixels)
        losses = costs(regions, **options)  # type: ignore[call-arg]
        counts = (regions.true > 0).to(losses.dtype)
        if weights is not None:
            counts = counts * weights
        scale = counts.sum()
        total = torch.where(counts > 0, losses * counts, 0.0).sum()
        return total / torch.where(scale > 0, scale, torch.ones_like(scale))

    return _loss(costs, mean)


def count_regions(pixels: Pixels) -> Regions:
    """Overlap, predicted and true size of every class over the batch, in pixels.

    The batch is that of all processes (see `over_processes`).
    """
    truth = pixels.one_hot()
    probabilities = pixels.logits.softmax(1) * pixels.valid.unsqueeze(1)
    dims = (0, 2, 3)
    sums = (probabilities * truth).sum(dims), probabilities.sum(dims), truth.sum(dims)
    return Regions(*over_processes(torch.stack(sums)))


def _loss(
    costs: Callable[..., Tensor], mean: Callable[[Pixels, Tensor | None, dict[str, Any]], Tensor]
) -> Loss:
    """The loss in float32 that averages by `mean`, with the name, words and options of `costs`."""

    def loss(
        logits: Tensor,
        target: Tensor,
        *,
        ignore_index: int = IGNORE_INDEX,
        class_weights: ClassWeights = None,
        **options: Any,
    ) -> Tensor:
        pixels = valid_pixels(logits, target, ignore_index)
        return mean(pixels, weights_as_tensor(class_weights, logits, label=costs.__name__), options)

    own = inspect.signature(loss).parameters
    options = list(inspect.signature(costs).parameters.values())[1:]
    shared = {"ignore_index": int, "class_weights": ClassWeights}
    parameters = [
        own["logits"],
        own["target"],
        own["ignore_index"].replace(annotation=int),
        *options,
        own["class_weights"].replace(annotation=ClassWeights),
    ]
    wide: Loss = loss  # with its names, which the wrapper takes by place
    named = functools.wraps(costs)(in_float32(wide))
    named.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    named.__annotations__ = {option.name: option.annotation for option in options} | shared
    return named
