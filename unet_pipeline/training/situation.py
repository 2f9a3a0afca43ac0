"""What a plan is made from: the data, the machine, the time, and what the user has decided."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Size = tuple[int, int]
"""Height and width in pixels."""

Layout = Literal["channels_last", "contiguous"]
"""How images lie in memory: the channels of a pixel side by side, or a map after the other."""

Measure = Callable[[dict[str, Any], Size, int, Layout], float]
"""Seconds that a step takes: of a network with these options, on a batch of so many crops, of which
every process has its part; infinity where memory does not suffice."""


@dataclass(frozen=True)
class Situation:
    """What there is to train on, and with.

    train_sizes, val_sizes: (height, width) of the images. object_area: mean pixels of an object of
        the class whose objects are the smallest, if known.
    image_spread: the share of the variance of pixel values that lies between images, if known.
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
    image_spread: float | None = None
    num_processes: int = 1
    local_processes: int = 1
    autocast: str | None = None
    measure: Measure | None = None


@dataclass(frozen=True)
class Asked:
    """What the user has decided, which stands; None is left open.

    by_patches: the network classifies patches, so it can learn from a few pixels of each image.
    sync_batchnorm: batch normalisation is wanted, over the batch of all processes.
    """

    model: str
    model_options: Mapping[str, Any] = field(default_factory=dict)
    by_patches: bool = False
    sync_batchnorm: bool = False
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


class Decisions:
    """Reasons by name, as the decisions fall."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def __call__(self, name: str, given: Any, choose: Callable[[], tuple[Any, str]]) -> Any:
        value, self.reasons[name] = choose() if given is None else (given, "as asked")
        return value
