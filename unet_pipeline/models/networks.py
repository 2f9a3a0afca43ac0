"""The networks by name: what `--model NAME` and a model file mean.

An entry is a factory `(*, in_channels, num_classes, **options) -> nn.Module` whose module maps
images (N, in_channels, H, W), float, to logits (N, num_classes, H, W), for any H, W >= 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pydantic_core
from torch import nn

from unet_pipeline.catalogue import complete, lookup
from unet_pipeline.errors import UserError, did_you_mean
from unet_pipeline.models.patches import patch_lenet, patch_mlp
from unet_pipeline.models.rules import MajorityClass, OtsuThreshold
from unet_pipeline.models.smp import PREFIX, build_smp, complete_smp_options
from unet_pipeline.models.unet import UNet

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "unet": UNet,
    "lenet": patch_lenet,
    "mlp": patch_mlp,
}

RULES: dict[str, Callable[..., nn.Module]] = {
    "majority": MajorityClass,
    "otsu": OtsuThreshold,
}
"""Those with nothing to train: the lowest rungs of `unet train --baselines`."""

PATCH_NETWORKS = frozenset({"lenet", "mlp"})
"""Those that classify the patch around a pixel, and may be trained on a few pixels an image."""

_FROM_THE_DATA = ("in_channels", "num_classes")


def build_network(
    name: str, options: Mapping[str, Any], *, in_channels: int, num_classes: int
) -> nn.Module:
    """The network called `name`, with fresh weights, in training mode.

    name: a key of `NETWORKS` or `RULES`, or `smp:<architecture>/<encoder>`.
    Raises `UserError` for an unknown name (with the nearest one), option or value.
    """
    completed = complete_options(name, options)
    if name.startswith(PREFIX):
        return build_smp(name, in_channels=in_channels, num_classes=num_classes, **completed)
    factory = lookup(NETWORKS | RULES, name, kind="model")
    return factory(in_channels=in_channels, num_classes=num_classes, **completed)


def complete_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """All options of the network called `name`, as JSON values: those of `options`, the rest by
    default.

    Raises `UserError` for an unknown name, an unknown option or a value of another type.
    """
    if name.startswith(PREFIX):
        completed = complete_smp_options(name, options)
    else:
        factories = NETWORKS | RULES
        if name not in factories:
            known = [*NETWORKS, f"{PREFIX}<architecture>/<encoder>"]
            raise UserError(f"unknown model {name!r}{did_you_mean(name, known)}")
        completed = complete(factories[name], options, label=f"model {name}", given=_FROM_THE_DATA)
    plain: dict[str, Any] = pydantic_core.to_jsonable_python(completed)
    return plain
