"""What the user left open, decided from the data and the device, each with its reason."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from unet_pipeline.errors import UserError
from unet_pipeline.training.situation import Asked, Decisions, Layout, Situation, Size
from unet_pipeline.training.unet_plan import UNMEASURED, NetworkPlan, bound_plan, plan_unet

FEW_PASSES = 40
"""Over the data, with which flips are all the augmentation. Chosen between 28, where more variety
cost CamVid points, and 50, where it made no difference on four of five datasets (docs/log.md)."""

RARE = 0.25
"""Of the pixels of the median class: below it, a class makes the loss weigh classes. Chosen."""

_NUM_PIXELS = (256, "patches a crop, not all: neighbouring ones are almost the same")
_NO_BALANCE = (0.0, "patches as classes occur: the loss weighs the classes already")
_BALANCE = (0.5, "half of the patches with all classes alike, half as they occur")
_WINDOW = (768, "larger images are predicted in windows of this side")
_COMPILE = (False, "compiling takes a minute; --compile is for long runs")


@dataclass(frozen=True)
class Plan:
    """The settings of a run that depend on data and device, and why each is what it is."""

    loss: str
    image_size: Size
    batch_size: int
    val_every: int
    workers: int
    window: int
    num_pixels: int | None
    balance: float | None
    transforms: str
    class_balance: float
    amp: bool
    memory_format: Layout
    compile: bool
    model_options: dict[str, Any]
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, Any]:
        """What was decided, by name, in the order of `reasons`."""
        height, width = self.image_size
        values = vars(self) | self.model_options | {"image_size": f"{height}x{width}"}
        return {name: values[name] for name in self.reasons}


def make_plan(asked: Asked, situation: Situation) -> Plan:
    """A `Plan` for training in this situation; what was asked stands.

    Raises `UserError` for pixels or balance given to a network that learns from whole crops.
    """
    decide, train = Decisions(), situation.train_sizes
    loss = decide("loss", asked.loss, lambda: _loss(asked, situation))
    num_pixels, balance = _patches(asked, decide, loss)
    limit = 512 if situation.device_type == "cuda" or num_pixels else 256
    given = asked.image_size
    size = decide(
        "image_size",
        (given, given) if isinstance(given, int) else given,
        lambda: _image_size(train, limit),
    )
    crops = decide("class_balance", asked.class_balance, lambda: _class_balance(train, size))
    amp = decide("amp", asked.amp, lambda: _amp(situation))
    batch = decide("batch_size", asked.batch_size, lambda: _batch_size(situation, size))
    if asked.model == "unet":
        network = plan_unet(asked, situation, decide, size, batch)
    else:
        network = _plan_other(asked, situation, decide, size, batch)
    batch = network.batch_size
    trained = len(train) * (num_pixels or size[0] * size[1])
    return Plan(
        loss=loss,
        image_size=size,
        batch_size=batch,
        val_every=decide(
            "val_every", asked.val_every, lambda: _val_every(trained, situation.val_sizes)
        ),
        workers=decide("workers", asked.workers, lambda: _workers(situation)),
        window=decide("window", asked.window, lambda: _WINDOW),
        num_pixels=num_pixels,
        balance=balance,
        transforms=decide("transforms", asked.transforms, lambda: _transforms(network, situation)),
        class_balance=crops,
        amp=amp,
        memory_format=network.memory_format,
        compile=decide("compile", asked.compile, lambda: _COMPILE),
        model_options=network.options,
        reasons=decide.reasons,
    )


def _plan_other(
    asked: Asked, situation: Situation, decide: Decisions, crop: Size, batch: int
) -> NetworkPlan:
    """What is known of a network that is taken as it is."""
    layout: Layout = decide(
        "memory_format", asked.memory_format, lambda: ("channels_last", UNMEASURED)
    )
    options, measure = dict(asked.model_options), situation.measure
    # A patch network learns from some pixels of a crop, which takes another time than the whole
    timed = not asked.by_patches and measure is not None

    def seconds() -> float:
        assert measure is not None
        return measure(options, crop, batch, layout)

    return bound_plan(situation, options, batch, layout, seconds if timed else None)


def _loss(asked: Asked, situation: Situation) -> tuple[str, str]:
    present = [count for count in situation.class_pixels if count]
    if asked.by_patches or len(present) < 3:
        return "ce + dice", "dice counts classes alike, ce pixels"
    share = min(present) / statistics.median(present)
    # Test mean IoU with weights and without: CamVid 0.41 and 0.36, where this share is 0.1; digit
    # scenes 0.49 and 0.53, where only background is frequent (docs/log.md)
    loss = "ce(class_weights=sqrt) + dice" if share < RARE else "ce + dice"
    return loss, f"the rarest class has {share:.2g} times the pixels of the middle one"


def _patches(asked: Asked, decide: Decisions, loss: str) -> tuple[int | None, float | None]:
    """Pixels that a patch network learns from, and how many of them with all classes alike."""
    if not asked.by_patches:
        if asked.num_pixels or asked.balance is not None:
            raise UserError(
                f"training.num_pixels and training.balance are for patch networks (mlp, lenet): "
                f"{asked.model} learns from whole crops: leave them out"
            )
        return None, None
    num_pixels: int = decide("num_pixels", asked.num_pixels, lambda: _NUM_PIXELS)
    if num_pixels:
        weighed = re.search(r"class_weights\s*=\s*['\"]?[a-z\[(]", loss)
        choice = _NO_BALANCE if weighed else _BALANCE
        return num_pixels, decide("balance", asked.balance, lambda: choice)
    if asked.balance is not None:
        raise UserError("training.balance has no effect with num_pixels = 0: leave it out")
    return num_pixels, None


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


def _amp(situation: Situation) -> tuple[bool, str]:
    return situation.autocast is not None, f"layers compute in {situation.autocast or 'float32'}"


def _batch_size(situation: Situation, crop: Size) -> tuple[int, str]:
    num_train = len(situation.train_sizes)
    if situation.device_type == "cuda":
        size, reason = min(16, max(2, num_train // 4)), "16 on a GPU, fewer where samples are few"
    # not measured apart from other changes; a report on CamVid had 4 before 8 in a short budget
    elif num_train >= 64 and crop[0] * crop[1] <= 128 * 128:
        size, reason = 8, "small crops, many samples"
    else:
        size, reason = min(4, num_train), "smaller batches make more steps on a CPU"
    if size < situation.num_processes <= num_train:
        return situation.num_processes, "one for each process"
    return size, reason


def _transforms(network: NetworkPlan, situation: Situation) -> tuple[str, str]:
    seen = "how often each sample is seen is not known"
    if network.num_steps is not None:
        passes = network.num_steps * network.batch_size / len(situation.train_sizes)
        seen = f"each sample is seen about {passes:.0f} times"
        # CamVid, 17 times: test mean IoU 0.456 with flips alone, 0.435 with zoom and turns as well,
        # 0.437 with another light in every crop; one run each (docs/log.md)
        if passes < FEW_PASSES:
            return "flips", f"{seen}: too few to learn more variety"
    if not network.is_bound and situation.device_type == "cpu":
        return "flips", "a CPU seldom has the time to see each sample often"
    return "light", seen


def _val_every(num_pixels: int, val: Sequence[Size]) -> tuple[int, str]:
    # A validated pixel costs about a third of a trained one (forward only): keep it below a tenth
    validated = sum(height * width for height, width in val) / 3
    return max(1, math.ceil(validated / (0.1 * num_pixels))), "validation costs below a tenth"


def _workers(situation: Situation) -> tuple[int, str]:
    if situation.device_type == "cpu" and situation.cached:
        # measured on 2 cores: decoding is done once, and workers take the cores that compute
        return 0, "images are cached in memory, the cores are needed to compute"
    cores = situation.num_cores // situation.local_processes
    reason = f"{situation.num_cores} cores"
    if situation.local_processes > 1:
        reason += f" for {situation.local_processes} processes"
    return max(1, min(8, cores - 1)), reason
