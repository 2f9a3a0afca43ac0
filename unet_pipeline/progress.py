"""Progress on stderr: how far, how fast, how long still.

Apart from `console`, because the bars take 60 ms to import and `--help` shows none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

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

from unet_pipeline.console import error_console, is_quiet, lines_above


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
    shown = console.is_terminal and not is_quiet()
    progress = Progress(*columns, console=console, transient=True, disable=not shown)
    above = lines_above(progress.console) if shown else contextlib.nullcontext()
    with progress, above:
        yield Bar(progress, description, total=total, unit=unit)
