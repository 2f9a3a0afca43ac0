"""A network together with what it must know of its data: raw pixels in, logits out."""

from __future__ import annotations

import importlib.metadata
import math
from typing import Annotated, Final, Literal, Self

import pydantic
import torch
from pydantic import Field, FiniteFloat, JsonValue
from torch import nn

from unet_pipeline.classes import Classes
from unet_pipeline.errors import UserError
from unet_pipeline.models.networks import build_network

FORMAT_VERSION: Final = 1
"""The version of the model card that this package writes; older ones are read, newer refused."""

Positive = Annotated[int, Field(ge=1)]


def _package_version() -> str:
    try:
        return importlib.metadata.version("unet-pipeline")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"  # run from a source tree that was never installed


class ModelCard(pydantic.BaseModel):
    """All that is needed to use a model beside its weights; the metadata of a model file.

    network, options: as `build_network` takes them.
    in_channels, dtype, value_range: the images: channels, the type their files hold, and the
    values that become 0 and 1 (0 and 255 for 8 bits).
    mean, std: one figure a channel, in units of the scaled range [0, 1].
    window: side in pixels of the sliding window that prediction uses on larger images.
    facts: what describes the model and changes no prediction (run, metrics, fingerprint, ...).
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    format_version: Literal[1] = FORMAT_VERSION
    network: str
    options: dict[str, JsonValue]
    classes: Classes
    in_channels: Positive
    dtype: Literal["uint8", "uint16", "float32"]
    value_range: tuple[FiniteFloat, FiniteFloat]
    mean: tuple[FiniteFloat, ...]
    std: tuple[FiniteFloat, ...]
    window: Positive
    facts: dict[str, JsonValue] = Field(default_factory=dict)
    package_version: str = Field(default_factory=_package_version)

    @pydantic.model_validator(mode="after")
    def _agree(self) -> Self:
        if len(self.mean) != self.in_channels or len(self.std) != self.in_channels:
            raise ValueError(
                f"{len(self.mean)} means and {len(self.std)} standard deviations "
                f"for {self.in_channels} channels"
            )
        if min(self.std) <= 0:
            raise ValueError(f"a standard deviation of {min(self.std)}: it must be above 0")
        low, high = self.value_range
        if not low < high:
            raise ValueError(f"value range {low} to {high}: the second must be the larger one")
        return self


class Segmenter(nn.Module):
    """A network that takes raw pixels: the file's values (N, C, H, W) -> logits (N, K, H, W).

    Pixels may be uint8, uint16, int32 or of a floating type; with lo and hi the value range of
    the card, the network gets ((pixels - lo) / (hi - lo) - mean) / std. Logits are float32
    whatever the autocast, for any H, W >= 1, background included; softmax makes probabilities.
    Normalisation is part of the model, so training and prediction cannot disagree about it.
    """

    offset: torch.Tensor
    scale: torch.Tensor

    def __init__(self, network: nn.Module, card: ModelCard) -> None:
        super().__init__()
        self.network = network
        self.card = card
        low, high = card.value_range
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in (card.mean, card.std))
        # Both steps of normalising as one subtraction and one division: half the memory traffic.
        # The card is their home, so they are in no state dict.
        offset, scale = low + mean * (high - low), std * (high - low)
        self.register_buffer("offset", offset.float().view(1, -1, 1, 1), persistent=False)
        self.register_buffer("scale", scale.float().view(1, -1, 1, 1), persistent=False)

    @classmethod
    def from_card(cls, card: ModelCard) -> Segmenter:
        """The segmenter that `card` describes, with fresh weights.

        Pretrained weights are not fetched again: those of the model file follow.
        """
        options = dict(card.options)
        if "encoder_weights" in options:
            options["encoder_weights"] = None
        network = build_network(
            card.network,
            options,
            in_channels=card.in_channels,
            num_classes=card.classes.num_classes,
        )
        return cls(network, card)

    @property
    def least_window(self) -> int:
        """The least side of a window to predict in: what the deepest level, or a patch, looks at.

        Smaller images are padded to it; windows of a larger one would be padding for the most part.
        """
        return int(getattr(self.network, "min_size", 1))

    def forward(
        self, pixels: torch.Tensor, points: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Logits (N, K, H, W), float32; `UserError` for pixels of another number of channels.

        points: where a `PatchNetwork` shall look, (N, P, 2) rows and columns -> (N, K, P, 1).
        In training, a `UNet` with deep supervision gives a tuple: these, then its coarser logits.
        """
        channels = self.card.in_channels
        if pixels.ndim != 4 or pixels.shape[1] != channels or math.prod(pixels.shape) == 0:
            raise UserError(
                f"pixels of shape {tuple(pixels.shape)}: the model takes (N, {channels}, H, W)"
            )
        x = (pixels.float() - self.offset) / self.scale
        logits = self.network(x) if points is None else self.network(x, points)
        if isinstance(logits, tuple):
            return tuple(level.float() for level in logits)
        full: torch.Tensor = logits.float()
        return full
