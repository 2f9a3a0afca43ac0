"""What people see while they wait: log lines and progress on stderr. stdout is for results."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

logger = logging.getLogger("unet_pipeline")


def error_console() -> Console:
    """A console on the stderr of this moment (tests and notebooks exchange it)."""
    return Console(file=sys.stderr, highlight=False, soft_wrap=True)


class _PlainHandler(logging.Handler):
    """Prints messages as they are, warnings with the word before them."""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.levelno >= logging.WARNING:
            message = f"{record.levelname.lower()}: {message}"
        console = _live_console or error_console()
        console.print(escape(message), markup=True, highlight=False)


_live_console: Console | None = None  # where a progress bar lives, lines must go above it


def as_text(renderable: RenderableType) -> str:
    """What rich would print, coloured where stdout is a terminal."""
    console = Console(file=io.StringIO(), force_terminal=sys.stdout.isatty(), width=100)
    console.print(renderable)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text.rstrip()


def print_error(message: str) -> None:
    """One line on stderr: what was seen and what to do."""
    error_console().print(f"[bold red]error:[/] {escape(' '.join(message.split()))}")


def log_to_stderr() -> None:
    """Send the package's log lines to stderr, once however often it is called."""
    if not any(isinstance(handler, _PlainHandler) for handler in logger.handlers):
        logger.addHandler(_PlainHandler())
    logger.setLevel(logging.INFO)
    logger.propagate = False


@contextlib.contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Append the package's log lines, with their time, to `path`; and the traceback of an error."""
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    try:
        yield
    except BaseException as error:
        handler.emit(
            logger.makeRecord(
                logger.name, logging.ERROR, __file__, 0, "ended by %r", (error,), sys.exc_info()
            )
        )
        raise
    finally:
        logger.removeHandler(handler)
        handler.close()


class _Rate(ProgressColumn):
    """Units a second, by the task's own count."""

    def render(self, task: Task) -> Text:
        unit = task.fields.get("unit", "")
        count = task.fields.get("count", task.completed)
        if not unit or not task.elapsed or not count:
            return Text("")
        return Text(f"{count / task.elapsed:.1f} {unit}/s", style="cyan")


class Bar:
    """One line of progress: how far, how fast, how long still."""

    def __init__(self, progress: Progress, description: str, *, total: float, unit: str) -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=total, unit=unit, count=0, note="")

    def move_to(self, completed: float, *, count: float, note: str = "") -> None:
        """Set the bar to `completed` of its total, after `count` units of work."""
        self._progress.update(self._task, completed=completed, count=count, note=note)


@contextlib.contextmanager
def progress_bar(description: str, *, total: float, unit: str) -> Iterator[Bar]:
    """A `Bar` on stderr with rate and time remaining; silent where stderr is no terminal."""
    global _live_console
    console = error_console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        _Rate(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with progress:
        _live_console = progress.console if console.is_terminal else None
        try:
            yield Bar(progress, description, total=total, unit=unit)
        finally:
            _live_console = None
