"""Learning-rate schedules, by name.

An entry is a function `(progress, *, ...options) -> factor`, to multiply the learning rate with,
where progress in [0, 1] is the fraction that is done of whichever limit the run has: epochs, steps
or seconds. Or it is a class made of its options, for a schedule that looks at validation scores.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from unet_pipeline.catalogue import complete, lookup
from unet_pipeline.errors import UserError

_WARMUP_START = 0.01
"""Warm-up begins at this share: at 0, the first step, and all of a one-step run, would be void."""

_THRESHOLD = 1e-4
"""The relative rise that `Plateau` takes for better: torch's default."""


class Schedule(Protocol):
    """What a training asks for its learning rate, and tells its scores."""

    def __call__(self, progress: float) -> float:
        """The factor of the learning rate at `progress` in [0, 1]."""

    def observe(self, score: float) -> None:
        """Take note of the score of a validation, of which larger is better."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it: plain numbers."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""


def build_schedule(name: str, options: Mapping[str, Any]) -> Schedule:
    """The schedule called `name` of `SCHEDULES`, with `options` checked and completed.

    Raises `UserError` for unknown names and options and values out of range.
    """
    factory = lookup(SCHEDULES, name, kind="schedule")
    checked = complete(factory, options, label=f"schedule {name}")
    built = functools.partial(factory, **checked)
    schedule: Schedule = built() if inspect.isclass(factory) else OfProgress(built)
    schedule(0.0)  # finds options out of range now
    return schedule


class OfProgress:
    """A schedule that is a function of progress alone: scores do not move it, and it has no state.

    factor_at: progress in [0, 1] -> factor.
    """

    def __init__(self, factor_at: Callable[[float], float]) -> None:
        self._factor_at = factor_at

    def __call__(self, progress: float) -> float:
        return self._factor_at(progress)

    def observe(self, score: float) -> None:
        """Nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Empty."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing."""


class Plateau:
    """Steps down by `factor` when validation has not become better for more than `patience` times.

    What torch's `ReduceLROnPlateau` does with mode max and an `eps` of 0: a score is better when it
    is above the best so far by one part in 10,000; after `patience` + 1 that are not, the factor is
    multiplied by `factor`, down to `min_factor`, and the count begins again. NaN is not better.

    patience: validations, not epochs. warmup_fraction: a linear warm-up before; none by default, as
    in the older recipes that this schedule comes from.
    """

    def __init__(
        self,
        *,
        patience: int = 5,
        factor: float = 0.1,
        min_factor: float = 1e-4,
        warmup_fraction: float = 0.0,
    ) -> None:
        if patience < 0:
            raise UserError(f"schedule: patience = {patience}: use 0 or more validations")
        if not 0 < factor < 1:
            raise UserError(f"schedule: factor = {factor}: use a share between 0 and 1")
        if not 0 <= min_factor <= 1:
            raise UserError(f"schedule: min_factor = {min_factor}: use 0 to 1")
        self.patience = patience
        self.step_factor = factor
        self.min_factor = min_factor
        self.warmup_fraction = warmup_fraction
        self.factor = 1.0
        self.best = -math.inf
        self.num_bad = 0

    def __call__(self, progress: float) -> float:
        return self.factor * constant(progress, warmup_fraction=self.warmup_fraction)

    def observe(self, score: float) -> None:
        """Take note of the score of a validation, of which larger is better."""
        if score > self.best * (1 + _THRESHOLD):
            self.best, self.num_bad = score, 0
        else:
            self.num_bad += 1
        if self.num_bad > self.patience:
            self.factor = max(self.factor * self.step_factor, self.min_factor)
            self.num_bad = 0

    def state_dict(self) -> dict[str, Any]:
        """The factor reached, the best score, and the validations since it."""
        return {"factor": self.factor, "best": self.best, "num_bad": self.num_bad}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.factor, self.best = float(state["factor"]), float(state["best"])
        self.num_bad = int(state["num_bad"])


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


SCHEDULES: dict[str, Callable[..., Any]] = {
    "cosine": cosine,
    "constant": constant,
    "poly": poly,
    "plateau": Plateau,
}
"""Name -> function of progress, or class; the keyword-only parameters are the options."""


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
