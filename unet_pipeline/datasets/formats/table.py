"""A table of pairs: a CSV file whose header has a column for images and one for masks.

Commas, semicolons and tabs part the cells, as spreadsheets write them; paths are relative to the
table, or absolute. Rows are counted as a spreadsheet does: the header is row 1.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from unet_pipeline.datasets.findings import Finding, agree, counted
from unet_pipeline.datasets.formats.class_list import read_class_list
from unet_pipeline.datasets.formats.contract import Format, Found, Pair, Tree
from unet_pipeline.datasets.formats.layout import split_of
from unet_pipeline.datasets.formats.table_text import WINDOWS, decoded, readable, spellings
from unet_pipeline.datasets.images import MASK_EXTENSIONS, open_regular, read_bytes
from unet_pipeline.datasets.manifest import FACTS_FILE, SPLITS, Split, natural_key
from unet_pipeline.errors import DatasetError, UserError

_COLUMNS: dict[str, tuple[str, ...]] = {
    "image": (
        *("image", "image_path", "image_file", "image_filename", "image_name"),
        *("img", "img_path", "filename", "file_name", "file", "path"),
    ),
    "mask": (
        *("mask", "mask_path", "mask_file", "mask_filename", "mask_name"),
        *("label", "label_path", "annotation", "annotation_path", "segmentation", "seg", "gt"),
    ),
    "split": ("split", "subset", "partition", "set"),
    "group": ("group", "group_id"),
    "id": ("sample_id", "id"),
}
"""What people call each column; of several in one table the first listed here counts."""

_SUFFIXES = (".csv", ".tsv")
_HEAD = 65536  # bytes in which the header and some rows lie


def recognise(tree: Tree) -> str | None:
    """A table with columns for images and masks, the cells of the latter being names of files."""
    tables = _tables(tree)
    if not tables:
        return None
    verb = "has" if len(tables) == 1 else "have"
    return f"{', '.join(tables)} {verb} columns for images and masks"


def read(tree: Tree, images: str | None, masks: str | None) -> Found:
    """The pairs that the one table of `tree` lists.

    Rows that miss a cell or a file, name a split that is none, or repeat an image or an id give no
    pair; they are findings with their numbers. Splits and groups are those of the table.
    Raises `UserError` for folders that are named, `DatasetError` where there is no such table,
    where there are several, and where one cannot be parsed.
    """
    if images or masks:
        raise UserError(
            "--format table takes the paths of the table: leave out --images and --masks"
        )
    tables = [tree.only] if tree.only else _tables(tree)
    if not tables:
        raise DatasetError(
            f"{tree.root}: no CSV file here has columns for images and masks: call them image and "
            "mask"
        )
    if len(tables) > 1:
        raise DatasetError(
            f"{tree.root}: several tables list pairs, {', '.join(tables)}: give one of them as "
            "SOURCE (a column split tells train from test), or --format plain for the folders"
        )
    path = tree.path(tables[0])
    text, encoding = decoded(read_bytes(path), path)
    columns, rows = _parse(text, path)
    faults = _Faults()
    good = list(_usable(rows, tree.root, faults, has_splits="split" in columns.used))
    pairs = _pairs(good, tree.root, faults)
    counts = Counter(pair.split for pair in pairs)
    named = ", ".join(f"{name} {counts[name]}" for name in SPLITS if counts[name])
    words = ", ".join(columns.used.values())
    sentence = f"{counted(len(pairs), 'pair')} listed in {path.name} (columns {words})"
    sentence += f"; splits: {named}" if named else ""
    left_out = [f"left out: the columns {', '.join(columns.unused)}"] if columns.unused else []
    if encoding == WINDOWS:
        left_out.append(f"{path.name} is no UTF-8: it was read as Windows-1252 (Western European)")
    return Found(
        pairs,
        sentence,
        tuple(left_out),
        class_list=read_class_list(tree.root),
        findings=(*faults.findings(len(rows)), *_repeated_masks(pairs)),
    )


# ---- the table ----------------------------------------------------------------------------------


class _Columns(NamedTuple):
    """What the header says.

    places, used: what a column means -> its place, and its name. unused: names of other columns.
    """

    places: dict[str, int]
    used: dict[str, str]
    unused: list[str]


class _Row(NamedTuple):
    """One row: its number, and its cells by what their columns mean."""

    number: int
    cells: dict[str, str]

    def named(self, column: str) -> str:
        """The row for a message, with one of its cells."""
        cell = self.cells[column]
        return f"row {self.number}: {cell}" if cell else f"row {self.number}"


def _tables(tree: Tree) -> list[str]:
    """The tables at the top of `tree` that list pairs; none in a dataset prepared already."""
    if tree.path(FACTS_FILE).exists():
        return []
    return [name for name in tree.files(*_SUFFIXES, under="") if _lists_pairs(tree.path(name))]


def _lists_pairs(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            head = file.read(_HEAD)
        whole = len(head) < _HEAD
        text, _ = decoded(head, path, whole=whole)
        text = text if whole else text[: text.rfind("\n") + 1]
        _, rows = _parse(text, path, surplus=True)  # the fault of one row is told where it is read
    except DatasetError:
        return False
    # image,label is also how classes of whole pictures are listed
    return any(row.cells["mask"].lower().endswith(MASK_EXTENSIONS) for row in rows)


def damage_of_table(path: Path) -> str:
    """Why a file with columns for images and masks cannot be used; empty for all other files."""
    try:
        content = read_bytes(path)
    except DatasetError:
        return ""
    start = content[:_HEAD].replace(b"\0", b"").decode("utf-8-sig", "replace")
    header = start.split("\n", 1)[0]
    try:
        _columns([cell.strip(' "\r') for cell in header.split(_delimiter(header))], path)
    except DatasetError:
        return ""
    try:
        _parse(decoded(content, path)[0], path)
    except DatasetError as error:
        return str(error)
    return ""


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)


def _parse(text: str, path: Path, *, surplus: bool = False) -> tuple[_Columns, list[_Row]]:
    """The header and the rows that are not empty. surplus: rows may have more cells than it."""
    delimiter = _delimiter(text.split("\n", 1)[0])
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        if not surplus:
            _refuse_open_quotes(text, delimiter, path)
        header = [cell.strip() for cell in next(lines, [])]
        columns = _columns(header, path)
        rows = []
        for number, cells in enumerate(lines, start=2):
            if not any(cell.strip() for cell in cells):
                continue
            if not surplus and any(cell.strip() for cell in cells[len(header) :]):
                raise DatasetError(
                    f"{path}: row {number} has {len(cells)} cells, the header {len(header)}: put "
                    "names that hold the delimiter into quotes"
                )
            padded = cells + [""] * (len(header) - len(cells))
            rows.append(_Row(number, {k: padded[at].strip() for k, at in columns.places.items()}))
    except csv.Error as error:
        raise DatasetError(f"{path}: is no table that can be parsed: {error}") from error
    if not rows:
        raise DatasetError(f"{path}: has a header but no rows")
    return columns, rows


def _refuse_open_quotes(text: str, delimiter: str, path: Path) -> None:
    """Raise `DatasetError` where a quote is not closed: all rows after it would be one cell."""
    try:
        for _ in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
            pass
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            raise DatasetError(
                f"{path}: a quote is not closed, so that the rows after it are none: look for it"
            ) from error


def _columns(header: list[str], path: Path) -> _Columns:
    plain = [name.casefold().replace(" ", "_").replace("-", "_") for name in header]
    places = {
        meaning: plain.index(word)
        for meaning, words in _COLUMNS.items()
        if (word := next((word for word in words if word in plain), None))
    }
    for needed in ("image", "mask"):
        if needed not in places:
            raise DatasetError(
                f"{path}: no column of {needed}s among {', '.join(header)}: call it {needed}"
            )
    unused = [name for at, name in enumerate(header) if name and at not in places.values()]
    return _Columns(places, {meaning: header[at] for meaning, at in places.items()}, unused)


# ---- rows -> pairs ------------------------------------------------------------------------------


class _Usable(NamedTuple):
    row: _Row
    image: Path
    mask: Path
    split: Split | None


@dataclass
class _Faults:
    """The rows that give no pair, by the code of what is wrong with them."""

    rows: dict[str, list[str]] = field(default_factory=dict)

    def add(self, code: str, row: str) -> None:
        self.rows.setdefault(code, []).append(row)

    def findings(self, total: int) -> Iterator[Finding]:
        for code, (verb, what, remedy) in _FAULTS.items():
            if rows := self.rows.get(code, []):
                yield Finding(
                    code,
                    "error",
                    f"{len(rows)} of {counted(total, 'row')} {agree(len(rows), verb)} {what}",
                    len(rows),
                    tuple(rows[:5]),
                    remedy,
                )


_FAULTS = {
    "unpaired-images": ("have", "no mask", "fill the cells, or remove the rows"),
    "unpaired-masks": ("have", "no image", "fill the cells, or remove the rows"),
    "missing-images": (
        "name",
        "an image that does not exist",
        "paths are relative to the table, or absolute; add the files or correct the rows",
    ),
    "missing-masks": (
        "name",
        "a mask that does not exist",
        "paths are relative to the table, or absolute; add the files or correct the rows",
    ),
    "repeated-images": ("name", "an image that an earlier row names", "keep one row an image"),
    "repeated-ids": ("have", "the id of an earlier row", "give each row an id of its own"),
    "unknown-splits": ("name", "a split that is none", "use train, val or test"),
    "rows-without-split": (
        "name",
        "no split, while others do",
        "fill the cells, or empty the whole column to have the data divided",
    ),
}


def _repeated_masks(pairs: Sequence[Pair]) -> Iterator[Finding]:
    """The pairs whose mask is that of another image."""
    first: dict[str, str] = {}
    again = [p for p in pairs if first.setdefault(str(p.mask), p.sample_id) != p.sample_id]
    if again:
        yield Finding(
            "repeated-masks",
            "warning",
            f"{counted(len(again), 'image')} {agree(len(again), 'have')} the mask of another one",
            len(again),
            tuple(f"{p.sample_id}, as {first[str(p.mask)]}: {p.mask}" for p in again[:5]),
            "correct the rows, unless these images show one scene",
        )


def _usable(
    rows: list[_Row], root: Path, faults: _Faults, *, has_splits: bool
) -> Iterator[_Usable]:
    """The rows without a fault of their own; an image counts once, in its first row."""
    folders = _Folders(root)
    has_splits = has_splits and any(row.cells["split"] for row in rows)
    seen: set[Path] = set()
    for row in rows:
        image, mask = (folders.find(row.cells[role]) for role in ("image", "mask"))
        word = row.cells["split"] if has_splits else ""
        split = split_of(word)
        if not row.cells["image"] or not row.cells["mask"]:
            role = "mask" if row.cells["mask"] else "image"
            faults.add(f"unpaired-{role}s", row.named(role))
        elif image is None or mask is None:
            for role, path in (("image", image), ("mask", mask)):
                if path is None:
                    faults.add(f"missing-{role}s", row.named(role))
        elif image in seen:
            faults.add("repeated-images", row.named("image"))
        elif has_splits and split is None:
            code = "unknown-splits" if word else "rows-without-split"
            faults.add(code, row.named("split" if word else "image"))
        else:
            seen.add(image)
            yield _Usable(row, image, mask, split)


def _pairs(rows: list[_Usable], root: Path, faults: _Faults) -> tuple[Pair, ...]:
    """The pairs in natural order of their ids: those of the table, or the paths of the images."""
    inside = all(row.image.is_relative_to(root) for row in rows)
    base = root if inside else Path(os.path.commonpath([row.image.parent for row in rows]))
    derived = [PurePosixPath(readable(row.image.relative_to(base))) for row in rows]
    stems = Counter(path.with_suffix("") for path in derived)
    pairs: dict[str, Pair] = {}
    for usable, path in zip(rows, derived, strict=True):
        bare = path.with_suffix("")
        row = usable.row
        sample_id = row.cells.get("id") or str(bare if stems[bare] == 1 else path)
        if sample_id in pairs:
            faults.add("repeated-ids", f"row {row.number}: {sample_id}")
            continue
        group = row.cells.get("group") or None
        pairs[sample_id] = Pair(sample_id, usable.image, usable.mask, usable.split, group)
    return tuple(sorted(pairs.values(), key=lambda pair: natural_key(pair.sample_id)))


class _Folders:
    """Which files there are: every folder is listed once, for tables have many rows."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: dict[Path, frozenset[str]] = {}

    def find(self, cell: str) -> Path | None:
        """The file that a cell names, None where there is none; a\\b is a/b of Windows."""
        if not cell:
            return None
        for name in dict.fromkeys(spellings(cell)):
            path = Path(os.path.normpath(self._root / name))
            if path.parent not in self._names:
                self._names[path.parent] = _names_in(path.parent)
            # is_file: what a list lacks may still open where upper and lower case are one
            if path.name in self._names[path.parent] or path.is_file():
                return path
        return None


def _names_in(folder: Path) -> frozenset[str]:
    try:
        return frozenset(path.name for path in folder.iterdir())
    except (OSError, ValueError):  # ValueError: a null character in the name
        return frozenset()


FORMAT = Format("a CSV file with columns image, mask and, if wanted, split and group", recognise,
                read)  # fmt: skip
