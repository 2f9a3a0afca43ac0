"""What the user left open, decided from the data and the device, each with its reason."""

from __future__ import annotations

import functools
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from unet_pipeline.errors import UserError

Size = tuple[int, int]
"""Height and width in pixels."""

Layout = Literal["channels_last", "contiguous"]
"""How images lie in memory: the channels of a pixel side by side, or a map after the other."""

Measure = Callable[[dict[str, Any], Size, int, Layout], float]
"""Seconds that a step takes: of a network with these options, on a batch of so many crops, of which
every process has its part; infinity where memory does not suffice."""

WANTED_STEPS = 1000
"""What a wider network must have time for. Chosen."""

FEW_PASSES = 40
"""Over the data, with which flips are all the augmentation: at 28 `light` lost, at 50 it won."""

PATIENCE_SECONDS = 3600.0
"""What a training without a budget may take."""

RARE = 0.25
"""Of the pixels of the median class: below it, a class makes the loss weigh classes. Chosen."""

_USED = 0.8
"""The share of a budget that is spent on steps; the rest goes into validation and saving."""

_WIDTHS = {"cpu": (16, 24, 32), "cuda": (32, 48, 64), "mps": (32, 48, 64)}

# Of a step, with stem 2 (scripts/bench_width.py): which width to try; that one is then measured
_COSTS = {16: 1.0, 24: 1.9, 32: 3.3, 48: 6.6, 64: 12.2}

_NUM_PIXELS = (256, "patches a crop, not all: neighbouring ones are almost the same")
_NO_BALANCE = (0.0, "patches as classes occur: the loss weighs the classes already")
_BALANCE = (0.5, "half of the patches with all classes alike, half as they occur")
_WINDOW = (768, "larger images are predicted in windows of this side")
_UNMEASURED = "channels side by side: as convolutions mostly want them"
_COMPILE = (False, "compiling takes a minute; --compile is for long runs")


@dataclass(frozen=True)
class Situation:
    """What there is to train on, and with.

    train_sizes, val_sizes: (height, width) of the images. object_area: mean pixels of an object of
        the class whose objects are the smallest, if known.
    class_pixels: of each class in the training masks.
    cached: whether the decoded images fit in memory, so that loading costs little.
    num_processes: that train together, each a part of every batch; local_processes: of them on this
        machine, who share its num_cores.
    num_steps: batch size -> the steps that epochs or max_steps allow, None where a budget ends all.
    autocast: what layers compute in, None for float32.
    measure: how long a step takes here; None where there is no time to find out.
    """

    train_sizes: Sequence[Size]
    val_sizes: Sequence[Size]
    device_type: str
    num_cores: int
    cached: bool
    num_steps: Callable[[int], float | None]
    class_pixels: Sequence[int] = ()
    budget_seconds: float | None = None
    object_area: float | None = None
    num_processes: int = 1
    local_processes: int = 1
    autocast: str | None = None
    measure: Measure | None = None


@dataclass(frozen=True)
class Asked:
    """What the user has decided, which stands; None is left open.

    by_patches: the network classifies patches, so it can learn from a few pixels of each image.
    """

    model: str
    model_options: Mapping[str, Any] = field(default_factory=dict)
    by_patches: bool = False
    loss: str | None = None
    num_pixels: int | None = None
    balance: float | None = None
    transforms: str | None = None
    class_balance: float | None = None
    image_size: int | Size | None = None
    batch_size: int | None = None
    val_every: int | None = None
    workers: int | None = None
    window: int | None = None
    amp: bool | None = None
    memory_format: Layout | None = None
    compile: bool | None = None


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


class _Decisions:
    """Reasons by name, as the decisions fall."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def __call__(self, name: str, given: Any, choose: Callable[[], tuple[Any, str]]) -> Any:
        value, self.reasons[name] = choose() if given is None else (given, "as asked")
        return value


def make_plan(asked: Asked, situation: Situation) -> Plan:
    """A `Plan` for training in this situation; what was asked stands.

    Raises `UserError` for pixels or balance given to a network that learns from whole crops.
    """
    decide, train = _Decisions(), situation.train_sizes
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
        network = _network(asked, situation, decide, size, batch)
    else:
        layout: Layout = decide(
            "memory_format", asked.memory_format, lambda: ("channels_last", _UNMEASURED)
        )
        network = _Network(dict(asked.model_options), batch, layout, situation.num_steps(batch))
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


def _loss(asked: Asked, situation: Situation) -> tuple[str, str]:
    present = [count for count in situation.class_pixels if count]
    if asked.by_patches or len(present) < 3:
        return "ce + dice", "dice counts classes alike, ce pixels"
    share = min(present) / statistics.median(present)
    # Test mean IoU with weights and without: CamVid 0.41 and 0.36, where this share is 0.1; digit
    # scenes 0.49 and 0.53, where only background is frequent (docs/log.md)
    loss = "ce(class_weights=sqrt) + dice" if share < RARE else "ce + dice"
    return loss, f"the rarest class has {share:.2g} times the pixels of the middle one"


def _patches(asked: Asked, decide: _Decisions, loss: str) -> tuple[int | None, float | None]:
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


def _transforms(network: _Network, situation: Situation) -> tuple[str, str]:
    if network.num_steps is None:
        if situation.measure or situation.budget_seconds is None:
            return "light", "how often each sample is seen is not known"
        return "flips", "there is no time to see samples often"
    passes = network.num_steps * network.batch_size / len(situation.train_sizes)
    seen = f"each sample is seen about {passes:.0f} times"
    # Test mean IoU with flips alone and with light (docs/log.md): CamVid, 17 times, 0.46 and 0.44;
    # blood cells, 50 times, 0.91 and 0.94
    if passes < FEW_PASSES:
        return "flips", f"{seen}: too few to learn more variety"
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


# ---- the U-Net ----------------------------------------------------------------------------------


class _Network(NamedTuple):
    """A network's options, the batch that memory holds, the layout that is faster, and the steps
    that there is time for, if known."""

    options: dict[str, Any]
    batch_size: int
    memory_format: Layout
    num_steps: float | None


def _network(
    asked: Asked, situation: Situation, decide: _Decisions, crop: Size, batch: int
) -> _Network:
    """All of this for a U-Net."""
    options = dict(asked.model_options)
    options["stem"] = decide(
        "stem", options.get("stem"), lambda: _stem(situation, crop, options.get("depth", 4))
    )
    options["depth"] = decide("depth", options.get("depth"), lambda: _depth(crop, options["stem"]))
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

    def faster() -> tuple[Layout, str]:
        # Only under a budget, which no two runs spend alike: rounding goes with the layout, and
        # the same command is to give the same weights
        if measure is None or situation.device_type != "cpu" or situation.budget_seconds is None:
            return "channels_last", _UNMEASURED
        last, first = seconds(width), seconds(width, "contiguous")
        best: Layout = "contiguous" if first < 0.95 * last else "channels_last"  # not for noise
        return best, f"{1000 * last:.0f} ms a step with channels last, {1000 * first:.0f} first"

    layout: Layout = decide("memory_format", asked.memory_format, faster)
    steps, budget = situation.num_steps(batch), situation.budget_seconds
    if measure is not None and budget is not None:
        possible = _USED * budget / seconds(width, layout)
        steps = possible if steps is None else min(steps, possible)
    return _Network(options | {"base_channels": width}, batch, layout, steps)


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
