"""A run's model handed to MLflow: what it is, what it scores, on which data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unet_pipeline import tracking
from unet_pipeline.datasets.manifest import Manifest
from unet_pipeline.inference import example_image
from unet_pipeline.models import ModelCard


def best_scores(best: Mapping[str, float]) -> dict[str, float]:
    """The scores of the best epoch as metrics of the run: best/mean_iou, ..., best/epoch."""
    scores = {name.removeprefix("val/"): value for name, value in best.items() if "val/" in name}
    overall = {f"best/{name}": value for name, value in scores.items() if "/" not in name}
    return overall | {"best/epoch": best["epoch"]}


def log_model(
    track: tracking.Run,
    path: Path,
    card: ModelCard,
    manifest: Manifest,
    *,
    scores: Mapping[str, float] | None = None,
    params: Mapping[str, Any] | None = None,
    register: str | None = None,
) -> None:
    """Give MLflow the model file of a run, with its scores on the val split.

    register: the registered model that it becomes a version of.
    """
    facts, scores = manifest.facts, scores or {}
    figure = scores.get("best/mean_iou", math.nan)
    result = f"validation mean IoU {figure:.4f}" if math.isfinite(figure) else "not validated"
    track.log_model(
        path,
        network=card.network,
        example=example_image(card),
        params=params or {"model.name": card.network, "data.name": facts.name},
        tags={"unet.dataset": facts.name, "unet.fingerprint": facts.fingerprint},
        register=register,
        description=f"{card.network} on {facts.name}, {result}; run {track.run_name}.",
    )
    if scores:
        track.log_metrics(
            scores,
            step=0,
            dataset=(f"{facts.name}-val", facts.fingerprint),
            model=tracking.file_digest(path),
        )
