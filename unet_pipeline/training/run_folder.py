"""The run folder: one place, never overwritten, that holds all a run has made."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from unet_pipeline.errors import UserError
from unet_pipeline.files import (
    make_writable_folder,
    require_writable,
    resource_errors,
    write_atomic,
)
from unet_pipeline.models import MODEL_NAME

BEST_NAME = MODEL_NAME
CONFIG_NAME = "config.yaml"
LAST_NAME = "last.safetensors"
HISTORY_NAME = "history.csv"
LOG_NAME = "log.txt"

_STEM_LENGTH = 60  # a loss may hold a weight for each class; file systems take 255 bytes


def slug(text: str) -> str:
    """`text` as a part of a folder's name: letters, digits, and `+-_.` only.

    >>> slug("smp:FPN/resnet18"), slug("ce + 0.5*dice")
    ('smp-FPN-resnet18', 'ce+0.5-dice')
    """
    return re.sub(r"[^\w+.-]+", "-", text.replace(" + ", "+")).strip("-.") or "run"


def check_run_folder(runs_dir: Path, experiment: str, name: str | None) -> None:
    """Raise what `create_run_folder` would for a name, and for a place that it cannot write to.

    Makes nothing.
    """
    folder = runs_dir / slug(experiment)
    if name is not None:
        check_run_name(name)
        folder /= name
    require_writable(folder)
    if name is not None and folder.exists():
        raise _taken(folder)


def create_run_folder(runs_dir: Path, experiment: str, name: str | None, *, stem: str) -> Path:
    """Make `runs_dir/experiment/name`, or the next free `stem-0001` where no name is given.

    Raises `UserError` where a run of that name exists, `ResourceError` where writing is refused.
    """
    if name is not None:
        check_run_name(name)
    parent = make_writable_folder(runs_dir / slug(experiment))
    if name is not None:
        folder = parent / name
        try:
            with resource_errors(folder):
                folder.mkdir()
        except FileExistsError as error:
            raise _taken(folder) from error
        except OSError as error:
            raise UserError(
                f"cannot make {folder}: {error.strerror}; choose another name"
            ) from error
        return folder
    number = 1 + max((_number(path) for path in parent.iterdir()), default=0)
    while True:  # two runs that start at once both try the same number; one of them moves on
        folder = parent / f"{slug(stem)[:_STEM_LENGTH]}-{number:04d}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def find_run_folder(model: Path) -> Path | None:
    """The run folder that `model` is, or lies in; None for a model file from elsewhere."""
    folder = model if model.is_dir() else model.parent
    is_run = (folder / CONFIG_NAME).is_file() and (folder / BEST_NAME).is_file()
    return folder if is_run else None


def write_history(folder: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write the rows of the run, one a validated epoch, as `history.csv`."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(folder / HISTORY_NAME, text.getvalue())


def check_run_name(name: str) -> None:
    """Raise `UserError` for what cannot be a part of a folder's name."""
    if slug(name) != name:
        raise UserError(f"run name {name!r}: use letters, digits and +-_. ({slug(name)!r})")


def _taken(folder: Path) -> UserError:
    return UserError(
        f"a run {folder} exists: choose another --run-name, or continue it with --resume"
    )


def _number(path: Path) -> int:
    match = re.search(r"-(\d{4,})$", path.name)
    return int(match.group(1)) if match else 0
