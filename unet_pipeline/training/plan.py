"""What the user left open, decided from the data and the device, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from unet_pipeline.errors import UserError

Size = tuple[int, int]
"""Height and width in pixels."""

Measure = Callable[[dict[str, Any], Size, int], float]
"""Seconds that a step takes: of a network with these options, on a batch of so many crops."""

WANTED_STEPS = 1000
"""What a wider network must have time for. Chosen: width against steps was not measured yet."""

PATIENCE_SECONDS = 3600.0
"""What a training without a budget may take."""

_USED = 0.8
"""The share of a budget that is spent on steps; the rest goes into validation and saving."""

_WIDTHS = {"cpu": (16, 24, 32), "cuda": (32, 48, 64), "mps": (32, 48, 64)}

# Of a step, with stem 2 (scripts/bench_width.py): which width to try; that one is then measured
_COSTS = {16: 1.0, 24: 1.9, 32: 3.3, 48: 6.6, 64: 12.2}

_NUM_PIXELS = (256, "patches a crop, not all: neighbouring ones are almost the same")
_NO_BALANCE = (0.0, "patches as classes occur: the loss weighs the classes already")
_BALANCE = (0.5, "half of the patches with all classes alike, half as they occur")


@dataclass(frozen=True)
class Plan:
    """The settings of a run that depend on data and device, and why each is what it is."""

    image_size: Size
    batch_size: int
    val_every: int
    workers: int
    window: int
    num_pixels: int | None
    balance: float | None
    class_balance: float
    model_options: dict[str, Any]
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, Any]:
        """What was decided, by name, in the order of `reasons`."""
        height, width = self.image_size
        values = {
            **self.model_options,
            "image_size": f"{height}x{width}",
            "batch_size": self.batch_size,
            "val_every": self.val_every,
            "workers": self.workers,
            "window": self.window,
            "num_pixels": self.num_pixels,
            "balance": self.balance,
            "class_balance": self.class_balance,
        }
        return {name: values[name] for name in self.reasons}


def make_plan(
    *,
    train_sizes: Sequence[Size],
    val_sizes: Sequence[Size],
    device_type: str,
    num_cores: int,
    cached: bool,
    budget_seconds: float | None,
    num_steps: Callable[[int], float | None],
    object_area: float | None = None,
    measure: Measure | None = None,
    model: str,
    model_options: dict[str, Any],
    by_patches: bool = False,
    num_pixels: int | None = None,
    balance: float | None = None,
    loss_balances: bool = False,
    class_balance: float | None = None,
    image_size: int | Size | None = None,
    batch_size: int | None = None,
    val_every: int | None = None,
    workers: int | None = None,
    window: int | None = None,
) -> Plan:
    """A `Plan` for training on images of these sizes (height, width); what is given stands.

    cached: whether the decoded images fit in memory, so that loading costs little.
    num_steps: batch size -> the steps that epochs or max_steps allow, None where a budget ends all.
    object_area: mean pixels of an object of the class whose objects are the smallest, if known.
    measure: how long a step takes here; None where there is no time to find out.
    by_patches: the network classifies patches, so it can learn from a few pixels of each image.
    loss_balances: the loss weighs classes by how rare they are.
    Raises `UserError` for pixels or balance given to any other network.
    """
    reasons: dict[str, str] = {}

    def decide(name: str, given: Any, choice: tuple[Any, str]) -> Any:
        value, reasons[name] = choice if given is None else (given, "as asked")
        return value

    if not by_patches and (num_pixels or balance is not None):
        raise UserError(
            f"training.num_pixels and training.balance are for patch networks (mlp, lenet): "
            f"{model} learns from whole crops: leave them out"
        )
    num_pixels = decide("num_pixels", num_pixels, _NUM_PIXELS) if by_patches else None
    if num_pixels:
        balance = decide("balance", balance, _NO_BALANCE if loss_balances else _BALANCE)
    elif balance is not None:
        raise UserError("training.balance has no effect with num_pixels = 0: leave it out")
    if isinstance(image_size, int):
        image_size = (image_size, image_size)
    limit = 512 if device_type == "cuda" or num_pixels else 256
    size = decide("image_size", image_size, _image_size(train_sizes, limit))
    crops = decide("class_balance", class_balance, _class_balance(train_sizes, size))
    batch = decide("batch_size", batch_size, _batch_size(len(train_sizes), size, device_type))
    every = decide(
        "val_every",
        val_every,
        _val_every(len(train_sizes), num_pixels or size[0] * size[1], val_sizes),
    )
    processes = decide("workers", workers, _workers(device_type, num_cores, cached))
    side = decide("window", window, (768, "larger images are predicted in windows of this side"))
    options = dict(model_options)
    if model == "unet":
        options["stem"] = decide(
            "stem", options.get("stem"), _stem(device_type, size, object_area, options)
        )
        allowed = num_steps(batch)
        if budget_seconds is None:
            seconds, wanted = PATIENCE_SECONDS, allowed or WANTED_STEPS
        else:
            seconds, wanted = _USED * budget_seconds, min(allowed or WANTED_STEPS, WANTED_STEPS)

        def seconds_of(width: int) -> float:
            assert measure is not None
            return measure(options | {"base_channels": width}, size, batch)

        options["base_channels"] = decide(
            "base_channels",
            options.get("base_channels"),
            _width(
                device_type,
                None if measure is None or "base_channels" in options else seconds_of,
                seconds=seconds,
                wanted=wanted,
            ),
        )
    return Plan(size, batch, every, processes, side, num_pixels, balance, crops, options, reasons)


def _image_size(sizes: Sequence[Size], limit: int) -> tuple[Size, str]:
    medians = [sorted(side)[len(side) // 2] for side in zip(*sizes, strict=True)]
    if len(set(sizes)) == 1 and max(medians) <= limit:
        return (medians[0], medians[1]), "the size of the images"
    height, width = (min(limit, max(32, math.ceil(side / 16) * 16)) for side in medians)
    if max(medians) > limit:
        return (height, width), f"crops: the images are larger than {limit} pixels"
    return (height, width), "the median size of the images, in steps of 16"


def _class_balance(sizes: Sequence[Size], crop: Size) -> tuple[float, str]:
    cut = sum(height > crop[0] or width > crop[1] for height, width in sizes)
    if 2 * cut < len(sizes):
        return 0.0, "crops lie anywhere: most show whole images"
    # The share of nnU-Net (Isensee et al. 2021)
    return 0.33, "a third of the crops show a class drawn from all alike"


def _batch_size(num_train: int, crop: Size, device_type: str) -> tuple[int, str]:
    if device_type == "cuda":
        return min(16, max(2, num_train // 4)), "16 on a GPU, fewer where samples are few"
    # not measured apart from other changes; a report on CamVid had 4 before 8 in a short budget
    if num_train >= 64 and crop[0] * crop[1] <= 128 * 128:
        return 8, "small crops, many samples"
    return min(4, num_train), "smaller batches make more steps on a CPU"


def _val_every(num_train: int, num_pixels: int, val: Sequence[Size]) -> tuple[int, str]:
    # A validated pixel costs about a third of a trained one (forward only): keep it below a fifth
    trained = num_train * num_pixels
    validated = sum(height * width for height, width in val) / 3
    return max(1, math.ceil(validated / (0.2 * trained))), "validation costs below a fifth"


def _workers(device_type: str, num_cores: int, cached: bool) -> tuple[int, str]:
    if device_type == "cpu" and cached:
        # measured on 2 cores: decoding is done once, and workers take the cores that compute
        return 0, "images are cached in memory, the cores are needed to compute"
    return max(1, min(8, num_cores - 1)), f"{num_cores} cores"


def _stem(
    device_type: str, crop: Size, object_area: float | None, options: dict[str, Any]
) -> tuple[int, str]:
    if device_type != "cpu":
        return 1, "none: a GPU has the time for every pixel"
    # Digit scenes of 96 pixels: 0.79 test mean IoU with it, 0.21 without (160 s, docs/log.md)
    if min(crop) < 64:
        return 1, "none: the crops are small"
    if options.get("depth", 4) < 2:
        return 1, "none: the network is shallow"
    # The logits are unfolded again, so that only what is smaller than two squares is in danger
    if object_area is not None and object_area < 2 * 2**2:
        return 1, f"none: some objects have {object_area:.0f} pixels"
    return 2, "2x2 pixels folded into channels: about three times as many steps on a CPU"


def _width(
    device_type: str,
    measure: Callable[[int], float] | None,
    *,
    seconds: float,
    wanted: float,
) -> tuple[int, str]:
    """The widest network that takes `wanted` steps in so many seconds, by a measured step."""
    widths = _WIDTHS[device_type]
    if measure is None:
        if device_type == "cpu":
            return widths[0], "a quarter of the paper's width: there is no time to try others"
        return widths[-1], "the paper's width"
    narrow = measure(widths[0])
    for width in reversed(widths):
        if seconds / (narrow * _COSTS[width] / _COSTS[widths[0]]) < wanted:
            continue
        taken = narrow if width == widths[0] else measure(width)
        if seconds / taken >= wanted:
            return width, f"{seconds / taken:.0f} steps of {1000 * taken:.0f} ms are possible"
    return widths[0], f"the narrowest: {seconds / narrow:.0f} steps of {1000 * narrow:.0f} ms"
