"""The `unet` command: options in, stage called, exit code out; nothing else.

An option is one line: its flags and the setting it sets. Help text, type check and default of a
setting live in `config.py`, exit codes in `ending.py`. Neither torch nor mlflow is imported before
a stage runs.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn

import pydantic
import typer

from unet_pipeline import __version__
from unet_pipeline.config import (
    EvaluateConfig,
    PredictConfig,
    PrepareConfig,
    TrainConfig,
    load_config,
)
from unet_pipeline.distributed import world_of_environment
from unet_pipeline.ending import LEFT, LEFT_NOTHING, exit_code_of, leave
from unet_pipeline.errors import UserError
from unet_pipeline.settings_files import describe_setting, overrides_of

# Typer carries its own click and exports only the leaf of its usage errors
UsageError: Any = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="unet",
    help="A folder of images and masks in; a trained U-Net, numbers to trust and masks out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _setting(kind: type[pydantic.BaseModel], name: str, *flags: str) -> Any:
    """A Typer option for the setting called `name`, with its help and its default."""
    text, default = describe_setting(kind, name)
    given = default is not None and default is not False and default != ()
    shown = "" if not given else f" [default: {_as_text(default)}]"
    plain = (text + shown).replace("[", "\\[")  # square brackets are markup in help texts
    option = typer.Option(*flags, help=plain, show_default=False)
    option.setting = name
    return option


def _argument(name: str, text: str) -> Any:
    """A Typer argument for the setting called `name`."""
    argument = typer.Argument(help=text)
    argument.setting = name
    return argument


def _as_text(default: Any) -> str:
    return ",".join(default) if isinstance(default, tuple) else str(default)


SOURCE_HELP = (
    "Folder of images and masks, annotation file, or torchvision:NAME; without it, the embedded "
    "sample data."
)
INPUTS_HELP = "Images, folders (searched deep), quoted globs."
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="YAML file of settings; options given here win over it."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any other setting; repeatable."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"unet-pipeline {__version__}")
        raise typer.Exit


@app.command()
def prepare(
    source: Annotated[str | None, _argument("data.path", SOURCE_HELP)] = None,
    output: Annotated[str | None, _setting(PrepareConfig, "output", "--output", "-o")] = None,
    check: Annotated[bool | None, _setting(PrepareConfig, "check", "--check")] = None,
    fix: Annotated[bool | None, _setting(PrepareConfig, "fix", "--fix")] = None,
    export: Annotated[str | None, _setting(PrepareConfig, "export", "--export")] = None,
    format_name: Annotated[str | None, _setting(PrepareConfig, "data.format", "--format")] = None,
    images: Annotated[str | None, _setting(PrepareConfig, "data.images", "--images")] = None,
    masks: Annotated[str | None, _setting(PrepareConfig, "data.masks", "--masks")] = None,
    ignore_values: Annotated[
        str | None, _setting(PrepareConfig, "data.ignore_values", "--ignore-values")
    ] = None,
    class_names: Annotated[
        str | None, _setting(PrepareConfig, "data.class_names", "--class-names")
    ] = None,
    values: Annotated[str | None, _setting(PrepareConfig, "data.values", "--values")] = None,
    other: Annotated[int | None, _setting(PrepareConfig, "data.other", "--other")] = None,
    pages: Annotated[str | None, _setting(PrepareConfig, "data.pages", "--pages")] = None,
    tile: Annotated[int | None, _setting(PrepareConfig, "tile", "--tile")] = None,
    overlap: Annotated[float | None, _setting(PrepareConfig, "tile_overlap", "--overlap")] = None,
    split_by: Annotated[str | None, _setting(PrepareConfig, "data.split_by", "--split-by")] = None,
    group_regex: Annotated[
        str | None, _setting(PrepareConfig, "data.group_regex", "--group-regex")
    ] = None,
    folds: Annotated[int | None, _setting(PrepareConfig, "folds", "--folds")] = None,
    splits_from: Annotated[
        str | None, _setting(PrepareConfig, "splits_from", "--splits-from")
    ] = None,
    update: Annotated[bool | None, _setting(PrepareConfig, "update", "--update")] = None,
    val: Annotated[float | None, _setting(PrepareConfig, "data.val_fraction", "--val")] = None,
    test: Annotated[float | None, _setting(PrepareConfig, "data.test_fraction", "--test")] = None,
    seed: Annotated[int | None, _setting(PrepareConfig, "data.split_seed", "--seed")] = None,
    num_scenes: Annotated[int | None, _setting(PrepareConfig, "num_scenes", "--num-scenes")] = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read, check and split a dataset: dataset.yaml, samples.csv and report.html in --output."""
    settings = load_config(config, overrides_of(prepare, locals()), kind=PrepareConfig)
    from unet_pipeline.stages import prepare as stage

    if settings.check:
        checked = stage.check(settings)
        _print_result(checked.table(), checked.summary() if as_json else None)
        checked.raise_for_errors()
        return
    result = stage.prepare(settings)
    _print_result(str(result.folder), result.summary() if as_json else None)


