"""How a run has ended, as MLflow counts endings."""

from __future__ import annotations

from typing import Literal

Status = Literal["FINISHED", "FAILED", "KILLED"]

_STOPPED_CODES = (129, 130, 143)  # SIGHUP, Ctrl-C, SIGTERM


def status_of(error: BaseException | None) -> Status:
    """How a run has ended that `error` has ended: by a signal, well all the same, or badly.

    >>> status_of(None), status_of(KeyboardInterrupt()), status_of(SystemExit(0))
    ('FINISHED', 'KILLED', 'FINISHED')
    """
    if error is None:
        return "FINISHED"
    if isinstance(error, SystemExit):
        code = error.code or 0
    elif isinstance(error, Exception):  # typer's Exit, which is no SystemExit, and our own errors
        code = getattr(error, "exit_code", 1)
    else:  # Ctrl-C, SIGTERM
        code = 130
    if code in _STOPPED_CODES:
        return "KILLED"
    return "FINISHED" if code == 0 else "FAILED"
