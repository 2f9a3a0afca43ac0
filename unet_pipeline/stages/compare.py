"""compare: the ladder from a majority vote to the U-Net on one dataset -> one table.

Each rung is a run like any other, nested in one that holds the table: what a network buys is what
it scores above the rung below.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from unet_pipeline.config import TrainConfig
from unet_pipeline.console import as_text
from unet_pipeline.datasets.encoders import encode_png
from unet_pipeline.datasets.manifest import Manifest, Sample, Split
from unet_pipeline.errors import UserError
from unet_pipeline.evaluation import (
    Rung,
    comparison_csv,
    comparison_markdown,
    comparison_png,
    comparison_table,
)
from unet_pipeline.files import write_atomic
from unet_pipeline.models import (
    PATCH_NETWORKS,
    RULES,
    build_network,
    load_model,
)
from unet_pipeline.runtime import choose_device
from unet_pipeline.stages.assembly import as_the_weights
from unet_pipeline.stages.fitting import fit_rule
from unet_pipeline.stages.measuring import (
    make_predictor,
    masks_side_by_side,
    prediction_speed,
    windows_of,
)
from unet_pipeline.stages.nested import (
    Parent,
    complete_shared,
    fill_row,
    open_parent,
    open_shared,
    score_below,
    train_below,
)

logger = logging.getLogger(__name__)

BASELINES = ("mlp", "lenet")  # smallest step first


@dataclass(frozen=True)
class Comparison:
    """What `compare` has made: the folder of the table, its rungs, and what failed."""

    folder: Path
    data: str
    split: Split
    num_images: int
    rungs: tuple[Rung, ...]
    failures: tuple[UserError, ...]
    tracking_url: str | None

    def summary(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "folder": str(self.folder),
            "data": self.data,
            "split": self.split,
            "num_images": self.num_images,
            "tracking_url": self.tracking_url,
            "rungs": [rung.summary() for rung in self.rungs],
        }

    def table(self) -> str:
        """The table as text."""
        title = f"{self.data}: {self.num_images} {self.split} images"
        return as_text(comparison_table(self.rungs, title=title))

    def raise_for_failed(self) -> None:
        """Raise the error of the first rung that failed; the others stand in the table."""
        if self.failures:
            raise self.failures[0]


@dataclass
class _Ladder:
    """What all rungs have in common, and what came of them."""

    config: TrainConfig
    manifest: Manifest
    split: Split
    parent: Parent
    rungs: list[Rung] = field(default_factory=list)

    @property
    def samples(self) -> list[Sample]:
        return self.manifest.split(self.split)

    @property
    def title(self) -> str:
        facts = self.manifest.facts
        return f"{facts.name}: {facts.num_samples[self.split]} {self.split} images"


def compare(config: TrainConfig) -> Comparison:
    """Score majority class, Otsu threshold, MLP, LeNet and the network of `config` on one dataset.

    Every network gets the limits of `config` (epochs, steps, budget) for itself. All are scored on
    the test split, or on the validation split where there is no test. A rung that does not apply
    is a row with the reason; so is one that fails, and the others go on. The table is written
    after every rung, so that what an interruption leaves is worth having.
    Raises `UserError` for data or settings that no rung can work with, `InterruptedRunError` after
    a signal.
    """
    manifest, shared = open_shared(config, splits=("train", "val"))
    facts = manifest.facts
    asked, shared = shared.model.name, as_the_weights(shared)
    if shared.model.name != asked:
        logger.info("the weights are of %s, which is the last rung", shared.model.name)
    top = complete_shared(_config_of(shared.model.name, shared), manifest)
    split: Split = "test" if facts.num_samples["test"] else "val"
    run_name = config.output.run_name
    with open_parent(top, manifest, run_name=run_name, stem="baselines", row="rung") as parent:
        ladder = _Ladder(shared, manifest, split, parent)
        _climb(ladder)
        _write_pictures(ladder)
    logger.info("table and pictures: %s", parent.folder)
    parent.track.say_where("table")
    return Comparison(
        parent.folder,
        facts.name,
        split,
        facts.num_samples[split],
        tuple(ladder.rungs),
        tuple(parent.failures),
        parent.track.url,
    )


def _climb(ladder: _Ladder) -> None:
    """Fit or train, and score, from the bottom up."""
    names = dict.fromkeys((*RULES, *BASELINES, ladder.config.model.name))  # each once, in order
    for number, name in enumerate(names, start=1):
        logger.info("%d of %d: %s", number, len(names), name)
        reason = _reason_against(ladder, name)
        if reason:
            _keep(ladder, Rung(name, note=reason))
        else:
            keep = partial(_keep, ladder)
            fill_row(ladder.parent, Rung(name), _make(ladder, name), keep)


def _keep(ladder: _Ladder, rung: Rung) -> None:
    """Put a rung into the table, as far as it has come."""
    if rung.note:
        logger.warning("%s: %s", rung.name, rung.note)
    ladder.rungs = [other for other in ladder.rungs if other.name != rung.name] + [rung]
    _write_table(ladder)


def _reason_against(ladder: _Ladder, name: str) -> str:
    """Why a rung cannot be on this data with these settings; empty where it can."""
    facts = ladder.manifest.facts
    try:
        if name in RULES:
            counts = {"in_channels": facts.in_channels, "num_classes": facts.classes.num_classes}
            build_network(name, {}, **counts)
        else:
            complete_shared(_config_of(name, ladder.config), ladder.manifest)
    except UserError as error:
        return str(error)
    return ""


def _make(ladder: _Ladder, name: str) -> Iterator[Rung]:
    """The rung as far as it has come: trained, then scored, then timed."""
    if name in RULES:
        began = time.monotonic()
        folder = fit_rule(
            name,
            ladder.config,
            ladder.manifest,
            experiment=ladder.parent.track.experiment,
            parent=ladder.parent.track,
        )
        seconds = time.monotonic() - began
    else:
        run = train_below(ladder.parent, _config_of(name, ladder.config), ladder.manifest)
        folder, seconds = run.folder, run.seconds
    segmenter = load_model(folder)
    parameters = sum(weights.numel() for weights in segmenter.network.parameters())
    rung = Rung(name, parameters=parameters, training_seconds=seconds, run=str(folder))
    yield rung
    config, facts = ladder.config, ladder.manifest.facts
    scores = score_below(
        folder, config, ladder.manifest, split=ladder.split, inference=windows_of(config, name)
    )
    rung = replace(rung, mean_iou=scores.mean_iou, mean_dice=scores.mean_dice)
    yield rung
    speed = prediction_speed(make_predictor(segmenter, config), ladder.samples, facts)
    yield replace(rung, megapixels_per_second=speed)


def _config_of(name: str, config: TrainConfig) -> TrainConfig:
    """The settings of one rung: what is for the top one, or for patches, is for no other."""
    tree = config.model_dump(exclude_unset=True)
    if name != config.model.name:
        tree["model"] = {"name": name}
    if name in PATCH_NETWORKS:
        if choose_device(config.runtime.device).type == "cpu":
            tree.get("runtime", {}).pop("amp", None)
    else:
        for key in ("num_pixels", "balance"):
            tree.get("training", {}).pop(key, None)
    return TrainConfig.model_validate(tree)


def _write_table(ladder: _Ladder) -> None:
    """The rungs so far as CSV and markdown, and in the parent run."""
    markdown = comparison_markdown(ladder.rungs, title=ladder.title)
    csv = comparison_csv(ladder.rungs)
    ladder.parent.write_table("comparison", len(ladder.rungs), csv=csv, markdown=markdown)
    figures = {f"ladder/{rung.name}": rung.mean_iou for rung in ladder.rungs if _scored(rung)}
    ladder.parent.track.log_metrics(figures, step=0)


def _write_pictures(ladder: _Ladder) -> None:
    """Bars of the scores, and the masks of all rungs side by side."""
    scored = [rung for rung in ladder.rungs if _scored(rung)]
    if not scored:
        logger.warning("no rung has a score: is the %s split all void?", ladder.split)
        return
    folder = ladder.parent.folder
    write_atomic(folder / "comparison.png", comparison_png(scored, title=ladder.title))
    predictors = {r.name: make_predictor(load_model(r.run), ladder.config) for r in scored}
    masks = masks_side_by_side(predictors, ladder.samples, ladder.manifest.facts)
    write_atomic(folder / "predictions.png", encode_png(masks))
    for name in ("comparison.png", "predictions.png"):
        ladder.parent.track.log_artifact(folder / name)


def _scored(rung: Rung) -> bool:
    return not math.isnan(rung.mean_iou)
