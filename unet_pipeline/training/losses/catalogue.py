"""The losses for masks by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from unet_pipeline.training.losses.pixelwise import cross_entropy
from unet_pipeline.training.losses.regions import dice

LOSSES: dict[str, Callable[..., Tensor]] = {"ce": cross_entropy, "dice": dice}
"""Name -> loss; `ignore_index` comes from the run, other keyword-only parameters are options."""
