"""A trial of a step: it takes time in proportion, and leaves the weights alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unet_pipeline.models import UNet
from unet_pipeline.training.trial import seconds_per_step


class Counting(nn.Module):
    """A network that notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = UNet(in_channels=3, num_classes=4, base_channels=4, depth=2)
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shapes.append(tuple(x.shape))
        assert self.training
        result: Tensor = self.inner(x)
        return result


def test_a_trial_takes_a_few_whole_steps_and_leaves_the_weights() -> None:
    network = Counting()
    before = [parameter.clone() for parameter in network.parameters()]
    state = torch.get_rng_state()
    seconds = seconds_per_step(
        network,
        in_channels=3,
        num_classes=4,
        image_size=(32, 48),
        batch_size=5,
        autocast_dtype=None,
        repeats=3,
    )
    assert seconds > 0
    assert network.shapes == [(5, 3, 32, 48)] * 4
    assert all(parameter.grad is not None for parameter in network.parameters())
    for one, other in zip(before, network.parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(state, torch.get_rng_state())
