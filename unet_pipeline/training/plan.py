"""What the user left open, decided from the data and the device, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class Plan:
    """The settings of a run that depend on data and device, and why each is what it is."""

    image_size: Size
    batch_size: int
    val_every: int
    workers: int
    window: int
    model_options: dict[str, Any]
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, Any]:
        """What was decided, by name, in the order of `reasons`."""
        height, width = self.image_size
        return {
            **self.model_options,
            "image_size": f"{height}x{width}",
            "batch_size": self.batch_size,
            "val_every": self.val_every,
            "workers": self.workers,
            "window": self.window,
        }


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
    image_size: int | Size | None = None,
    batch_size: int | None = None,
    val_every: int | None = None,
    workers: int | None = None,
    window: int | None = None,
) -> Plan:
    """A `Plan` for training on images of these sizes (height, width); what is given stands.

    cached: whether the decoded images fit in memory, so that loading costs little.
    """
    reasons: dict[str, str] = {}

    def decide(name: str, given: Any, choice: tuple[Any, str]) -> Any:
        value, reasons[name] = choice if given is None else (given, "as asked")
        return value

    if isinstance(image_size, int):
        image_size = (image_size, image_size)
    size = decide("image_size", image_size, _image_size(train_sizes, device_type))
    batch = decide("batch_size", batch_size, _batch_size(len(train_sizes), size, device_type))
    every = decide("val_every", val_every, _val_every(train_sizes, val_sizes, size))
    processes = decide("workers", workers, _workers(device_type, num_cores, cached))
    side = decide("window", window, (768, "larger images are predicted in windows of this side"))
    options = dict(model_options)
    if model == "unet":
        options["base_channels"] = decide(
            "base_channels",
            options.get("base_channels"),
            _base_channels(device_type, budget_seconds),
        )
    return Plan(size, batch, every, processes, side, options, reasons)


def _image_size(sizes: Sequence[Size], device_type: str) -> tuple[Size, str]:
    limit = 512 if device_type == "cuda" else 256
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


def _val_every(train: Sequence[Size], val: Sequence[Size], crop: Size) -> tuple[int, str]:
    # A validated pixel costs about a third of a trained one (forward only): keep it below a fifth
    trained = len(train) * crop[0] * crop[1]
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
