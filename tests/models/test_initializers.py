"""Initializers: the contract of every entry, formulas written out, and the notes by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import init

from unet_pipeline.errors import UserError
from unet_pipeline.models.initializers import INITIALIZERS, LAYERS, NORMS, initialize
from unet_pipeline.models.layers import Conv2D
from unet_pipeline.models.unet import UNet

ALL = pytest.mark.parametrize("name", list(INITIALIZERS))
GENERIC = pytest.mark.parametrize(
    "name", [n for n in INITIALIZERS if n not in ("default", "notes")]
)
MODELS: dict[str, Callable[[], nn.Module]] = {
    "unet": lambda: UNet(in_channels=1, num_classes=2, base_channels=4, depth=2),
    "linear": lambda: nn.Linear(10, 3),
    "Conv2D": lambda: Conv2D((2, 3)),
}
MODEL = pytest.mark.parametrize("model", list(MODELS))


def notes_net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU(), nn.Linear(10, 1))


def seeded(make: Callable[[], nn.Module], name: str, *, seed: int = 0, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    module = make()
    initialize(module, name, options)
    return module


def weight_of(layer: nn.Module) -> Tensor:
    return layer.get_parameter("weight").detach()


def bias_of(layer: nn.Module) -> Tensor:
    return layer.get_parameter("bias").detach()


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# ---- every entry of the catalogue


@ALL
@MODEL
def test_it_fills_a_model_with_finite_numbers_in_place(name: str, model: str) -> None:
    module = MODELS[model]()
    before = list(module.parameters())
    assert initialize(module, name) > 0
    assert all(a is b for a, b in zip(before, module.parameters(), strict=True))
    for key, parameter in module.named_parameters():
        assert parameter.isfinite().all(), key
        assert parameter.requires_grad, key
        assert parameter.grad_fn is None, key


@ALL
def test_a_filled_network_computes_and_has_gradients(name: str) -> None:
    network = seeded(MODELS["unet"], name)
    logits = network(torch.randn(2, 1, 8, 8))
    assert logits.isfinite().all()
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@ALL
@MODEL
def test_the_same_seed_gives_the_same_weights(name: str, model: str) -> None:
    assert same(seeded(MODELS[model], name, seed=5), seeded(MODELS[model], name, seed=5))


@ALL
def test_what_is_drawn_follows_the_seed_and_what_is_not_does_not(name: str) -> None:
    drawn = name not in ("constant", "zeros")
    one, other = (seeded(MODELS["linear"], name, seed=seed) for seed in (1, 2))
    assert same(one, other) == (not drawn)


@ALL
def test_an_unknown_option_gets_a_line(name: str) -> None:
    with pytest.raises(UserError, match=f"initializer {name} has no option 'gian'"):
        initialize(nn.Linear(2, 2), name, {"gian": 1})


@ALL
def test_a_model_without_a_layer_to_fill_is_refused(name: str) -> None:
    model = nn.Sequential(nn.GroupNorm(2, 4), nn.Sequential(nn.ReLU(), nn.Embedding(3, 4)))
    for parameter in model.parameters():
        init.constant_(parameter, 7.0)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(UserError) as caught:
        initialize(model, name)
    message = str(caught.value)
    assert f"initializer {name} looks for" in message
    assert "Linear" in message
    assert "only Embedding, GroupNorm, ReLU;" in message
    assert "\n" not in message
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@ALL
def test_layers_without_bias_or_scale_are_fine(name: str) -> None:
    plain = nn.BatchNorm2d(2, affine=False)
    model = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), plain, nn.Linear(3, 2, bias=False))
    assert initialize(model, name) == 2


@ALL
def test_every_option_that_is_a_number_must_be_finite(name: str) -> None:
    for option, default in (INITIALIZERS[name].__kwdefaults__ or {}).items():
        if isinstance(default, float):
            for value in (math.nan, math.inf, -math.inf, 1e39):
                with pytest.raises(UserError, match=f"{option} = .*: use a finite number"):
                    initialize(nn.Linear(2, 2), name, {option: value})


@GENERIC
@pytest.mark.parametrize(
    "layer",
    [
        *(nn.Conv1d(4, 6, 3), nn.Conv2d(4, 6, 3), nn.Conv3d(4, 6, 3), nn.Conv2d(4, 6, 3, groups=2)),
        *(nn.ConvTranspose1d(4, 6, 2), nn.ConvTranspose2d(4, 6, 2), nn.ConvTranspose3d(4, 6, 2)),
        *(nn.Linear(4, 6), Conv2D(3)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_it_fills_weight_and_bias_of_each_kind_of_layer(name: str, layer: nn.Module) -> None:
    for parameter in layer.parameters():
        init.constant_(parameter, 77.0)
    options = {} if name == "zeros" else {"bias": 0.25}
    assert initialize(layer, name, options) == 1
    assert (weight_of(layer) != 77).all()
    assert (bias_of(layer) == options.get("bias", 0.0)).all()


@GENERIC
@pytest.mark.parametrize(
    "norm",
    [
        *(nn.BatchNorm1d(4), nn.BatchNorm2d(4), nn.BatchNorm3d(4), nn.SyncBatchNorm(4)),
        *(nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.LayerNorm(4, bias=False)),
        *(nn.InstanceNorm1d(4, affine=True), nn.InstanceNorm2d(4, affine=True)),
        nn.InstanceNorm3d(4, affine=True),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_norms_beside_layers_become_one_and_zero_but_do_not_suffice(
    name: str, norm: nn.Module
) -> None:
    for parameter in norm.parameters():
        init.constant_(parameter, 77.0)
    with pytest.raises(UserError, match=f"only {type(norm).__name__}"):
        initialize(norm, name)
    assert all((p == 77).all() for p in norm.parameters())
    assert initialize(nn.ModuleList([norm, nn.Linear(2, 2)]), name) == 2
    for key, parameter in norm.named_parameters():
        assert (parameter == (1 if key == "weight" else 0)).all()


@GENERIC
def test_it_fills_every_layer_of_a_unet_and_says_how_many(name: str) -> None:
    network = MODELS["unet"]()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(77)
    layers = [module for module in network.modules() if isinstance(module, (*LAYERS, *NORMS))]
    assert initialize(network, name) == len(layers) == 5 * 2 * 2 + 2 + 1
    assert all((parameter != 77).all() for parameter in network.parameters())


# ---- formulas

# name, options, and the standard deviation of a weight of given fan_in and fan_out
FORMULAS: list[tuple[str, dict[str, Any], Callable[[int, int], float]]] = [
    ("default", {}, lambda i, o: 1 / math.sqrt(3 * i)),
    ("kaiming_normal", {}, lambda i, o: math.sqrt(2 / i)),
    ("kaiming_normal", {"mode": "fan_out"}, lambda i, o: math.sqrt(2 / o)),
    ("kaiming_normal", {"nonlinearity": "linear"}, lambda i, o: math.sqrt(1 / i)),
    ("kaiming_normal", {"nonlinearity": "sigmoid"}, lambda i, o: math.sqrt(1 / i)),
    ("kaiming_normal", {"nonlinearity": "tanh"}, lambda i, o: 5 / 3 / math.sqrt(i)),
    ("kaiming_normal", {"nonlinearity": "selu"}, lambda i, o: 3 / 4 / math.sqrt(i)),
    (
        "kaiming_normal",
        {"nonlinearity": "leaky_relu", "a": 0.5},
        lambda i, o: math.sqrt(2 / (1.25 * i)),
    ),
    ("kaiming_uniform", {}, lambda i, o: math.sqrt(2 / i)),
    ("kaiming_uniform", {"mode": "fan_out"}, lambda i, o: math.sqrt(2 / o)),
    (
        "kaiming_uniform",
        {"nonlinearity": "leaky_relu", "a": 1.0, "mode": "fan_out"},
        lambda i, o: math.sqrt(1 / o),
    ),
    ("xavier_normal", {}, lambda i, o: math.sqrt(2 / (i + o))),
    ("xavier_normal", {"gain": 3}, lambda i, o: 3 * math.sqrt(2 / (i + o))),
    ("xavier_uniform", {}, lambda i, o: math.sqrt(2 / (i + o))),
    ("xavier_uniform", {"gain": 0.1}, lambda i, o: 0.1 * math.sqrt(2 / (i + o))),
    ("normal", {}, lambda i, o: 0.01),
    ("normal", {"mean": -2, "std": 0.7}, lambda i, o: 0.7),
    ("notes", {"conv": "kaiming_normal"}, lambda i, o: math.sqrt(2 / i)),
    ("notes", {}, lambda i, o: math.sqrt(2 / (i + o))),
]


@pytest.mark.parametrize(
    ("kind", "name", "options", "std"),
    [
        pytest.param(kind, *formula, id=f"{kind}-{formula[0]}-{formula[1]}")
        for kind in ("conv", "linear", "Conv2D")
        for formula in FORMULAS
        # of no formula in the fans; tested below, and with the layer
        if (kind, formula[0]) not in {("linear", "notes"), ("Conv2D", "default")}
    ],
)
def test_mean_and_spread_are_those_of_the_formula(
    kind: str, name: str, options: dict[str, Any], std: Callable[[int, int], float]
) -> None:
    """Within five standard errors: 5 std / sqrt(n) of the mean, 5 std / sqrt(2 n) of the spread."""
    make: Callable[[], nn.Module]
    if kind == "conv":
        make, fan_in, fan_out = (lambda: nn.Conv2d(40, 30, (3, 5))), 40 * 15, 30 * 15
    elif kind == "linear":
        make, fan_in, fan_out = (lambda: nn.Linear(300, 200)), 300, 200
    else:
        make, fan_in, fan_out = (lambda: Conv2D((60, 70))), 60 * 70, 60 * 70
    weight = weight_of(seeded(make, name, **options))
    expected, n = std(fan_in, fan_out), weight.numel()
    assert abs(weight.double().mean() - options.get("mean", 0)) < 5 * expected / math.sqrt(n)
    assert abs(weight.double().std() - expected) < 5 * expected / math.sqrt(2 * n)
    bound = math.sqrt(3) * expected
    if "uniform" in name or name == "default":
        assert 0.99 * bound < weight.abs().max() <= bound * (1 + 1e-6)
    else:
        assert (weight - options.get("mean", 0)).abs().max() > 1.5 * bound


def test_every_random_entry_has_its_formula_tested() -> None:
    tested = {name for name, _, _ in FORMULAS} | {"constant", "zeros", "orthogonal"}
    assert tested == set(INITIALIZERS)


@pytest.mark.parametrize("name", ["kaiming_normal", "kaiming_uniform"])
def test_kaiming_keeps_the_size_of_activations_through_ten_relu_layers(name: str) -> None:
    def growth(name: str) -> float:
        """The mean square behind ten layers of (linear, ReLU), relative to that of the input."""
        layers = [[nn.Linear(512, 512), nn.ReLU()] for _ in range(10)]
        network = nn.Sequential(*(module for pair in layers for module in pair))
        torch.manual_seed(0)
        initialize(network, name)
        x = torch.randn(64, 512)
        with torch.no_grad():
            return float(network(x).square().mean() / x.square().mean())

    assert 1 / 2 < growth(name) < 2  # a standard deviation of sqrt(10 * 5 / 512) = 0.3 is expected
    # what it is for: with Xavier each layer halves the mean square, with std 0.01 it vanishes
    assert 2**-11 < growth("xavier_normal") < 2**-9
    assert growth("normal") < 1e-15


@pytest.mark.parametrize("gain", [1.0, 2.5])
@pytest.mark.parametrize(
    "make", [lambda: nn.Linear(9, 6), lambda: nn.Linear(6, 9), lambda: nn.Conv2d(2, 5, 3)]
)
def test_orthogonal_rows_have_unit_length_and_no_overlap(
    make: Callable[[], nn.Module], gain: float
) -> None:
    weight = weight_of(seeded(make, "orthogonal", gain=gain))
    w = weight.detach().flatten(1)
    product = w @ w.T if len(w) <= w.shape[1] else w.T @ w
    torch.testing.assert_close(product, gain**2 * torch.eye(len(product)), atol=1e-5, rtol=0)


def test_an_orthogonal_kernel_of_one_channel_is_one_row_of_unit_length() -> None:
    layer = Conv2D((3, 5))
    initialize(layer, "orthogonal", {"gain": 2})
    assert layer.weight.norm().item() == pytest.approx(2)


def test_constants_are_exact() -> None:
    layer = nn.Linear(10, 1)
    assert initialize(layer, "constant", {"value": 0.3}) == 1
    assert torch.equal(layer.weight.data, torch.full((1, 10), 0.3))
    assert torch.equal(layer.bias.data, torch.zeros(1))
    initialize(layer, "constant", {"value": -2, "bias": 5})
    assert torch.equal(layer.weight.data, torch.full((1, 10), -2.0))
    assert torch.equal(layer.bias.data, torch.full((1,), 5.0))
    initialize(layer, "constant")
    assert torch.equal(layer.weight.data, torch.full((1, 10), 0.3))
    initialize(layer, "zeros")
    assert not any(p.any() for p in layer.parameters())


def test_a_constant_start_leaves_the_units_of_a_layer_copies_of_each_other() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for name, symmetric in (("constant", True), ("xavier_normal", False)):
        torch.manual_seed(0)
        initialize(network, name)
        x, y = torch.randn(20, 3), torch.randn(20, 1)
        for _ in range(5):
            optimizer.zero_grad()
            (network(x) - y).square().mean().backward()
            optimizer.step()
        rows = weight_of(network[0])
        assert torch.allclose(rows, rows[:1].expand(4, 3), atol=1e-6) == symmetric


@MODEL
def test_the_default_changes_nothing(model: str) -> None:
    torch.manual_seed(3)
    untouched = MODELS[model]()
    torch.manual_seed(3)
    module = MODELS[model]()
    for parameters in (untouched.parameters(), module.parameters()):
        init.constant_(next(iter(parameters)), 0.7)
    state = torch.get_rng_state()
    initialize(module, "default")
    assert same(module, untouched)
    assert torch.equal(torch.get_rng_state(), state)


# ---- the learning notes


def test_the_notes_fill_their_small_net_as_torch_does_by_hand() -> None:
    net = notes_net()
    torch.manual_seed(11)
    assert initialize(net, "notes") == 2
    torch.manual_seed(11)
    assert torch.equal(weight_of(net[0]), init.xavier_normal_(torch.empty(1, 1, 3, 3)))
    assert torch.equal(weight_of(net[2]), init.normal_(torch.empty(1, 10), 0.1, 1.0))
    assert torch.equal(bias_of(net[0]), torch.full((1,), 0.3))
    assert torch.equal(bias_of(net[2]), torch.zeros(1))


def test_the_notes_fill_it_layer_by_layer_with_kaiming_and_a_constant() -> None:
    net = notes_net()
    torch.manual_seed(11)
    assert initialize(net[0], "kaiming_normal") == 1
    assert initialize(net[2], "constant", {"value": 0.3}) == 1
    torch.manual_seed(11)
    assert torch.equal(weight_of(net[0]), init.kaiming_normal_(torch.empty(1, 1, 3, 3)))
    assert torch.equal(weight_of(net[2]), torch.full((1, 10), 0.3))
    by_hand = [p.detach().clone() for p in net.parameters()]
    torch.manual_seed(11)
    initialize(net, "notes", {"conv": "kaiming_normal", "linear": "constant"})
    assert torch.equal(weight_of(net[0]), by_hand[0])
    assert torch.equal(weight_of(net[2]), by_hand[2])
    assert torch.equal(bias_of(net[0]), torch.full((1,), 0.3))


def test_the_notes_fill_batch_norm_which_is_enough_for_them() -> None:
    norm = nn.BatchNorm2d(3)
    for parameter in norm.parameters():
        init.constant_(parameter, 77.0)
    assert initialize(norm, "notes") == 1
    assert norm.weight.tolist() == [1, 1, 1]
    assert norm.bias.tolist() == [0, 0, 0]


def test_the_notes_draw_linear_weights_around_a_tenth() -> None:
    weight = weight_of(seeded(lambda: nn.Linear(300, 200), "notes"))
    assert abs(weight.mean() - 0.1) < 5 / math.sqrt(60_000)
    assert abs(weight.std() - 1) < 5 / math.sqrt(2 * 60_000)


def test_the_notes_leave_layers_they_do_not_name() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.ConvTranspose2d(2, 2, 2), nn.GroupNorm(1, 2), nn.Conv2d(2, 2, 1))
    before = weight_of(net[0]).clone()
    assert initialize(net, "notes") == 1
    assert torch.equal(weight_of(net[0]), before)


# ---- what is refused


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("kaming_normal", {}, "unknown initializer 'kaming_normal': did you mean 'kaiming_normal'"),
        ("kaiming_normal", {"mod": "fan_in"}, "no option 'mod': did you mean 'mode'?"),
        ("kaiming_normal", {"mode": "fan"}, "mode = 'fan': input should be 'fan_in' or 'fan_out'"),
        ("kaiming_normal", {"nonlinearity": "gelu"}, "nonlinearity = 'gelu'"),
        ("kaiming_normal", {"a": 0.1}, "a = 0.1 is for nonlinearity leaky_relu; leave it out"),
        ("kaiming_uniform", {"a": -1, "nonlinearity": "leaky_relu"}, "a = -1.0: use 0 or more"),
        ("xavier_normal", {"gain": 0}, "gain = 0.0: use a number above 0"),
        ("xavier_uniform", {"gain": -1}, "gain = -1.0: use a number above 0"),
        ("orthogonal", {"gain": 0}, "gain = 0.0: use a number above 0"),
        ("normal", {"std": -0.1}, "std = -0.1: use 0 or more"),
        ("normal", {"std": "wide"}, "initializer normal: std = 'wide'"),
        ("zeros", {"bias": 0.3}, "initializer zeros has no option 'bias'"),
        ("notes", {"conv": "orthogonal"}, "conv = 'orthogonal'"),
        ("notes", {"linear": "zeros"}, "linear = 'zeros'"),
    ],
)
def test_what_no_initializer_can_do_is_refused_before_anything_changes(
    name: str, options: dict[str, Any], message: str
) -> None:
    layer = nn.Linear(3, 2)
    before = layer.weight.detach().clone()
    with pytest.raises(UserError) as caught:
        initialize(layer, name, options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert torch.equal(layer.weight, before)
