"""The `unet` command: options in, stage called, exit code out; nothing else. A file a command.

An option is one line: its flags and the setting it sets. Help text, type check and default of a
setting live in `config.py`, exit codes in `ending.py`. Neither torch nor mlflow is imported before
a stage runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer

from unet_pipeline import __version__
from unet_pipeline.cli import (
    chain,
    evaluate,
    listing,
    predict,
    prepare,
    promote,
    relink,
    rerun,
    sweep,
    sync,
    train,
    ui,
)
from unet_pipeline.ending import LEFT, LEFT_NOTHING, exit_code_of, leave
from unet_pipeline.errors import UserError

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

COMMANDS: dict[str, Callable[..., None]] = {
    "prepare": prepare.command,
    "train": train.command,
    "sweep": sweep.command,
    "evaluate": evaluate.command,
    "predict": predict.command,
    "run": chain.command,
    "list": listing.command,
    "promote": promote.command,
    "rerun": rerun.command,
    "ui": ui.command,
    "sync": sync.command,
    "relink": relink.command,
}
"""In the order of the help text."""

for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"unet-pipeline {__version__}")
        raise typer.Exit


def main() -> NoReturn:
    """Run the command line; every ending has its exit code (see DESIGN: Command line)."""
    try:
        code = run(sys.argv[1:])
    except SystemExit as ending:  # of SIGTERM
        code = ending.code if isinstance(ending.code, int) else 1
    leave(code)


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
