"""Patch networks: dense evaluation is the classifier at every position, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from unet_pipeline.errors import UserError
from unet_pipeline.models import (
    PATCH_NETWORKS,
    ModelCard,
    PatchNetwork,
    Segmenter,
    build_network,
    load_model,
    patches,
    save_model,
)
from unet_pipeline.runtime import place

# Also odd, tiny and even patches: where the patch of a pixel begins depends on them
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "lenet": ("lenet", {}),
    "mlp": ("mlp", {"hidden_features": 32}),
    "mlp of 5x5": ("mlp", {"hidden_features": 8, "patch_size": 5}),
    "mlp of 2x2": ("mlp", {"hidden_features": 8, "patch_size": 2}),
    "mlp of 1x1": ("mlp", {"hidden_features": 8, "patch_size": 1}),
}


def make(kind: str, *, in_channels: int = 1, num_classes: int = 3, seed: int = 0) -> PatchNetwork:
    """A network whose logits are of the size that trained ones have."""
    name, options = KINDS[kind]
    network = build_network(name, options, in_channels=in_channels, num_classes=num_classes)
    assert isinstance(network, PatchNetwork)
    generator = torch.Generator().manual_seed(seed)
    for tensor in network.parameters():
        if tensor.ndim > 1:
            nn.init.kaiming_normal_(tensor, generator=generator)
        else:
            nn.init.normal_(tensor, 0.0, 0.3, generator=generator)
    return network.eval()


def images(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


def one_by_one(network: PatchNetwork, x: torch.Tensor) -> torch.Tensor:
    """The classifier at every position of the padded images."""
    side = network.patch_size
    border = (side // 2, side - 1 - side // 2)
    padded = np.pad(x.numpy(), [(0, 0), (0, 0), border, border], mode="edge")
    count, _, height, width = x.shape
    logits = []
    with torch.no_grad():
        for row in range(height):
            for column in range(width):
                patch = padded[:, :, row : row + side, column : column + side]
                logits.append(network.classifier(torch.from_numpy(patch.copy())))
    return torch.stack(logits, dim=2).view(count, -1, height, width)


def everywhere(x: torch.Tensor) -> torch.Tensor:
    """All pixels as points (N, H W, 2)."""
    count, _, height, width = x.shape
    return torch.cartesian_prod(torch.arange(height), torch.arange(width)).expand(count, -1, -1)


sides = st.integers(1, 40)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None)
@given(height=sides, width=sides, channels=st.integers(1, 4), count=st.integers(1, 2))
@example(height=1, width=1, channels=1, count=1)
@example(height=1, width=40, channels=3, count=1)
@example(height=40, width=1, channels=1, count=2)
@example(height=31, width=33, channels=1, count=1)
@example(height=41, width=36, channels=2, count=1)
def test_dense_evaluation_is_the_classifier_at_every_position(
    kind: str, height: int, width: int, channels: int, count: int
) -> None:
    network = make(kind, in_channels=channels)
    x = images(count, channels, height, width)
    expected = one_by_one(network, x)
    with torch.no_grad():
        found = network(x)
        at_points = network(x, everywhere(x))
    assert expected.abs().max() > 0.1  # there is something to compare
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-4
    assert (at_points.view_as(expected) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_points_are_the_pixels_of_their_own_image_and_may_repeat(kind: str) -> None:
    network, x = make(kind, in_channels=2), images(2, 2, 35, 43)
    points = torch.tensor([[[0, 0], [34, 42], [0, 42], [7, 30], [7, 30]], [[34, 0]] * 5])
    with torch.no_grad():
        dense, found = network(x), network(x, points)
    assert found.shape == (2, 3, 5, 1)
    for n in range(2):
        for p, (row, column) in enumerate(points[n].tolist()):
            difference = found[n, :, p, 0] - dense[n, :, row, column]
            assert difference.abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["lenet", "mlp", "mlp of 5x5"])
@pytest.mark.parametrize("num_rows", [1, 7, 44])
def test_strips_give_what_one_piece_gives_and_no_row_twice(
    kind: str, num_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # float64, for the order of summation of a convolution is a matter of its shape: in float32 the
    # last layer of three classes differs by 1e-7 of the largest logit, that of four by nothing
    network = make(kind, in_channels=3).double()
    x = images(2, 3, 45, 37, dtype=torch.float64)
    rows: list[int] = []
    slide = network.classifier.slide

    def watched(strip: torch.Tensor) -> torch.Tensor:
        rows.append(strip.shape[2] - network.patch_size + 1)
        return slide(strip)

    monkeypatch.setattr(network.classifier, "slide", watched)
    with torch.no_grad():
        whole = network(x)
        assert rows == [45]
        values = num_rows * 2 * network.width * (37 + network.patch_size - 1)
        monkeypatch.setattr(patches, "_STRIP_VALUES", 0 if num_rows == 1 else values)
        torch.testing.assert_close(network(x), whole, rtol=1e-12, atol=1e-12)
    assert rows[1:] == [num_rows] * (45 // num_rows) + [rest for rest in [45 % num_rows] if rest]


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_both_ways_agree(kind: str) -> None:
    network, x = make(kind, in_channels=2).double(), images(2, 2, 9, 11, dtype=torch.float64)
    weights = images(2, 3, 9, 11, dtype=torch.float64)
    x.requires_grad_()
    inputs = [x, *network.parameters()]
    dense = torch.autograd.grad((network(x) * weights).sum(), inputs)
    at_points = network(x, everywhere(x)).view_as(weights)
    by_patch = torch.autograd.grad((at_points * weights).sum(), inputs)
    assert all(gradient.any() for gradient in dense)
    torch.testing.assert_close(dense, by_patch, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["lenet", "mlp"])
def test_on_a_cpu_autocast_changes_nothing(kind: str) -> None:
    network, x = make(kind), images(1, 1, 20, 23)
    points = torch.tensor([[[3, 4], [19, 22]]])
    with torch.no_grad():
        dense, found = network(x), network(x, points)
        with torch.autocast("cpu", torch.bfloat16):
            assert network(x).dtype == torch.float32
            assert torch.equal(network(x), dense)
            assert torch.equal(network(x, points), found)
            assert torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("kind", ["lenet", "mlp"])
def test_off_the_cpu_the_caller_decides_about_autocast(kind: str) -> None:
    """Never asked for, it must not begin here; `meta` knows no autocast, so it would fail."""
    network = make(kind).to("meta")
    logits = network(torch.zeros(2, 1, 40, 50, device="meta"))
    assert logits.shape == (2, 3, 40, 50)
    assert logits.dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", ["lenet", "mlp"])
def test_on_a_gpu_precision_is_what_the_caller_chose(kind: str) -> None:
    network, x = make(kind, in_channels=3), images(2, 3, 45, 37)
    with torch.no_grad():
        expected = network(x)
        network = place(network, torch.device("cuda"))
        x = x.cuda()
        found = network(x)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-2, atol=1e-2)  # TF32
        with torch.autocast("cuda", torch.bfloat16):
            assert network(x).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["lenet", "mlp", "mlp of 5x5"])
def test_memory_layout_changes_nothing(kind: str) -> None:
    network, x = make(kind, in_channels=3), images(2, 3, 21, 40)
    points = everywhere(x)[:, ::7]
    with torch.no_grad():
        dense, found = network(x), network(x, points)
        place(network, torch.device("cpu"))
        x = x.to(memory_format=torch.channels_last)
        assert (network(x) - dense).abs().max() < 1e-5
        assert (network(x, points) - found).abs().max() < 1e-5


def test_a_patch_below_one_pixel_and_no_hidden_units_are_refused() -> None:
    for options, words in [
        ({"patch_size": 0}, "mlp: patch_size = 0: use at least 1 pixel"),
        ({"hidden_features": 0}, "mlp: hidden_features = 0: use at least 1"),
    ]:
        with pytest.raises(UserError, match=words):
            build_network("mlp", options, in_channels=1, num_classes=2)


# ---- the contract


@pytest.mark.parametrize("name", sorted(PATCH_NETWORKS))
def test_a_segmenter_hands_points_to_a_patch_network(
    make_card: Callable[..., ModelCard], name: str
) -> None:
    torch.manual_seed(0)
    segmenter = Segmenter.from_card(make_card(network=name, options={}, in_channels=3)).eval()
    raw = np.random.default_rng(0).integers(0, 256, (2, 3, 24, 30), np.uint8)
    pixels, points = torch.from_numpy(raw), torch.tensor([[[0, 0], [23, 29]], [[5, 6], [8, 2]]])
    with torch.no_grad():
        dense, found = segmenter(pixels), segmenter(pixels, points)
    assert dense.shape == (2, 2, 24, 30)
    assert found.shape == (2, 2, 2, 1)
    assert found.dtype == torch.float32
    images_, rows, columns = torch.arange(2)[:, None], points[..., 0], points[..., 1]
    wanted = dense[images_, :, rows, columns].transpose(1, 2)
    assert (found[..., 0] - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("name", sorted(PATCH_NETWORKS))
def test_a_model_file_gives_back_equal_logits(
    make_card: Callable[..., ModelCard], name: str, tmp_path: Path
) -> None:
    options = {"hidden_features": 9, "patch_size": 7} if name == "mlp" else {}
    segmenter = Segmenter.from_card(make_card(network=name, options=options)).eval()
    path = tmp_path / "model.safetensors"
    save_model(path, segmenter)
    loaded = load_model(path)
    assert list(loaded.state_dict()) == list(segmenter.state_dict())
    pixels = torch.arange(19 * 23, dtype=torch.int32).view(1, 1, 19, 23) % 256
    with torch.no_grad():
        assert torch.equal(loaded.eval()(pixels), segmenter(pixels))
