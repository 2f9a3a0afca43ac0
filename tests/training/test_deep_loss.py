"""Deep supervision's loss against sums worked out by hand, and its squares against a network's."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from unet_pipeline.errors import UserError
from unet_pipeline.models import UNet
from unet_pipeline.models.unet import STEMS
from unet_pipeline.training.losses import ce, parse_loss
from unet_pipeline.training.losses.deep import deep_levels, deep_loss, full_logits


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def masks(*shape: int) -> Tensor:
    target = torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(1))
    target[:, : shape[-2] // 2, :3] = 255
    return target


def test_a_plain_tensor_is_scored_by_the_loss_itself() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        seen.append((logits, target))
        return logits.sum()

    logits, target = maps(1, 3, 8, 8), masks(1, 8, 8)
    assert torch.equal(deep_loss(loss)(logits, target), logits.sum())
    assert seen[0][0] is logits
    assert seen[0][1] is target


def test_levels_weigh_half_of_the_one_before_and_one_together() -> None:
    outputs = (maps(2, 3, 16, 24), maps(2, 3, 8, 12, seed=1), maps(2, 3, 4, 6, seed=2))
    target = masks(2, 16, 24)
    half, quarter = target[:, 1::2, 1::2], target[:, 2::4, 2::4]
    wanted = (4 * ce(outputs[0], target) + 2 * ce(outputs[1], half) + ce(outputs[2], quarter)) / 7
    torch.testing.assert_close(deep_loss(ce)(outputs, target), wanted)
    assert sum(level.weight for level in deep_levels(outputs, target)) == pytest.approx(1)


def test_every_level_gets_a_gradient_also_from_a_loss_of_regions() -> None:
    outputs = tuple(maps(2, 3, 16 // side, 16 // side).requires_grad_() for side in (1, 2, 4))
    deep_loss(parse_loss("ce + dice"))(outputs, masks(2, 16, 16)).backward()
    for logits in outputs:
        assert logits.grad is not None
        assert logits.grad.abs().sum() > 0


def test_classes_and_void_stay_what_they_are_on_every_level() -> None:
    target = masks(2, 32, 32)
    for level in deep_levels(tuple(maps(2, 3, 32 // s, 32 // s) for s in (1, 2, 4)), target):
        assert level.target.dtype == torch.int64
        assert set(level.target.unique().tolist()) <= {0, 1, 2, 255}
        assert (level.target[:, 0, 0] == 255).all()


def test_void_alone_costs_nothing_and_moves_nothing() -> None:
    outputs = tuple(maps(1, 3, 8 // side, 8 // side).requires_grad_() for side in (1, 2))
    value = deep_loss(ce)(outputs, torch.full((1, 8, 8), 255))
    value.backward()
    assert value == 0
    assert all(logits.grad is not None and not logits.grad.any() for logits in outputs)


def test_the_full_logits_are_the_first() -> None:
    plain, coarse = maps(1, 2, 4, 4), maps(1, 2, 2, 2)
    assert full_logits(plain) is plain
    assert full_logits((plain, coarse)) is plain


@pytest.mark.parametrize("size", [(3, 8), (5, 4), (16, 16), (8, 4)])
def test_logits_of_no_level_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="for a target of 8x8") as caught:
        deep_loss(ce)((maps(1, 3, 8, 8), maps(1, 3, *size)), masks(1, 8, 8))
    assert "\n" not in str(caught.value)


@functools.cache
def copying(stem: int) -> UNet:
    """A U-Net that hands its input on: logit k is the largest value of channel k in its square."""
    network = UNet(
        in_channels=2, num_classes=2, base_channels=2, norm="none", stem=stem, deep_supervision=True
    )
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    for number, layer in enumerate(convolutions):
        nn.init.zeros_(layer.weight)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
        middle = layer.kernel_size[0] // 2
        for channel in (0, 1):  # in the decoder the first channels are those of the skip
            source = (channel + 1) * stem**2 - 1 if number == 0 else channel
            layer.weight.data[channel, source, middle, middle] = 1
    return network


@settings(deadline=None, max_examples=40)
@given(height=st.integers(1, 150), width=st.integers(1, 150), stem=st.sampled_from(STEMS))
def test_a_coarse_logit_is_scored_by_a_pixel_of_its_own_square(
    height: int, width: int, stem: int
) -> None:
    rows = torch.arange(height)[:, None].expand(height, width)
    columns = torch.arange(width)[None].expand(height, width)
    x = torch.stack([rows, columns])[None].float() + 1
    with torch.no_grad():
        outputs: Any = copying(stem)(x)
    assert len(outputs) == 4
    for axis, places in enumerate((rows, columns)):
        for level, part in enumerate(deep_levels(outputs, places[None])[1:], start=1):
            side = stem * 2**level
            last = (part.logits[0, axis] - 1).long()  # the last row or column of the square
            assert (part.target[0] <= last).all()
            assert (part.target[0] >= last // side * side).all()
            assert part.logits.shape[-2:] == (max(1, height // side), max(1, width // side))


def test_a_network_with_deep_supervision_trains_with_it() -> None:
    torch.manual_seed(0)
    network = UNet(
        in_channels=1, num_classes=2, base_channels=4, depth=2, stem=2, deep_supervision=True
    )
    x = maps(4, 1, 16, 16)
    target = (nn.functional.avg_pool2d(x, 5, 1, 2)[:, 0] > 0).long()
    loss, optimizer = deep_loss(ce), torch.optim.AdamW(network.parameters(), 1e-2)
    values = []
    for _ in range(25):
        value = loss(network(x), target)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.5 * values[0]
    assert loss(network.eval()(x), target).ndim == 0
