"""What the commands have in common: an option is one line, its flags and the setting it sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import pydantic
import typer

from unet_pipeline.settings_files import describe_setting


def setting(kind: type[pydantic.BaseModel], name: str, *flags: str) -> Any:
    """A Typer option for the setting called `name`, with its help and its default."""
    text, default = describe_setting(kind, name)
    given = default is not None and default is not False and default != ()
    shown = "" if not given else f" [default: {_as_text(default)}]"
    plain = (text + shown).replace("[", "\\[")  # square brackets are markup in help texts
    option = typer.Option(*flags, help=plain, show_default=False)
    option.setting = name
    return option


def argument(name: str, text: str) -> Any:
    """A Typer argument for the setting called `name`."""
    argument = typer.Argument(help=text)
    argument.setting = name
    return argument


def _as_text(default: Any) -> str:
    return ",".join(default) if isinstance(default, tuple) else str(default)


ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="YAML file of settings; options given here win over it."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any other setting; repeatable."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def print_result(text: str, summary: dict[str, Any] | None) -> None:
    """Print the result of a command: as JSON where there is a summary, else as text."""
    typer.echo(text if summary is None else json.dumps(summary, indent=2, default=str))
