"""`unet relink`: a store whose folder has moved finds its files again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    tracking_uri: Annotated[
        str | None,
        typer.Option("--tracking-uri", help="The store (mlflow.db in this directory)."),
    ] = None,
    former: Annotated[
        Path | None,
        typer.Option("--former", help="Folder in which it was (found out where not given)."),
    ] = None,
) -> None:
    """Mend mlflow.db after its folder has moved: MLflow notes absolute places of all files."""
    from unet_pipeline import tracking

    typer.echo(str(tracking.relink(tracking.tracking_uri(tracking_uri or None), former=former)))
