"""The running average of the weights: its formula, its buffers, its state."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from unet_pipeline.training.ema import WeightAverage


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))


def test_the_average_follows_its_formula() -> None:
    model = network()
    average = WeightAverage(model, 0.6)
    weight = next(model.parameters())
    expected = weight.detach().clone()
    for step in range(1, 30):
        with torch.no_grad():
            weight.add_(1.0)
        average.update(model)
        decay = min(0.6, step / (step + 9))
        expected = decay * expected + (1 - decay) * weight.detach()
    torch.testing.assert_close(next(average.model.parameters()), expected)


def test_later_on_every_fourth_step_is_averaged_over_the_same_span() -> None:
    model = network()
    average = WeightAverage(model, 0.99)
    weight = next(model.parameters())
    every = weight.detach().clone()  # the average of all steps
    for step in range(1, 1001):
        with torch.no_grad():
            weight.copy_(torch.full_like(weight, step / 1000))
        before = next(average.model.parameters()).clone()
        average.update(model)
        mine = next(average.model.parameters())
        assert torch.equal(mine, before) == (step > 100 and step % 4 != 0)
        decay = min(0.99, step / (step + 9))
        every = decay * every + (1 - decay) * weight.detach()
    assert (weight - every).min() > 0.09  # the average of all lags by nearly a hundred steps
    torch.testing.assert_close(mine, every, atol=0.003, rtol=0)


def test_whoever_looks_between_two_turns_sees_the_last_step() -> None:
    model = network()
    average, looked = WeightAverage(model, 0.99), WeightAverage(model, 0.99)
    weight = next(model.parameters())
    mine = next(looked.model.parameters())
    for step in range(1, 304):
        with torch.no_grad():
            weight.copy_(torch.full_like(weight, step / 300))
        before = mine.clone()
        average.update(model)
        looked.update(model)
        looked.catch_up(model)
        assert not torch.equal(mine, before)
        seen = mine.clone()
        looked.catch_up(model)
        assert torch.equal(mine, seen)  # the same step counts once
    average.catch_up(model)
    # of four steps the last alone counts: at most a step and a half further on
    torch.testing.assert_close(mine, next(average.model.parameters()), atol=1.5 / 300, rtol=0)


def test_statistics_are_averaged_and_counters_copied() -> None:
    model = network().train()
    average = WeightAverage(model, 0.9)
    model(torch.randn(4, 1, 3, 3))
    average.update(model)
    own, its = model[1], average.model[1]  # type: ignore[index]
    torch.testing.assert_close(its.running_mean, 0.9 * own.running_mean)
    assert its.num_batches_tracked == own.num_batches_tracked == 1


def test_the_average_neither_trains_nor_follows_by_itself() -> None:
    model = network().train()
    average = WeightAverage(model, 0.9)
    assert not average.model.training
    assert not any(p.requires_grad for p in average.model.parameters())
    before = next(average.model.parameters()).clone()
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    assert torch.equal(next(average.model.parameters()), before)


def test_tensors_that_are_replaced_are_followed_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = network()
    average = WeightAverage(model, 0.5)
    for _ in range(20):  # until the decay is 0.5
        average.update(model)
    listed = 0
    state_dict = nn.Module.state_dict

    def counted(self: nn.Module, **options: Any) -> Any:
        nonlocal listed
        listed += 1
        return state_dict(self, **options)

    monkeypatch.setattr(nn.Module, "state_dict", counted)
    average.update(model)
    assert listed == 0
    conv, norm = model[0], model[1]  # type: ignore[index]
    conv.weight = nn.Parameter(torch.full_like(conv.weight, 3.0))
    norm.running_mean = torch.full_like(norm.running_mean, 7.0)
    its = average.model[0].weight  # type: ignore[index]
    before = its.clone()
    average.update(model)
    torch.testing.assert_close(its, (before + 3) / 2)
    torch.testing.assert_close(average.model[1].running_mean, torch.full((2,), 3.5))  # type: ignore[index]
    average.model.double()
    model.double()
    other = copy.deepcopy(model)
    for follows in (model, other):
        with torch.no_grad():
            next(follows.parameters()).fill_(9.0)
        average.update(follows)
    weight = average.model[0].weight  # type: ignore[index]
    torch.testing.assert_close(weight, (((before + 3) / 2).double() + 27) / 4)


def test_a_restored_average_goes_on_as_if_it_had_never_stopped() -> None:
    model = network()
    average, other = WeightAverage(model, 0.999), WeightAverage(network(), 0.999)
    for _ in range(5):
        with torch.no_grad():
            next(model.parameters()).mul_(0.5)
        average.update(model)
    other.restore(average.state())
    for each in (average, other):
        each.update(model)
    for one, its in zip(average.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(one, its)
