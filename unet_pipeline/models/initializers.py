"""Weight initializers by name: how the numbers that training starts from are drawn.

An entry is a factory `(*, ...options) -> list[Rule]`; a rule names kinds of layers and fills one.
Numbers come from torch's global generator, so that a caller seeds with `torch.manual_seed`.

fan_in and fan_out, as torch counts them for a weight (a, b, ...): b and a times the size of the
kernel. That is what one output is made of and one input goes to, except that a transposed
convolution, whose weight is (in, out, ...), has the two the other way round.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.nn import init

from unet_pipeline.catalogue import complete, lookup
from unet_pipeline.errors import UserError
from unet_pipeline.models.layers import Conv2D

Draw = Callable[[torch.Tensor], object]
Mode = Literal["fan_in", "fan_out"]
Nonlinearity = Literal["relu", "leaky_relu", "tanh", "sigmoid", "linear", "selu"]

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
NORMS = (
    *BATCH_NORMS,
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm, nn.LayerNorm),
)
LAYERS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv2D, nn.Linear),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
"""What every initializer but `notes` fills; they set the `NORMS` too, to weight 1 and bias 0."""


class Rule(NamedTuple):
    """How to fill a layer of one of `kinds`; suffices: False where those alone are no model."""

    kinds: tuple[type[nn.Module], ...]
    fill: Callable[[nn.Module], None]
    suffices: bool = True


def initialize(module: nn.Module, name: str, options: Mapping[str, Any] | None = None) -> int:
    """Fill the layers of `module`, itself included, as the initializer `name` does; their number.

    Norms count as well; those without scale and shift have nothing to fill.
    Raises `UserError` for unknown names and options, values out of range, and a module without
    any layer that the initializer is for.
    """
    factory = lookup(INITIALIZERS, name, kind="initializer")
    checked = complete(factory, options or {}, label=f"initializer {name}")
    for option, value in checked.items():
        if isinstance(value, float) and not abs(value) <= torch.finfo(torch.float32).max:
            raise UserError(f"initializer {name}: {option} = {value}: use a finite number")
    rules = factory(**checked)
    matches = [(layer, rule) for layer in module.modules() if (rule := _rule_for(layer, rules))]
    if not any(rule.suffices for _, rule in matches):
        looked_for = [kind.__name__ for rule in rules if rule.suffices for kind in rule.kinds]
        seen = {type(m).__name__ for m in module.modules() if not list(m.children())}
        raise UserError(
            f"initializer {name} looks for {', '.join(looked_for)} and the model has none with "
            f"weights, only {', '.join(sorted(seen))}; use another initializer or model"
        )
    for layer, rule in matches:
        rule.fill(layer)
    return len(matches)


def default() -> list[Rule]:
    """torch's own: leaves every layer as it was built, and norms too.

    Weights and biases are uniform in +-1 / sqrt(fan_in): of a third of the variance that keeps
    signals alive without ReLU, a sixth of it with ReLU; norms make up for that.
    """
    return [Rule(LAYERS, lambda layer: None)]


def kaiming_normal(
    *,
    mode: Mode = "fan_in",
    nonlinearity: Nonlinearity = "relu",
    a: float = 0.0,
    bias: float = 0.0,
) -> list[Rule]:
    """Weights normal with mean 0 and std g / sqrt(fan); He et al. 2015, equations 10 and 14.

    g: sqrt(2) for relu, sqrt(2 / (1 + a^2)) for leaky_relu of negative slope `a`, 5/3 for tanh,
    3/4 for selu, 1 for sigmoid and linear.
    mode: fan_in keeps the variance of the activations from layer to layer, fan_out that of the
    gradients. The choice for deep networks of ReLUs, the U-Net among them.
    """
    return _kaiming(init.kaiming_normal_, mode, nonlinearity, a, bias)


def kaiming_uniform(
    *,
    mode: Mode = "fan_in",
    nonlinearity: Nonlinearity = "relu",
    a: float = 0.0,
    bias: float = 0.0,
) -> list[Rule]:
    """Weights uniform in +-g sqrt(3 / fan), the variance of `kaiming_normal`, whose options it has.

    He et al. 2015. No weight is far out, which a normal distribution allows; else equally good.
    """
    return _kaiming(init.kaiming_uniform_, mode, nonlinearity, a, bias)


def xavier_normal(*, gain: float = 1.0, bias: float = 0.0) -> list[Rule]:
    """Weights normal with mean 0 and std gain sqrt(2 / (fan_in + fan_out)).

    Glorot and Bengio 2010: a compromise between the variance of activations and of gradients, for
    tanh and the like. Under ReLU the variance halves with each layer: use kaiming there.
    """
    _require("gain", gain, above=True)
    return _generic(functools.partial(init.xavier_normal_, gain=gain), bias)


def xavier_uniform(*, gain: float = 1.0, bias: float = 0.0) -> list[Rule]:
    """Weights uniform in +-gain sqrt(6 / (fan_in + fan_out)), the variance of `xavier_normal`.

    Glorot and Bengio 2010, equation 16.
    """
    _require("gain", gain, above=True)
    return _generic(functools.partial(init.xavier_uniform_, gain=gain), bias)


def normal(*, mean: float = 0.0, std: float = 0.01, bias: float = 0.0) -> list[Rule]:
    """Weights normal with `mean` and `std`, whatever the size of the layer.

    Fine for one or two layers; the signals of a deep network vanish or explode, as He et al. 2015
    show for a std of 0.01.
    """
    _require("std", std)
    return _generic(functools.partial(init.normal_, mean=mean, std=std), bias)


def constant(*, value: float = 0.3, bias: float = 0.0) -> list[Rule]:
    """All weights `value`. To show what goes wrong: it breaks no symmetry.

    The units of a layer compute the same, get the same gradient and stay copies of each other, so
    that a layer of any width learns as one unit does.
    """
    return _generic(functools.partial(init.constant_, val=value), bias)


def orthogonal(*, gain: float = 1.0, bias: float = 0.0) -> list[Rule]:
    """Weights, as a matrix W (first dimension, all the others), with W W^T = gain^2 I.

    With more rows than columns W^T W instead. Saxe et al. 2014: lengths of signals and gradients
    are kept exactly, in linear networks of any depth; use sqrt(2) as gain with ReLU.
    """
    _require("gain", gain, above=True)
    return _generic(functools.partial(init.orthogonal_, gain=gain), bias)


def zeros() -> list[Rule]:
    """All weights and biases 0. Breaks no symmetry, as `constant`, and passes no gradient back."""
    return _generic(init.zeros_, 0.0)


def notes(
    *,
    conv: Literal["xavier_normal", "kaiming_normal"] = "xavier_normal",
    linear: Literal["normal", "constant"] = "normal",
) -> list[Rule]:
    """The learning notes, layer by layer; kinds they do not name stay as they were built.

    Conv2d and our Conv2D: weight as the entry named by `conv` draws it by default, bias 0.3.
    Linear: weight normal with mean 0.1 and std 1, or all 0.3, bias 0. BatchNorm: weight 1, bias 0.
    To follow the notes with: the mean of 0.1 and the std of 1 are too much for wide layers.
    """
    draw_conv: dict[str, Draw] = {
        "xavier_normal": init.xavier_normal_,
        "kaiming_normal": functools.partial(init.kaiming_normal_, nonlinearity="relu"),
    }
    draw_linear: dict[str, Draw] = {
        "normal": functools.partial(init.normal_, mean=0.1, std=1.0),
        "constant": functools.partial(init.constant_, val=0.3),
    }
    return [
        Rule((nn.Conv2d, Conv2D), functools.partial(_fill, draw_conv[conv], 0.3)),
        Rule((nn.Linear,), functools.partial(_fill, draw_linear[linear], 0.0)),
        Rule(BATCH_NORMS, functools.partial(_fill, init.ones_, 0.0)),
    ]


INITIALIZERS: dict[str, Callable[..., list[Rule]]] = {
    "default": default,
    "kaiming_normal": kaiming_normal,
    "kaiming_uniform": kaiming_uniform,
    "xavier_normal": xavier_normal,
    "xavier_uniform": xavier_uniform,
    "normal": normal,
    "constant": constant,
    "orthogonal": orthogonal,
    "zeros": zeros,
    "notes": notes,
}
"""Name -> factory of rules; the keyword-only parameters are the options."""


def _generic(draw: Draw, bias: float) -> list[Rule]:
    """Weights of `LAYERS` as `draw` fills a tensor, their biases `bias`; norms 1 and 0."""
    return [
        Rule(LAYERS, functools.partial(_fill, draw, bias)),
        Rule(NORMS, functools.partial(_fill, init.ones_, 0.0), suffices=False),
    ]


def _kaiming(
    draw: Callable[..., object], mode: Mode, nonlinearity: Nonlinearity, a: float, bias: float
) -> list[Rule]:
    _require("a", a)
    if a and nonlinearity != "leaky_relu":
        raise UserError(f"initializer: a = {a} is for nonlinearity leaky_relu; leave it out")
    return _generic(functools.partial(draw, a=a, mode=mode, nonlinearity=nonlinearity), bias)


def _require(option: str, value: float, *, above: bool = False) -> None:
    if value < 0 or (above and value == 0):
        rule = "a number above 0" if above else "0 or more"
        raise UserError(f"initializer: {option} = {value}: use {rule}")


def _rule_for(layer: nn.Module, rules: list[Rule]) -> Rule | None:
    for rule in rules:
        if isinstance(layer, rule.kinds) and layer.weight is not None:
            return rule
    return None


@torch.no_grad()
def _fill(draw: Draw, bias: float, layer: nn.Module) -> None:
    weight, shift = layer.weight, layer.bias
    assert isinstance(weight, torch.Tensor)
    # a kernel of one channel has no dimensions for channels, and torch would read h and w as those
    draw(weight[None, None] if isinstance(layer, Conv2D) else weight)
    if isinstance(shift, torch.Tensor):
        init.constant_(shift, bias)
