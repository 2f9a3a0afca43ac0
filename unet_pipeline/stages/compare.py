"""compare: the ladder from a majority vote to the U-Net on one dataset -> one table.

Each rung is a run like any other, nested in one that holds the table: what a network buys is what
it scores above the rung below.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from unet_pipeline import tracking
from unet_pipeline.config import EvaluateConfig, TrainConfig
from unet_pipeline.console import as_text, log_to_file
from unet_pipeline.datasets.images import encode_png
from unet_pipeline.datasets.loaders import iterate_samples, read_sample
from unet_pipeline.datasets.manifest import Manifest, Split
from unet_pipeline.errors import UserError
from unet_pipeline.evaluation import (
    Rung,
    best_rung,
    comparison_csv,
    comparison_markdown,
    comparison_png,
    comparison_table,
    gallery,
)
from unet_pipeline.files import folder_lock, require_writable, write_atomic
from unet_pipeline.inference import OVERLAP, predict_image
from unet_pipeline.models import (
    PATCH_NETWORKS,
    RULES,
    Segmenter,
    load_model,
)
from unet_pipeline.runtime import choose_device, choose_precision, place
from unet_pipeline.stages.assembly import (
    build_loss,
    complete_config,
    given_or,
    open_data,
)
from unet_pipeline.stages.evaluate import evaluate
from unet_pipeline.stages.fitting import fit_rule
from unet_pipeline.stages.session import start_tracking
from unet_pipeline.stages.train import InterruptedRunError, train
from unet_pipeline.training import run_folder as runs

logger = logging.getLogger(__name__)

BASELINES = ("mlp", "lenet")  # smallest step first
NUM_PICTURES = 4
_TIMED_PIXELS = 4e6  # of prediction: enough for two digits, seconds for the slowest rung


@dataclass(frozen=True)
class Comparison:
    """What `compare` has made: the folder of the table, its rungs, and what failed."""

    folder: Path
    title: str
    rungs: tuple[Rung, ...]
    failures: tuple[UserError, ...]
    tracking_url: str | None

    def summary(self) -> dict[str, Any]:
        """JSON-able."""
        rungs = [rung.summary() for rung in self.rungs]
        return {"folder": str(self.folder), "tracking_url": self.tracking_url, "rungs": rungs}

    def table(self) -> str:
        """The table as text."""
        return as_text(comparison_table(self.rungs, title=self.title))

    def raise_for_failed(self) -> None:
        """Raise the error of the first rung that failed; the others stand in the table."""
        if self.failures:
            raise self.failures[0]


@dataclass(frozen=True)
class _Ladder:
    """What all rungs have in common."""

    config: TrainConfig
    manifest: Manifest
    split: Split
    experiment: str
    track: tracking.Run


def compare(config: TrainConfig) -> Comparison:
    """Score majority class, Otsu threshold, MLP, LeNet and the network of `config` on one dataset.

    Every network gets the limits of `config` (epochs, steps, budget) for itself. All are scored on
    the test split, or on the validation split where there is no test. A rung that cannot be is a
    row with the reason, and the others go on.
    Raises `UserError` for data or settings that no rung can work with, `InterruptedRunError` after
    a signal.
    """
    require_writable(Path(config.output.runs_dir))
    manifest = open_data(config.data, splits=("train", "val"))
    facts = manifest.facts
    experiment = tracking.experiment_name(config.output.experiment, default=facts.name)
    # Names and options that nobody knows are said now, before the first rung
    top = _config_of(config.model.name, config, experiment)
    complete_config(top, manifest)
    build_loss(top, facts)
    folder = runs.create_run_folder(
        Path(config.output.runs_dir), experiment, config.output.run_name, stem="baselines"
    )
    split: Split = "test" if facts.num_samples["test"] else "val"
    title = f"{facts.name}: {facts.num_samples[split]} {split} images"
    with folder_lock(folder), log_to_file(folder / runs.LOG_NAME):
        params = {"model.name": "baselines", "data.name": facts.name}
        track = start_tracking(config, manifest, folder, experiment, params=params)
        status: tracking.Status = "FAILED"
        try:
            ladder = _Ladder(config, manifest, split, experiment, track)
            rungs, failures = _climb(ladder)
            _write(ladder, folder, rungs, title)
            status = "FINISHED"
        except (InterruptedRunError, KeyboardInterrupt):
            status = "KILLED"
            raise
        finally:
            track.close(status)
    logger.info("table and pictures: %s", folder)
    return Comparison(folder, title, tuple(rungs), tuple(failures), track.url)


def _climb(ladder: _Ladder) -> tuple[list[Rung], list[UserError]]:
    """The rungs from the bottom up, and the errors of those that failed."""
    networks = dict.fromkeys((*BASELINES, ladder.config.model.name))  # a name once, in order
    steps: dict[str, Callable[[str], tuple[Path, float]]] = {}
    steps |= {name: lambda name: _fit(ladder, name) for name in RULES}
    steps |= {name: lambda name: _train_network(ladder, name) for name in networks}
    rungs: list[Rung] = []
    failures: list[UserError] = []
    for number, (name, make) in enumerate(steps.items(), start=1):
        logger.info("%d of %d: %s", number, len(steps), name)
        try:
            folder, seconds = make(name)
            rungs.append(_score(ladder, name, folder, seconds))
        except InterruptedRunError:
            raise
        except UserError as error:
            logger.warning("%s: %s", name, error)
            rungs.append(Rung(name, note=str(error)))
            if name not in RULES:  # a rule that does not apply is no failure
                failures.append(error)
    return rungs, failures


def _fit(ladder: _Ladder, name: str) -> tuple[Path, float]:
    """Fit a predictor that has nothing to train: its run folder, and the seconds that it took."""
    began = time.monotonic()
    folder = fit_rule(
        name, ladder.config, ladder.manifest, experiment=ladder.experiment, parent=ladder.track
    )
    return folder, time.monotonic() - began


def _train_network(ladder: _Ladder, name: str) -> tuple[Path, float]:
    """Train one network: its run folder, and the seconds that it took."""
    config = _config_of(name, ladder.config, ladder.experiment)
    run = train(config, manifest=ladder.manifest, parent=ladder.track)
    return run.folder, run.seconds


def _config_of(name: str, config: TrainConfig, experiment: str) -> TrainConfig:
    """The settings of one rung: what is for the top one, or for patches, is for no other."""
    tree = config.model_dump(exclude_unset=True)
    tree["output"] = tree.get("output", {}) | {"run_name": None, "experiment": experiment}
    if name != config.model.name:
        tree["model"] = {"name": name}
    if name not in PATCH_NETWORKS:
        for key in ("num_pixels", "balance"):
            tree.get("training", {}).pop(key, None)
    return TrainConfig.model_validate(tree)


def _score(ladder: _Ladder, name: str, folder: Path, seconds: float) -> Rung:
    config = ladder.config
    evaluation = evaluate(
        EvaluateConfig(
            model=str(folder),
            split=ladder.split,
            runtime=config.runtime,
            inference=config.inference,
            tracking=config.output.tracking,
        ),
        manifest=ladder.manifest,
    )
    segmenter = load_model(folder)
    return Rung(
        name,
        mean_iou=evaluation.scores.mean_iou,
        mean_dice=evaluation.scores.mean_dice,
        parameters=sum(weights.numel() for weights in segmenter.network.parameters()),
        training_seconds=seconds,
        megapixels_per_second=_speed(ladder, segmenter),
        run=str(folder),
    )


def _speed(ladder: _Ladder, segmenter: Segmenter) -> float:
    """Megapixels a second of prediction, over decoded images; the first one warms up."""
    images = []
    num_pixels = 0
    for _, image, _ in _samples(ladder):
        images.append(image)
        num_pixels += image.shape[0] * image.shape[1]
        if num_pixels > _TIMED_PIXELS:
            break
    predict = _predictor(ladder, segmenter)
    predict(images[0])
    began = time.perf_counter()
    for image in images:
        predict(image)
    return num_pixels / 1e6 / (time.perf_counter() - began)


def _samples(ladder: _Ladder) -> Any:
    facts = ladder.manifest.facts
    return iterate_samples(
        ladder.manifest.split(ladder.split), classes=facts.classes, in_channels=facts.in_channels
    )


def _predictor(
    ladder: _Ladder, segmenter: Segmenter
) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    """image (H, W, C) -> class indices (H, W), as `evaluate` predicts."""
    config = ladder.config
    device = choose_device(config.runtime.device)
    segmenter = place(segmenter, device)

    def predict(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        indices, _ = predict_image(
            segmenter,
            image,
            window=given_or(config.inference.window, segmenter.card.window),
            overlap=given_or(config.inference.overlap, OVERLAP),
            autocast_dtype=choose_precision(config.runtime.amp, device),
        )
        return indices

    return predict


def _write(ladder: _Ladder, folder: Path, rungs: list[Rung], title: str) -> None:
    """The table as CSV and markdown, the bars, the pictures; all of it into the parent run too."""
    write_atomic(folder / "comparison.csv", comparison_csv(rungs))
    markdown = comparison_markdown(rungs, title=title)
    write_atomic(folder / "comparison.md", markdown)
    files = ["comparison.csv", "comparison.md"]
    track = ladder.track
    if best_rung(rungs) is not None:
        write_atomic(folder / "comparison.png", comparison_png(rungs, title=title))
        files.append("comparison.png")
        scored = [rung for rung in rungs if rung.run]
        write_atomic(folder / "predictions.png", encode_png(_gallery(ladder, scored)))
        files.append("predictions.png")
        track.log_metrics({f"ladder/{rung.name}": rung.mean_iou for rung in scored}, step=0)
    for name in files:
        track.log_artifact(folder / name)
    track.log_note(markdown)


def _gallery(ladder: _Ladder, rungs: list[Rung]) -> Any:
    """A few images, spread over the split, with the truth and the mask of every rung."""
    facts, samples = ladder.manifest.facts, ladder.manifest.split(ladder.split)
    count = min(NUM_PICTURES, len(samples))
    chosen = [samples[round(n * (len(samples) - 1) / max(1, count - 1))] for n in range(count)]
    predictors = {rung.name: _predictor(ladder, load_model(rung.run).eval()) for rung in rungs}
    rows = []
    for sample in chosen:
        image, mask = read_sample(sample, classes=facts.classes, in_channels=facts.in_channels)
        masks = {name: predict(image) for name, predict in predictors.items()}
        rows.append((sample.sample_id, image, {"truth": mask} | masks))
    return gallery(rows, facts.classes)
