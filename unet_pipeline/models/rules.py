"""Predictors with nothing to train: what any network has to beat.

They keep the contract of a network, images (N, C, H, W) -> logits (N, K, H, W), so they are scored,
saved and used like one. What they must know of the data is a buffer that the caller fills.
"""

from __future__ import annotations

import torch
from torch import nn

from unet_pipeline.errors import UserError


class MajorityClass(nn.Module):
    """The class that most training pixels have, everywhere.

    Its logits are the logarithms of `shares`, (K,), the share of training pixels of each class: the
    best that can be said without looking at the image.
    """

    shares: torch.Tensor

    def __init__(self, *, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("shares", torch.full((num_classes,), 1 / num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.shares.clamp_min(1e-9).log()
        return logits.view(1, -1, 1, 1).expand(len(x), -1, *x.shape[-2:]).clone()


class OtsuThreshold(nn.Module):
    """Two classes, parted by the brightness that parts each image best (Otsu 1979).

    The brightness of a pixel is the mean of its normalised channels, the threshold that of its own
    image, or window, where one is cut. The
    logit of class 1 is `sign` (brightness - threshold): `sign` is 1 where class 1 is the brighter
    one, -1 where it is the darker, and that of class 0 is 0. An image of one brightness is all
    class 0.
    """

    sign: torch.Tensor

    def __init__(self, *, in_channels: int, num_classes: int) -> None:
        super().__init__()
        if num_classes != 2:
            raise UserError(f"otsu parts two classes, and the data has {num_classes}")
        self.register_buffer("sign", torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        brightness = x.float().mean(1)
        thresholds = torch.stack([otsu_threshold(image) for image in brightness])
        logit = self.sign * (brightness - thresholds.view(-1, 1, 1))
        return torch.stack([torch.zeros_like(logit), logit], dim=1)


def otsu_threshold(values: torch.Tensor) -> torch.Tensor:
    """The number that parts `values` into two groups with the largest variance between them.

        argmax_t  n0 n1 (m0 - m1)^2      n0, n1 values below and above t, m0, m1 their means

    Otsu 1979, equation 14, over the values themselves rather than a histogram of them, so that
    their range and type do not matter; halfway between the two values that it parts. Where all
    are equal, that value.
    """
    ordered = values.flatten().cpu().double().sort().values  # not every device has float64
    below = torch.arange(1, len(ordered))
    above = len(ordered) - below
    sums = ordered.cumsum(0)
    means = sums[:-1] / below - (sums[-1] - sums[:-1]) / above
    between = torch.where(ordered[1:] > ordered[:-1], below * above * means**2, -1.0)
    if not len(between) or between.max() < 0:
        return values.flatten()[0]
    best = between.argmax()
    return ((ordered[best] + ordered[best + 1]) / 2).to(values)
