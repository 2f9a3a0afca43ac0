"""The multilayer perceptron of the learning notes, against two matrix products."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unet_pipeline.errors import UserError
from unet_pipeline.models import MLP


def test_the_default_is_the_network_of_the_notes() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in MLP().named_parameters()}
    assert shapes == {
        "hidden.weight": (256, 784),
        "hidden.bias": (256,),
        "output.weight": (10, 256),
        "output.bias": (10,),
    }


def test_its_sizes_are_options() -> None:
    network = MLP(in_features=12, hidden_features=5, num_classes=3)
    assert network.hidden.weight.shape == (5, 12)
    assert network.output.weight.shape == (3, 5)
    assert network(torch.randn(4, 3, 2, 2)).shape == (4, 3)


def test_the_logits_are_two_matrix_products_with_a_relu_between() -> None:
    torch.manual_seed(0)
    network = MLP(in_features=20, hidden_features=7, num_classes=4).double()
    x = np.random.default_rng(0).normal(size=(6, 20))
    w1, b1, w2, b2 = (tensor.detach().numpy() for tensor in network.parameters())
    hidden = x @ w1.T + b1
    assert (hidden < 0).any()
    expected = np.maximum(hidden, 0) @ w2.T + b2
    found = network(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_an_image_is_the_row_of_its_pixels() -> None:
    network, rows = MLP(), torch.randn(5, 784)
    wanted = network(rows)
    assert wanted.shape == (5, 10)
    assert torch.equal(network(rows.view(5, 1, 28, 28)), wanted)
    assert torch.equal(network(rows.view(5, 28, 28)), wanted)
    assert network(rows[:0]).shape == (0, 10)


@pytest.mark.parametrize("shape", [(2, 783), (2, 1, 28, 27), (2, 3, 28, 28), (784,), (28, 28), ()])
def test_inputs_of_another_size_are_refused_in_one_line(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"mlp: inputs of .*the network takes .*784") as caught:
        MLP()(torch.zeros(shape))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["in_features", "hidden_features", "num_classes"])
def test_sizes_below_one_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"mlp: {name} = 0: use at least 1"):
        MLP(**{name: 0})


def test_sliding_over_three_channels_is_the_network_on_every_window() -> None:
    torch.manual_seed(1)
    network = MLP(in_features=3 * 4 * 4, hidden_features=6, num_classes=5).double()
    x = torch.randn(2, 3, 9, 6, dtype=torch.float64)
    found = network.slide(x)
    assert found.shape == (2, 5, 6, 3)
    for y in range(6):
        for left in range(3):
            window = x[:, :, y : y + 4, left : left + 4]
            torch.testing.assert_close(found[:, :, y, left], network(window))
