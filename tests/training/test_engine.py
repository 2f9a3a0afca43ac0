"""The steps of an epoch: what they compute, what stops them, what they refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unet_pipeline.errors import DivergedError, ResourceError, UserError
from unet_pipeline.training.ema import WeightAverage
from unet_pipeline.training.engine import train_steps
from unet_pipeline.training.position import Limits, Position


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(1, 2, 1)


def batches(*sizes: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    made = []
    for size in sizes:
        images = torch.rand(size, 1, 4, 4, generator=generator)
        masks = torch.randint(0, 2, (size, 4, 4), generator=generator).to(torch.uint8)
        made.append((images, masks, torch.arange(size)))
    return made


def run(
    model: nn.Module,
    loader: Any,
    position: Position,
    *,
    rate: Callable[[], float | None] = lambda: 0.1,
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    grad_clip: float = 0.0,
    scaler: torch.amp.GradScaler | None = None,
) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    train_steps(
        model,
        loader,
        loss,
        optimizer,
        position,
        learning_rate=rate,
        autocast_dtype=None,
        scaler=scaler or torch.amp.GradScaler("cpu", enabled=False),
        grad_clip=grad_clip,
        names=["first", "second", "third"],
    )
    return optimizer


def test_a_step_is_the_gradient_times_the_learning_rate() -> None:
    model, reference = network(), network()
    (images, masks, _), *_ = data = batches(2)
    run(model, data, Position())
    nn.functional.cross_entropy(reference(images), masks.long()).backward()
    for after, before in zip(model.parameters(), reference.parameters(), strict=True):
        assert before.grad is not None
        torch.testing.assert_close(after, before - 0.1 * before.grad)


def test_the_epoch_loss_is_the_mean_over_samples_not_over_batches() -> None:
    model, position = network(), Position()
    data = batches(3, 1)
    data[1][0].mul_(100)  # so that the two batches differ much
    by_hand = [
        nn.functional.cross_entropy(model(images), masks.long()).item() for images, masks, _ in data
    ]
    run(model, data, position, rate=lambda: 0.0)
    loss, samples = position.end_epoch()
    assert samples == 4
    assert loss == pytest.approx((3 * by_hand[0] + by_hand[1]) / 4, rel=1e-6)
    assert loss != pytest.approx(sum(by_hand) / 2, rel=1e-3)


def test_the_gradient_is_clipped_to_its_largest_norm() -> None:
    model, before = network(), network()
    run(model, batches(2), Position(), rate=lambda: 1.0, grad_clip=1e-3)
    change = [b - a for a, b in zip(model.parameters(), before.parameters(), strict=True)]
    norm = torch.cat([part.flatten() for part in change]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


def test_clipping_sees_the_gradient_without_the_scale_of_the_scaler() -> None:
    plain, scaled = network(), network()
    run(plain, batches(2), Position(), rate=lambda: 1.0, grad_clip=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    run(scaled, batches(2), Position(), rate=lambda: 1.0, grad_clip=1e-3, scaler=scaler)
    for one, other in zip(plain.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_the_learning_rate_is_asked_before_each_step_and_none_ends_the_steps() -> None:
    rates: Iterator[float | None] = iter([0.3, 0.2, None])
    position = Position()
    optimizer = run(network(), batches(1, 1, 1, 1), position, rate=lambda: next(rates))
    assert (position.step, position.batch, position.samples) == (2, 2, 2)
    assert optimizer.param_groups[0]["lr"] == 0.2


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_the_weights(poison: float) -> None:
    model, before = network(), network()
    data = batches(2)
    data[0][0][0, 0, 0, 0] = poison
    with pytest.raises(DivergedError, match=r"epoch 1, step 1.*samples first, second") as caught:
        run(model, data, Position())
    assert caught.value.exit_code == 6
    for one, other in zip(model.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_gradient_that_is_not_finite_ends_the_run_though_the_loss_is() -> None:
    def loss(logits: Tensor, target: Tensor) -> Tensor:
        return logits.sub(logits.detach()).sqrt().sum()  # value 0, slope infinite

    with pytest.raises(DivergedError, match="gradient norm"):
        run(network(), batches(1), Position(), loss=loss)


def test_one_value_a_channel_is_too_little_for_batch_normalisation() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 4), nn.BatchNorm2d(2))
    with pytest.raises(UserError, match=r"--batch-size.*model\.norm=group"):
        run(model, batches(1), Position())


def test_training_puts_the_model_into_training_mode() -> None:
    model = network().eval()
    run(model, batches(1), Position())
    assert model.training


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (Limits(epochs=4), 0.5),
        (Limits(max_steps=100), 0.1),
        (Limits(budget_seconds=20), 0.25),
        (Limits(epochs=4, max_steps=100, budget_seconds=20), 0.5),
        (Limits(epochs=1), 1.0),
        (Limits(), 0.0),
    ],
)
def test_progress_is_the_fraction_of_the_nearest_limit(limits: Limits, expected: float) -> None:
    assert limits.progress(epochs=2, steps=10, seconds=5) == expected


def test_a_position_comes_back_from_its_state_and_its_clock_goes_on() -> None:
    position = Position(epoch=2, batch=3, step=11, loss_sum=1.5, samples=6, seconds=100.0)
    state = position.state()
    again = Position(**state)
    assert (again.epoch, again.batch, again.step, again.samples) == (2, 3, 11, 6)
    assert 100.0 <= again.elapsed() < 110.0


def test_float16_may_lose_some_steps_to_overflow_but_not_all_for_ever() -> None:
    def loss(logits: Tensor, target: Tensor) -> Tensor:
        return logits.sub(logits.detach()).sqrt().sum()

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    position, before = Position(), network()
    model = network()
    run(model, batches(1, 1, 1), position, loss=loss, scaler=scaler)
    assert position.step == 3
    for one, other in zip(model.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)  # every step was skipped
    with pytest.raises(DivergedError):
        run(model, batches(*[1] * 30), Position(), loss=loss, scaler=scaler)


# ---- memory, averages, rates


class TooLarge(nn.Module):
    """A network for which memory suffices for so many samples at once."""

    def __init__(self, limit: int, error: type[Exception] = torch.OutOfMemoryError) -> None:
        super().__init__()
        self.inner, self.limit, self.error = network(), limit, error
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        if len(x) > self.limit:
            raise self.error("DefaultCPUAllocator: can't allocate memory: you tried ...")
        result: Tensor = self.inner(x)
        return result


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, RuntimeError])
def test_a_batch_too_large_for_memory_goes_through_in_parts_with_the_same_step(
    error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    model, reference, position = TooLarge(2, error), network(), Position()
    run(model, batches(6, 6), position)
    run(reference, batches(6, 6), Position())
    assert position.micro_batch == 2
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "6 samples" in caplog.text
    assert max(model.seen[4:]) == 2  # once found out, it is not tried again
    for one, other in zip(model.inner.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_memory_for_not_even_one_sample_is_said() -> None:
    with pytest.raises(ResourceError, match=r"single sample: use a smaller --image-size"):
        run(TooLarge(0), batches(3), Position())


def test_other_runtime_errors_are_not_taken_for_a_want_of_memory() -> None:
    def loss(logits: Tensor, target: Tensor) -> Tensor:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        run(network(), batches(3), Position(), loss=loss)


def test_a_group_with_a_factor_of_its_own_gets_that_multiple_of_the_rate() -> None:
    model = network()
    slow, fast = list(model.parameters())[:1], list(model.parameters())[1:]
    groups = [{"params": slow, "lr_factor": 0.1}, {"params": fast}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    train_steps(
        model,
        batches(2),
        nn.functional.cross_entropy,
        optimizer,
        Position(),
        learning_rate=lambda: 0.5,
    )
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.5]


def test_the_average_takes_in_every_step() -> None:
    model, position = network(), Position()
    average = WeightAverage(model, 0.9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = nn.functional.cross_entropy
    train_steps(model, batches(2, 2, 2), loss, optimizer, position, average=average)
    assert average.updates == position.step == 3


def test_a_position_that_goes_back_keeps_its_clock_and_what_memory_taught_it() -> None:
    position = Position(epoch=2, batch=3, step=11, seconds=100.0)
    earlier = position.state()
    position.step, position.batch, position.micro_batch, position.seconds = 15, 7, 2, 200.0
    position.go_back_to(earlier)
    assert (position.step, position.batch, position.micro_batch) == (11, 3, 2)
    assert position.elapsed() >= 200.0
