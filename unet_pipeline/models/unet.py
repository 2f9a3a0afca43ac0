"""The U-Net of Ronneberger, Fischer and Brox (2015), padded so that maps keep their size.

With the default options, results and state-dict names are those of the well-known PyTorch U-Net,
so its published weights fit; a test compares both with a second implementation. Two options are
not the paper's: a stem that folds pixels into channels, and deep supervision.
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

STEMS = (1, 2, 4)
"""Sides of the squares of pixels that a stem may fold; 1 is no stem, larger ones were not tried."""


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


class UpsampledOut(nn.Module):
    """From features to finer logits: (N, in, H, W) -> (N, out, factor H, factor W).

    A 1x1 convolution, then bilinear interpolation, with the values of the map in the middle of
    their squares. The other way, logits for each sub-pixel of a square and a pixel shuffle (Shi et
    al. 2016) whose weights start alike (Aitken et al. 2017), learned more slowly: after 200 steps
    on ISBI membranes, width 16, two seeds each, a membrane IoU of 0.616 against 0.625 with squares
    of 2x2 and 0.602 against 0.623 with 4x4; after 400 to 700 on CamVid, three seeds, a mean IoU of
    0.328 against 0.347.

    The weights have other names than those of `OutConv`, so that no file of such a network is taken
    for a plain U-Net of more channels.
    """

    def __init__(self, in_channels: int, out_channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.coarse = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(
            self.coarse(x), scale_factor=self.factor, mode="bilinear", align_corners=False
        )


class UNet(nn.Module):
    """A U-Net: images (N, in_channels, H, W) -> logits (N, num_classes, H, W), for any H, W >= 1.

    bilinear: upsample by interpolation instead of transposed convolutions (fewer weights).
    base_channels: channels of the first level; each of the `depth` downsamplings doubles them.
    norm: batch, group (of `layers.NORM_GROUPS` groups), instance or none.
    dropout: share of the values dropped in training at the end of the two deepest levels of the
    contracting path. The paper drops "at the end of the contracting path" and its network does so
    at these two levels: there the maps are small, their many channels overfit first, and the fine
    skip connections stay whole. Values are dropped one by one, as the paper's network does.
    stem: 1, or 2 or 4: squares of stem x stem pixels become the channels of one, so that all layers
    see 1 / stem**2 of the pixels, and `UpsampledOut` makes logits of the full size. The pixel
    unshuffle, the inverse of the pixel shuffle of Shi et al. 2016, "Real-Time Single Image and
    Video Super-Resolution Using an Efficient Sub-Pixel CNN": no value is lost.
    deep_supervision: the decoder's coarser levels predict too, while training: see `forward`.

    Images are padded by repeating their border, and the logits cropped: to multiples of `stem`, and
    to at least stem * 2**depth (with group and instance norm, which need more than one value of an
    image to normalise it, twice that).
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
        stem: int = 1,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        _check_options(in_channels, num_classes, base_channels, depth, norm, dropout)
        _check_extensions(depth, stem, deep_supervision)
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.depth = depth
        self.stem = stem
        self.deep_supervision = deep_supervision
        self.min_size = stem * 2 ** (depth + 1 if norm in ("group", "instance") else depth)

        def dropout_at(level: int) -> float:
            return dropout if level >= depth - 1 else 0.0

        widths = [base_channels * 2**level for level in range(depth + 1)]
        factor = 2 if bilinear else 1  # interpolation keeps channels, so they are halved before it
        self.inc = DoubleConv(in_channels * stem**2, widths[0], norm=norm, dropout=dropout_at(0))
        for level in range(1, depth + 1):
            width = widths[level] // (factor if level == depth else 1)
            down = Down(widths[level - 1], width, norm=norm, dropout=dropout_at(level))
            self.add_module(f"down{level}", down)
        for step in range(1, depth + 1):
            level = depth - step
            width = widths[level] // (factor if level > 0 else 1)
            up = Up(widths[level + 1], width, bilinear=bilinear, norm=norm)
            self.add_module(f"up{step}", up)
        self.outc = (
            OutConv(widths[0], num_classes)
            if stem == 1
            else UpsampledOut(widths[0], num_classes, stem)
        )
        # last, so that the same seed draws the same weights for all the rest
        for level in range(1, depth if deep_supervision else 0):
            self.add_module(f"aux{level}", OutConv(widths[level] // factor, num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Logits (N, num_classes, H, W); in training with deep supervision the first of a tuple.

        The others are those of the heads aux1 to aux(depth - 1), one at every level of the
        decoder below the last. With s = stem * 2**level they are (N, num_classes, H // s, W // s),
        of one row and column at least, and logit (i, j) speaks for the s x s pixels from (s i, s j)
        on. `training.losses.deep` makes one loss of them.
        """
        height, width = x.shape[-2:]
        x = pad_to(x, stride=self.stem, min_size=self.min_size)
        if self.stem > 1:
            x = F.pixel_unshuffle(x, self.stem)
        x = self.inc(x)
        skips = []
        for level in range(1, self.depth + 1):
            skips.append(x)
            x = getattr(self, f"down{level}")(x)
        coarser: list[torch.Tensor] = []
        for level in range(self.depth - 1, -1, -1):
            x = getattr(self, f"up{self.depth - level}")(x, skips.pop())
            if level and self.training and self.deep_supervision:
                rows, columns = (max(1, n // (self.stem * 2**level)) for n in (height, width))
                coarser.append(getattr(self, f"aux{level}")(x)[..., :rows, :columns])
        logits: torch.Tensor = self.outc(x)[..., :height, :width]
        return (logits, *reversed(coarser)) if coarser else logits


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


def _check_extensions(depth: int, stem: int, deep_supervision: bool) -> None:
    if stem not in STEMS:
        raise UserError(f"unet: stem = {stem}: use 1 (none), 2 or 4")
    if deep_supervision and depth < 2:
        raise UserError(
            "unet: deep_supervision with depth = 1: the decoder has no coarser level; use a depth "
            "of 2 or more, or leave it out"
        )
