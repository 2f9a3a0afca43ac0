"""Optimizers against torch's plain loops and formulas, and who is in which of their groups."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import nn

from unet_pipeline.catalogue import describe
from unet_pipeline.errors import UserError
from unet_pipeline.models import UNet, build_network
from unet_pipeline.models.smp import encoder_parameters, freeze_encoder
from unet_pipeline.training.optimizers import (
    OPTIMIZERS,
    build_optimizer,
    check_optimizer,
    parameter_groups,
)

ALL = pytest.mark.parametrize("name", list(OPTIMIZERS))


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
        ("adamw", {"weight_decay": -1}, 1e-3, "optimizer adamw: weight_decay = -1.0"),
        ("adamw", {"weight_decay": math.inf}, 1e-3, "optimizer adamw: weight_decay = inf"),
        ("sgd", {"weight_decay": math.nan}, 1e-3, "optimizer sgd: weight_decay = nan"),
        ("adamw", {"betas": [0.9, 1.5]}, 1e-3, "optimizer adamw: betas = (0.9, 1.5)"),
        ("adam", {"betas": [math.nan, 0.9]}, 1e-3, "optimizer adam: betas = (nan, 0.9)"),
        ("adam", {"eps": math.inf}, 1e-3, "optimizer adam: eps = inf"),
        ("sgd", {"momentum": 1.0}, 1e-3, "optimizer sgd: momentum = 1.0"),
        ("rmsprop", {"alpha": 1.0}, 1e-3, "optimizer rmsprop: alpha = 1.0"),
        ("sgd", {"momentum": 0}, 1e-3, "nesterov needs a momentum"),
        ("sgd", {}, -1.0, "lr = -1.0"),
        ("adam", {}, math.nan, "lr = nan"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    name: str, options: dict[str, object], lr: float, message: str
) -> None:
    for attempt in (check_optimizer, build_optimizer):
        with pytest.raises(UserError) as caught:
            attempt(name, options, parameters=small_network().parameters(), lr=lr)
        assert message in str(caught.value)


@ALL
def test_every_option_that_is_a_number_has_its_range(name: str) -> None:
    for option, value in describe(OPTIMIZERS[name]).options.items():
        if not isinstance(value, bool):
            wrong = [math.inf, math.inf] if isinstance(value, tuple) else math.inf
            parameters = small_network().parameters()
            with pytest.raises(UserError, match=f"{option} = .*inf"):
                check_optimizer(name, {option: wrong}, parameters=parameters, lr=1e-3)


def test_a_model_that_is_frozen_whole_is_refused() -> None:
    network = small_network().requires_grad_(False)
    with pytest.raises(UserError, match="no parameters to train"):
        build_optimizer("adamw", {}, parameters=network.parameters(), lr=1e-3)


# ---- what decays


def decaying(network: nn.Module) -> set[str]:
    """The names of the parameters that decay, of all that are in a group."""
    names = {id(p): name for name, p in network.named_parameters()}
    groups = parameter_groups(network.named_parameters(), 0.1)
    assert sum(len(group["params"]) for group in groups) == len(names)
    return {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}


@pytest.mark.parametrize("norm", ["batch", "group", "instance", "none"])
@pytest.mark.parametrize("bilinear", [False, True])
def test_of_a_unet_the_kernels_decay_and_nothing_else(norm: str, bilinear: bool) -> None:
    network = UNet(
        in_channels=1,
        num_classes=2,
        base_channels=8,
        depth=2,
        norm=norm,
        bilinear=bilinear,
        stem=2,
        deep_supervision=True,
    )
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    kernels = {f"{name}.weight" for name, m in network.named_modules() if isinstance(m, kinds)}
    rest = {name for name, _ in network.named_parameters()} - kernels
    assert decaying(network) == kernels
    assert any(name.startswith("up1.up") for name in rest) != bilinear  # biases of the transposed
    assert any("double_conv.1.weight" in name for name in rest) == (norm != "none")


@functools.cache
def swin() -> nn.Module:
    name = "smp:fpn/tu-swin_tiny_patch4_window7_224"
    return build_network(name, {}, in_channels=3, num_classes=2)


@functools.cache
def vit() -> nn.Module:
    return build_network("smp:dpt/tu-vit_tiny_patch16_224", {}, in_channels=3, num_classes=2)


@functools.cache
def convnext() -> nn.Module:
    return build_network("smp:fpn/tu-convnext_atto", {}, in_channels=3, num_classes=2)


def test_positions_tokens_and_scales_do_not_decay() -> None:
    for network, ends in (
        (vit(), ("pos_embed", "cls_token")),
        (swin(), ("relative_position_bias_table",)),
        (convnext(), ("gamma",)),
    ):
        names = [name for name, _ in network.named_parameters()]
        decayed = decaying(network)
        for end in ends:
            of_kind = [name for name in names if name.endswith(end)]
            assert of_kind
            assert not decayed & set(of_kind)
        kinds = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
        kernels = {f"{name}.weight" for name, m in network.named_modules() if isinstance(m, kinds)}
        assert decayed == kernels & set(names)


@ALL
def test_named_positions_stay_whole_under_decay(name: str) -> None:
    network = nn.Module()
    network.register_parameter("pos_embed", nn.Parameter(torch.ones(1, 4, 3)))
    network.register_parameter("weight", nn.Parameter(torch.ones(4, 3)))
    options = {"weight_decay": 0.5}
    optimizer = build_optimizer(name, options, parameters=network.named_parameters(), lr=0.01)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.equal(network.get_parameter("pos_embed"), torch.ones(1, 4, 3))
    assert (network.get_parameter("weight") < 1).all()


# ---- an encoder with a learning rate of its own


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return build_network("smp:unet/resnet18", {}, in_channels=1, num_classes=2)


def test_the_encoder_has_groups_of_its_own_with_its_factor() -> None:
    network = resnet()
    encoder = encoder_parameters(network)
    assert encoder is not None
    groups = parameter_groups(
        network.named_parameters(), 0.1, encoder=encoder, encoder_lr_factor=0.25
    )
    assert [(g["weight_decay"], g["lr_factor"]) for g in groups] == [
        *((0.1, 1.0), (0.0, 1.0), (0.1, 0.25), (0.0, 0.25)),
    ]
    slow = {id(p) for group in groups for p in group["params"] if group["lr_factor"] != 1}
    assert slow == {id(p) for p in encoder}
    members = [id(p) for group in groups for p in group["params"]]
    assert sorted(members) == sorted(id(p) for p in network.parameters())


@ALL
def test_the_factor_is_in_the_rate_and_comes_back_with_the_state(name: str) -> None:
    network = small_network()
    encoder = list(network[0].parameters())

    def build(factor: float) -> torch.optim.Optimizer:
        return build_optimizer(
            name,
            {},
            parameters=network.named_parameters(),
            lr=0.5,
            encoder=encoder,
            encoder_lr_factor=factor,
        )

    first = build(0.125)
    assert [group["lr"] for group in first.param_groups] == [0.5, 0.5, 0.0625, 0.0625]
    other = build(0.25)
    other.load_state_dict(first.state_dict())
    assert [group["lr_factor"] for group in other.param_groups] == [1.0, 1.0, 0.125, 0.125]
    assert {type(group["lr_factor"]) for group in first.state_dict()["param_groups"]} == {float}


def test_a_slower_encoder_takes_smaller_steps() -> None:
    network = small_network()
    before = [p.detach().clone() for p in network.parameters()]
    optimizer = build_optimizer(
        "sgd",
        {"weight_decay": 0, "momentum": 0, "nesterov": False},
        parameters=network.parameters(),
        lr=0.5,
        encoder=network[0].parameters(),
        encoder_lr_factor=0.5,
    )
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    steps = [
        (a - b.detach()).mean().item() for a, b in zip(before, network.parameters(), strict=True)
    ]
    assert steps == pytest.approx([0.25, 0.25, 0.5, 0.5, 0.5, 0.5])


def test_without_an_encoder_there_are_two_groups_at_the_full_rate() -> None:
    groups = build_optimizer("adamw", {}, parameters=small_network().parameters(), lr=0.5)
    assert [(g["lr"], g["lr_factor"]) for g in groups.param_groups] == [(0.5, 1.0), (0.5, 1.0)]


def test_a_frozen_encoder_is_in_no_group() -> None:
    network = resnet()
    freeze_encoder(network)
    encoder = encoder_parameters(network)
    assert encoder is not None
    groups = parameter_groups(network.named_parameters(), 0.1, encoder=encoder)
    members = {id(p) for group in groups for p in group["params"]}
    assert members == {id(p) for p in network.parameters()} - {id(p) for p in encoder}


@pytest.mark.parametrize("factor", [0.0, -1.0, math.inf, math.nan])
def test_a_factor_that_trains_nothing_is_refused(factor: float) -> None:
    network = small_network()
    with pytest.raises(UserError, match=r"encoder_lr_factor = .*above 0"):
        parameter_groups(
            network.parameters(), 0.1, encoder=network[0].parameters(), encoder_lr_factor=factor
        )


def test_a_factor_without_an_encoder_or_for_a_frozen_one_is_refused() -> None:
    network = small_network()
    with pytest.raises(UserError, match=r"encoder_lr_factor = 0\.1 has no effect") as caught:
        parameter_groups(network.parameters(), 0.1, encoder_lr_factor=0.1)
    assert "\n" not in str(caught.value)
    network[0].requires_grad_(False)
    with pytest.raises(UserError, match="or it is frozen"):
        parameter_groups(
            network.parameters(), 0.1, encoder=network[0].parameters(), encoder_lr_factor=0.1
        )
