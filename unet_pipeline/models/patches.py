"""Classifiers of patches as networks for images: the approach that the U-Net replaced.

Each pixel gets the class of the patch around it, as Ciresan et al. 2012 segmented membranes. Here
the small networks of the learning notes do so: dense evaluation in one pass for whole images, and
single patches for training, which may take a few hundred pixels of an image instead of all.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn
from torch.nn import functional as F

from unet_pipeline.errors import UserError
from unet_pipeline.models.lenet import SIDE, LeNet
from unet_pipeline.models.mlp import MLP

_STRIP_VALUES = 2**24
"""Values of the widest map held at a time, 64 MB: large images are evaluated strip by strip."""


class PatchClassifier(Protocol):
    """What a `PatchNetwork` is made of."""

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """Patches (P, C, S, S) -> logits (P, K)."""

    def slide(self, x: torch.Tensor) -> torch.Tensor:
        """The logits (N, K, H - S + 1, W - S + 1) of every window of x (N, C, H, W)."""


class PatchNetwork(nn.Module):
    """Images (N, C, H, W) -> the logits (N, K, H, W) of the patch around each pixel, any H, W >= 1.

    The patch of pixel (y, x) has rows y - S // 2 to y - S // 2 + S - 1, and columns alike; beyond
    the image its border is repeated. It is the same patch whichever way it is computed:

        network(images)           every pixel, in one pass over the padded image
        network(images, points)   the pixels at points (N, P, 2), row and column -> (N, K, P, 1)

    classifier: (P, C, S, S) -> (P, K), with `slide` for all windows. patch_size: S.
    width: channels of the widest map of `slide`, by which the strips of large images are cut.
    """

    def __init__(self, classifier: nn.Module, *, patch_size: int, width: int) -> None:
        super().__init__()
        self.classifier = classifier
        self.patch_size = self.min_size = patch_size
        self.width = width

    def forward(self, x: torch.Tensor, points: torch.Tensor | None = None) -> torch.Tensor:
        before = self.patch_size // 2
        after = self.patch_size - 1 - before
        # Without native bf16, one pass took 172 (MLP) and 33 (LeNet) times as long in bf16 on a CPU
        # (scripts/bench_patches.py); with it, it was never measured
        with torch.autocast("cpu", enabled=False):  # elsewhere the caller decides
            padded = F.pad(x, [before, after, before, after], mode="replicate")
            if points is None:
                return self._slide(padded)
            return self._classify(padded, points)

    def _classify(self, padded: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        count, num_points = points.shape[:2]
        windows = padded.unfold(2, self.patch_size, 1).unfold(3, self.patch_size, 1)
        images = torch.arange(count, device=padded.device)[:, None]
        patches = windows[images, :, points[..., 0], points[..., 1]]  # (N, P, C, S, S)
        logits: torch.Tensor = self.classifier(patches.flatten(0, 1))
        return logits.view(count, num_points, -1).transpose(1, 2).unsqueeze(-1)

    def _slide(self, padded: torch.Tensor) -> torch.Tensor:
        """All windows, as many rows at a time as `_STRIP_VALUES` allows."""
        count, _, height, width = padded.shape
        num_rows = height - self.patch_size + 1
        step = max(1, _STRIP_VALUES // (count * self.width * width))
        strips = [
            self.classifier.slide(padded[:, :, top : top + step + self.patch_size - 1])  # type: ignore[operator]
            for top in range(0, num_rows, step)
        ]
        return torch.cat(strips, dim=2) if len(strips) > 1 else strips[0]


def patch_mlp(
    *, in_channels: int, num_classes: int, hidden_features: int = 256, patch_size: int = 28
) -> PatchNetwork:
    """The multilayer perceptron of the notes on the patch around each pixel.

    hidden_features: units of the hidden layer. patch_size: side of the patch in pixels.
    Raises `UserError` for options below 1.
    """
    if patch_size < 1:
        raise UserError(f"mlp: patch_size = {patch_size}: use at least 1 pixel")
    classifier = MLP(
        in_features=in_channels * patch_size**2,
        hidden_features=hidden_features,
        num_classes=num_classes,
    )
    return PatchNetwork(classifier, patch_size=patch_size, width=hidden_features)


def patch_lenet(*, in_channels: int, num_classes: int) -> PatchNetwork:
    """LeNet on the 32x32 patch around each pixel."""
    classifier = LeNet(in_channels=in_channels, num_classes=num_classes)
    return PatchNetwork(classifier, patch_size=SIDE, width=classifier.fc1.out_features)
