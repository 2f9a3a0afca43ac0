"""The multilayer perceptron of the learning notes: one hidden layer between pixels and classes."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from unet_pipeline.errors import UserError


class MLP(nn.Module):
    """Linear, ReLU, Linear: (N, in_features), or what flattens to it -> logits (N, num_classes).

    The defaults are those of the notes: a 28x28 digit, 256 hidden units, ten classes.
    Raises `UserError` for inputs of another size.
    """

    def __init__(
        self, *, in_features: int = 784, hidden_features: int = 256, num_classes: int = 10
    ) -> None:
        super().__init__()
        sizes = {
            "in_features": in_features,
            "hidden_features": hidden_features,
            "num_classes": num_classes,
        }
        for name, size in sizes.items():
            if size < 1:
                raise UserError(f"mlp: {name} = {size}: use at least 1")
        self.hidden = nn.Linear(in_features, hidden_features)
        self.output = nn.Linear(hidden_features, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim < 2 or x.shape[1:].numel() != self.hidden.in_features:
            raise UserError(
                f"mlp: inputs of shape {tuple(x.shape)}: the network takes (N, "
                f"{self.hidden.in_features}), or what flattens to it"
            )
        logits: torch.Tensor = self.output(F.relu(self.hidden(x.flatten(1))))
        return logits

    def slide(self, x: torch.Tensor) -> torch.Tensor:
        """The logits of every square window of x (N, C, H, W), in one pass: (N, K, H', W').

        A window has in_features = C S S values, and H' = H - S + 1. A linear layer over all windows
        is a convolution whose kernels are its rows.
        """
        channels = x.shape[1]
        side = math.isqrt(self.hidden.in_features // channels)
        assert channels * side * side == self.hidden.in_features, "windows are square"
        kernels = self.hidden.weight.view(-1, channels, side, side)
        x = F.relu(F.conv2d(x, kernels, self.hidden.bias))
        return F.conv2d(x, self.output.weight[:, :, None, None], self.output.bias)
