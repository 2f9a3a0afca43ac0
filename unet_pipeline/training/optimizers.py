"""Optimizers and learning-rate schedules, by name.

An optimizer is `factory(parameters, lr, *, ...options)`; a schedule is
`factory(progress, *, ...options) -> factor`, to multiply the learning rate with, where progress
in [0, 1] is the fraction that is done of whichever limit the run has: epochs, steps or seconds.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from unet_pipeline.catalogue import complete, lookup
from unet_pipeline.errors import UserError

_WARMUP_START = 0.01
"""Warm-up begins at this share: at 0, the first step, and all of a one-step run, would be void."""

_FUSED_DEVICES = {"cpu", "cuda"}
"""Where torch updates all parameters in one kernel: on 2 cores 6 ms against 91 (12 M weights)."""


def build_optimizer(
    name: str, options: Mapping[str, Any], *, parameters: Iterable[nn.Parameter], lr: float
) -> torch.optim.Optimizer:
    """The optimizer called `name` of `OPTIMIZERS`, with `options` checked and completed.

    Raises `UserError` for unknown names and options, values out of range, and no parameters.
    """
    factory = lookup(OPTIMIZERS, name, kind="optimizer")
    if not (lr >= 0 and math.isfinite(lr)):
        raise UserError(f"lr = {lr}: use a number from 0 up, such as 1e-3")
    checked = complete(factory, options, label=f"optimizer {name}")
    try:
        return factory(parameters, lr, **checked)
    except ValueError as error:  # torch's own checks of ranges: "Invalid beta parameter ..."
        raise UserError(f"optimizer {name}: {str(error).lower()}") from error


def adamw(
    parameters: Iterable[nn.Parameter],
    lr: float,
    *,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019): Adam with decay beside the gradient, not inside it."""
    groups = parameter_groups(parameters, weight_decay)
    return torch.optim.AdamW(groups, lr, betas=betas, eps=eps, fused=_fused(groups))


def adam(
    parameters: Iterable[nn.Parameter],
    lr: float,
    *,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba 2015); its weight decay is an L2 term of the gradient."""
    groups = parameter_groups(parameters, weight_decay)
    return torch.optim.Adam(groups, lr, betas=betas, eps=eps, fused=_fused(groups))


def sgd(
    parameters: Iterable[nn.Parameter],
    lr: float,
    *,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 1e-4,
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum, Nesterov's unless told otherwise."""
    if nesterov and momentum == 0:
        raise UserError("optimizer sgd: nesterov needs a momentum above 0; set nesterov=false")
    groups = parameter_groups(parameters, weight_decay)
    return torch.optim.SGD(groups, lr, momentum=momentum, nesterov=nesterov, fused=_fused(groups))


def rmsprop(
    parameters: Iterable[nn.Parameter],
    lr: float,
    *,
    momentum: float = 0.9,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """RMSprop (Tieleman and Hinton 2012), the optimizer of many older U-Net recipes."""
    groups = parameter_groups(parameters, weight_decay)
    return torch.optim.RMSprop(groups, lr, momentum=momentum, alpha=alpha, eps=eps)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": adamw,
    "adam": adam,
    "sgd": sgd,
    "rmsprop": rmsprop,
}
"""Name -> factory; the keyword-only parameters are the options."""


def parameter_groups(
    parameters: Iterable[nn.Parameter], weight_decay: float
) -> list[dict[str, Any]]:
    """Two groups: weights of two or more dimensions, which decay, and the rest, which do not.

    The rest are biases and the scales of normalisation layers; drawing those to 0 regularises
    nothing and slows training. Frozen parameters are left out, and so is a group without members.
    Raises `UserError` where nothing is left to train, and for a negative decay.
    """
    if weight_decay < 0:
        raise UserError(f"weight_decay = {weight_decay}: use 0 or more")
    trained = [p for p in parameters if p.requires_grad]
    if not trained:
        raise UserError("the model has no parameters to train: all of them are frozen")
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_schedule(name: str, options: Mapping[str, Any]) -> Callable[[float], float]:
    """The schedule called `name` of `SCHEDULES`: progress in [0, 1] -> factor of the lr.

    Raises `UserError` for unknown names and options and values out of range.
    """
    factory = lookup(SCHEDULES, name, kind="schedule")
    checked = complete(factory, options, label=f"schedule {name}")
    schedule = functools.partial(factory, **checked)
    schedule(0.0)  # finds options out of range now
    return schedule


def cosine(progress: float, *, warmup_fraction: float = 0.05, final_fraction: float = 0.0) -> float:
    """Linear warm-up, then half a cosine from 1 to `final_fraction` (Loshchilov and Hutter 2017).

    With w = warmup_fraction, f = final_fraction and u = (progress - w) / (1 - w):
    0.01 + 0.99 progress / w before w, f + (1 - f) (1 + cos(pi u)) / 2 after it.
    """
    return _warm(
        progress,
        warmup_fraction,
        final_fraction,
        lambda u: final_fraction + (1 - final_fraction) * (1 + math.cos(math.pi * u)) / 2,
    )


def constant(progress: float, *, warmup_fraction: float = 0.05) -> float:
    """Linear warm-up, then 1 to the end."""
    return _warm(progress, warmup_fraction, 1.0, lambda _: 1.0)


def poly(
    progress: float,
    *,
    warmup_fraction: float = 0.05,
    final_fraction: float = 0.0,
    power: float = 0.9,
) -> float:
    """Linear warm-up, then f + (1 - f) (1 - u) ** power, with f and u as in `cosine`.

    The "poly" policy of DeepLab (Chen et al. 2017), whose power is the default.
    """
    if power <= 0:
        raise UserError(f"schedule: power = {power}: use a number above 0")
    return _warm(
        progress,
        warmup_fraction,
        final_fraction,
        lambda u: final_fraction + (1 - final_fraction) * (1 - u) ** power,
    )


SCHEDULES: dict[str, Callable[..., float]] = {"cosine": cosine, "constant": constant, "poly": poly}
"""Name -> function of progress; the keyword-only parameters are the options."""


def _warm(
    progress: float,
    warmup_fraction: float,
    final_fraction: float,
    decay: Callable[[float], float],
) -> float:
    """Warm-up to 1, then `decay` of what is done of the rest, in [0, 1]."""
    if not 0 <= warmup_fraction < 1:
        raise UserError(f"schedule: warmup_fraction = {warmup_fraction}: use 0 up to 1")
    if not 0 <= final_fraction <= 1:
        raise UserError(f"schedule: final_fraction = {final_fraction}: use 0 to 1")
    progress = min(max(progress, 0.0), 1.0)  # the last step may end past the limit
    if progress < warmup_fraction:
        return _WARMUP_START + (1 - _WARMUP_START) * progress / warmup_fraction
    return decay((progress - warmup_fraction) / (1 - warmup_fraction))


def _fused(groups: list[dict[str, Any]]) -> bool:
    return all(p.device.type in _FUSED_DEVICES for group in groups for p in group["params"])
