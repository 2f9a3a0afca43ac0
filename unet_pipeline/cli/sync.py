"""`unet sync`: a run folder -> MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[Path, typer.Argument(help="Folder of the run.")],
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", help="Send to this server or store instead.")
    ] = None,
) -> None:
    """Send to MLflow what it does not hold yet of a run; sending again adds nothing."""
    from unet_pipeline import tracking

    counts = tracking.sync(run, tracking_uri or None)
    typer.echo(", ".join(f"{n} {kind}" for kind, n in counts.items() if n) or "nothing to send")
