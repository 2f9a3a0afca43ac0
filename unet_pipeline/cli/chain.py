"""`unet run`: a source of images and masks -> a trained, scored model and masks, in one go."""

from __future__ import annotations

from typing import Annotated

import typer

from unet_pipeline.chain_config import ChainConfig
from unet_pipeline.cli.options import (
    ConfigOption,
    JsonOption,
    SetOption,
    argument,
    print_result,
    setting,
)
from unet_pipeline.cli.prepare import SOURCE_HELP
from unet_pipeline.config import load_config
from unet_pipeline.settings_files import overrides_of


def command(
    source: Annotated[str | None, argument("data.path", SOURCE_HELP)] = None,
    predict: Annotated[
        list[str] | None, setting(ChainConfig, "predict.inputs", "--predict")
    ] = None,
    dataset: Annotated[str | None, setting(ChainConfig, "prepare.output", "--dataset")] = None,
    format_name: Annotated[str | None, setting(ChainConfig, "data.format", "--format")] = None,
    images: Annotated[str | None, setting(ChainConfig, "data.images", "--images")] = None,
    masks: Annotated[str | None, setting(ChainConfig, "data.masks", "--masks")] = None,
    ignore_values: Annotated[
        str | None, setting(ChainConfig, "data.ignore_values", "--ignore-values")
    ] = None,
    class_names: Annotated[
        str | None, setting(ChainConfig, "data.class_names", "--class-names")
    ] = None,
    group_regex: Annotated[
        str | None, setting(ChainConfig, "data.group_regex", "--group-regex")
    ] = None,
    tile: Annotated[int | None, setting(ChainConfig, "prepare.tile", "--tile")] = None,
    recipe: Annotated[str | None, setting(ChainConfig, "recipe", "--recipe")] = None,
    model: Annotated[str | None, setting(ChainConfig, "model.name", "--model")] = None,
    loss: Annotated[str | None, setting(ChainConfig, "training.loss", "--loss")] = None,
    epochs: Annotated[int | None, setting(ChainConfig, "training.epochs", "--epochs", "-e")] = None,
    max_steps: Annotated[
        int | None, setting(ChainConfig, "training.max_steps", "--max-steps")
    ] = None,
    budget: Annotated[
        str | None, setting(ChainConfig, "training.budget_seconds", "--budget")
    ] = None,
    batch_size: Annotated[
        int | None, setting(ChainConfig, "training.batch_size", "--batch-size", "-b")
    ] = None,
    lr: Annotated[float | None, setting(ChainConfig, "optimizer.lr", "--lr")] = None,
    optimizer: Annotated[str | None, setting(ChainConfig, "optimizer.name", "--optimizer")] = None,
    image_size: Annotated[
        str | None, setting(ChainConfig, "training.image_size", "--image-size")
    ] = None,
    weights: Annotated[str | None, setting(ChainConfig, "model.weights", "--weights")] = None,
    patience: Annotated[int | None, setting(ChainConfig, "training.patience", "--patience")] = None,
    amp: Annotated[str | None, setting(ChainConfig, "runtime.amp", "--amp")] = None,
    device: Annotated[str | None, setting(ChainConfig, "runtime.device", "--device")] = None,
    workers: Annotated[
        int | None, setting(ChainConfig, "runtime.workers", "--workers", "-j")
    ] = None,
    seed: Annotated[int | None, setting(ChainConfig, "runtime.seed", "--seed")] = None,
    save: Annotated[str | None, setting(ChainConfig, "predict.save", "--save")] = None,
    experiment: Annotated[
        str | None, setting(ChainConfig, "output.experiment", "--experiment")
    ] = None,
    output: Annotated[str | None, setting(ChainConfig, "output.runs_dir", "--output", "-o")] = None,
    tracking: Annotated[str | None, setting(ChainConfig, "output.tracking", "--tracking")] = None,
    tracking_uri: Annotated[
        str | None, setting(ChainConfig, "output.tracking_uri", "--tracking-uri")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Do every step again, whatever is there already.")
    ] = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prepare SOURCE, train, evaluate and predict; what is done and unchanged is not done again.

    Limits such as --budget are for the training.
    """
    settings = load_config(config, overrides_of(command, locals()), kind=ChainConfig)
    from unet_pipeline.stages import chain as stage

    result = stage.run_chain(settings, fresh=fresh)
    print_result(result.table(), result.summary() if as_json else None)
    result.raise_for_rejected()
