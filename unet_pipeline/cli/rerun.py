"""`unet rerun`: a run -> the same training again, and what differs."""

from __future__ import annotations

from typing import Annotated

import typer

from unet_pipeline.cli.options import JsonOption, print_result, setting
from unet_pipeline.config import TrainConfig


def command(
    run: Annotated[str, typer.Argument(help="Run folder, MLflow run id, or runs:/ID.")],
    data: Annotated[
        str | None, typer.Option("--data", help="Where the data of the run lies now.")
    ] = None,
    output: Annotated[str | None, setting(TrainConfig, "output.runs_dir", "--output", "-o")] = None,
    run_name: Annotated[str | None, setting(TrainConfig, "output.run_name", "--run-name")] = None,
    tracking_uri: Annotated[
        str | None, setting(TrainConfig, "output.tracking_uri", "--tracking-uri")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train again with the settings, split and seed of a run, and say what differs."""
    from unet_pipeline.stages import rerun as stage

    wishes = stage.Wishes(output or None, run_name or None, data or None, tracking_uri or None)
    result = stage.rerun(run, wishes)
    print_result(result.table(), result.summary() if as_json else None)
    result.run.raise_for_unreadable()
