"""Steps that are done: what each was made from, noted in its run folder, so as not to redo it.

step.json says which step made the folder, a digest of all that it was made from, and what it made.
A step is done again where that digest is another, or what it made is not there as it was.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pydantic

from unet_pipeline.files import write_atomic

STEP_NAME = "step.json"


class StepNote(pydantic.BaseModel):
    """What step.json holds.

    digest: of all that the step was made from. settings: of its settings alone. state: `begun` is
    also that of a step that was killed. outputs: path, relative to the folder of the note where it
    lies there, -> `content_digest`. result: what later steps and tables need, JSON-able.
    rejected: the message where inputs were rejected. time: seconds since 1970 when it was begun.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")

    format_version: Literal[1] = 1
    step: str
    digest: str
    settings: str
    time: float
    state: Literal["begun", "failed", "finished"] = "begun"
    outputs: dict[str, str] = {}
    result: dict[str, Any] = {}
    rejected: str | None = None

    def save(self, folder: Path, **changes: Any) -> StepNote:
        """Write the note, with `changes`, into `folder`; what was written."""
        note = self.model_copy(update=changes)
        write_atomic(folder / STEP_NAME, note.model_dump_json(indent=2) + "\n")
        return note

    def stands(self, folder: Path) -> bool:
        """Whether the step is finished and all that it made is there as it was made."""
        return self.state == "finished" and all(
            content_digest(folder / path) == digest for path, digest in self.outputs.items()
        )


def outputs_of(folder: Path, paths: Iterable[Path]) -> dict[str, str]:
    """`StepNote.outputs` for the files and folders `paths`."""
    folder = folder.absolute()
    outputs = {}
    for path in map(Path.absolute, paths):
        inside = path.is_relative_to(folder)
        outputs[str(path.relative_to(folder) if inside else path)] = content_digest(path) or ""
    return outputs


def notes_of(runs_dir: Path, step: str) -> list[tuple[Path, StepNote]]:
    """(run folder, note) of all steps of that name, the newest first; damaged notes are none."""
    notes = []
    for path in runs_dir.glob(f"*/*/{STEP_NAME}"):
        try:
            note = StepNote.model_validate_json(path.read_bytes())
        except (OSError, ValueError):
            continue
        if note.step == step:
            notes.append((path.parent, note))
    return sorted(notes, key=lambda pair: pair[1].time, reverse=True)


def digest_of(values: Mapping[str, Any]) -> str:
    """Sha256 of JSON-able values, whatever the order of their keys."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def plain(settings: pydantic.BaseModel, *without: str) -> dict[str, Any]:
    """All settings, JSON-able, but those named and the number of processes that load."""
    tree: dict[str, Any] = settings.model_dump(mode="json", exclude=set(without))
    if isinstance(tree.get("runtime"), dict):
        tree["runtime"].pop("workers", None)
    return tree


def flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def content_digest(path: Path) -> str | None:
    """Sha256 of a file, or of the names and contents of all files of a folder; None without one.

    Hidden files, such as locks, do not count.
    """
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if not path.is_dir():
        return None
    return digest_of({str(file.relative_to(path)): content_digest(file) for file in _files(path)})


def listing_digest(paths: Iterable[Path]) -> str:
    """Sha256 of names, sizes and times of files, and of those of all files of folders.

    Quick, since nothing is read: a file that was touched counts as changed.
    """
    digest = hashlib.sha256()
    for path in paths:
        for file in _files(path) if path.is_dir() else [path]:
            try:
                status = file.stat()
            except OSError:  # a link to nothing, or it has gone meanwhile
                continue
            row = f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n"
            digest.update(row.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    """All files below `folder` but hidden ones, in order; links are followed, loops are not."""
    found: list[Path] = []
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(found)
