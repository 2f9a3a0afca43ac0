"""A run that goes on: its settings, of which few may change, and what it has reached."""

from __future__ import annotations

import logging
import operator
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from unet_pipeline.config import TrainConfig, load_config
from unet_pipeline.errors import UserError
from unet_pipeline.models import load_model
from unet_pipeline.stages.session import Reached
from unet_pipeline.training import run_folder as runs

logger = logging.getLogger(__name__)

RESUMABLE = ("training.epochs", "training.max_steps", "training.budget_seconds",
             "training.patience", "training.strict", "training.cache_fraction",
             "training.disk_fraction", "data.path", "runtime.device", "runtime.workers",
             "output.tracking", "output.register_as")  # fmt: skip


def config_of(folder: Path, overrides: Mapping[str, Any]) -> TrainConfig:
    """The settings of the run in `folder` as it goes on; see `resume`."""
    file = folder / runs.CONFIG_NAME
    if not file.is_file():
        raise UserError(f"{folder} is no run folder: it has no {runs.CONFIG_NAME}")
    if overrides.get("output.run_name") == folder.name:  # the command that began it, and --resume
        overrides = {name: v for name, v in overrides.items() if name != "output.run_name"}
    config = load_config(file, overrides, kind=TrainConfig)
    former = load_config(file, kind=TrainConfig)
    if former.data.path is None:
        raise UserError(f"{file}: is damaged, it names no data; put it back, or start a new run")
    for name in overrides:
        was, asked = (operator.attrgetter(name)(c) for c in (former, config))
        if isinstance(was, tuple) and isinstance(asked, int):
            asked = (asked, asked)  # `--image-size 64`
        # `ce+dice` is `ce + dice`
        same = str(was).replace(" ", "") == str(asked).replace(" ", "")
        if name not in RESUMABLE and not same:
            raise UserError(
                f"--resume cannot change {name} from {was} to {asked}: start a new run for that"
            )
    changes = {name: value for name, value in overrides.items() if name in RESUMABLE}
    return load_config(file, changes, kind=TrainConfig)


def reached_of(folder: Path, state: Mapping[str, Any]) -> Reached:
    """What the run of this state has reached, as far as its files are still there."""
    reached = Reached(**state["reached"])
    if reached.best:
        try:
            load_model(folder / runs.BEST_NAME)
        except UserError as error:
            logger.warning("%s; the best model from here on takes its place", error)
            return replace(reached, best={}, since_best=0)
    return reached


def reusable(config: TrainConfig) -> TrainConfig:
    """`config` as another run may take it: a name is given once."""
    tree = config.model_dump()
    tree["output"]["run_name"] = None
    return TrainConfig.model_validate(tree)