@app.command()
def train(
    data: Annotated[str | None, _setting(TrainConfig, "data.path", "--data")] = None,
    format_name: Annotated[str | None, _setting(TrainConfig, "data.format", "--format")] = None,
    images: Annotated[str | None, _setting(TrainConfig, "data.images", "--images")] = None,
    masks: Annotated[str | None, _setting(TrainConfig, "data.masks", "--masks")] = None,
    ignore_values: Annotated[
        str | None, _setting(TrainConfig, "data.ignore_values", "--ignore-values")
    ] = None,
    fold: Annotated[str | None, _setting(TrainConfig, "data.fold", "--fold")] = None,
    recipe: Annotated[str | None, _setting(TrainConfig, "recipe", "--recipe")] = None,
    model: Annotated[str | None, _setting(TrainConfig, "model.name", "--model")] = None,
    loss: Annotated[str | None, _setting(TrainConfig, "training.loss", "--loss")] = None,
    initializer: Annotated[
        str | None, _setting(TrainConfig, "initializer.name", "--initializer")
    ] = None,
    epochs: Annotated[
        int | None, _setting(TrainConfig, "training.epochs", "--epochs", "-e")
    ] = None,
    max_steps: Annotated[
        int | None, _setting(TrainConfig, "training.max_steps", "--max-steps")
    ] = None,
    budget: Annotated[
        str | None, _setting(TrainConfig, "training.budget_seconds", "--budget")
    ] = None,
    batch_size: Annotated[
        int | None, _setting(TrainConfig, "training.batch_size", "--batch-size", "-b")
    ] = None,
    lr: Annotated[float | None, _setting(TrainConfig, "optimizer.lr", "--lr")] = None,
    optimizer: Annotated[str | None, _setting(TrainConfig, "optimizer.name", "--optimizer")] = None,
    image_size: Annotated[
        str | None, _setting(TrainConfig, "training.image_size", "--image-size")
    ] = None,
    weights: Annotated[str | None, _setting(TrainConfig, "model.weights", "--weights")] = None,
    patience: Annotated[
        int | None, _setting(TrainConfig, "training.patience", "--patience")
    ] = None,
    strict: Annotated[bool | None, _setting(TrainConfig, "training.strict", "--strict")] = None,
    amp: Annotated[str | None, _setting(TrainConfig, "runtime.amp", "--amp")] = None,
    compiled: Annotated[bool | None, _setting(TrainConfig, "runtime.compile", "--compile")] = None,
    device: Annotated[str | None, _setting(TrainConfig, "runtime.device", "--device")] = None,
    workers: Annotated[
        int | None, _setting(TrainConfig, "runtime.workers", "--workers", "-j")
    ] = None,
    seed: Annotated[int | None, _setting(TrainConfig, "runtime.seed", "--seed")] = None,
    experiment: Annotated[
        str | None, _setting(TrainConfig, "output.experiment", "--experiment")
    ] = None,
    run_name: Annotated[str | None, _setting(TrainConfig, "output.run_name", "--run-name")] = None,
    output: Annotated[
        str | None, _setting(TrainConfig, "output.runs_dir", "--output", "-o")
    ] = None,
    tracking: Annotated[str | None, _setting(TrainConfig, "output.tracking", "--tracking")] = None,
    tracking_uri: Annotated[
        str | None, _setting(TrainConfig, "output.tracking_uri", "--tracking-uri")
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
    overrides = overrides_of(train, locals())
    if resume is None:
        settings = load_config(config, overrides, kind=TrainConfig, auto=auto)
    elif config is not None or dry_run or auto:
        raise UserError(
            "--resume takes the settings of its run: leave out --config, --auto and --dry-run"
        )
    if baselines or every_fold:
        if resume is not None or dry_run:
            asked, way = ("--baselines", "") if baselines else ("--fold all", ", or name one fold")
            raise UserError(f"{asked} trains anew: leave out --resume and --dry-run{way}")
        if baselines and every_fold:
            raise UserError("--baselines takes one fold, such as --fold 0, or none")
        from unet_pipeline.stages.compare import Comparison, compare
        from unet_pipeline.stages.cross_validate import CrossValidation, cross_validate

        several: Comparison | CrossValidation
        several = compare(settings) if baselines else cross_validate(settings)
        _print_result(several.table(), several.summary() if as_json else None)
        several.raise_for_failed()
        return
    from unet_pipeline.stages import train as stage

    if resume is not None:
        result = stage.resume(resume, overrides)
    elif dry_run:
        planned = stage.plan(settings)
        _print_result(planned.text, planned.summary() if as_json else None)
        return
    else:
        result = stage.train(settings, started=started)
    if world_of_environment().is_main:  # of the processes that torchrun has started
        _print_result(str(result.folder), result.summary() if as_json else None)
        result.raise_for_unreadable()


@app.command()
def evaluate(
    model: Annotated[str | None, _setting(EvaluateConfig, "model", "--model", "-m")] = None,
    data: Annotated[str | None, _setting(EvaluateConfig, "data.path", "--data")] = None,
    format_name: Annotated[str | None, _setting(EvaluateConfig, "data.format", "--format")] = None,
    images: Annotated[str | None, _setting(EvaluateConfig, "data.images", "--images")] = None,
    masks: Annotated[str | None, _setting(EvaluateConfig, "data.masks", "--masks")] = None,
    ignore_values: Annotated[
        str | None, _setting(EvaluateConfig, "data.ignore_values", "--ignore-values")
    ] = None,
    split: Annotated[str | None, _setting(EvaluateConfig, "split", "--split")] = None,
    output: Annotated[str | None, _setting(EvaluateConfig, "output", "--output", "-o")] = None,
    num_pictures: Annotated[
        int | None, _setting(EvaluateConfig, "num_pictures", "--num-pictures")
    ] = None,
    window: Annotated[int | None, _setting(EvaluateConfig, "inference.window", "--window")] = None,
    overlap: Annotated[
        float | None, _setting(EvaluateConfig, "inference.overlap", "--overlap")
    ] = None,
    amp: Annotated[str | None, _setting(EvaluateConfig, "runtime.amp", "--amp")] = None,
    device: Annotated[str | None, _setting(EvaluateConfig, "runtime.device", "--device")] = None,
    tracking: Annotated[str | None, _setting(EvaluateConfig, "tracking", "--tracking")] = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score a model on a split: tables, per-image CSV, confusion matrix, best and worst images."""
    settings = load_config(config, overrides_of(evaluate, locals()), kind=EvaluateConfig)
    from unet_pipeline.stages import evaluate as stage

    result = stage.evaluate(settings)
    _print_result(result.table(), result.summary() if as_json else None)


@app.command()
def predict(
    inputs: Annotated[list[str] | None, _argument("inputs", INPUTS_HELP)] = None,
    model: Annotated[str | None, _setting(PredictConfig, "model", "--model", "-m")] = None,
    output: Annotated[str | None, _setting(PredictConfig, "output", "--output", "-o")] = None,
    save: Annotated[str | None, _setting(PredictConfig, "save", "--save")] = None,
    window: Annotated[int | None, _setting(PredictConfig, "inference.window", "--window")] = None,
    overlap: Annotated[
        float | None, _setting(PredictConfig, "inference.overlap", "--overlap")
    ] = None,
    tta: Annotated[bool | None, _setting(PredictConfig, "tta", "--tta/--no-tta")] = None,
    threshold: Annotated[float | None, _setting(PredictConfig, "threshold", "--threshold")] = None,
    skip_existing: Annotated[
        bool | None,
        _setting(PredictConfig, "skip_existing", "--skip-existing/--no-skip-existing"),
    ] = None,
    batch_size: Annotated[
        int | None, _setting(PredictConfig, "batch_size", "--batch-size", "-b")
    ] = None,
    amp: Annotated[str | None, _setting(PredictConfig, "runtime.amp", "--amp")] = None,
    device: Annotated[str | None, _setting(PredictConfig, "runtime.device", "--device")] = None,
    track: Annotated[bool | None, _setting(PredictConfig, "track", "--track/--no-track")] = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write masks for images, in the values of the training masks and at the original size."""
    settings = load_config(config, overrides_of(predict, locals()), kind=PredictConfig)
    from unet_pipeline.stages import predict as stage

    result = stage.predict_files(settings)
    _print_result(str(result.folder), result.summary() if as_json else None)
    result.raise_for_rejected()


@app.command("list")
def list_(
    kind: Annotated[
        str,
        typer.Argument(
            help="models, losses, initializers, optimizers, schedules, transforms, recipes or "
            "formats."
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Show what a name can be: one line each, with options and defaults."""
    from unet_pipeline.stages.list import list_catalogue

    listing = list_catalogue(kind)
    _print_result(listing.table(), listing.summary() if as_json else None)


@app.command()
def sync(
    run: Annotated[Path, typer.Argument(help="Folder of the run.")],
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", help="Send to this server or store instead.")
    ] = None,
) -> None:
    """Send to MLflow what it does not hold yet of a run; sending again adds nothing."""
    from unet_pipeline import tracking

    counts = tracking.sync(run, tracking_uri or None)
    typer.echo(", ".join(f"{n} {kind}" for kind, n in counts.items() if n) or "nothing to send")


def _print_result(text: str, summary: dict[str, Any] | None) -> None:
    typer.echo(text if summary is None else json.dumps(summary, indent=2, default=str))


def main() -> NoReturn:
    """Run the command line; every ending has its exit code (see DESIGN: Command line)."""
    leave(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; errors of the user become one line on stderr."""
    left = LEFT_NOTHING if arguments[:1] == ["prepare"] else LEFT
    return exit_code_of(lambda: _invoke(arguments), left=left)


def _invoke(arguments: list[str]) -> int:
    """Let click parse and call; its usage errors become one line and exit code 2."""
    command = typer.main.get_command(app)
    try:
        result = command.main(args=arguments, prog_name="unet", standalone_mode=False)
    except typer.Abort as error:
        raise KeyboardInterrupt from error
    except SystemExit as ending:  # how typer ends when the reader of our stdout has left
        if isinstance(ending.__context__, BrokenPipeError):
            raise BrokenPipeError from ending
        raise
    except UsageError as error:
        if error.ctx is not None and type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.ctx.get_help())
            return 2
        name = error.ctx.command_path if error.ctx is not None else "unet"
        message = " ".join(error.format_message().split()).rstrip(".")
        raise UserError(f"{message}; see {name} --help") from error
    if result == 130:  # typer turns Ctrl-C into its code, without a word
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0
