"""Small segmenters whose right answers are known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unet_pipeline.classes import Classes, default_colors
from unet_pipeline.models.segmenter import ModelCard, Segmenter


class Bright(nn.Module):
    """Class k where the first channel, scaled to [0, 1], is nearest to k / (K - 1)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.linspace(0, 1, num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -20 * (x[:, :1] - self.centres.view(1, -1, 1, 1)) ** 2


def build(network=None, *, num_classes=2, in_channels=1, dtype="uint8", window=32, classes=None):
    """A segmenter around `network` (Bright where not given) that scales by the dtype's range."""
    values = tuple(k * (255 // (num_classes - 1)) for k in range(num_classes))
    names = ("background", *(f"c{k}" for k in range(1, num_classes)))
    classes = classes or Classes(names=names, colors=default_colors(num_classes), values=values)
    card = ModelCard(
        network="unet",
        options={},
        classes=classes,
        in_channels=in_channels,
        dtype=dtype,
        value_range=(0.0, {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}[dtype]),
        mean=(0.0,) * in_channels,
        std=(1.0,) * in_channels,
        window=window,
    )
    return Segmenter(network or Bright(classes.num_classes), card).eval()


@pytest.fixture(scope="session")
def make_segmenter():
    """`build`, for tests."""
    return build


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    # Tiny tensors gain nothing from threads, and where cores are busy otherwise, waiting for the
    # second one made these tests 400 times slower
    former = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(former)
