"""Every setting of every stage: its name, its type, its default, its one-line help.

A setting travels as YAML file -> `--set section.key=value` -> option of the command line, the later
winning, into one frozen object; `settings_files.py` knows how these are read. Nothing here knows
torch. A default stands here and nowhere else; the options of a component (a model, an optimizer)
have theirs in the component's own signature.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from unet_pipeline.recipes import DEFAULT_RECIPE, recipe_file
from unet_pipeline.settings_files import ComponentSettings, Config, Settings, read_settings
from unet_pipeline.settings_files import dump_config as dump_config  # beside load_config
from unet_pipeline.spelling import (
    Fraction,
    PositiveInt,
    Precision,
    Rate,
    Seconds,
    Seed,
    Size,
    Switch,
    Tracking,
    Words,
    without_credentials,
)

RUNS_DIR = "runs"
DEFAULT_EPOCHS = 50

PLANNED = {
    "model": ("stem", "depth", "base_channels"),
    "training": ("image_size", "batch_size", "val_every", "num_pixels", "balance"),
    "transforms": ("name", "class_balance"),
    "runtime": ("amp", "workers", "memory_format", "compile"),
    "inference": ("window",),
}
"""What the plan of a training decides from data, device and time where it is left open."""


MODEL_HELP = (
    "A run folder, a model file, a .pth state dict, or a model in MLflow: models:/NAME@ALIAS, "
    "models:/NAME/VERSION, models:/m-ID, runs:/ID."
)


class DataSettings(Settings):
    path: str | None = Field(
        None, description="A dataset made by `unet prepare`, or a folder of images and masks."
    )
    format: str = Field(
        "auto",
        description="How images and masks are kept: auto recognises it (all: unet list formats).",
    )
    images: str | None = Field(
        None, description="Folder of the images inside the data folder, where it is not recognised."
    )
    masks: str | None = Field(
        None, description="Folder of the masks inside the data folder, where it is not recognised."
    )
    ignore_values: Words = Field(
        (), description="Mask values that mean void, such as 255 or 255/255/255; they never count."
    )
    class_names: Words = Field((), description="Names of the classes, in value order.")
    values: Words = Field(
        (), description="Mask value of each class, where the masks hold others too (see `other`)."
    )
    other: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Class index of all mask values that `values` does not list."
    )
    pages: Literal["refuse", "channels", "samples"] = Field(
        "refuse",
        description="Files of several pages (stacks, animations): refuse, or take the pages as "
        "channels of one image, or as samples of one group.",
    )
    value_range: Literal["auto", "bits", "percentiles"] = Field(
        "auto",
        description="Pixel values that become 0 and 1, one pair for the dataset: by bit depth, or "
        "the 0.1st and 99.9th percentiles of the training pixels (auto: bits for whole numbers).",
    )
    split_by: Literal["random", "order"] = Field(
        "random",
        description="How splits are drawn: `random`, or `order`, the tail of the file names held "
        "out (for stacks and video).",
    )
    val_fraction: Fraction = Field(0.15, description="Fraction of the samples held out as val.")
    test_fraction: Fraction = Field(0.15, description="Fraction of the samples held out as test.")
    split_seed: Seed = Field(0, description="Seed of the random split.")
    group_regex: str | None = Field(
        None,
        description="Regular expression on sample ids; samples with the same (first group of the) "
        "match share a split, such as '^(patient[0-9]+)'.",
    )
    fold: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="Fold that validates, of a dataset prepared with --folds, while the others "
        "train; `--fold all` trains once for each.",
    )


class ModelSettings(ComponentSettings):
    name: str = Field(
        "unet",
        description="Network: unet, mlp, lenet, or smp:<architecture>/<encoder> such as "
        "smp:FPN/resnet18 (all: unet list models).",
    )
    weights: str | None = Field(
        None, description="Start from the weights of this run, model file or .pth state dict."
    )


class InitializerSettings(ComponentSettings):
    name: str = Field(
        "default",
        description="How fresh weights are drawn: default (torch's own), kaiming_normal, "
        "xavier_uniform, orthogonal, notes, ... (all: unet list initializers).",
    )


class OptimizerSettings(ComponentSettings):
    name: str = Field("adamw", description="Optimizer: adamw, adam, sgd or rmsprop.")
    lr: Rate = Field(1e-3, description="Peak learning rate.")
    encoder_lr_factor: Rate = Field(
        1.0, description="Learning rate of the encoder of an smp network, as a multiple of `lr`."
    )
    freeze_encoder: bool = Field(
        False, description="Keep the (pretrained) encoder of an smp network as it is."
    )


class ScheduleSettings(ComponentSettings):
    name: str = Field(
        "cosine", description="Learning rate over the run: cosine, poly, constant or plateau."
    )


class TransformSettings(ComponentSettings):
    name: str | None = Field(
        None,
        description="Augmentation: none, flips, light, medium, heavy or paper (else chosen).",
    )


class TrainingSettings(Settings):
    epochs: PositiveInt | None = Field(
        None,
        description=f"Passes over the training data ({DEFAULT_EPOCHS} where no limit is given).",
    )
    max_steps: PositiveInt | None = Field(None, description="Optimizer steps at most.")
    budget_seconds: Seconds | None = Field(
        None, description="Wall clock for the whole run, such as 90s, 3m or 1h30m."
    )
    batch_size: PositiveInt | None = Field(
        None, description="Samples a step (chosen from the data where not given)."
    )
    image_size: Size = Field(
        None,
        description="Side in pixels, or HEIGHTxWIDTH, of the random crops that training sees "
        "(chosen from the data where not given).",
    )
    loss: str | None = Field(
        None,
        description="Loss: names with weights, such as 'ce + 0.5*dice' (else chosen; unet list).",
    )
    num_pixels: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="Pixels of each crop that a patch network (mlp, lenet) learns from; 0 takes "
        "all of them.",
    )
    balance: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None,
        description="Share of these pixels that is drawn with all classes alike, from 0 to 1.",
    )
    micro_batch: PositiveInt | None = Field(
        None,
        description="Most samples that cross the network together; larger batches go through in "
        "parts, with the same gradient (found out where memory is short).",
    )
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.999,
        description="Decay a step of the running average of the weights, which is what is scored "
        "and saved; 0 takes the weights of the last step.",
    )
    grad_clip: Annotated[float, Field(ge=0)] = Field(
        1.0, description="Largest norm of the gradient; 0 does not clip."
    )
    val_every: PositiveInt | None = Field(
        None, description="Epochs between validations (chosen so that they cost little)."
    )
    patience: PositiveInt | None = Field(
        None, description="Stop after this many validations without a better mean IoU."
    )
    strict: bool = Field(
        False,
        description="End at once where a file can no longer be read, and do not skip it.",
    )
    cache_fraction: Fraction = Field(
        0.25, description="Share of the free memory that decoded images may fill."
    )
    disk_fraction: Fraction = Field(
        0.25,
        description="Share of the free disk, beside the runs, for decoded images that do not fit "
        "into memory; they are removed at the end.",
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _default_limit(cls, values: Any) -> Any:
        limits = ("epochs", "max_steps", "budget_seconds")
        if isinstance(values, dict) and not any(values.get(limit) is not None for limit in limits):
            return values | {"epochs": DEFAULT_EPOCHS}
        return values


class RuntimeSettings(Settings):
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 or mps.")
    amp: Precision = Field(
        "auto", description="Mixed precision: auto (bf16 where the hardware has it), on or off."
    )
    workers: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Processes that load training data (chosen where not given)."
    )
    memory_format: Literal["channels_last", "contiguous"] | None = Field(
        None,
        description="Layout of images in memory: channels_last or contiguous (the faster one, "
        "measured, where not given).",
    )
    compile: bool | None = Field(
        None,
        description="Compile the network (torch.compile): a minute at the start, for long runs.",
    )
    sync_batchnorm: bool = Field(
        False,
        description="Batch normalisation over the batch of all processes (GPUs, torchrun).",
    )
    seed: Seed = Field(0, description="Seed of weights, order, augmentation.")


class WindowSettings(Settings):
    window: PositiveInt | None = Field(
        None, description="Side of the sliding window for large images (the model's own)."
    )
    overlap: Fraction | None = Field(
        None, description="Fraction by which neighbouring windows overlap."
    )


class OutputSettings(Settings):
    runs_dir: str = Field(RUNS_DIR, description="Folder that holds the run folders.")
    run_name: str | None = Field(None, description="Name of the run (numbered where not given).")
    experiment: str | None = Field(None, description="MLflow experiment (the dataset's name).")
    tracking: Tracking = Field("on", description="Record the run in MLflow: on, off or required.")
    tracking_uri: str | None = Field(None, description="MLflow server or store (mlflow.db here).")
    register_as: str | None = Field(None, description="Registered model to add a version to.")

    @pydantic.field_serializer("tracking_uri", when_used="json")
    def _without_password(self, uri: str | None) -> str | None:
        return uri and without_credentials(uri)  # config.yaml goes to MLflow, and to colleagues


class PrepareConfig(Settings):
    """What `unet prepare` does."""

    data: DataSettings = DataSettings()
    output: str | None = Field(None, description="Folder for the dataset (data/<name>).")
    check: bool = Field(
        False,
        description="Only look: print what is found, write nothing; exit code 4 where training "
        "would be wrong.",
    )
    fix: bool = Field(
        False,
        description="Write a repaired copy to --output: upright images, indexed PNG masks, without "
        "the pairs that cannot be used. The source stays as it is.",
    )
    export: str | None = Field(
        None,
        description="Write the dataset to --output in another format: plain, coco, yolo or nnunet.",
    )
    tile: Annotated[int, Field(ge=16)] | None = Field(
        None, description="Cut images into tiles of this side; those of an image share its split."
    )
    tile_overlap: Fraction = Field(0.0, description="Fraction by which neighbouring tiles overlap.")
    folds: Annotated[int, Field(ge=2)] | None = Field(
        None, description="Divide what is no test sample into this many folds, for `train --fold`."
    )
    splits_from: str | None = Field(
        None,
        description="Folder of a prepared dataset (or its samples.csv) whose samples keep their "
        "splits; only new ones are assigned.",
    )
    update: bool = Field(
        False,
        description="Bring the dataset in the output up to date: old samples keep split and fold; "
        "where there is none yet, make it.",
    )
    num_scenes: PositiveInt = Field(
        300, description="Scenes of the embedded sample data, made where no SOURCE is given."
    )


class TrainConfig(Settings):
    """What `unet train` does: one section a subject."""

    recipe: str = Field(
        DEFAULT_RECIPE,
        description="Settings to start from: modern, paper or classic (all: unet list recipes).",
    )
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    initializer: InitializerSettings = InitializerSettings()
    training: TrainingSettings = TrainingSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    transforms: TransformSettings = TransformSettings()
    inference: WindowSettings = WindowSettings()
    runtime: RuntimeSettings = RuntimeSettings()
    output: OutputSettings = OutputSettings()


class EvaluateConfig(Settings):
    """What `unet evaluate` does."""

    model: str | None = Field(None, description=MODEL_HELP)
    data: DataSettings = DataSettings()
    split: Literal["train", "val", "test", "all"] = Field("test", description="Split to score.")
    output: str | None = Field(None, description="Folder for the report (beside the model).")
    num_pictures: Annotated[int, Field(ge=0)] = Field(
        4, description="Pictures of the best and of the worst images."
    )
    curves: Switch = Field(
        "on", description="Precision-recall curves and calibration as well: on or off."
    )
    inference: WindowSettings = WindowSettings()
    runtime: RuntimeSettings = RuntimeSettings()
    tracking: Tracking = Field("on", description="Scores go to the run: on, off or required.")


class PredictConfig(Settings):
    """What `unet predict` does."""

    inputs: tuple[str, ...] = Field((), description="Images, folders or quoted globs.")
    model: str | None = Field(None, description=MODEL_HELP)
    output: str | None = Field(None, description="Folder for the masks.")
    save: Words = Field(
        ("mask",),
        description="What to write: mask, color, overlay, probabilities (comma-separated).",
    )
    batch_size: PositiveInt | None = Field(
        None, description="Windows that cross the network together."
    )
    tta: bool = Field(False, description="Average over flips: slower, often a little better.")
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="Probability from which class 1 of two is chosen (largest wins: 0.5)."
    )
    skip_existing: bool = Field(
        False, description="Leave what this model has already written for unchanged images."
    )
    inference: WindowSettings = WindowSettings()
    runtime: RuntimeSettings = RuntimeSettings()
    track: bool = Field(False, description="Record this prediction as an MLflow run.")


def load_config(
    path: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    kind: type[Config] = TrainConfig,  # type: ignore[assignment]
    auto: bool = False,
) -> Config:
    """The settings of a stage: the YAML file at `path`, then `overrides` by dotted name.

    Below both, for a training, is the recipe that they name.
    auto: of the file, what a plan decides (`PLANNED`) does not count.

    >>> load_config(overrides={"training.epochs": 3}).training.epochs
    3

    Raises `UserError` for a file that is missing or no YAML, a key that is not known (with the
    nearest one) and a value of the wrong type or range.
    """
    return read_settings(
        kind,
        path,
        overrides,
        recipe_file=recipe_file if issubclass(kind, TrainConfig) else None,
        without=PLANNED if auto else {},
    )
