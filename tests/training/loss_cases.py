"""Cases for the tests of losses: logits and targets, and every option of every loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from unet_pipeline.catalogue import complete
from unet_pipeline.training.losses import (
    LOSSES,
)

Options = dict[str, Any]
Array = npt.NDArray[Any]
ALL = pytest.mark.parametrize("name", list(LOSSES))


def case(
    seed: int = 0, n: int = 3, k: int = 4, size: tuple[int, int] = (5, 7), ignored: float = 0.2
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, k, *size, generator=generator)
    target = torch.randint(k, (n, *size), generator=generator)
    target[torch.rand(target.shape, generator=generator) < ignored] = 255
    return logits, target


def options_of(name: str) -> Options:
    return complete(LOSSES[name], {}, label=name, given=("ignore_index",))


def with_option(option: str) -> list[str]:
    return [name for name in LOSSES if option in options_of(name)]


def value_and_gradient(
    name: str, logits: Tensor, target: Tensor, **options: Any
) -> tuple[Tensor, Tensor]:
    logits = logits.detach().requires_grad_()
    value = LOSSES[name](logits, target, **options)
    return value.detach(), torch.autograd.grad(value, logits)[0]


def close(value: Tensor, expected: Tensor, *, unless: bool = False) -> None:
    """They agree; or, where a loss is named as an exception, clearly do not."""
    if unless:
        assert abs(value - expected).max() > 1e-3
    else:
        torch.testing.assert_close(value, expected)


WEIGHTS = [0.5, 2.0, 0.25, 1.5]
OTHER_VALUES: dict[str, Any] = {
    "alpha": 0.9,
    "beta": 0.2,
    "class_weights": WEIGHTS,
    "eps": 0.1,
    "fraction": 0.6,
    "gamma": 3.0,
    "label_smoothing": 0.3,
    "log_input": False,
    "margin": 0.4,
    "min_fraction": 0.95,
    "p": 2,
    "sigma": 1.5,
    "smooth": 7.5,
    "threshold": 0.3,
    "w0": 3.0,
}
"""A value of each option that is not its default, whatever the loss."""

ONLY_WITH: dict[tuple[str, str], Options] = {("poisson_nll", "eps"): {"log_input": False}}
"""What else must be set for an option to have an effect."""


def variants() -> Iterator[Any]:
    """(name, options): each loss as it is, with each option, and with all of them."""
    for name in LOSSES:
        options = options_of(name)
        singles = [
            {option: OTHER_VALUES[option]} | ONLY_WITH.get((name, option), {}) for option in options
        ]
        together = (
            [{option: OTHER_VALUES[option] for option in options}] if len(options) > 1 else []
        )
        for chosen in ({}, *singles, *together):
            yield pytest.param(name, chosen, id=f"{name}({', '.join(map(str, chosen))})")


VARIANTS = pytest.mark.parametrize(("name", "options"), list(variants()))
