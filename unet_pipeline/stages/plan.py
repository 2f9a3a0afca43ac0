"""plan: settings -> all that a training would decide, with reasons; trains nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unet_pipeline import tracking
from unet_pipeline.config import TrainConfig
from unet_pipeline.runtime import memory_errors
from unet_pipeline.stages.assembly import SMALLER, check_names, complete_config, format_plan
from unet_pipeline.stages.building import try_parts
from unet_pipeline.stages.opening import open_data
from unet_pipeline.training import run_folder as runs


@dataclass(frozen=True)
class PlannedRun:
    """What `train` would do: every setting decided, and the table of reasons."""

    config: TrainConfig
    text: str

    def summary(self) -> dict[str, Any]:
        """The settings, JSON-able."""
        return self.config.model_dump(mode="json")


def plan(config: TrainConfig) -> PlannedRun:
    """What `train` would do with `config`, after checking settings and data; changes nothing."""
    tracking.check_model_name(config.output.register_as)
    check_names(config)
    manifest = open_data(config.data, splits=("train", "val"))
    experiment = tracking.experiment_name(config.output.experiment, default=manifest.facts.name)
    runs.check_run_folder(Path(config.output.runs_dir), experiment, config.output.run_name)
    config, decisions = complete_config(config, manifest)
    with memory_errors(SMALLER):
        try_parts(config, manifest)
    return PlannedRun(config, format_plan(config, manifest, decisions))
