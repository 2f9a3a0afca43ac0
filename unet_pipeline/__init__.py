"""unet-pipeline: a folder of images and masks in; a trained U-Net, numbers and masks out.

Importing this package costs nothing: each name below is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# name -> the module that holds it; the names are the public interface
_HOMES = {
    "ChainConfig": "unet_pipeline.chain_config",
    "EvaluateConfig": "unet_pipeline.config",
    "PredictConfig": "unet_pipeline.config",
    "PrepareConfig": "unet_pipeline.config",
    "TrainConfig": "unet_pipeline.config",
    "load_config": "unet_pipeline.config",
    "SweepConfig": "unet_pipeline.sweep_config",
    "load_sweep_config": "unet_pipeline.sweep_config",
    "UserError": "unet_pipeline.errors",
    "prepare": "unet_pipeline.stages.prepare",
    "check": "unet_pipeline.stages.prepare",
    "train": "unet_pipeline.stages.train",
    "evaluate": "unet_pipeline.stages.evaluate",
    "run_chain": "unet_pipeline.stages.chain",
    "compare": "unet_pipeline.stages.compare",
    "cross_validate": "unet_pipeline.stages.cross_validate",
    "sweep": "unet_pipeline.stages.sweep",
    "predict_files": "unet_pipeline.stages.predict",
    "predict": "unet_pipeline.inference",
    "Predictor": "unet_pipeline.inference",
    "Segmenter": "unet_pipeline.models",
    "UNet": "unet_pipeline.models",
    "LeNet": "unet_pipeline.models",
    "MLP": "unet_pipeline.models",
    "load_model": "unet_pipeline.models",
    "save_model": "unet_pipeline.models",
    "NETWORKS": "unet_pipeline.models",
    "INITIALIZERS": "unet_pipeline.models.initializers",
    "initialize": "unet_pipeline.models.initializers",
    "LOSSES": "unet_pipeline.training.losses",
    "CRITERIA": "unet_pipeline.training.losses",
    "parse_loss": "unet_pipeline.training.losses",
    "train_epoch": "unet_pipeline.training.epochs",
    "validate_epoch": "unet_pipeline.training.epochs",
    "OPTIMIZERS": "unet_pipeline.training.optimizers",
    "SCHEDULES": "unet_pipeline.training.schedules",
    "OUTPUTS": "unet_pipeline.inference",
    "TRANSFORMS": "unet_pipeline.datasets.transforms",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
