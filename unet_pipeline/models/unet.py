"""The U-Net of Ronneberger, Fischer and Brox (2015), padded so that maps keep their size.

With the default options, results and state-dict names are those of the well-known PyTorch U-Net,
so its published weights fit; a test compares both with a second implementation.
"""

from __future__ import annotations

import typing

import torch
from torch import nn
from torch.nn import functional as F

from unet_pipeline.errors import UserError, did_you_mean
from unet_pipeline.models.layers import NORM_GROUPS, Norm, make_norm, pad_to

MAX_DEPTH = 8
"""Halvings; eight make 1024 channels of 4 and 16384 of 64, the largest that anybody could train."""


class DoubleConv(nn.Module):
    """Twice (convolution 3x3, normalisation, ReLU), then dropout: (N, in, H, W) -> (N, out, H, W).

    mid_channels: channels between the two convolutions; None means `out_channels`.
    The convolutions have a bias only where no normalisation follows that would cancel it. The
    layers keep their index in `double_conv` whatever the norm, so their names are always the same.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        mid_channels: int | None = None,
        *,
        norm: Norm = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        mid_channels = mid_channels or out_channels
        bias = norm == "none"
        layers = [
            nn.Conv2d(in_channels, mid_channels, 3, padding=1, bias=bias),
            make_norm(norm, mid_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(mid_channels, out_channels, 3, padding=1, bias=bias),
            make_norm(norm, out_channels),
            nn.ReLU(inplace=True),
        ]
        if dropout:
            layers.append(nn.Dropout(dropout))
        self.double_conv = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.double_conv(x)
        return y


class Down(nn.Module):
    """Max-pooling by 2, then `DoubleConv`: (N, in, H, W) -> (N, out, H // 2, W // 2)."""

    def __init__(
        self, in_channels: int, out_channels: int, *, norm: Norm = "batch", dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(
            nn.MaxPool2d(2), DoubleConv(in_channels, out_channels, norm=norm, dropout=dropout)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.maxpool_conv(x)
        return y


class Up(nn.Module):
    """Upsampling by 2, the skip connection in front of it, then `DoubleConv`.

    in_channels: channels of the skip connection and the upsampled map together.
    bilinear: interpolate (the map then comes with `in_channels // 2` channels), instead of a
    transposed convolution, which takes `in_channels` channels and halves them.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, bilinear: bool = False, norm: Norm = "batch"
    ) -> None:
        super().__init__()
        half = in_channels // 2
        if bilinear:
            self.up: nn.Module = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            self.conv = DoubleConv(in_channels, out_channels, half, norm=norm)
        else:
            self.up = nn.ConvTranspose2d(in_channels, half, 2, stride=2)
            self.conv = DoubleConv(in_channels, out_channels, norm=norm)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """x (N, C, h, w) and skip (N, C', H, W) with h = H // 2, w = W // 2 -> (N, out, H, W)."""
        x = self.up(x)
        dy, dx = skip.shape[-2] - x.shape[-2], skip.shape[-1] - x.shape[-1]
        if dx or dy:  # pooling an odd size loses a row or a column
            x = F.pad(x, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        y: torch.Tensor = self.conv(torch.cat([skip, x], dim=1))
        return y


class OutConv(nn.Module):
    """A 1x1 convolution from features to logits: (N, in, H, W) -> (N, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x)
        return y


class UNet(nn.Module):
    """A U-Net: images (N, in_channels, H, W) -> logits (N, num_classes, H, W), for any H, W >= 1.

    bilinear: upsample by interpolation instead of transposed convolutions (fewer weights).
    base_channels: channels of the first level; each of the `depth` downsamplings doubles them.
    norm: batch, group (of `layers.NORM_GROUPS` groups), instance or none.
    dropout: share of the values dropped in training at the end of the two deepest levels of the
    contracting path. The paper drops "at the end of the contracting path" and its network does so
    at these two levels: there the maps are small, their many channels overfit first, and the fine
    skip connections stay whole. Values are dropped one by one, as the paper's network does.

    Images smaller than 2**depth (with group and instance norm, which need more than one value of
    an image to normalise it, 2**(depth + 1)) are padded to that by repeating their border.
    Raises `UserError` for options that make no network.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        bilinear: bool = False,
        base_channels: int = 64,
        depth: int = 4,
        norm: Norm = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _check_options(in_channels, num_classes, base_channels, depth, norm, dropout)
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.depth = depth
        self.min_size = 2 ** (depth + 1 if norm in ("group", "instance") else depth)

        def dropout_at(level: int) -> float:
            return dropout if level >= depth - 1 else 0.0

        widths = [base_channels * 2**level for level in range(depth + 1)]
        factor = 2 if bilinear else 1  # interpolation keeps channels, so they are halved before it
        self.inc = DoubleConv(in_channels, widths[0], norm=norm, dropout=dropout_at(0))
        for level in range(1, depth + 1):
            width = widths[level] // (factor if level == depth else 1)
            down = Down(widths[level - 1], width, norm=norm, dropout=dropout_at(level))
            self.add_module(f"down{level}", down)
        for step in range(1, depth + 1):
            level = depth - step
            width = widths[level] // (factor if level > 0 else 1)
            up = Up(widths[level + 1], width, bilinear=bilinear, norm=norm)
            self.add_module(f"up{step}", up)
        self.outc = OutConv(widths[0], num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        x = self.inc(pad_to(x, min_size=self.min_size))
        skips = []
        for level in range(1, self.depth + 1):
            skips.append(x)
            x = getattr(self, f"down{level}")(x)
        for step in range(1, self.depth + 1):
            x = getattr(self, f"up{step}")(x, skips.pop())
        logits: torch.Tensor = self.outc(x)[..., :height, :width]
        return logits


def _check_options(
    in_channels: int, num_classes: int, base_channels: int, depth: int, norm: str, dropout: float
) -> None:
    if in_channels < 1:
        raise UserError(f"unet: in_channels = {in_channels}: an image has at least one channel")
    if num_classes < 2:
        raise UserError(
            f"unet: num_classes = {num_classes}: use at least 2, background is a class too"
        )
    if base_channels < 1:
        raise UserError(f"unet: base_channels = {base_channels}: use at least 1")
    if not 1 <= depth <= MAX_DEPTH:
        raise UserError(f"unet: depth = {depth}: use 1 to {MAX_DEPTH} downsamplings")
    if norm not in typing.get_args(Norm):
        raise UserError(f"unet: unknown norm {norm!r}{did_you_mean(norm, typing.get_args(Norm))}")
    if norm == "group" and base_channels % NORM_GROUPS:
        raise UserError(
            f"unet: base_channels = {base_channels} with norm group: use a multiple of "
            f"{NORM_GROUPS}, the number of groups"
        )
    if not 0 <= dropout < 1:
        raise UserError(f"unet: dropout = {dropout}: use a share from 0 to below 1")
