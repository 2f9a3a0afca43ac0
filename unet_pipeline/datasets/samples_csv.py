"""samples.csv: one row a sample, with paths relative to the file, for people and spreadsheets."""

from __future__ import annotations

import contextlib
import csv
import gc
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from unet_pipeline.errors import DatasetError, UserError, did_you_mean

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

_COLUMNS = ("sample_id", "image", "mask", "split", "group", "fold", "width", "height", "content")
_OPTIONAL = ("fold", "content")  # tables of earlier versions, or of people, may lack them


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with its mask.

    sample_id: unique in the dataset; the path inside the data folder, without roles and extension.
    image_file, mask_file: absolute paths, kept as text, which takes a third of a Path; mask_file
        is None where there is none. `image` and `mask` are the paths.
    group: samples of one group are never parted by a split.
    width, height: in pixels, upright.
    content: a digest of the bytes of both files, from which the fingerprint is made.
    fold: in which fold of a cross-validation it is scored; None in datasets without folds, and for
        what is scored in none.
    """

    sample_id: str
    image_file: str | Path
    mask_file: str | Path | None
    split: Split
    group: str
    width: int
    height: int
    content: str = ""
    fold: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_file", str(self.image_file))
        if self.mask_file is not None:
            object.__setattr__(self, "mask_file", str(self.mask_file))

    @property
    def image(self) -> Path:
        return Path(self.image_file)

    @property
    def mask(self) -> Path | None:
        return None if self.mask_file is None else Path(self.mask_file)


class Table(NamedTuple):
    """The rows of a samples.csv, and those of their files that are not there."""

    samples: list[Sample]
    gone: list[Path]


def dump_samples(samples: Iterable[Sample], folder: Path) -> bytes:
    """The samples.csv that lies in `folder`."""
    base = folder.resolve()
    parents: dict[str, str] = {}  # of each folder of files, as seen from the table

    def relative(file: str | Path | None) -> str:
        if file is None:
            return ""
        parent, name = os.path.split(file)
        if parent not in parents:
            # links among the folders are resolved; a link at the file itself is not
            seen = Path(os.path.relpath(os.path.realpath(parent), base)).as_posix()
            parents[parent] = "" if seen == "." else f"{seen}/"
        return parents[parent] + name

    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for s in samples:
        fold = "" if s.fold is None else s.fold
        places = (relative(s.image_file), relative(s.mask_file))
        writer.writerow(
            [s.sample_id, *places, s.split, s.group, fold, s.width, s.height, s.content]
        )
    # File names need not be UTF-8; what they hold instead goes in and out unchanged
    return table.getvalue().encode("utf-8", "surrogateescape")


def load_samples(path: Path) -> Table:
    """The rows of the samples.csv at `path`, whoever has edited it, in their order.

    Every folder of files is listed once; no file is asked for by itself.
    Raises `UserError` where there is no such file, `DatasetError`, naming the row, for one that
    cannot be.
    """
    try:
        # utf-8-sig: spreadsheets put a mark in front; and some write semicolons or tabs
        text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; check the path") from error
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        samples, gone = _read_rows(rows, path)
    except csv.Error as error:
        raise DatasetError(
            f"{path}: is no table that can be parsed: {error}; look for a quote that is not closed"
        ) from error
    if not samples:
        raise DatasetError(f"{path}: has no rows; remove {path.parent} and prepare again")
    counts = Counter(s.sample_id for s in samples)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise DatasetError(f"{path}: {len(twice)} sample ids occur twice ({', '.join(twice[:5])})")
    return Table(samples, gone)


def _read_rows(rows: Iterator[list[str]], path: Path) -> tuple[list[Sample], list[Path]]:
    """The samples of the table at `path`, and those of their files that are not there."""
    header = next(rows, [])
    missing = [name for name in _COLUMNS if name not in (*header, *_OPTIONAL)]
    if missing:
        raise DatasetError(
            f"{path}: has no column {', '.join(missing)}; remove {path.parent} and prepare again"
        )
    # columns may stand in any order; one that is not there, or a row cut short, is empty
    width = len(header)
    places = [header.index(name) if name in header else width for name in _COLUMNS]
    files = _Files(path.parent.resolve())
    samples = []
    with _no_collection():
        for number, row in enumerate(rows, start=2):
            if any(row):
                if len(row) > width:
                    row = _without_surplus(row, width, path, number)
                cells = [*row, *[""] * (width + 1 - len(row))]
                samples.append(_sample([cells[at] for at in places], files, path, number))
    return samples, files.gone


def _without_surplus(row: list[str], width: int, path: Path, number: int) -> list[str]:
    """The first `width` cells; those behind must be empty, as some spreadsheets write them."""
    if any(cell.strip() for cell in row[width:]):
        raise DatasetError(
            f"{path}, row {number}: has {len(row)} cells, the header {width}: put names that hold "
            "the delimiter into quotes"
        )
    return row[:width]


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection meanwhile: nothing here is garbage, and with torch loaded every pass
    goes through a million objects (100,000 rows: 2.1 s with it, 1.2 s without).
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _sample(cells: list[str], files: _Files, path: Path, number: int) -> Sample:
    sample_id, image, mask, split, group, fold, width, height, content = cells
    source = f"{path}, row {number}"
    if not sample_id or not image:
        raise DatasetError(f"{source}: sample_id or image is empty; remove the row or fill it")
    if split not in SPLITS:
        raise DatasetError(f"{source}: unknown split {split!r}{did_you_mean(split, SPLITS)}")
    if not (width.isdecimal() and height.isdecimal()):
        raise DatasetError(f"{source}: width {width!r} and height {height!r} must be whole numbers")
    if fold and not fold.isdecimal():
        raise DatasetError(f"{source}: fold {fold!r} must be a whole number, or empty")
    return Sample(
        sample_id,
        files.path(image),
        files.path(mask) if mask else None,
        split,
        group or sample_id,
        int(width),
        int(height),
        content,
        int(fold) if fold else None,
    )


class _Files:
    """Paths of files below folders that are listed once, where they are first met."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.gone: list[Path] = []
        self._listed: dict[str, tuple[str, set[str]]] = {}

    def path(self, relative: str) -> str:
        """The absolute path of a file; one that is not there is noted in `gone`."""
        parent, slash, name = relative.rpartition("/")
        if parent not in self._listed:
            folder = Path(os.path.normpath(self.base / (parent or slash)))
            try:
                present = {entry.name for entry in os.scandir(folder)}
            except OSError:
                present = set()
            self._listed[parent] = str(folder).rstrip(os.sep) + os.sep, present
        prefix, present = self._listed[parent]
        if name not in present:
            self.gone.append(Path(prefix, name))
        return prefix + name
