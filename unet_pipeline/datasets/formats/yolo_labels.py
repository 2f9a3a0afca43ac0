"""The label files of a YOLO dataset: where that of an image is, and the outlines in its lines."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterable, Set
from pathlib import Path

from unet_pipeline.datasets.formats.contract import Tree, list_tree
from unet_pipeline.datasets.formats.faults import Faults, ring_of
from unet_pipeline.datasets.formats.placement import note_place
from unet_pipeline.datasets.images import probe, read_bytes
from unet_pipeline.datasets.manifest import natural_key
from unet_pipeline.datasets.shapes import Polygon
from unet_pipeline.errors import DatasetError

Outline = tuple[int, Polygon]
"""The class number of a line, and its polygon, still of mask value 0."""


# ---- files --------------------------------------------------------------------------------------


def find_labels(tree: Tree, images: Iterable[Path]) -> dict[Path, Path | None]:
    """The label file of each image, None where it has none.

    It is where YOLO looks, or else the one text file of its name anywhere in the tree.
    """
    beside = {image: _beside(image) for image in images}
    taken = set(beside.values())
    free: dict[str, list[Path]] = defaultdict(list)
    for name in (list_tree(tree.root) if tree.only else tree).files(".txt"):
        path = Path(os.path.normpath(tree.path(name)))
        if path not in taken:
            free[path.stem].append(path)
    return {image: label or _elsewhere(image, free) for image, label in beside.items()}


def places(image: Path) -> list[Path]:
    """Where YOLO looks for the label file of `image`: for images/ in its path there is labels/."""
    name = f"{image.stem}.txt"
    parts = image.parent.parts
    folders = [image.parent.parent / "labels", image.parent / "labels", image.parent]
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        folders.insert(0, Path(*parts[:last], "labels", *parts[last + 1 :]))
    return [folder / name for folder in folders]


def _beside(image: Path) -> Path | None:
    return next((place for place in places(image) if place.is_file()), None)


def _elsewhere(image: Path, free: dict[str, list[Path]]) -> Path | None:
    """The one text file of the image's name; of several, as of a train/ and a val/, the one whose
    folder is called as the image's."""
    alike = free.get(image.stem, [])
    if len(alike) > 1:
        alike = [path for path in alike if path.parent.name == image.parent.name]
    return alike[0] if len(alike) == 1 else None


def lone_labels(tree: Tree, labels: Set[Path]) -> list[str]:
    """The label files beside `labels`, those of the images, that belong to no image."""
    return [
        os.path.relpath(path, tree.root)
        for folder in sorted({label.parent for label in labels})
        for path in sorted(folder.glob("*.txt"), key=lambda path: natural_key(path.name))
        if path not in labels and _is_label(path)
    ]


def _is_label(path: Path) -> bool:
    """Whether a text file is a label file rather than a list of classes or of images."""
    lines = _lines(path)
    with contextlib.suppress(ValueError):
        return not lines or len(_numbers(lines[0][1])) > 4
    return False


def holds_outlines(path: Path) -> bool:
    """Whether the first lines of a text file are a class and at least three corners in [0, 1]."""
    if not path.is_file():
        return False
    with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
        text, *_ = file.read(2**16).decode("utf-8-sig").splitlines() or [""]
        label, *corners = _numbers(text.split())
        is_class = label >= 0 and label.is_integer()
        return is_class and all(0 <= c <= 1 for c in ring_of(corners))
    return False


# ---- lines --------------------------------------------------------------------------------------


def read_outlines(
    label: Path, image: Path, name: str, classes: Set[int] | None, faults: Faults
) -> list[Outline] | None:
    """The outlines in a label file; lines that are none go to `faults`. None where it is empty.

    name: what the file is called there. classes: the numbers that may occur, None for any.
    """
    lines = _lines(label)
    if not lines:
        return None
    try:
        size = probe(image)
    except DatasetError:  # the checks read the image themselves, and say what is wrong with it
        return []
    outlines = []
    for number, words in lines:
        where = f"{name} line {number}"
        try:
            numbers = _numbers(words)
        except ValueError as error:
            faults["broken-lines"].append(f"{where}: {error}")
            continue
        if len(numbers) == 5:
            faults["no-segmentation"].append(f"{where}: a box, not an outline")
            continue
        try:
            outline = _outline(numbers, size.width, size.height)
            if classes is not None and outline[0] not in classes:
                faults["unknown-categories"].append(f"{where}: class {outline[0]}")
                continue
            _note_place(outline[1], (size.height, size.width), where, faults)
        except ValueError as error:
            faults["broken-shapes"].append(f"{where}: {error}")
            continue
        outlines.append(outline)
    return outlines


def _note_place(polygon: Polygon, size: tuple[int, int], where: str, faults: Faults) -> None:
    try:
        note_place(polygon, size, where, faults)
    except ValueError as error:
        hint = "the corners of a line are fractions of its width and height, from 0 to 1"
        raise ValueError(f"{error} ({hint})") from error


def _lines(label: Path) -> list[tuple[int, list[str]]]:
    """The lines of a label file that are not empty: their numbers from 1, and their words."""
    if label.stat().st_size == 0:
        return []
    lines = read_bytes(label).decode("utf-8-sig", "replace").splitlines()
    return [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]


def _numbers(words: list[str]) -> list[float]:
    """Words as numbers. Raises ValueError with the first that is none."""
    numbers = []
    for word in words:
        try:
            numbers.append(float(word))
        except ValueError as error:
            raise ValueError(f"{word[:20]!r} is no number") from error
    return numbers


def _outline(numbers: list[float], width: int, height: int) -> Outline:
    """The class and the polygon of a line. Raises ValueError with what is wrong with it."""
    label, *corners = numbers
    if label < 0 or not label.is_integer():
        raise ValueError(f"{label:g} is no class number")
    ring = tuple(c * (height if i % 2 else width) for i, c in enumerate(ring_of(corners)))
    return int(label), Polygon(0, (ring,))
