"""The settings of a sweep: what is tried, how often and how long; and those of its trainings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from unet_pipeline.config import TrainConfig, load_config
from unet_pipeline.settings_files import Settings, read_settings
from unet_pipeline.spelling import PositiveInt, Seconds


class SweepConfig(Settings):
    """What `unet sweep` does."""

    params: tuple[str, ...] = Field(
        (),
        description="What to try: NAME=a,b,c, or a range NAME=LOW:HIGH, LOW:HIGH:log, "
        "LOW:HIGH:STEP; NAME is an option of `unet train` (lr) or a setting (model.depth). "
        "Repeatable.",
    )
    trials: PositiveInt = Field(20, description="Trainings in all, of all processes together.")
    budget_seconds: Seconds | None = Field(
        None,
        description="Wall clock for the whole sweep, such as 1h: divided over the trials that "
        "remain, unless --epochs or --max-steps limit each.",
    )
    prune: bool = Field(
        True, description="End a trial early whose validation is below the median of the others."
    )
    train: TrainConfig = TrainConfig()


def load_sweep_config(
    path: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    auto: bool = False,
) -> SweepConfig:
    """The settings of a sweep, those of its trainings read as `load_config` does.

    overrides: settings of the trainings by dotted name, and those of the sweep by their own.
    Under the budget of a sweep, which none of its trainings exceeds, they need no other limit.

    >>> config = load_sweep_config(overrides={"trials": 3, "optimizer.name": "sgd"})
    >>> config.trials, config.train.optimizer.name
    (3, 'sgd')
    """
    rest = dict(overrides or {})
    own = {name: rest.pop(name) for name in SweepConfig.model_fields if name in rest}
    config = read_settings(SweepConfig, None, own)
    train: TrainConfig = load_config(path, rest, auto=auto)
    if config.budget_seconds is not None:
        most = min(config.budget_seconds, train.training.budget_seconds or math.inf)
        train = load_config(path, {**rest, "training.budget_seconds": most}, auto=auto)
    return config.model_copy(update={"train": train})
