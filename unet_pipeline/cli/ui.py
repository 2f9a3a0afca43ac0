"""`unet ui`: MLflow's pages of the runs, in a browser."""

from __future__ import annotations

import contextlib
import logging
from typing import Annotated

import typer

logger = logging.getLogger(__name__)

_SHOWN = 10


def command(
    tracking_uri: Annotated[
        str | None,
        typer.Option("--tracking-uri", help="Store or server (mlflow.db in this directory)."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", min=1, max=65535, help="Of the pages (5000, or the next free one)."),
    ] = None,
) -> None:
    """Show the runs in a browser: serves MLflow's pages until Ctrl-C, and prints their links."""
    from unet_pipeline import tracking

    uri = tracking.tracking_uri(tracking_uri or None)
    logger.info("opening %s", tracking.without_credentials(uri))
    # Ctrl-C is the usual way to end it
    with contextlib.suppress(KeyboardInterrupt), tracking.served(uri, port=port) as pages:
        boards = tracking.boards(uri, pages.address)
        for name, link in boards[:_SHOWN]:
            typer.echo(f"{name}: {link}")
        if len(boards) > _SHOWN:
            typer.echo(f"{len(boards) - _SHOWN} more experiments: {pages.address}")
        if not boards:
            typer.echo(f"no runs yet: {pages.address}")
        if pages.process is not None:
            logger.info("Ctrl-C ends it")
        pages.wait()
