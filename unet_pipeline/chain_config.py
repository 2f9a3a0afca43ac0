"""The settings of `unet run`: those of a training, and what its other steps have alone."""

from __future__ import annotations

from unet_pipeline.config import EvaluateConfig, PredictConfig, PrepareConfig, TrainConfig


class ChainConfig(TrainConfig):
    """What `unet run` does: a training's settings, and below them what its other steps have alone.

    data: of the source, which is prepared. inference, runtime: of all steps, where one of them has
    none of its own.
    """

    prepare: PrepareConfig = PrepareConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    predict: PredictConfig = PredictConfig()
