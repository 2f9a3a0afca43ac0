"""A store after its folder has moved: where its files are now.

MLflow notes the place of every file as an absolute path in its database.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unet_pipeline.errors import ResourceError, UserError
from unet_pipeline.files import write_atomic
from unet_pipeline.tracking import places
from unet_pipeline.tracking.spool import IDENTITY

_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_RUN_DIR = "unet.run_dir"
_LOCK_SECONDS = 5.0


@dataclass(frozen=True)
class Relinked:
    """What `relink` has done.

    former: the folders that the database named; here: the one that it names now. num_places: places
    of files that were mended in it. num_runs: run folders that were told. elsewhere: places that
    do not exist and were left as they are.
    """

    former: tuple[str, ...]
    here: str
    num_places: int
    num_runs: int
    elsewhere: tuple[str, ...]

    def __str__(self) -> str:
        left = ""
        if self.elsewhere:
            left = (
                f"; {len(self.elsewhere)} places do not exist and were left as they are, such as "
                f"{self.elsewhere[0]}: name their former folder with --former"
            )
        if not self.former:
            return f"nothing to mend: all files are where the database says{left}"
        return (
            f"{', '.join(self.former)} -> {self.here}: {self.num_places} places of files and "
            f"{self.num_runs} run folders{left}"
        )


def relink(uri: str, *, former: Path | None = None) -> Relinked:
    """Have the database at `uri` name its files where they are: beside it.

    former: the folder in which the database was. Where not given it follows from places that exist
        no longer, and whose last parts exist beside the database.
    Run folders that have moved along learn of their store. Of the database all changes are made,
    or none. Doing it again changes nothing.
    Raises `UserError` where there is no database, or none that names `former`; `ResourceError`
    where it cannot be written to.
    """
    if not places.is_local(uri):
        raise UserError("only a database file is relinked: a server knows where its files are")
    path = places.database_path(uri)
    if not path.is_file():
        raise UserError(
            f"there is no {path}: go to the folder of mlflow.db, or give --tracking-uri"
        )
    here = path.absolute().parent
    with _opened(path) as database:
        named = _named(database, _present(database))
        # An experiment without artifacts has no folder either: the place of a run is what counts
        of_runs = _named(database, [row for row in _present(database) if row[0] != "experiments"])
        gone = sorted(place for place in named if not place.exists())
        folders = [former.absolute()] if former else _former_folders(gone, here)
        if former and not any(place.is_relative_to(folders[0]) for place in named):
            raise UserError(f"{path} names no file in {former}" + _example(named))
        num_places = sum(
            _replace(database, table, column, folder, here)
            for folder in folders
            for table, column in _present(database)
        )
        for folder in folders:
            _replace(database, "tags", "value", folder, here, where=f"key = '{_RUN_DIR}'")
        query = "SELECT value FROM tags WHERE key = ?"
        run_dirs = [Path(value) for (value,) in database.execute(query, (_RUN_DIR,))]
    return Relinked(
        tuple(map(str, folders)),
        str(here),
        num_places,
        sum(_tell(run_dir, folder / path.name, path) for run_dir in run_dirs for folder in folders),
        tuple(
            str(place)
            for place in gone
            if place in of_runs and not any(place.is_relative_to(folder) for folder in folders)
        ),
    )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The database, in one transaction that nobody else writes beside."""
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=_LOCK_SECONDS)) as database:
            database.isolation_level = None
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
            except BaseException:
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")
    except sqlite3.Error as error:
        raise ResourceError(
            f"{path}: {error}; end the trainings and `mlflow ui` that use it, and try again"
        ) from error


def _present(database: sqlite3.Connection) -> list[tuple[str, str]]:
    """The columns that hold places; older databases lack some."""
    return [
        (table, column)
        for table, column in _PLACES
        if any(column == row[1] for row in database.execute(f"PRAGMA table_info({table})"))
    ]


def _named(database: sqlite3.Connection, columns: Iterable[tuple[str, str]]) -> set[Path]:
    """The folders of this machine that these columns name."""
    texts = {
        text
        for table, column in columns
        for (text,) in database.execute(f"SELECT DISTINCT {column} FROM {table}")
        if text
    }
    places_ = {
        urllib.parse.unquote(text.removeprefix("file://")) if text.startswith("file:///") else text
        for text in texts
    }
    return {Path(place) for place in places_ if place.startswith("/")}


def _former_folders(gone: Sequence[Path], here: Path) -> list[Path]:
    """The folders that were `here`: what stands before the parts that exist in it."""
    found: dict[Path, None] = {}
    for place in gone:
        if any(place.is_relative_to(folder) for folder in found):
            continue
        for start in range(1, len(place.parts) - 1):  # two parts at least: one may be chance
            if here.joinpath(*place.parts[start:]).exists():
                found[Path(*place.parts[:start])] = None
                break
    return list(found)


def _replace(
    database: sqlite3.Connection,
    table: str,
    column: str,
    old: Path,
    new: Path,
    *,
    where: str = "1",
) -> int:
    """Let `column` begin with the path `new` where it begins with `old`; how many rows did.

    Where `new` lies in `old`, what begins with `new` is right already.
    """
    if new.is_relative_to(old):
        begins = f"substr({column} || '/', 1, length(:after) + 1) = :after || '/'"
        where = f"{where} AND NOT {begins}"
    count = 0
    for before, after in ((old.as_uri(), new.as_uri()), (str(old), str(new))):
        count += database.execute(
            f"UPDATE {table} SET {column} = :after || substr({column}, length(:before) + 1) "
            f"WHERE {where} AND substr({column} || '/', 1, length(:before) + 1) = :before || '/'",
            {"before": before, "after": after},
        ).rowcount
    return count


def _tell(run_dir: Path, old: Path, new: Path) -> bool:
    """Put the present place of the store into run.json, where that names the former one."""
    file = run_dir / IDENTITY
    try:
        identity = json.loads(file.read_bytes())
    except (OSError, ValueError):  # not here, or damaged: then it is no worse than before
        return False
    if identity.get("tracking_uri") != f"sqlite:///{old}":
        return False
    identity["tracking_uri"] = f"sqlite:///{new.absolute()}"
    write_atomic(file, json.dumps(identity, indent=2) + "\n")
    return True


def _example(named: set[Path]) -> str:
    return f": it names {min(named)}, for example" if named else ""
