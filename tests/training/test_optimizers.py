"""Optimizers against torch's plain loops and formulas; schedules against their closed forms."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from unet_pipeline.errors import UserError
from unet_pipeline.training.optimizers import (
    OPTIMIZERS,
    SCHEDULES,
    build_optimizer,
    build_schedule,
    cosine,
    parameter_groups,
    poly,
)

ALL = pytest.mark.parametrize("name", list(OPTIMIZERS))
SCHEDULE = pytest.mark.parametrize("name", list(SCHEDULES))


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)
    )


@ALL
def test_a_few_steps_lower_the_loss(name: str) -> None:
    network = small_network()
    inputs, target = torch.randn(8, 1, 4, 4), torch.arange(8) % 2
    optimizer = build_optimizer(name, {}, parameters=network.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        loss = nn.functional.cross_entropy(network(inputs), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@ALL
def test_weight_decay_draws_weights_to_zero_but_no_norms_and_biases(name: str) -> None:
    network = small_network()
    before = {key: value.detach().clone() for key, value in network.named_parameters()}
    options = {"weight_decay": 0.5}
    optimizer = build_optimizer(name, options, parameters=network.parameters(), lr=0.01)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for key, value in network.named_parameters():
        if value.ndim > 1:
            assert value.abs().sum() < before[key].abs().sum(), key
        else:
            assert torch.equal(value, before[key]), key


@ALL
def test_a_saved_state_continues_exactly(name: str) -> None:
    def step(network: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
        for parameter in network.parameters():
            parameter.grad = torch.sin(parameter.detach() * 10 + number)
        optimizer.step()

    whole, stopped = small_network(), small_network()
    one = build_optimizer(name, {}, parameters=whole.parameters(), lr=0.01)
    two = build_optimizer(name, {}, parameters=stopped.parameters(), lr=0.01)
    for number in range(3):
        step(whole, one, number)
        step(stopped, two, number)
    resumed = build_optimizer(name, {}, parameters=stopped.parameters(), lr=0.01)
    resumed.load_state_dict(two.state_dict())
    for number in range(3, 6):
        step(whole, one, number)
        step(stopped, resumed, number)
    for a, b in zip(whole.parameters(), stopped.parameters(), strict=True):
        assert torch.equal(a, b)


def one_step(name: str, options: dict[str, object], *, grad: float = 0.5) -> float:
    """Where a weight of 1 stands after one step of lr 0.1."""
    weight = nn.Parameter(torch.ones(1, 1))
    optimizer = build_optimizer(name, options, parameters=[weight], lr=0.1)
    weight.grad = torch.full((1, 1), grad)
    optimizer.step()
    return weight.item()


def test_the_first_step_of_each_is_that_of_its_formula() -> None:
    # Adam's first step is lr * sign(grad); AdamW shrinks the weight by lr * decay before it
    assert one_step("adam", {}) == pytest.approx(1 - 0.1)
    assert one_step("adamw", {"weight_decay": 0.2}) == pytest.approx(1 - 0.1 * 0.2 - 0.1)
    # Nesterov's first step is lr * (grad + momentum * grad), the plain one lr * grad
    assert one_step("sgd", {"weight_decay": 0, "momentum": 0.9}) == pytest.approx(1 - 0.1 * 0.95)
    options: dict[str, object] = {"weight_decay": 0, "nesterov": False}
    assert one_step("sgd", options) == pytest.approx(1 - 0.1 * 0.5)
    # RMSprop divides by sqrt((1 - alpha) grad^2) = 0.2 grad
    assert one_step("rmsprop", {"alpha": 0.96}) == pytest.approx(1 - 0.1 * 5)


def test_options_reach_the_optimizer() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    options = {"betas": [0.8, 0.9], "eps": 1e-6}
    optimizer = build_optimizer("adamw", options, parameters=[weight], lr=3e-4)
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    assert optimizer.param_groups[0]["eps"] == 1e-6
    assert optimizer.param_groups[0]["lr"] == 3e-4


def test_the_fused_kernel_is_used_where_torch_has_one_and_agrees_with_the_plain_loop() -> None:
    network, plain = small_network(), small_network()
    fused = build_optimizer("adamw", {}, parameters=network.parameters(), lr=1e-2)
    assert all(group["fused"] for group in fused.param_groups)
    reference = torch.optim.AdamW(
        parameter_groups(plain.parameters(), 0.01), 1e-2, foreach=False, fused=False
    )
    for number in range(5):
        for own, other in zip(network.parameters(), plain.parameters(), strict=True):
            own.grad = torch.cos(torch.arange(own.numel()) + number).reshape(own.shape)
            other.grad = own.grad.clone()
        fused.step()
        reference.step()
    for own, other in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own, other)


def test_every_trained_parameter_is_in_one_group_and_frozen_ones_in_none() -> None:
    network = small_network()
    network[0].requires_grad_(False)
    groups = parameter_groups(network.parameters(), 0.1)
    members = [id(p) for group in groups for p in group["params"]]
    assert sorted(members) == sorted(id(p) for p in network.parameters() if p.requires_grad)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]


@pytest.mark.parametrize(
    ("name", "options", "lr", "message"),
    [
        ("adamv", {}, 1e-3, "unknown optimizer 'adamv': did you mean"),
        ("adamw", {"weight_decai": 0}, 1e-3, "did you mean 'weight_decay'?"),
        ("adamw", {"weight_decay": -1}, 1e-3, "weight_decay = -1.0"),
        ("adamw", {"betas": [0.9, 1.5]}, 1e-3, "optimizer adamw: invalid beta parameter"),
        ("sgd", {"momentum": 0}, 1e-3, "nesterov needs a momentum"),
        ("sgd", {}, -1.0, "lr = -1.0"),
        ("adam", {}, math.nan, "lr = nan"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    name: str, options: dict[str, object], lr: float, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        build_optimizer(name, options, parameters=small_network().parameters(), lr=lr)
    assert message in str(caught.value)


def test_a_model_that_is_frozen_whole_is_refused() -> None:
    network = small_network().requires_grad_(False)
    with pytest.raises(UserError, match="no parameters to train"):
        build_optimizer("adamw", {}, parameters=network.parameters(), lr=1e-3)


# ---- schedules


@SCHEDULE
@given(progress=st.floats(-0.5, 1.5), warmup=st.floats(0, 0.9))
@settings(max_examples=30, deadline=None)
def test_a_factor_lies_in_zero_to_one(name: str, progress: float, warmup: float) -> None:
    factor = build_schedule(name, {"warmup_fraction": warmup})(progress)
    assert 0 <= factor <= 1


@SCHEDULE
def test_warm_up_is_a_line_from_a_hundredth_to_one(name: str) -> None:
    schedule = build_schedule(name, {"warmup_fraction": 0.2})
    assert schedule(0.0) == pytest.approx(0.01)
    assert schedule(0.1) == pytest.approx((0.01 + 1) / 2)
    assert schedule(0.2) == pytest.approx(1)


@SCHEDULE
def test_without_warm_up_it_begins_at_one(name: str) -> None:
    assert build_schedule(name, {"warmup_fraction": 0})(0.0) == 1


@SCHEDULE
def test_after_warm_up_it_never_rises(name: str) -> None:
    factors = [SCHEDULES[name](0.05 + 0.95 * step / 100) for step in range(101)]
    assert all(a >= b for a, b in itertools.pairwise(factors))


def test_schedules_follow_their_closed_forms() -> None:
    for step in range(11):
        u = step / 10
        progress = 0.05 + 0.95 * u
        assert cosine(progress) == pytest.approx(math.cos(math.pi * u / 2) ** 2, abs=1e-12)
        assert poly(progress) == pytest.approx((1 - u) ** 0.9, abs=1e-12)
        assert poly(progress, power=1, final_fraction=0.2) == pytest.approx(1 - 0.8 * u)
        assert SCHEDULES["constant"](progress) == 1


def test_the_end_is_the_final_fraction_also_past_the_limit() -> None:
    for progress in (1.0, 1.02):
        assert cosine(progress) == pytest.approx(0, abs=1e-12)
        assert cosine(progress, final_fraction=0.1) == pytest.approx(0.1)
        assert poly(progress, final_fraction=0.1) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cosin", {}, "unknown schedule 'cosin': did you mean 'cosine'?"),
        ("cosine", {"warmup": 0.1}, "no option 'warmup'"),
        ("cosine", {"warmup_fraction": 1.0}, "warmup_fraction = 1.0"),
        ("cosine", {"warmup_fraction": -0.1}, "warmup_fraction = -0.1"),
        ("cosine", {"final_fraction": 2}, "final_fraction = 2.0"),
        ("constant", {"final_fraction": 0.5}, "no option 'final_fraction'"),
        ("poly", {"power": 0}, "power = 0.0"),
    ],
)
def test_schedules_that_cannot_be_are_refused_when_built(
    name: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        build_schedule(name, options)
    assert message in str(caught.value)
