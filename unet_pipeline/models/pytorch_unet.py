"""Checkpoints of the well-known PyTorch U-Net, read as models of ours.

Such a file is a state dict and nothing else, but for an entry `mask_values` in newer ones: the
values of the masks that it was trained on, in the order of the classes. What the network is like
follows from the shapes of its tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic
import torch

from unet_pipeline.classes import Classes, MaskValue, default_colors
from unet_pipeline.errors import UserError
from unet_pipeline.models.networks import complete_options
from unet_pipeline.models.segmenter import ModelCard
from unet_pipeline.models.unet import MAX_DEPTH, UNet

_FIRST = "inc.double_conv.0.weight"
_LAST = "outc.conv.weight"
_LAST_BIAS = "outc.conv.bias"

_WINDOW = 1024
"""That project predicts whole images; so do we, up to this side."""


def is_pytorch_unet(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether `state` has the first and the last layer of that U-Net."""
    return (
        all(name in state for name in (_FIRST, _LAST, _LAST_BIAS))
        and state[_FIRST].ndim == state[_LAST].ndim == 4
        and state[_LAST_BIAS].ndim == 1
        and state[_LAST].shape[0] == state[_LAST_BIAS].shape[0]
        and state[_FIRST].numel() > 0
    )


def two_logits(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`state` with one logit and a sigmoid turned into two logits and a softmax, exactly.

    The background gets the logit 0, and softmax((0, z))[1] = 1 / (1 + exp(-z)) = sigmoid(z).
    A state with more logits comes back as it is.
    """
    new = dict(state)
    if is_pytorch_unet(state) and state[_LAST].shape[0] == 1:
        for name in (_LAST, _LAST_BIAS):
            new[name] = torch.cat([torch.zeros_like(state[name]), state[name]])
    return new


def card_of(state: Mapping[str, torch.Tensor], mask_values: Any, *, source: str) -> ModelCard:
    """The card of a checkpoint with the tensors `state`, of two or more logits.

    mask_values: the entry of the file, or None: then the classes have the values 0, 1, ...
    source: what messages call the file.
    That project divides pixels above 1 by 255 and subtracts nothing, hence the range of the card.
    Raises `UserError` where the tensors are not those of a U-Net.
    """
    if not is_pytorch_unet(state):
        names = ", ".join(list(state)[:5]) or "none"
        raise UserError(
            f"{source} is a state dict of something else: its first names are {names}; as a model "
            f"only a state dict of the PyTorch U-Net works ({_FIRST}, ...)"
        )
    classes = _classes(mask_values, state[_LAST].shape[0], source)
    depth = 0
    while f"down{depth + 1}.maxpool_conv.1.double_conv.0.weight" in state and depth < MAX_DEPTH:
        depth += 1
    in_channels = state[_FIRST].shape[1]
    options = {
        "bilinear": "up1.up.weight" not in state,
        "base_channels": state[_FIRST].shape[0],
        "depth": max(depth, 1),
    }
    return ModelCard(
        network="unet",
        options=complete_options("unet", options),
        classes=classes,
        in_channels=in_channels,
        dtype="uint8",
        value_range=(0.0, 255.0),
        mean=(0.0,) * in_channels,
        std=(1.0,) * in_channels,
        window=_WINDOW,
        facts={"imported_from": source},
    )


def expected_tensors(card: ModelCard) -> dict[str, torch.Tensor]:
    """The state dict, without memory behind it, of the U-Net that `card` describes."""
    options: dict[str, Any] = dict(card.options)
    with torch.device("meta"):
        network = UNet(
            in_channels=card.in_channels, num_classes=card.classes.num_classes, **options
        )
    return network.state_dict()


def _classes(mask_values: Any, count: int, source: str) -> Classes:
    values = list(range(count)) if mask_values is None else mask_values
    if not isinstance(values, list | tuple) or len(values) != count:
        raise UserError(
            f"{source}: mask_values = {str(values)[:80]} for {count} classes; "
            "expected one value a class"
        )
    others = ["foreground"] if count == 2 else [f"class {index}" for index in range(1, count)]
    try:
        parsed = tuple(_mask_value(value) for value in values)
        return Classes(
            names=("background", *others),
            colors=default_colors(count),
            values=parsed,
            encoding="rgb" if isinstance(parsed[0], tuple) else "grey",
        )
    except (TypeError, ValueError) as error:  # pydantic's ValidationError is a ValueError
        reason = error.errors()[0]["msg"] if isinstance(error, pydantic.ValidationError) else error
        raise UserError(
            f"{source}: mask_values = {str(values)[:80]} are no grey values or colours ({reason})"
        ) from error


def _mask_value(value: Any) -> MaskValue:
    """A mask value as that project writes it: a number, or a list of red, green and blue."""
    if isinstance(value, list | tuple):
        red, green, blue = (_whole(part) for part in value)
        return (red, green, blue)
    return _whole(value)


def _whole(value: Any) -> int:
    if not isinstance(value, int | float) or value % 1:
        raise ValueError(f"{value!r} is no whole number")
    return int(value)
