"""`unet list`: a catalogue -> its names."""

from __future__ import annotations

from typing import Annotated

import typer

from unet_pipeline.cli.options import JsonOption, print_result


def command(
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
    print_result(listing.table(), listing.summary() if as_json else None)
