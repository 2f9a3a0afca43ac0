"""The end of a run: its models kept, the best one handed to MLflow with scores and data."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unet_pipeline import tracking
from unet_pipeline.datasets.manifest import FACTS_FILE, SAMPLES_FILE, Manifest
from unet_pipeline.inference import example_image
from unet_pipeline.models import ModelCard, load_model
from unet_pipeline.runtime import choose_device, place
from unet_pipeline.stages.session import Session, log_panel, write_model
from unet_pipeline.stages.telling import headline, run_note
from unet_pipeline.training import run_folder as runs

logger = logging.getLogger(__name__)


def publish(session: Session) -> None:
    """Keep the last model beside the best, picture the best, and give all of it to MLflow."""
    folder, reached, track = session.folder, session.reached, session.track
    if session.given_up:
        track.set_tags({"unet.pruned": True})
    last = reached.history[-1]
    write_model(session, folder / runs.LAST_NAME, last)
    if not reached.best:
        logger.warning("no validation gave a mean IoU: the last model is kept as the best")
        reached.best = last
        write_model(session, folder / runs.BEST_NAME, last)
    best = place(load_model(folder / runs.BEST_NAME), choose_device(session.config.runtime.device))
    log_panel(session, best, group="final", step=0)
    log_model(
        track,
        folder / runs.BEST_NAME,
        best.card,
        session.manifest,
        scores=best_scores(reached.best),
        params=headline(session.config, session.manifest),
        register=session.config.output.register_as,
    )
    track.log_artifact(folder / runs.LAST_NAME, "weights")
    for name in (runs.CONFIG_NAME, FACTS_FILE, SAMPLES_FILE, runs.HISTORY_NAME, runs.LOG_NAME):
        track.log_artifact(folder / name)
    track.log_note(run_note(session))


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
