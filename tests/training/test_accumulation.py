"""A batch in parts: the gradient is that of the whole, whatever the loss and the void pixels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unet_pipeline.models import UNet
from unet_pipeline.training import accumulation
from unet_pipeline.training.accumulation import backward_in_parts
from unet_pipeline.training.losses import LOSSES, parse_loss

CLASSES = 3


def network(norm: str = "group", dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    options: dict[str, Any] = {"norm": norm, "dropout": dropout}
    return UNet(in_channels=1, num_classes=CLASSES, base_channels=8, depth=2, **options).double()


def batch() -> tuple[Tensor, Tensor]:
    """Five images, the first of which is almost all void."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(5, 1, 16, 16, generator=generator, dtype=torch.float64)
    masks = torch.randint(0, CLASSES, (5, 16, 16), generator=generator)
    masks[0, 1:] = 255
    return images, masks


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_loss_has_the_gradient_of_the_whole_batch(name: str, size: int) -> None:
    (images, masks), loss = batch(), parse_loss(name)
    whole, parts = network(), network()
    expected = loss(whole(images), masks)
    expected.backward()
    _, value = backward_in_parts(parts, loss, [images], masks, size=size)
    torch.testing.assert_close(value, expected.detach())
    for one, other in zip(gradients(whole), gradients(parts), strict=True):
        torch.testing.assert_close(one, other)


def test_the_mean_of_the_losses_of_the_parts_would_be_another_gradient() -> None:
    (images, masks), loss = batch(), parse_loss("ce")
    whole, parts = network(), network()
    loss(whole(images), masks).backward()
    for part, target in zip(images.split(1), masks.split(1), strict=True):
        (loss(parts(part), target) / 5).backward()
    differences = [
        (one - other).abs().max() / one.abs().max()
        for one, other in zip(gradients(whole), gradients(parts), strict=True)
    ]
    assert max(differences) > 0.1


def test_dropout_and_statistics_are_those_of_one_pass_over_the_parts() -> None:
    images, masks = batch()
    model, reference = network("batch", dropout=0.5), network("batch", dropout=0.5)
    torch.manual_seed(7)
    logits, _ = backward_in_parts(model, parse_loss("ce"), [images], masks, size=2)
    torch.manual_seed(7)
    expected = torch.cat([reference(part) for part in images.split(2)])
    assert isinstance(logits, Tensor)
    torch.testing.assert_close(logits, expected.detach())
    for one, other in zip(model.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_pass_that_fails_leaves_the_statistics_as_they_were() -> None:
    (images, masks), model = batch(), network("batch")
    before = [buffer.clone() for buffer in model.buffers()]

    def out_of_memory(part: nn.Module, inputs: Any) -> None:
        if len(inputs[0]) == 1:  # the last part, after others have counted
            raise torch.OutOfMemoryError

    list(model.modules())[-1].register_forward_pre_hook(out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        backward_in_parts(model, parse_loss("ce"), [images], masks, size=2)
    for buffer, former in zip(model.buffers(), before, strict=True):
        assert torch.equal(buffer, former)


@pytest.mark.parametrize(
    ("device", "expected"),
    [("cpu", ([], "cpu")), ("cuda:1", ([1], "cuda")), ("mps", ([0], "mps"))],
)
def test_the_random_numbers_of_the_device_are_drawn_again(
    device: str, expected: tuple[list[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Elsewhere(nn.Module):
        def parameters(self, recurse: bool = True) -> Any:
            yield SimpleNamespace(device=torch.device(device))

    asked = []

    @contextlib.contextmanager
    def fork_rng(devices: list[int], device_type: str) -> Iterator[None]:
        asked.append((devices, device_type))
        yield

    monkeypatch.setattr(torch.random, "fork_rng", fork_rng)
    with accumulation._replayed(Elsewhere()):
        pass
    assert asked == [expected]


def test_the_scale_of_a_gradient_scaler_multiplies_the_gradient_alone() -> None:
    (images, masks), loss = batch(), parse_loss("ce + dice")
    plain, scaled = network(), network()
    _, value = backward_in_parts(plain, loss, [images], masks, size=2)
    _, same = backward_in_parts(scaled, loss, [images], masks, size=2, scale=lambda v: 8 * v)
    torch.testing.assert_close(value, same)
    for one, other in zip(gradients(plain), gradients(scaled), strict=True):
        torch.testing.assert_close(8 * one, other)


def test_several_levels_of_logits_each_get_their_share() -> None:
    class TwoLevels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first = nn.Conv2d(1, CLASSES, 3, padding=1)
            self.second = nn.Conv2d(1, CLASSES, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.first(x), self.second(x)

    def loss(levels: tuple[Tensor, Tensor], masks: Tensor) -> Tensor:
        return parse_loss("ce")(levels[0], masks) + 0.5 * parse_loss("dice")(levels[1], masks)

    images, masks = batch()
    whole, parts = TwoLevels().double(), TwoLevels().double()
    loss(whole(images), masks).backward()
    backward_in_parts(parts, loss, [images], masks, size=2)
    for one, other in zip(gradients(whole), gradients(parts), strict=True):
        torch.testing.assert_close(one, other)
