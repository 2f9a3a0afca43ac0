"""The steps of an epoch: what they compute, what stops them, what they refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unet_pipeline.errors import DivergedError, ResourceError, UserError
from unet_pipeline.training import engine
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
    read_every: int | None = None,
    after_step: Callable[[], None] = lambda: None,
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
        read_every=read_every,
        after_step=after_step,
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


def test_without_clipping_no_gradient_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: Any) -> None:
        raise AssertionError("the gradients were scaled")

    monkeypatch.setattr(nn.utils, "clip_grads_with_norm_", refused)
    run(network(), batches(2), Position())
    run(network(), batches(2), Position(), grad_clip=1e3)  # it is not that large
    with pytest.raises(AssertionError):
        run(network(), batches(2), Position(), grad_clip=1e-3)


def test_a_limit_near_the_norm_clips_as_torch_does() -> None:
    model = network()
    run(model, batches(1), Position(), rate=lambda: 0.0)
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    for limit in (norm.item() * (1 - 1e-4), norm.item() + 5e-7, norm.item() * (1 + 1e-4)):
        mine, its = network(), network()
        run(mine, batches(1), Position(), rate=lambda: 0.0, grad_clip=limit)
        run(its, batches(1), Position(), rate=lambda: 0.0)
        nn.utils.clip_grad_norm_(its.parameters(), limit)
        for one, other in zip(mine.parameters(), its.parameters(), strict=True):
            assert torch.equal(one.grad, other.grad)  # type: ignore[arg-type]


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


# ---- losses that are read some steps late, as from a GPU


def numbered(count: int, *, bad: int | None = None) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Batches of one sample, whose number is 0, 1, 2, 0, ...; one of them has no finite loss."""
    made = batches(*[1] * count)
    for n, (images, _, numbers) in enumerate(made):
        numbers[0] = n % 3
        if n == bad:
            images[0, 0, 0, 0] = float("nan")
    return made


def test_a_bad_loss_that_is_found_late_names_its_own_step_and_samples() -> None:
    position = Position(epoch=4, step=100)
    with pytest.raises(DivergedError) as caught:
        run(network(), numbered(40, bad=4), position, read_every=16)
    assert "epoch 5, step 105: loss nan" in str(caught.value)
    assert "samples second;" in str(caught.value)
    assert (position.samples, position.loss_sum) == (0, 0.0)  # nothing of these steps counts


def test_a_bad_loss_in_the_steps_after_the_last_look_is_found_at_the_end() -> None:
    position = Position()
    with pytest.raises(DivergedError, match="epoch 1, step 20: loss nan"):
        run(network(), numbered(20, bad=19), position, read_every=16)
    assert position.samples == 16


@pytest.mark.parametrize("count", [1, 15, 16, 17, 40])
def test_steps_count_the_same_however_late_their_losses_are_read(count: int) -> None:
    whole, late = Position(), Position()
    told: list[tuple[int, int, int, float]] = []

    def tell() -> None:
        told.append((late.step, late.batch, late.samples, late.loss_sum))

    model, reference = network(), network()
    run(reference, numbered(count), whole)
    run(model, numbered(count), late, read_every=16, after_step=tell)
    assert (late.step, late.batch, late.samples) == (whole.step, whole.batch, count)
    assert late.loss_sum == pytest.approx(whole.loss_sum)
    assert [step for step, *_ in told] == sorted({*range(16, count + 1, 16), count})
    for step, batch, samples, loss_sum in told:
        assert step == batch == samples
        assert loss_sum > 0
    for one, other in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_the_end_of_the_learning_rate_leaves_no_loss_unread() -> None:
    rates: Iterator[float | None] = iter([0.1] * 5 + [None])
    position, told = Position(), []
    run(network(), numbered(9), position, rate=lambda: next(rates), read_every=16,
        after_step=lambda: told.append(position.samples))  # fmt: skip
    assert told == [position.samples] == [5]


@pytest.mark.parametrize("bad", [None, 2])
def test_an_error_of_the_loader_comes_after_all_losses_are_read(bad: int | None) -> None:
    def broken() -> Iterator[Any]:
        yield from numbered(4, bad=bad)
        raise ResourceError("a worker was lost")

    position = Position()
    with pytest.raises(ResourceError if bad is None else DivergedError):
        run(network(), broken(), position, read_every=16)
    assert position.samples == (4 if bad is None else 0)


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


class Normed(nn.Module):
    """A norm, which has counted its batch when memory ends in what follows."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.inner = nn.BatchNorm2d(1), TooLarge(limit)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(self.norm(x))
        return result


@pytest.mark.parametrize(("micro_batch", "limit"), [(None, 3), (4, 2)])
def test_a_batch_that_memory_refuses_counts_once_in_the_statistics(
    micro_batch: int | None, limit: int
) -> None:
    model, reference, position = Normed(limit), Normed(9), Position(micro_batch=micro_batch)
    run(model, batches(6), position)
    assert position.micro_batch == limit
    run(reference, batches(6), Position(micro_batch=limit))
    for one, other in zip(model.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_statistics_of_several_processes_take_no_batches_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "num_processes", lambda: 2)
    model = nn.Sequential(nn.SyncBatchNorm(1), network())
    with pytest.raises(UserError, match=r"parts of 2 samples.*leave out runtime.sync_batchnorm"):
        run(model, batches(4), Position(micro_batch=2))
    model = nn.Sequential(TooLarge(2), nn.SyncBatchNorm(2))
    with pytest.raises(ResourceError, match="several processes: use a smaller --batch-size"):
        run(model, batches(4), Position())
    with pytest.raises(ResourceError, match=r"several processes: use --set training.micro_batch=2"):
        run(TooLarge(2), batches(4), Position())


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
