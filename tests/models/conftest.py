from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unet_pipeline.classes import Classes, default_colors
from unet_pipeline.models import ModelCard, Segmenter, UNet


class ReferenceUNet(nn.Module):
    """The U-Net of issue 2, written a second time from its description, layer by layer.

    Its modules have the names that the published checkpoints use, so a state dict fits both.
    """

    def __init__(self, in_channels: int, num_classes: int, bilinear: bool, base: int = 64) -> None:
        super().__init__()
        self.bilinear = bilinear
        last = base * 16 // (2 if bilinear else 1)

        def double(i: int, o: int, mid: int | None = None) -> nn.Module:
            mid = mid or o
            module = nn.Module()
            module.double_conv = nn.Sequential(
                nn.Conv2d(i, mid, kernel_size=3, padding=1, bias=False),
                nn.BatchNorm2d(mid),
                nn.ReLU(),
                nn.Conv2d(mid, o, kernel_size=3, padding=1, bias=False),
                nn.BatchNorm2d(o),
                nn.ReLU(),
            )
            return module

        def down(i: int, o: int) -> nn.Module:
            module = nn.Module()
            module.maxpool_conv = nn.ModuleList([nn.MaxPool2d(2), double(i, o)])
            return module

        def up(i: int, o: int) -> nn.Module:
            module = nn.Module()
            if bilinear:
                module.conv = double(i, o, i // 2)
            else:
                module.up = nn.ConvTranspose2d(i, i // 2, kernel_size=2, stride=2)
                module.conv = double(i, o)
            return module

        half = 2 if bilinear else 1
        self.inc = double(in_channels, base)
        self.down1 = down(base, base * 2)
        self.down2 = down(base * 2, base * 4)
        self.down3 = down(base * 4, base * 8)
        self.down4 = down(base * 8, last)
        self.up1 = up(base * 16, base * 8 // half)
        self.up2 = up(base * 8, base * 4 // half)
        self.up3 = up(base * 4, base * 2 // half)
        self.up4 = up(base * 2, base)
        self.outc = nn.Module()
        self.outc.conv = nn.Conv2d(base, num_classes, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x1 = self.inc.double_conv(x)
        maps = [x1]
        for down in (self.down1, self.down2, self.down3, self.down4):
            maps.append(down.maxpool_conv[1].double_conv(F.max_pool2d(maps[-1], 2)))
        y = maps[4]
        for skip, up in zip(maps[3::-1], (self.up1, self.up2, self.up3, self.up4), strict=True):
            if self.bilinear:
                y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=True)
            else:
                y = up.up(y)
            dy, dx = skip.size(2) - y.size(2), skip.size(3) - y.size(3)
            y = F.pad(y, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
            y = up.conv.double_conv(torch.cat([skip, y], 1))
        return self.outc.conv(y)


def settle(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give every weight, bias and running statistic of `network` a value worth comparing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0, generator=generator)
            elif name.endswith(("running_mean", "bias")):
                tensor.normal_(0.0, 0.3, generator=generator)
            elif tensor.ndim == 4:  # as He et al. 2015, so that signals reach the end
                tensor.normal_(0.0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
    return network


@pytest.fixture(scope="session")
def reference_unet() -> Callable[..., ReferenceUNet]:
    def make(*, in_channels: int, num_classes: int, bilinear: bool, base: int) -> ReferenceUNet:
        torch.manual_seed(1)
        return settle(ReferenceUNet(in_channels, num_classes, bilinear, base)).eval()

    return make


@pytest.fixture(scope="session")
def make_card() -> Callable[..., ModelCard]:
    def make(**fields: Any) -> ModelCard:
        count = fields.pop("num_classes", 2)
        classes = Classes(
            names=tuple(f"class {k}" for k in range(count)),
            colors=default_colors(count),
            values=tuple(range(count)),
        )
        channels = fields.get("in_channels", 1)
        return ModelCard.model_validate(
            {
                "network": "unet",
                "options": {"base_channels": 2, "depth": 1},
                "classes": classes,
                "in_channels": channels,
                "dtype": "uint8",
                "value_range": (0, 255),
                "mean": (0.25,) * channels,
                "std": (0.5,) * channels,
                "window": 64,
                **fields,
            }
        )

    return make


@pytest.fixture(scope="session")
def tiny_segmenter(make_card: Callable[..., ModelCard]) -> Segmenter:
    torch.manual_seed(2)
    segmenter = Segmenter.from_card(make_card())
    settle(segmenter.network)
    return segmenter.eval()


@pytest.fixture
def save_pth(tmp_path: Path) -> Callable[..., Path]:
    """Writes a checkpoint as the well-known PyTorch U-Net writes it."""

    def save(network: nn.Module, **extra: Any) -> Path:
        path = tmp_path / "checkpoint_epoch5.pth"
        torch.save({**network.state_dict(), **extra}, path)
        return path

    return save


@pytest.fixture
def tiny_unet() -> UNet:
    torch.manual_seed(3)
    return UNet(in_channels=1, num_classes=2, base_channels=2, depth=1)
