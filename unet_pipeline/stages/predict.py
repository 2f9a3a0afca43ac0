"""predict: a model and images -> masks in the values of the training masks, at original size."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unet_pipeline import tracking
from unet_pipeline.config import RUNS_DIR, PredictConfig, dump_config
from unet_pipeline.datasets.findings import counted
from unet_pipeline.errors import RejectedInputsError, UserError
from unet_pipeline.files import make_writable_folder, require_writable
from unet_pipeline.inference import (
    BATCH_SIZE,
    OVERLAP,
    FolderSummary,
    collect_inputs,
    plan_outputs,
    predict_folder,
)
from unet_pipeline.inference.folder import FAILURES_NAME
from unet_pipeline.models import load_model
from unet_pipeline.progress import progress_bar
from unet_pipeline.runtime import choose_device, choose_precision, memory_errors, place
from unet_pipeline.stages.assembly import given_or
from unet_pipeline.stages.model_source import find_model
from unet_pipeline.training.run_folder import create_run_folder

logger = logging.getLogger(__name__)

LEAST_MEGAPIXELS = 0.1  # fewer would read "0.0 megapixels"


@dataclass(frozen=True)
class PredictedFiles:
    """What `predict_files` has made: the folder of masks, and what became of each input."""

    folder: Path
    result: FolderSummary

    def summary(self) -> dict[str, Any]:
        """JSON-able."""
        result = self.result
        names = result.classes.names
        return {
            "folder": str(self.folder),
            "written": result.written,
            "skipped": result.skipped,
            "failures": {str(failure.path): failure.reason for failure in result.failures},
            "without_foreground": result.num_without_foreground,
            "class_pixels": dict(zip(names, result.class_pixels, strict=True)),
            "seconds": round(result.seconds, 3),
            "megapixels": round(result.megapixels, 3),
        }

    def raise_for_rejected(self) -> None:
        """Raise `RejectedInputsError` where inputs have no mask; the first says why."""
        failures = self.result.failures
        if failures:
            raise RejectedInputsError(
                f"{len(failures)} of {len(failures) + self.result.written + self.result.skipped} "
                f"inputs have no mask, listed in {self.folder / FAILURES_NAME}; "
                f"the first: {failures[0].path}: {failures[0].reason}"
            )


def predict_files(config: PredictConfig) -> PredictedFiles:
    """Write a mask, and what else `config.save` asks for, for each image of `config.inputs`.

    Whatever can be wrong with the settings is found before the model is loaded; an image that
    cannot be read is listed and the rest goes on (see `PredictedFiles.raise_for_rejected`).
    """
    for name in ("inputs", "model", "output"):
        if not getattr(config, name):
            option = "images or folders to predict" if name == "inputs" else f"--{name}"
            raise UserError(f"no {name}: give {option}")
    output = Path(str(config.output))
    device = choose_device(config.runtime.device)
    jobs = plan_outputs(collect_inputs(config.inputs, output=output), output, config.save)
    make_writable_folder(output)
    if config.track:
        require_writable(Path(RUNS_DIR))
    with memory_errors("use --device cpu"):
        segmenter = place(load_model(find_model(str(config.model)).path), device)
    with progress_bar("predicting", total=len(jobs), unit="images") as bar:
        result = predict_folder(
            segmenter,
            jobs,
            output=output,
            window=given_or(config.inference.window, segmenter.card.window),
            overlap=given_or(config.inference.overlap, OVERLAP),
            batch_size=given_or(config.batch_size, BATCH_SIZE),
            autocast_dtype=choose_precision(config.runtime.amp, device),
            tta=config.tta,
            threshold=config.threshold,
            skip_existing=config.skip_existing,
            on_progress=lambda done: bar.move_to(done, count=done),
        )
    predicted = PredictedFiles(output, result)
    _say(predicted, config)
    if config.track:
        _track(config, predicted)
    return predicted


def _say(predicted: PredictedFiles, config: PredictConfig) -> None:
    result = predicted.result
    skipped = f", {result.skipped} left as they were" if result.skipped else ""
    logger.info("%s written%s%s", counted(result.written, "mask"), skipped, _speed(result))
    if result.warning:
        logger.warning("%s", result.warning)
    classes = result.classes
    values = [value for value in classes.values if isinstance(value, int)]
    if config.save == ("mask",) and classes.encoding == "grey" and values and max(values) < 64:
        logger.info(
            "the masks hold the values %d..%d of the training masks, which look black in a viewer; "
            "--save mask,color writes pictures beside them",
            min(values),
            max(values),
        )


def _speed(result: FolderSummary) -> str:
    """How much was predicted and how fast, as the end of a sentence; nothing where none was."""
    if not result.written:
        return ""
    if result.megapixels < LEAST_MEGAPIXELS:
        amount, rate, unit = "", result.written / max(result.seconds, 1e-9), "images "
    else:
        amount, unit = f"{result.megapixels:.1f} megapixels ", ""
        rate = result.megapixels / max(result.seconds, 1e-9)
    return f": {amount}in {result.seconds:.1f} s ({rate:.2f} {unit}a second)"


def _track(config: PredictConfig, predicted: PredictedFiles) -> None:
    """Record this prediction as an MLflow run of its own."""
    experiment = tracking.experiment_name(None, default="predict")
    stem = f"predict-{predicted.folder.name}"
    folder = create_run_folder(Path(RUNS_DIR), experiment, None, stem=stem)
    result = predicted.result
    track = tracking.start(
        folder,
        experiment=experiment,
        run_name=folder.name,
        params={"model": config.model, "inputs": len(config.inputs), "tta": config.tta},
        tags={"unet.settings": dump_config(config)},
        stage="predict",
    )
    figures = {
        "written": result.written,
        "failed": len(result.failures),
        "without_foreground": result.num_without_foreground,
        "seconds": result.seconds,
        "megapixels": result.megapixels,
    }
    track.log_metrics({f"predict/{key}": value for key, value in figures.items()}, step=0)
    if result.failures:
        track.log_artifact(predicted.folder / FAILURES_NAME)
    track.close("FINISHED")
    track.say_where()
