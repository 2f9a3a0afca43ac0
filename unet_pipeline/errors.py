"""What the user can fix: one class an exit code, one clear line, no traceback.

A message says what was seen, in which file or setting, and what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A setting, an option or a path that cannot work. Exit code 2."""

    exit_code = 2


class RejectedInputsError(UserError):
    """The work is done, but some inputs were rejected; they are listed. Exit code 3."""

    exit_code = 3


class DatasetError(UserError):
    """A file or a dataset that cannot be read as it should be. Exit code 4."""

    exit_code = 4


class ResourceError(UserError):
    """No space, no memory, no permission. Exit code 5."""

    exit_code = 5


class TrackingError(ResourceError):
    """MLflow does not take a run that is required to be there. Exit code 5."""


class DivergedError(UserError):
    """Training produced numbers that are not finite. Exit code 6."""

    exit_code = 6


class OutputInUseError(UserError):
    """Another process writes to the same output folder. Exit code 7."""

    exit_code = 7


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown `name`: the nearest known one, or all of them.

    >>> did_you_mean("unett", ["unet", "mlp"])
    ": did you mean 'unet'?"
    >>> did_you_mean("zzz", ["unet", "mlp"])
    ': use one of mlp, unet'
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f": did you mean {close[0]!r}?"
    return ": use one of " + ", ".join(names) if names else ""
