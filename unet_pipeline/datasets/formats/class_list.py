"""Names of classes as somebody wrote them down, in a file beside the data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from unet_pipeline.classes import MaskValue
from unet_pipeline.datasets.images import Color

CLASS_FILES = ("classes.txt", "label_colors.txt", "class_dict.csv")


@dataclass(frozen=True)
class ClassList:
    """Names of classes as somebody wrote them down, with their mask values or in their order.

    colors: how the data set itself shows each class, where it says so.
    snap: values that are not listed count as the nearest one that is.
    """

    source: str
    names: tuple[str, ...]
    values: tuple[MaskValue, ...] | None = None
    colors: tuple[Color, ...] | None = None
    snap: bool = False


def read_class_list(folder: Path) -> ClassList | None:
    """The names in a class file beside the data, if there is one.

    A line is `name`, `id name`, `r g b name` or `name,r,g,b`; all lines are of one kind.
    """
    for name in CLASS_FILES:
        path = folder / name
        if path.is_file():
            return _parse_class_list(path)
    return None


def _parse_class_list(path: Path) -> ClassList | None:
    text = path.read_bytes().decode("utf-8-sig", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines and set(re.split(r"[,;\s]+", lines[0].lower())) <= _HEADINGS:
        lines = lines[1:]
    if not lines:
        return None
    for pattern in _LINES:
        matches = [pattern.fullmatch(line) for line in lines]
        if all(matches):
            rows = [match.groupdict() for match in matches if match]
            names = tuple(row["name"].strip() for row in rows)
            if "id" in rows[0]:
                return ClassList(path.name, names, tuple(int(row["id"]) for row in rows))
            colors = tuple((int(row["r"]), int(row["g"]), int(row["b"])) for row in rows)
            return ClassList(path.name, names, colors)
    return ClassList(path.name, tuple(lines))


_HEADINGS = {"name", "class", "class_name", "label", "id", "value", "r", "g", "b"}
_GAP = r"[,;:\s]+"
_LINES = (
    re.compile(rf"(?P<r>\d+){_GAP}(?P<g>\d+){_GAP}(?P<b>\d+){_GAP}(?P<name>\D.*)"),
    re.compile(rf"(?P<name>.+?)[,;\t]\s*(?P<r>\d+){_GAP}(?P<g>\d+){_GAP}(?P<b>\d+)"),
    re.compile(rf"(?P<id>\d+){_GAP}(?P<name>.*\S)"),
)
