"""evaluate: a model and a dataset -> scores, a report folder, and figures in the model's run."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from unet_pipeline import tracking
from unet_pipeline.classes import Classes
from unet_pipeline.config import DataSettings, EvaluateConfig, TrainConfig, load_config
from unet_pipeline.console import as_text, progress_bar
from unet_pipeline.datasets.loaders import iterate_samples, read_sample
from unet_pipeline.datasets.manifest import Manifest, Sample
from unet_pipeline.errors import UserError
from unet_pipeline.evaluation import (
    Scores,
    headline_figures,
    score_table,
    scores_json,
    write_report,
)
from unet_pipeline.files import make_writable_folder
from unet_pipeline.inference import OVERLAP, predict_image, score
from unet_pipeline.models import Segmenter, load_model
from unet_pipeline.runtime import choose_device, choose_precision, place
from unet_pipeline.stages.assembly import given_or, open_data
from unet_pipeline.training import run_folder as runs

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` has found: the folder of the report, and the scores in it."""

    folder: Path
    split: str
    scores: Scores
    classes: Classes

    def summary(self) -> dict[str, Any]:
        """JSON-able."""
        figures = scores_json(self.scores, self.classes)
        return {"folder": str(self.folder), "split": self.split, **figures}

    def table(self) -> str:
        """The scores as a table of text."""
        return as_text(score_table(self.scores, self.classes))


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Score a model on a split; masks are read by the classes of the model.

    Raises `UserError` for a model or data that cannot be used, `DatasetError` for masks that hold
    values which are no class of the model.
    """
    if not config.model:
        raise UserError("no model: give --model, a run folder or a model file")
    model_path = Path(config.model)
    device = choose_device(config.runtime.device)
    autocast_dtype = choose_precision(config.runtime.amp, device)
    segmenter = place(load_model(model_path), device)
    run_dir = runs.find_run_folder(model_path)
    manifest, samples = _open_split(config, run_dir)
    folder = make_writable_folder(_report_folder(config, run_dir, manifest))
    classes = _classes(segmenter, manifest)
    card = segmenter.card
    if manifest.facts.dtype != card.dtype:
        raise UserError(
            f"the model knows {card.dtype} images, the dataset holds {manifest.facts.dtype}: "
            "convert them as the training images were"
        )
    window = given_or(config.inference.window, card.window)
    overlap = given_or(config.inference.overlap, OVERLAP)
    with progress_bar("evaluating", total=len(samples), unit="images") as bar:
        result = score(
            segmenter,
            iterate_samples(samples, classes=classes, in_channels=card.in_channels),
            window=window,
            overlap=overlap,
            autocast_dtype=autocast_dtype,
            on_progress=lambda done: bar.move_to(done, count=done),
        )
    by_id = {sample.sample_id: sample for sample in samples}

    def picture(sample_id: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
        decoded = read_sample(by_id[sample_id], classes=classes, in_channels=card.in_channels)
        prediction, _ = predict_image(
            segmenter,
            decoded.image,
            window=window,
            overlap=overlap,
            autocast_dtype=autocast_dtype,
        )
        return decoded.image, decoded.mask, prediction

    scores = write_report(
        folder,
        sample_ids=result.sample_ids,
        matrices=result.matrices,
        classes=classes,
        picture=picture,
        num_pictures=config.num_pictures,
    )
    evaluation = Evaluation(folder, config.split, scores, classes)
    logger.info("report: %s", folder)
    url = _track(config, run_dir, evaluation, manifest, card.facts)
    if url:
        logger.info("this run: %s", url)
    return evaluation


def _open_split(config: EvaluateConfig, run_dir: Path | None) -> tuple[Manifest, list[Sample]]:
    """The dataset and the samples to score; without --data, what the model was trained on."""
    data: DataSettings = config.data
    if data.path is None:
        if run_dir is None:
            raise UserError("no data: give --data, a prepared dataset or a folder with masks")
        data = load_config(run_dir / runs.CONFIG_NAME, kind=TrainConfig).data
    if config.split == "all":
        manifest = open_data(data, splits=())
        return manifest, list(manifest.samples)
    manifest = open_data(data, splits=(config.split,))
    return manifest, manifest.split(config.split)


def _report_folder(config: EvaluateConfig, run_dir: Path | None, manifest: Manifest) -> Path:
    if config.output:
        return Path(config.output)
    parent = run_dir or Path("runs") / runs.slug(Path(str(config.model)).stem)
    return parent / "evaluation" / runs.slug(f"{manifest.facts.name}-{config.split}")


def _classes(segmenter: Segmenter, manifest: Manifest) -> Classes:
    """The classes of the model; void values of the dataset that are no class of it stay void."""
    model, data = segmenter.card.classes, manifest.facts.classes
    if model.encoding == "rgb" and data.encoding != "rgb":
        raise UserError("the model knows coloured masks, the dataset holds plain ones")
    extra = tuple(
        value
        for value in data.ignore_values
        if value not in model.values and value not in model.ignore_values
    )
    return Classes.model_validate(
        model.model_dump() | {"ignore_values": model.ignore_values + extra}
    )


def _track(
    config: EvaluateConfig,
    run_dir: Path | None,
    evaluation: Evaluation,
    manifest: Manifest,
    facts: dict[str, Any],
) -> str | None:
    """Add the figures and the report to the MLflow run that made the model; its page."""
    if config.tracking == "off" or run_dir is None:
        return None
    known = facts.get("fingerprint") == manifest.facts.fingerprint
    # other data than the model was trained on must not pass for its own test split
    group = config.split if known else f"{config.split}-{runs.slug(manifest.facts.name)}"
    figures = headline_figures(evaluation.scores, evaluation.classes)
    track = tracking.attach(run_dir)
    track.log_metrics({f"{group}/{name}": value for name, value in figures.items()}, step=0)
    track.log_artifact(evaluation.folder, "evaluation")
    track.close("FINISHED")
    return track.url
