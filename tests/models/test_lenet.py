"""LeNet of the learning notes, against an implementation in loops."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from unet_pipeline.errors import UserError
from unet_pipeline.models import LeNet

Array = npt.NDArray[np.float64]


def convolve(x: Array, kernels: Array, bias: Array) -> Array:
    """(C, H, W) -> (K, H - 4, W - 4): each value a sum over one window."""
    count, _, side, _ = kernels.shape
    height, width = x.shape[1] - side + 1, x.shape[2] - side + 1
    found = np.empty((count, height, width))
    for k in range(count):
        for row in range(height):
            for column in range(width):
                window = x[:, row : row + side, column : column + side]
                found[k, row, column] = (window * kernels[k]).sum() + bias[k]
    return found


def halve(x: Array) -> Array:
    """The largest value of each block of 2x2."""
    channels, height, width = x.shape
    return x.reshape(channels, height // 2, 2, width // 2, 2).max(axis=(2, 4))


def reference(network: LeNet, image: Array) -> Array:
    weights = {name: tensor.detach().numpy() for name, tensor in network.named_parameters()}
    x = image
    for name in ("conv1", "conv2"):
        x = halve(np.maximum(convolve(x, weights[f"{name}.weight"], weights[f"{name}.bias"]), 0))
    x = x.reshape(-1)
    for name in ("fc1", "fc2", "fc3"):
        x = weights[f"{name}.weight"] @ (x if name == "fc1" else np.maximum(x, 0))
        x = x + weights[f"{name}.bias"]
    return x


def test_it_has_the_ten_tensors_of_the_notes() -> None:
    shapes = [tuple(tensor.shape) for tensor in LeNet().parameters()]
    assert shapes == [
        *[(6, 1, 5, 5), (6,)],
        *[(16, 6, 5, 5), (16,)],
        *[(120, 400), (120,)],
        *[(84, 120), (84,)],
        *[(10, 84), (10,)],
    ]


def test_channels_and_classes_are_options() -> None:
    network = LeNet(in_channels=3, num_classes=7)
    assert network.conv1.weight.shape == (6, 3, 5, 5)
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("channels", [1, 2])
def test_the_logits_are_those_of_the_loops(channels: int) -> None:
    torch.manual_seed(0)
    network = LeNet(in_channels=channels).double()
    images = np.random.default_rng(0).normal(size=(2, channels, 32, 32))
    found = network(torch.from_numpy(images)).detach().numpy()
    for logits, image in zip(found, images, strict=True):
        np.testing.assert_allclose(logits, reference(network, image), rtol=1e-11, atol=1e-12)


def test_any_gradient_of_the_output_reaches_every_weight() -> None:
    torch.manual_seed(0)
    network = LeNet()
    out = network(torch.randn(1, 1, 32, 32))
    network.zero_grad()
    assert all(tensor.grad is None for tensor in network.parameters())
    out.backward(torch.randn(1, 10))
    gradients = [tensor.grad for tensor in network.parameters()]
    assert len(gradients) == 10
    assert all(g is not None and bool(g.isfinite().all()) and bool(g.any()) for g in gradients)


@pytest.mark.parametrize(
    "shape",
    [(1, 1, 28, 28), (1, 1, 32, 33), (1, 3, 32, 32), (1, 32, 32), (32, 32), (1, 1024), (1024,)],
)
def test_inputs_of_another_shape_are_refused_in_one_line(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"lenet: .*the network takes \(N, 1, 32, 32\)") as caught:
        LeNet()(torch.zeros(shape))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["in_channels", "num_classes"])
def test_sizes_below_one_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"lenet: {name} = 0: use at least 1"):
        LeNet(**{name: 0})
