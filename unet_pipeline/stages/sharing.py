"""The time of a sweep, shared by its trials."""

from __future__ import annotations

import math

from unet_pipeline.config import TrainConfig

LEAST_TRIAL_SECONDS = 10.0  # reading, two validations and saving take some of them
_CLOSING_SECONDS, _CLOSING_SHARE = 4.0, 0.04  # the smaller one, for the last tables and pictures


def trial_seconds(remaining: float, *, left: int, running: int) -> float:
    """The share of the `remaining` seconds that the next trial gets.

    left: trials that are begun after it. running: those in progress when it is, itself included:
    so many processes share the trials. Where all could only be very short, there are fewer.

    >>> trial_seconds(3600, left=19, running=1), trial_seconds(3600, left=18, running=2)
    (180.0, 360.0)
    """
    rounds = math.ceil((left + running) / running)
    return remaining / max(1, min(rounds, int(remaining // LEAST_TRIAL_SECONDS)))


def trials_end(began: float, budget: float) -> float:
    """When the last trial has to be over, of a sweep that began then."""
    return began + budget - min(_CLOSING_SECONDS, _CLOSING_SHARE * budget)


def is_limited(config: TrainConfig) -> bool:
    """Whether each trial has a limit of its own, and no share of the time."""
    return config.training.epochs is not None or config.training.max_steps is not None


def within(config: TrainConfig, seconds: float) -> TrainConfig:
    """`config` with a budget of `seconds` at most."""
    tree = config.model_dump(exclude_unset=True)
    training = tree.setdefault("training", {})
    training["budget_seconds"] = min(seconds, config.training.budget_seconds or math.inf)
    return TrainConfig.model_validate(tree)
