"""Logits -> weights: losses, optimizers, the engine, checkpoints."""

from __future__ import annotations

from unet_pipeline.training.epochs import EpochResult, train_epoch, validate_epoch
from unet_pipeline.training.losses import CRITERIA, LOSSES, LossSum, parse_loss
from unet_pipeline.training.optimizers import OPTIMIZERS, build_optimizer
from unet_pipeline.training.schedules import SCHEDULES, build_schedule

__all__ = [
    "CRITERIA",
    "LOSSES",
    "OPTIMIZERS",
    "SCHEDULES",
    "EpochResult",
    "LossSum",
    "build_optimizer",
    "build_schedule",
    "parse_loss",
    "train_epoch",
    "validate_epoch",
]
