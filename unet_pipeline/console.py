"""Log lines and errors on stderr; stdout is for results."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console, RenderableType
from rich.markup import escape

from unet_pipeline.files import resource_reason

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


_live_console: Console | None = None
_is_quiet = False


def is_quiet() -> bool:
    """Whether only warnings and errors are to be shown now."""
    return _is_quiet


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Show only warnings and errors meanwhile: of several processes, one reports."""
    global _is_quiet
    former = _is_quiet, logger.level
    _is_quiet = True
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        _is_quiet, level = former
        logger.setLevel(level)


@contextlib.contextmanager
def lines_above(console: Console) -> Iterator[None]:
    """Send log lines to `console` while a progress bar lives on it: they must go above it."""
    global _live_console
    _live_console = console
    try:
        yield
    finally:
        _live_console = None


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


class _FileHandler(logging.FileHandler):
    """Appends to a file; where that is refused, it says so once and the lines are lost."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace", delay=True)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._path = path
        self._was_refused = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError as error:  # of opening the file: those of writing go to `handleError`
            self._refuse(error)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name of logging
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self._refuse(error)
        else:  # a mistake in the call
            super().handleError(record)

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:  # what is still in the buffer
            self._refuse(error)

    def _refuse(self, error: OSError) -> None:
        if not self._was_refused:
            self._was_refused = True  # before the warning, which comes here too
            reason = resource_reason(error) or error.strerror
            logger.warning("cannot write %s: %s; the log is not complete", self._path, reason)


@contextlib.contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Append the package's log lines, with their time, to `path`; and the traceback of an error.

    A log that cannot be written, on a full disk say, is a warning and never an error.
    """
    handler = _FileHandler(path)
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
