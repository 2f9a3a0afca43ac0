"""`unet train`: a dataset -> a trained model; several of them with --baselines and --fold all."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from unet_pipeline.cli.options import ConfigOption, JsonOption, SetOption, print_result, setting
from unet_pipeline.config import TrainConfig, load_config
from unet_pipeline.distributed import world_of_environment
from unet_pipeline.errors import UserError
from unet_pipeline.settings_files import overrides_of

_PLAN = "--plan (--dry-run)"


def command(
    data: Annotated[str | None, setting(TrainConfig, "data.path", "--data")] = None,
    format_name: Annotated[str | None, setting(TrainConfig, "data.format", "--format")] = None,
    images: Annotated[str | None, setting(TrainConfig, "data.images", "--images")] = None,
    masks: Annotated[str | None, setting(TrainConfig, "data.masks", "--masks")] = None,
    ignore_values: Annotated[
        str | None, setting(TrainConfig, "data.ignore_values", "--ignore-values")
    ] = None,
    fold: Annotated[str | None, setting(TrainConfig, "data.fold", "--fold")] = None,
    recipe: Annotated[str | None, setting(TrainConfig, "recipe", "--recipe")] = None,
    model: Annotated[str | None, setting(TrainConfig, "model.name", "--model")] = None,
    loss: Annotated[str | None, setting(TrainConfig, "training.loss", "--loss")] = None,
    initializer: Annotated[
        str | None, setting(TrainConfig, "initializer.name", "--initializer")
    ] = None,
    epochs: Annotated[int | None, setting(TrainConfig, "training.epochs", "--epochs", "-e")] = None,
    max_steps: Annotated[
        int | None, setting(TrainConfig, "training.max_steps", "--max-steps")
    ] = None,
    budget: Annotated[
        str | None, setting(TrainConfig, "training.budget_seconds", "--budget")
    ] = None,
    batch_size: Annotated[
        int | None, setting(TrainConfig, "training.batch_size", "--batch-size", "-b")
    ] = None,
    lr: Annotated[float | None, setting(TrainConfig, "optimizer.lr", "--lr")] = None,
    optimizer: Annotated[str | None, setting(TrainConfig, "optimizer.name", "--optimizer")] = None,
    image_size: Annotated[
        str | None, setting(TrainConfig, "training.image_size", "--image-size")
    ] = None,
    weights: Annotated[str | None, setting(TrainConfig, "model.weights", "--weights")] = None,
    patience: Annotated[int | None, setting(TrainConfig, "training.patience", "--patience")] = None,
    strict: Annotated[bool | None, setting(TrainConfig, "training.strict", "--strict")] = None,
    amp: Annotated[str | None, setting(TrainConfig, "runtime.amp", "--amp")] = None,
    compiled: Annotated[bool | None, setting(TrainConfig, "runtime.compile", "--compile")] = None,
    device: Annotated[str | None, setting(TrainConfig, "runtime.device", "--device")] = None,
    workers: Annotated[
        int | None, setting(TrainConfig, "runtime.workers", "--workers", "-j")
    ] = None,
    seed: Annotated[int | None, setting(TrainConfig, "runtime.seed", "--seed")] = None,
    experiment: Annotated[
        str | None, setting(TrainConfig, "output.experiment", "--experiment")
    ] = None,
    run_name: Annotated[str | None, setting(TrainConfig, "output.run_name", "--run-name")] = None,
    output: Annotated[str | None, setting(TrainConfig, "output.runs_dir", "--output", "-o")] = None,
    tracking: Annotated[str | None, setting(TrainConfig, "output.tracking", "--tracking")] = None,
    tracking_uri: Annotated[
        str | None, setting(TrainConfig, "output.tracking_uri", "--tracking-uri")
    ] = None,
    register: Annotated[
        str | None, setting(TrainConfig, "output.register_as", "--register")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Continue the run in this folder.")
    ] = None,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines",
            help="Climb the ladder: majority class, Otsu threshold, MLP, LeNet, then --model; "
            "limits such as --budget are for each. Prints one table.",
        ),
    ] = False,
    auto: Annotated[
        bool, typer.Option("--auto", help="Plan anew for this machine what --config has decided.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--plan", "--dry-run", help="Check everything, print the plan, train nothing."
        ),
    ] = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a network on a prepared dataset, or on any plain folder of images and masks."""
    started = time.monotonic()  # of the budget, before torch is imported
    every_fold = fold == "all"
    fold = None if every_fold else fold
    overrides = overrides_of(command, locals())
    if resume is None:
        settings = load_config(config, overrides, kind=TrainConfig, auto=auto)
    elif config is not None or dry_run or auto:
        raise UserError(
            f"--resume takes the settings of its run: leave out --config, --auto, {_PLAN}"
        )
    if auto and config is None:
        raise UserError("--auto has no effect without --config: all is planned; leave it out")
    if baselines or every_fold:
        if resume is not None or dry_run:
            asked, way = ("--baselines", "") if baselines else ("--fold all", ", or name one fold")
            without = "--resume" if resume is not None else _PLAN
            raise UserError(f"{asked} trains anew: leave out {without}{way}")
        if settings.output.register_as:
            raise UserError("--register takes one training: leave out --baselines and --fold all")
        if baselines and every_fold:
            raise UserError("--baselines takes one fold, such as --fold 0, or none")
        from unet_pipeline.stages.compare import Comparison, compare
        from unet_pipeline.stages.cross_validate import CrossValidation, cross_validate

        several: Comparison | CrossValidation
        several = compare(settings) if baselines else cross_validate(settings)
        print_result(several.table(), several.summary() if as_json else None)
        several.raise_for_failed()
        return
    from unet_pipeline.stages import train as stage

    if resume is not None:
        result = stage.resume(resume, overrides)
    elif dry_run:
        if not world_of_environment().is_main:
            return  # the main process says it
        from unet_pipeline.stages.plan import plan

        planned = plan(settings)
        print_result(planned.text, planned.summary() if as_json else None)
        return
    else:
        result = stage.train(settings, started=started)
    if world_of_environment().is_main:  # of the processes that torchrun has started
        print_result(str(result.folder), result.summary() if as_json else None)
        result.raise_for_unreadable()
