"""`unet promote`: a run -> an alias of a registered model, if the run is the better one."""

from __future__ import annotations

from typing import Annotated

import typer

from unet_pipeline.cli.options import JsonOption, print_result


def command(
    run: Annotated[str, typer.Argument(help="Run folder, MLflow run id, or runs:/ID.")],
    alias: Annotated[str, typer.Option("--alias", help="Alias to give to it, such as champion.")],
    name: Annotated[
        str | None,
        typer.Option("--name", help="Registered model (where it is already, or the dataset's)."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Move the alias whatever the scores are.")
    ] = False,
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", help="MLflow server or store of the run.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Register a run's model and move the alias, if its test score on the same data is better."""
    from unet_pipeline.stages import promote as stage

    result = stage.promote(
        run, alias=alias, name=name or None, tracking_uri=tracking_uri or None, force=force
    )
    print_result(result.table(), result.summary() if as_json else None)
    result.raise_for_refused()
