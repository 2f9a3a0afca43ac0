"""What a step keeps in memory, counted before it is taken."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unet_pipeline.models import UNet
from unet_pipeline.training import memory
from unet_pipeline.training.memory import kept_bytes, samples_at_once

KEPT = 4 * 2 * (3 + 5) * 16 * 16
"""Of two images of 3 channels and 16x16 pixels that become 5: input and output, float32."""


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU())


def test_what_is_kept_is_what_the_backward_pass_needs() -> None:
    """The input, for the weights of the convolution; the output of the ReLU, for its sign."""
    assert kept_bytes(small(), (2, 3, 16, 16), None) == KEPT
    assert kept_bytes(small(), (2, 3, 16, 16), torch.bfloat16) == KEPT // 2


def test_the_network_is_left_as_it_was() -> None:
    network = UNet(in_channels=1, num_classes=2, base_channels=4).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    kept_bytes(network, (2, 1, 64, 64), None)
    assert not network.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize(
    ("samples", "possible"),
    [(20.0, 8), (17.7, 8), (17.5, 4), (8.9, 4), (8.7, 2), (4.5, 2), (4.3, 1), (2.3, 1), (2.1, 0)],
)
def test_a_batch_is_halved_until_it_fits(
    samples: float, possible: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """samples: for how many there would be memory, of which a step takes 2.2 times as much."""
    monkeypatch.setattr(memory, "_PLENTY", 1e9)
    one = KEPT // 2 + 3 * 4 * 5 * 16 * 16
    found = samples_at_once(
        small(),
        in_channels=3,
        num_classes=5,
        image_size=(16, 16),
        batch_size=8,
        autocast_dtype=None,
        available=int(samples * one + 1),
    )
    assert found == possible


def test_where_there_is_plenty_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "kept_bytes", None)  # calling it would fail
    given = {"in_channels": 3, "num_classes": 5, "image_size": (16, 16), "autocast_dtype": None}
    assert samples_at_once(small(), batch_size=8, available=2**30, **given) == 8  # type: ignore[arg-type]
