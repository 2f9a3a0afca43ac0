"""The U-Net that data and device allow: stem, depth, norm, width, and how it lies in memory."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from unet_pipeline.models.layers import NORM_GROUPS
from unet_pipeline.training.situation import Asked, Decisions, Layout, Situation, Size

WANTED_STEPS = 1000
"""What a wider network must have time for. Chosen."""

PATIENCE_SECONDS = 3600.0
"""What a training without a budget may take."""

MIXED = 0.6
"""Of the variance between images: above it, few images a step tell little about the others."""

_USED = 0.8
"""The share of a budget that is spent on steps; the rest goes into validation and saving."""

_WIDTHS = {"cpu": (16, 24, 32), "cuda": (32, 48, 64), "mps": (32, 48, 64)}

# Of a step, with stem 2 (scripts/bench_width.py): which width to try; that one is then measured
_COSTS = {16: 1.0, 24: 1.9, 32: 3.3, 48: 6.6, 64: 12.2}

UNMEASURED = "channels side by side: as convolutions mostly want them"


class NetworkPlan(NamedTuple):
    """A network's options, the batch that memory holds, and the layout that is faster.

    num_steps: at most, as far as known. is_bound: whether there are no fewer for want of time.
    """

    options: dict[str, Any]
    batch_size: int
    memory_format: Layout
    num_steps: float | None
    is_bound: bool


def plan_unet(
    asked: Asked, situation: Situation, decide: Decisions, crop: Size, batch: int
) -> NetworkPlan:
    """All of this for a U-Net; stem, depth, norm, width and layout are decided by `decide`."""
    options = dict(asked.model_options)
    options["stem"] = decide(
        "stem", options.get("stem"), lambda: _stem(situation, crop, options.get("depth", 4))
    )
    options["depth"] = decide("depth", options.get("depth"), lambda: _depth(crop, options["stem"]))
    options["norm"] = decide(
        "norm", options.get("norm"), lambda: _norm(asked, situation, options.get("base_channels"))
    )
    measure = situation.measure

    @functools.cache
    def taken(width: int, layout: Layout, batch: int) -> float:
        assert measure is not None
        return measure(options | {"base_channels": width}, crop, batch, layout)

    def seconds(width: int, layout: Layout = "channels_last") -> float:
        return taken(width, layout, batch)

    if measure is not None and situation.device_type == "cuda" and asked.batch_size is None:
        least = options.get("base_channels", _WIDTHS["cuda"][0])
        while batch > situation.num_processes and math.isinf(seconds(least)):
            batch = max(batch // 2, situation.num_processes)
            decide.reasons["batch_size"] = "as many as the memory holds"
    width: int = decide(
        "base_channels",
        options.get("base_channels"),
        lambda: _width(situation, None if measure is None else seconds, batch),
    )

    layout: Layout = decide(
        "memory_format", asked.memory_format, lambda: _layout(situation, partial(seconds, width))
    )
    options["base_channels"] = width
    return bound_plan(situation, options, batch, layout, lambda: seconds(width, layout))


def _layout(situation: Situation, seconds: Callable[[Layout], float]) -> tuple[Layout, str]:
    # Only under a budget, which no two runs spend alike: rounding goes with the layout, and the
    # same command is to give the same weights
    measured = situation.measure is not None and situation.budget_seconds is not None
    if not measured or situation.device_type != "cpu":
        return "channels_last", UNMEASURED
    last, first = seconds("channels_last"), seconds("contiguous")
    # Less than 5 % may be noise
    best: Layout = "contiguous" if first < 0.95 * last else "channels_last"
    return best, f"{1000 * last:.0f} ms a step with channels last, {1000 * first:.0f} first"


def bound_plan(
    situation: Situation,
    options: dict[str, Any],
    batch: int,
    layout: Layout,
    seconds: Callable[[], float] | None,
) -> NetworkPlan:
    """The plan of a network, with the steps that the limits and a step's `seconds` leave it.

    seconds: None where a step of this network cannot be measured.
    """
    steps, budget = situation.num_steps(batch), situation.budget_seconds
    if budget is None or seconds is None or situation.measure is None:
        return NetworkPlan(options, batch, layout, steps, is_bound=budget is None)
    possible = _USED * budget / seconds()
    return NetworkPlan(
        options, batch, layout, possible if steps is None else min(steps, possible), is_bound=True
    )


def _stem(situation: Situation, crop: Size, depth: int) -> tuple[int, str]:
    if situation.device_type != "cpu":
        return 1, "none: a GPU has the time for every pixel"
    # Digit scenes of 96 pixels: 0.79 test mean IoU with it, 0.21 without (160 s, docs/log.md)
    if min(crop) < 64:
        return 1, "none: the crops are small"
    if depth < 2:
        return 1, "none: the network is shallow"
    # The logits are unfolded again, so that only what is smaller than two squares is in danger
    area = situation.object_area
    if area is not None and area < 2 * 2**2:
        return 1, f"none: some objects have {area:.0f} pixels"
    return 2, "2x2 pixels folded into channels: about three times as many steps on a CPU"


def _depth(crop: Size, stem: int) -> tuple[int, str]:
    """The four halvings of the paper, or fewer: 3x3 maps see all of 2x2 pixels already."""
    depth = 4
    while depth > 1 and min(crop) // stem // 2**depth < 2:
        depth -= 1
    height, width = (side // stem // 2**depth for side in crop)
    return depth, f"the deepest maps of a crop have {height}x{width} pixels"


def _norm(asked: Asked, situation: Situation, width: int | None) -> tuple[str, str]:
    """Of batches, or where images differ much, of each image by itself.

    600 steps on nuclei under three kinds of microscopes, whose spread is 0.91: 0.896 test mean IoU
    with batch norm, 0.922 with group norm, one run each, at 1.2 times the time a step; at three
    times the learning rate 0.76 and 0.92 (docs/log.md). CamVid, membranes, cells and cracks have
    0.06 to 0.41.
    """
    if asked.sync_batchnorm:
        return "batch", "runtime.sync_batchnorm asks for it"
    spread = situation.image_spread
    if spread is None:
        return "batch", "the usual one"
    if spread < MIXED:
        return "batch", f"{100 * spread:.0f} % of the variance lies between images: below 60 %"
    if width is not None and width % NORM_GROUPS:
        return "batch", f"{width} channels cannot be put into {NORM_GROUPS} groups"
    return "group", f"{100 * spread:.0f} % of the variance of pixels lies between images"


def _width(
    situation: Situation, measure: Callable[[int], float] | None, batch: int
) -> tuple[int, str]:
    """The widest network that there is time for, by a measured step."""
    widths = _WIDTHS[situation.device_type]
    if measure is None:
        if situation.device_type == "cpu":
            return widths[0], "a quarter of the paper's width: there is no time to try others"
        return widths[-1], "the paper's width"
    allowed, budget = situation.num_steps(batch), situation.budget_seconds
    if budget is None:
        seconds, wanted = PATIENCE_SECONDS, allowed or WANTED_STEPS
    else:
        seconds, wanted = _USED * budget, min(allowed or WANTED_STEPS, WANTED_STEPS)
    most = math.inf if allowed is None else allowed
    narrow = measure(widths[0])
    for width in reversed(widths):
        if seconds / (narrow * _COSTS[width] / _COSTS[widths[0]]) < wanted:
            continue
        taken = narrow if width == widths[0] else measure(width)
        if seconds / taken >= wanted:
            steps = min(seconds / taken, most)
            return width, f"{steps:.0f} steps of {1000 * taken:.0f} ms are possible"
    steps = min(seconds / narrow, most)
    return widths[0], f"the narrowest: {steps:.0f} steps of {1000 * narrow:.0f} ms"
