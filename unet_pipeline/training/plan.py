"""What the user left open, decided from the data and the device, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from unet_pipeline.errors import UserError

Size = tuple[int, int]
"""Height and width in pixels."""

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
    model: str,
    model_options: dict[str, Any],
    by_patches: bool = False,
    num_pixels: int | None = None,
    balance: float | None = None,
    loss_balances: bool = False,
    image_size: int | Size | None = None,
    batch_size: int | None = None,
    val_every: int | None = None,
    workers: int | None = None,
    window: int | None = None,
) -> Plan:
    """A `Plan` for training on images of these sizes (height, width); what is given stands.

    cached: whether the decoded images fit in memory, so that loading costs little.
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
        options["base_channels"] = decide(
            "base_channels",
            options.get("base_channels"),
            _base_channels(device_type, budget_seconds),
        )
    return Plan(size, batch, every, processes, side, num_pixels, balance, options, reasons)


def _image_size(sizes: Sequence[Size], limit: int) -> tuple[Size, str]:
    medians = [sorted(side)[len(side) // 2] for side in zip(*sizes, strict=True)]
    if len(set(sizes)) == 1 and max(medians) <= limit:
        return (medians[0], medians[1]), "the size of the images"
    height, width = (min(limit, max(32, math.ceil(side / 16) * 16)) for side in medians)
    if max(medians) > limit:
        return (height, width), f"crops: the images are larger than {limit} pixels"
    return (height, width), "the median size of the images, in steps of 16"


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


def _base_channels(device_type: str, budget_seconds: float | None) -> tuple[int, str]:
    if device_type != "cpu":
        return 64, "the paper's width"
    # A step of width 32 takes 2.8 times as long as one of 16 (bf16: scripts/bench_width.py)
    if budget_seconds is not None and budget_seconds >= 1800:
        return 32, "half the paper's width: there is time for it on a CPU"
    return 16, "a quarter of the paper's width: 2.8 times the steps of half of it"
