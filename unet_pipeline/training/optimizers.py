"""Optimizers by name, and which parameters they decay and at which rate they train.

An entry is a factory `(groups, lr, *, ...options) -> torch.optim.Optimizer`, where the groups are
those of `parameter_groups`, as torch takes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from unet_pipeline.catalogue import complete, lookup
from unet_pipeline.errors import UserError

_FUSED_DEVICES = {"cpu", "cuda"}
"""Where torch updates all parameters in one kernel: on 2 cores 6 ms against 91 (12 M weights)."""

_BELOW = {"weight_decay": math.inf, "eps": math.inf, "betas": 1, "momentum": 1, "alpha": 1}
"""Options are from 0 up and below this. Torch takes some that are not, and diverges."""

Groups = list[dict[str, Any]]
"""Groups of parameters as torch takes them, each with its own options beside `params`."""


def build_optimizer(
    name: str,
    options: Mapping[str, Any],
    *,
    parameters: Iterable[nn.Parameter | tuple[str, nn.Parameter]],
    lr: float,
    encoder: Iterable[nn.Parameter] = (),
    encoder_lr_factor: float = 1.0,
) -> torch.optim.Optimizer:
    """The optimizer called `name` of `OPTIMIZERS`, with `options` checked and completed.

    parameters, encoder, encoder_lr_factor: see `parameter_groups`. Each group has its own `lr`,
    which is `lr` times the `lr_factor` of the group; whoever changes the one keeps to the other.
    Raises `UserError` for unknown names and options, values out of range, and no parameters.
    """
    checked, groups = check_optimizer(
        name,
        options,
        parameters=parameters,
        lr=lr,
        encoder=encoder,
        encoder_lr_factor=encoder_lr_factor,
    )
    try:
        return OPTIMIZERS[name](groups, lr, **checked)
    except ValueError as error:  # of the optimizer's own checks
        raise UserError(f"optimizer {name}: {str(error).lower()}") from error


def check_optimizer(
    name: str,
    options: Mapping[str, Any],
    *,
    parameters: Iterable[nn.Parameter | tuple[str, nn.Parameter]],
    lr: float,
    encoder: Iterable[nn.Parameter] = (),
    encoder_lr_factor: float = 1.0,
) -> tuple[dict[str, Any], Groups]:
    """What `build_optimizer` makes an optimizer of: its options, completed, and its groups.

    Raises what that would, without torch's optimizers, for which torch loads its compiler.
    """
    factory = lookup(OPTIMIZERS, name, kind="optimizer")
    if not (lr >= 0 and math.isfinite(lr)):
        raise UserError(f"lr = {lr}: use a number from 0 up, such as 1e-3")
    checked = complete(factory, options, label=f"optimizer {name}")
    _check_ranges(name, checked)
    groups = parameter_groups(
        parameters,
        checked.get("weight_decay", 0.0),
        encoder=encoder,
        encoder_lr_factor=encoder_lr_factor,
    )
    for group in groups:
        group["lr"] = lr * group["lr_factor"]
    return checked, groups


def _check_ranges(name: str, options: Mapping[str, Any]) -> None:
    for option, value in options.items():
        limit = _BELOW.get(option)
        parts = value if isinstance(value, tuple) else (value,)
        if limit is not None and not all(0 <= part < limit for part in parts):
            wanted = "0 or more" if limit == math.inf else f"0 to below {limit}"
            raise UserError(f"optimizer {name}: {option} = {value}: use {wanted}")
    if options.get("nesterov") and options.get("momentum") == 0:
        raise UserError(f"optimizer {name}: nesterov needs a momentum above 0; set nesterov=false")


def adamw(
    groups: Groups,
    lr: float,
    *,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019): Adam with decay beside the gradient, not inside it."""
    return torch.optim.AdamW(
        groups, lr, weight_decay=weight_decay, betas=betas, eps=eps, fused=_fused(groups)
    )


def adam(
    groups: Groups,
    lr: float,
    *,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba 2015); its weight decay is an L2 term of the gradient."""
    return torch.optim.Adam(
        groups, lr, weight_decay=weight_decay, betas=betas, eps=eps, fused=_fused(groups)
    )


def sgd(
    groups: Groups,
    lr: float,
    *,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 1e-4,
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum, Nesterov's unless told otherwise."""
    return torch.optim.SGD(
        groups,
        lr,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        fused=_fused(groups),
    )


def rmsprop(
    groups: Groups,
    lr: float,
    *,
    momentum: float = 0.9,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """RMSprop (Tieleman and Hinton 2012), the optimizer of many older U-Net recipes."""
    return torch.optim.RMSprop(
        groups, lr, momentum=momentum, alpha=alpha, eps=eps, weight_decay=weight_decay
    )


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": adamw,
    "adam": adam,
    "sgd": sgd,
    "rmsprop": rmsprop,
}
"""Name -> factory; the keyword-only parameters are the options."""


def parameter_groups(
    parameters: Iterable[nn.Parameter | tuple[str, nn.Parameter]],
    weight_decay: float,
    *,
    encoder: Iterable[nn.Parameter] = (),
    encoder_lr_factor: float = 1.0,
) -> Groups:
    """The weights, which decay, and the rest, which do not; those of `encoder` apart from others.

    Weights have two or more dimensions and, where `parameters` are named (`named_parameters()`), a
    name with "weight" in its last part. The rest are biases and the scales of norms, and what else
    a network learns that is no kernel: position embeddings, tokens, tables of relative positions,
    gains of layers. Drawing those to 0 regularises nothing and slows training.
    encoder: those of `parameters` that train at `encoder_lr_factor` times the learning rate of the
    others. Each group says so as its `lr_factor`, a number that optimizers keep in their state.

    Up to four groups, those of the encoder last. Frozen parameters are left out, and so is a group
    without members. Raises `UserError` where nothing is left to train, for a negative decay, and
    for a factor that is not above 0 or has nothing to act on.
    """
    if weight_decay < 0:
        raise UserError(f"weight_decay = {weight_decay}: use 0 or more")
    of_encoder = {id(p) for p in encoder if p.requires_grad}
    _check_factor(encoder_lr_factor, bool(of_encoder))
    members: dict[tuple[bool, bool], list[nn.Parameter]] = {
        (slower, decays): [] for slower in (False, True) for decays in (True, False)
    }
    for item in parameters:
        name, parameter = item if isinstance(item, tuple) else ("weight", item)
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and "weight" in name.rpartition(".")[2]
            members[id(parameter) in of_encoder, decays].append(parameter)
    if not any(members.values()):
        raise UserError("the model has no parameters to train: all of them are frozen")
    return [
        {
            "params": part,
            "weight_decay": weight_decay if decays else 0.0,
            "lr_factor": encoder_lr_factor if slower else 1.0,
        }
        for (slower, decays), part in members.items()
        if part
    ]


def _check_factor(factor: float, has_encoder: bool) -> None:
    if not (factor > 0 and math.isfinite(factor)):
        raise UserError(
            f"encoder_lr_factor = {factor}: use a number above 0, such as 0.1; an encoder that "
            "shall not train is frozen"
        )
    if factor != 1 and not has_encoder:
        raise UserError(
            f"encoder_lr_factor = {factor} has no effect: the network has no encoder of its own "
            "(those called smp:... have one), or it is frozen; leave the factor out"
        )


def _fused(groups: Groups) -> bool:
    return all(p.device.type in _FUSED_DEVICES for group in groups for p in group["params"])
