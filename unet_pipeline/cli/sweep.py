"""`unet sweep`: a dataset and a space of settings -> a table of trials, best first."""

from __future__ import annotations

import inspect
import time
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from unet_pipeline.cli import train
from unet_pipeline.cli.options import print_result, setting
from unet_pipeline.errors import UserError, did_you_mean
from unet_pipeline.settings_files import overrides_of
from unet_pipeline.sweep_config import SweepConfig, load_sweep_config

_NOT_OF_A_SWEEP = {"budget", "resume", "baselines", "dry_run"}


def _own(
    params: Annotated[list[str] | None, setting(SweepConfig, "params", "--param", "-p")] = None,
    trials: Annotated[int | None, setting(SweepConfig, "trials", "--trials", "-n")] = None,
    budget: Annotated[str | None, setting(SweepConfig, "budget_seconds", "--budget")] = None,
    prune: Annotated[bool | None, setting(SweepConfig, "prune", "--prune/--no-prune")] = None,
    join: Annotated[
        Path | None,
        typer.Option("--join", help="Make trials of the sweep in this folder, or go on with it."),
    ] = None,
) -> None:
    """The options that `unet train` does not have."""


def command(**values: Any) -> None:
    """Try settings out: train several times, rank by validation mean IoU, prune what falls behind.

    Options of `unet train` hold for every trial. The test split is not touched: the score of the
    best trial is a little too good, so evaluate that one on the test split, once.
    """
    started = time.monotonic()
    join: Path | None = values["join"]
    overrides = overrides_of(command, values)
    if join is not None:
        if values["config"] is not None or values["auto"]:
            raise UserError("--join takes the settings of its sweep: leave out --config and --auto")
        from unet_pipeline.stages import sweep as stage

        result = stage.join(join, overrides)
    else:
        # `mlflow run` has one value for each option: there they are parted by semicolons
        texts = [part for text in overrides.get("params", ()) for part in text.split(";")]
        overrides["params"] = tuple(_dotted(text) for text in texts if text.strip())
        for text in overrides["params"]:
            name = text.partition("=")[0]
            if name in overrides:
                raise UserError(f"{name} is swept and set: leave out --param or the other one")
        settings = load_sweep_config(values["config"], overrides, auto=values["auto"])
        from unet_pipeline.stages import sweep as stage

        result = stage.sweep(settings, started=started)
    print_result(result.table(), result.summary() if values["as_json"] else None)
    result.raise_for_failed()


def _dotted(text: str) -> str:
    """`lr=...` as `optimizer.lr=...`: options may be named as on the command line."""
    name, separator, values = text.partition("=")
    name = name.strip()
    short = _short_names()
    if separator and name not in short and "." not in name:
        raise UserError(
            f"--param {text}: unknown setting {name!r}{did_you_mean(name, short)}, or any "
            "section.key"
        )
    return f"{short.get(name, name)}{separator}{values}"


def _short_names() -> dict[str, str]:
    """Option of `unet train`, without its dashes -> setting."""
    names = {}
    for hint in get_type_hints(train.command, include_extras=True).values():
        for mark in get_args(hint)[1:]:
            if hasattr(mark, "setting"):
                # within Annotated, typer takes the first flag for the default
                flag = next(f for f in (mark.default, *mark.param_decls) if f.startswith("--"))
                names[flag.removeprefix("--")] = mark.setting
    return names


def _with_options_of_train() -> None:
    """Give `command` its own options, then those of `unet train`, which stand there alone."""
    hints: dict[str, Any] = {}
    parameters = []
    for source in (_own, train.command):
        of_source = get_type_hints(source, include_extras=True)
        for name, parameter in inspect.signature(source).parameters.items():
            if name not in _NOT_OF_A_SWEEP or source is _own:
                hints[name] = of_source[name]
                kind = inspect.Parameter.KEYWORD_ONLY
                parameters.append(parameter.replace(kind=kind, annotation=hints[name]))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = hints


_with_options_of_train()
