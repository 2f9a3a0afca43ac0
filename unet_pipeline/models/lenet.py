"""LeNet-5 (LeCun et al. 1998) in the form of the learning notes: ReLU and max-pooling."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from unet_pipeline.errors import UserError

SIDE = 32
"""Height and width of what a LeNet looks at."""


class LeNet(nn.Module):
    """Two convolutions, three linear layers: (N, in_channels, 32, 32) -> logits (N, num_classes).

        conv 5x5 to 6 channels, ReLU, max-pool 2       32 -> 28 -> 14
        conv 5x5 to 16 channels, ReLU, max-pool 2      14 -> 10 -> 5
        linear 400 -> 120, ReLU, 120 -> 84, ReLU, 84 -> num_classes

    Raises `UserError` for images of another size or number of channels.
    """

    def __init__(self, *, in_channels: int = 1, num_classes: int = 10) -> None:
        super().__init__()
        for name, size in {"in_channels": in_channels, "num_classes": num_classes}.items():
            if size < 1:
                raise UserError(f"lenet: {name} = {size}: use at least 1")
        self.conv1 = nn.Conv2d(in_channels, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim != 4 or x.shape[1:] != (self.conv1.in_channels, SIDE, SIDE):
            raise UserError(
                f"lenet: images of shape {tuple(x.shape)}: the network takes "
                f"(N, {self.conv1.in_channels}, {SIDE}, {SIDE})"
            )
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        logits: torch.Tensor = self.fc3(F.relu(self.fc2(x)))
        return logits

    def slide(self, x: torch.Tensor) -> torch.Tensor:
        """The logits of every 32x32 window of x (N, C, H, W), in one pass: (N, K, H - 31, W - 31).

        Where the network pools, it would skip every second position. Here pooling goes on by one
        pixel, and what follows looks at every second value (dilation 2, then 4) in place of the
        stride: each window sees just the values that it would see alone (Giusti et al. 2013, "Fast
        image scanning with deep max-pooling convolutional neural networks").
        """
        x = F.max_pool2d(F.relu(self.conv1(x)), 2, stride=1)
        x = F.conv2d(x, self.conv2.weight, self.conv2.bias, dilation=2)
        x = F.max_pool2d(F.relu(x), 2, stride=1, dilation=2)
        x = F.relu(F.conv2d(x, self.fc1.weight.view(-1, 16, 5, 5), self.fc1.bias, dilation=4))
        x = F.relu(F.conv2d(x, self.fc2.weight[:, :, None, None], self.fc2.bias))
        return F.conv2d(x, self.fc3.weight[:, :, None, None], self.fc3.bias)
