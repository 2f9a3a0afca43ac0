"""evaluate: a model and a dataset -> scores, a report folder, and figures in the model's run."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unet_pipeline import tracking
from unet_pipeline.classes import Classes, MaskValue, parse_value
from unet_pipeline.config import EvaluateConfig, TrainConfig, load_config
from unet_pipeline.console import as_text
from unet_pipeline.datasets.class_matching import by_names, warn_of_absent_classes
from unet_pipeline.datasets.formats.class_list import ClassList
from unet_pipeline.datasets.index import list_samples
from unet_pipeline.datasets.loaders import iterate_samples, read_sample
from unet_pipeline.datasets.manifest import FACTS_FILE, Manifest, Sample
from unet_pipeline.errors import DatasetError, UserError
from unet_pipeline.evaluation import (
    CASE_COLUMNS,
    CaseTable,
    CurveScores,
    Scores,
    headline_figures,
    score_table,
    scores_json,
    spread_cases,
    summarize_curves,
    write_report,
)
from unet_pipeline.files import make_writable_folder, require_writable
from unet_pipeline.inference import OVERLAP, ImageScores, predict_image, score
from unet_pipeline.inference.sliding_window import check_window
from unet_pipeline.inference.small_windows import SmallWindows
from unet_pipeline.models import ModelCard, Segmenter, load_model
from unet_pipeline.progress import progress_bar
from unet_pipeline.runtime import choose_device, choose_precision, memory_errors, place
from unet_pipeline.stages.assembly import (
    given_or,
)
from unet_pipeline.stages.model_source import ModelSource, find_model
from unet_pipeline.stages.opening import find_data, open_data
from unet_pipeline.training import run_folder as runs

logger = logging.getLogger(__name__)

Labelled = tuple[str, npt.NDArray[Any], npt.NDArray[Any]]
"""A sample's id, image (H, W, C) and mask (H, W) of class indices."""


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` has found: the folder of the report, and the scores in it."""

    folder: Path
    split: str
    scores: Scores
    classes: Classes
    curves: CurveScores | None = None

    def summary(self) -> dict[str, Any]:
        """JSON-able."""
        figures = scores_json(self.scores, self.classes, self.curves)
        return {"folder": str(self.folder), "split": self.split, **figures}

    def table(self) -> str:
        """The scores as a table of text."""
        return as_text(score_table(self.scores, self.classes))

    def figures(self) -> dict[str, float]:
        """The figures that MLflow gets, at most 40."""
        figures = headline_figures(self.scores, self.classes)
        return figures | (self.curves.figures() if self.curves else {})


def evaluate(config: EvaluateConfig, *, manifest: Manifest | None = None) -> Evaluation:
    """Score a model on a split; masks are read by the classes of the model.

    manifest: the data that it was trained on, where it is open already.
    Raises `UserError` for a model or data that cannot be used, `DatasetError` for masks that hold
    values which are no class of the model.
    """
    if not config.model:
        raise UserError("no model: give --model, a run folder or a model file")
    device = choose_device(config.runtime.device)
    if config.output:
        require_writable(Path(config.output))
    source = find_model(config.model)
    config = config.model_copy(update={"model": str(source.path)})
    with memory_errors("use --device cpu"):
        segmenter = place(load_model(source.path), device)
    window = given_or(config.inference.window, segmenter.card.window)
    overlap = given_or(config.inference.overlap, OVERLAP)
    check_window(window, overlap, least=segmenter.least_window)  # before the data is read
    target = _find_target(config, source.run_dir, manifest)
    _warn_of_small_windows(target, segmenter.card, window)
    folder = make_writable_folder(_report_folder(config, source, target))
    classes, card = _classes(segmenter, target), segmenter.card
    # One function for scores and for pictures, so that both show the same prediction
    options: dict[str, Any] = {
        "window": window,
        "overlap": overlap,
        "autocast_dtype": choose_precision(config.runtime.amp, device),
    }
    tracked = config.tracking != "off" and source.has_run
    ids = [sample.sample_id for sample in target.samples] if tracked else []
    cases = CaseTable(spread_cases(ids), classes)
    result = _score(config, segmenter, target, classes, cases, options)
    curves = summarize_curves(result.probabilities) if result.probabilities else None
    by_id = {sample.sample_id: sample for sample in target.samples}

    def picture(sample_id: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
        decoded = read_sample(by_id[sample_id], classes=classes, in_channels=card.in_channels)
        prediction, _ = predict_image(segmenter, decoded.image, **options)
        return decoded.image, decoded.mask, prediction

    scores = write_report(
        folder,
        sample_ids=result.sample_ids,
        matrices=result.matrices,
        classes=classes,
        curves=curves,
        picture=picture,
        num_pictures=config.num_pictures,
    )
    evaluation = Evaluation(folder, config.split, scores, classes, curves)
    if target.fingerprint != card.facts.get("fingerprint"):  # of other data than it has learned
        warn_of_absent_classes(classes, scores.matrix.sum(axis=1), data=target.name)
    logger.info("report: %s", folder)
    if tracked:
        _track(config, source, evaluation, target, result, cases, card.facts)
    return evaluation


@dataclass(frozen=True)
class Target:
    """What is scored: samples of a dataset, and whether the model was trained on that dataset.

    source: where they lie. profile: facts for MLflow. content: takes in what is read, where there
    is no fingerprint.
    """

    name: str
    samples: list[Sample]
    void_values: tuple[MaskValue, ...]
    fingerprint: str | None
    source: Path
    profile: dict[str, Any]
    class_list: ClassList | None = None
    content: Any = field(default_factory=hashlib.sha256)

    @property
    def digest(self) -> str:
        """What identifies the data: the fingerprint of the dataset, or a digest of the pixels."""
        return self.fingerprint or str(self.content.hexdigest())


def _score(
    config: EvaluateConfig,
    segmenter: Segmenter,
    target: Target,
    classes: Classes,
    cases: CaseTable,
    options: dict[str, Any],
) -> ImageScores:
    """What the model says of the samples, counted; the cases are pictured on the way."""
    samples = iterate_samples(
        target.samples, classes=classes, in_channels=segmenter.card.in_channels
    )
    with progress_bar("evaluating", total=len(target.samples), unit="images") as bar:
        return score(
            segmenter,
            _of_the_model(samples, segmenter.card, target),
            probabilities=config.curves == "on",
            on_progress=lambda done: bar.move_to(done, count=done),
            on_prediction=cases.add,
            **options,
        )


def _find_target(config: EvaluateConfig, run_dir: Path | None, manifest: Manifest | None) -> Target:
    """The samples to score. Without --data they come from what the model was trained on.

    A plain folder that the model has not seen is scored whole, or by its own splits: to carve a
    test split from it would leave most of it out.
    """
    data = config.data
    trained = load_config(run_dir / runs.CONFIG_NAME, kind=TrainConfig).data if run_dir else None
    if trained and (not data.path or Path(data.path).resolve() == Path(trained.path or "")):
        data = trained  # with its options: the same splits as in training
    if not data.path:
        raise UserError("no data: give --data, a prepared dataset or a folder with masks")
    path = Path(data.path)
    class_list = None
    if data is trained or Manifest.is_in(path):
        manifest = manifest or open_data(
            data, splits=() if config.split == "all" else (config.split,)
        )
        everything, facts = list(manifest.samples), manifest.facts
        name, void, fingerprint = facts.name, facts.classes.ignore_values, facts.fingerprint
        profile = facts.model_dump(mode="json", exclude={"classes", "fingerprint"})
        if data is not trained and facts.classes.other is None:
            class_list = ClassList(FACTS_FILE, facts.classes.names, facts.classes.values)
    else:
        found = find_data(data, path)
        everything, class_list = list_samples(found), found.class_list
        name, fingerprint = path.resolve().name, None
        profile = {"num_samples": len(everything)}
        void = (*(parse_value(text) for text in data.ignore_values), *found.ignore_values)
    chosen = [s for s in everything if config.split in ("all", s.split)]
    if not chosen:
        raise UserError(f"{path} has no {config.split} samples: choose another --split, or all")
    logger.info("scoring %d of the %d samples of %s", len(chosen), len(everything), name)
    return Target(name, chosen, void, fingerprint, path, profile, class_list)


def _warn_of_small_windows(target: Target, card: ModelCard, window: int) -> None:
    small = SmallWindows(window, card)
    for sample in target.samples:
        small.look(sample.height, sample.width)


def _report_folder(config: EvaluateConfig, source: ModelSource, target: Target) -> Path:
    if config.output:
        return Path(config.output)
    return source.home / "evaluation" / runs.slug(f"{target.name}-{config.split}{_suffix(config)}")


def _suffix(config: EvaluateConfig) -> str:
    """What tells figures of another model file than the best one of a run apart."""
    model = Path(str(config.model))
    return "" if model.is_dir() or model.name == runs.BEST_NAME else f"-{model.stem}"


def _classes(segmenter: Segmenter, target: Target) -> Classes:
    """The classes of the model, by which the masks are read.

    Where the data names its classes, the mask values are those that it gives to the model's names:
    two annotation files seldom number their classes alike. Void values of the dataset that are no
    class of the model stay void.
    """
    model = by_names(segmenter.card.classes, target.class_list)
    known = {*model.values, *model.ignore_values}
    extra = tuple(
        value
        for value in target.void_values
        if value not in known and isinstance(value, tuple) == (model.encoding == "rgb")
    )
    return Classes.model_validate(
        model.model_dump() | {"ignore_values": model.ignore_values + extra}
    )


def _of_the_model(
    samples: Iterable[Labelled], card: ModelCard, target: Target
) -> Iterator[Labelled]:
    """The samples as they come; raises `DatasetError` for pixels of another type than the model's.

    16-bit values would be far outside the range of a model of 8-bit images, without a word.
    """
    for sample_id, image, mask in samples:
        if image.dtype != card.dtype:
            raise DatasetError(
                f"{sample_id}: the model knows {card.dtype} images, this one holds {image.dtype}: "
                "convert it as the training images were"
            )
        if target.fingerprint is None:
            target.content.update(sample_id.encode("utf-8", "surrogateescape"))
            for array in (image, mask):
                target.content.update(str(array.shape).encode())
                target.content.update(np.ascontiguousarray(array).view(np.uint8).data)
        yield sample_id, image, mask


def _track(
    config: EvaluateConfig,
    source: ModelSource,
    evaluation: Evaluation,
    target: Target,
    result: ImageScores,
    cases: CaseTable,
    facts: dict[str, Any],
) -> None:
    """Add figures, report and cases to the MLflow run that made the model; say where they are."""
    # other data than the model was trained on must not pass for its own test split
    known = facts.get("fingerprint") == target.fingerprint
    group = config.split if known else f"{config.split}-{runs.slug(target.name)}"
    group += _suffix(config)
    if not known:
        logger.warning(
            "%s is not the data that the model has learned from%s: its scores are %s/..., "
            "and none that `unet promote` compares",
            target.name,
            ", or has changed since" if facts.get("dataset") == target.name else "",
            group,
        )
    dataset = (f"{target.name}-{config.split}", target.digest)
    track = source.attach(required=config.tracking == "required")
    track.log_dataset(dataset[0], config.split, target.digest, target.profile, source=target.source)
    track.log_metrics(
        {f"{group}/{name}": value for name, value in evaluation.figures().items()},
        step=0,
        dataset=dataset,
        model=tracking.file_digest(source.weights),
    )
    track.log_table(f"cases-{group}", CASE_COLUMNS, cases.rows(result.sample_ids, result.matrices))
    track.log_artifact(evaluation.folder, "evaluation")
    track.close("FINISHED")
    track.raise_for_failure()
    track.say_where()
