from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_pipeline.models.layers import make_norm, pad_to

sizes = st.integers(1, 50)


@settings(deadline=None, max_examples=50)
@given(height=sizes, width=sizes, stride=st.integers(1, 33), min_size=st.integers(1, 70))
def test_padding_is_the_smallest_that_fits_and_repeats_the_border(
    height: int, width: int, stride: int, min_size: int
) -> None:
    x = torch.arange(2 * height * width, dtype=torch.float32).reshape(1, 2, height, width)
    padded = pad_to(x, stride=stride, min_size=min_size)
    for before, after in zip((height, width), padded.shape[-2:], strict=True):
        assert after % stride == 0
        assert after >= max(before, min_size)
        assert after - stride < max(before, min_size)
    assert torch.equal(padded[..., :height, :width], x)
    assert torch.equal(padded[..., -1, -1], x[..., -1, -1])
    assert torch.equal(padded[..., 0, -1], x[..., 0, -1])


def test_an_image_that_fits_is_not_copied() -> None:
    x = torch.zeros(1, 1, 32, 64)
    assert pad_to(x, stride=32, min_size=32) is x


@pytest.mark.parametrize("norm", ["group", "instance"])
def test_norms_of_one_image_do_not_depend_on_the_others(norm: str) -> None:
    x = torch.randn(3, 16, 5, 7, generator=torch.Generator().manual_seed(0))
    layer = make_norm(norm, 16)
    assert torch.allclose(layer(x)[:1], layer(x[:1]), atol=1e-6)
    assert [tuple(p.shape) for p in layer.parameters()] == [(16,), (16,)]


def test_group_norm_has_zero_mean_and_unit_variance_in_each_of_eight_groups() -> None:
    x = 3 + 2 * torch.randn(2, 16, 9, 9, generator=torch.Generator().manual_seed(0))
    groups = make_norm("group", 16)(x).reshape(2, 8, -1)
    assert torch.allclose(groups.mean(-1), torch.zeros(2, 8), atol=1e-5)
    assert torch.allclose(groups.var(-1, correction=0), torch.ones(2, 8), atol=1e-4)
