"""labelme: one JSON file an image, with the shapes drawn on it and sometimes the image itself."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

from unet_pipeline.classes import IGNORE_INDEX
from unet_pipeline.datasets.findings import counted, name_five
from unet_pipeline.datasets.formats.class_numbers import number_classes, numbered_classes
from unet_pipeline.datasets.formats.contract import Format, Found, Made, Pair, Tree
from unet_pipeline.datasets.formats.embedded import LINE_WIDTH, POINTS, EmbeddedImage, shape_of
from unet_pipeline.datasets.formats.faults import SHAPE_KINDS, Faults, Kind, fault_findings
from unet_pipeline.datasets.formats.json_file import both_ends, read_json
from unet_pipeline.datasets.formats.labelme_images import ImageFinder
from unet_pipeline.datasets.formats.layout import split_of_path
from unet_pipeline.datasets.formats.named_folders import refuse_masks
from unet_pipeline.datasets.formats.pairs import about_splits, in_splits
from unet_pipeline.datasets.formats.placement import note_place
from unet_pipeline.datasets.images import probe
from unet_pipeline.datasets.manifest import Split, natural_key
from unet_pipeline.datasets.mask_values import VOID_NAMES
from unet_pipeline.datasets.shapes import Drawing, Line, Shape, largest_first
from unet_pipeline.errors import DatasetError

_VOID = VOID_NAMES | {"__ignore__", "_ignore_"}
_LABEL_FILES = ("labels.txt", "classes.txt")
_HEAD = 2**16  # bytes looked at, at either end of a larger file
_KEYS = (re.compile(rb'"shapes"\s*:\s*\['), re.compile(rb'"image(Path|Data)"\s*:'))
_NAME_FOLDER = "name the folder of images with --images"
_KINDS = {
    "unreadable-annotations": Kind(
        "JSON file",
        "that cannot be read",
        "save them again with the tool that wrote them, or take them out of the folder",
        "error",
    ),
    "missing-images": Kind(
        "labelme file",
        "without an image: none where imagePath says, beside the file or inside it (imageData)",
        _NAME_FOLDER,
        "error",
    ),
    "ambiguous-images": Kind(
        "labelme file", "with several images of the same name", _NAME_FOLDER, "error"
    ),
    "unpaired-images": Kind(
        "image",
        "without a labelme file",
        "annotate them (a file without shapes says that there is only background), or leave these "
        "out with --fix",
        "error",
    ),
    **SHAPE_KINDS,
    "unlisted-labels": Kind(
        "label",
        "not in the list of labels",
        "add them to the list, or correct their spelling in the files",
        "warning",
    ),
    "line-width": Kind(
        "line", f"drawn {LINE_WIDTH:g} pixels wide, as labelme does", severity="note"
    ),
}


@dataclass(frozen=True, slots=True)
class _Record:
    """What one file says.

    name: its path in the tree. shapes: each with its label, still of mask value 0.
    """

    name: str
    image: Path | Made
    size: tuple[int, int] | None
    shapes: tuple[tuple[str, Shape], ...]


def recognise(tree: Tree) -> str | None:
    """How many JSON files there are and where, if the first of a folder hold shapes and an image.

    Of at most thirty files, three a folder, both ends are read.
    """
    folders: dict[str, list[str]] = defaultdict(list)
    for name in tree.files(".json"):
        folders[_folder(name)].append(name)
    sample = [(folder, name) for folder, names in folders.items() for name in names[:3]][:30]
    hits = list(dict.fromkeys(folder for folder, name in sample if _is_labelme(tree.path(name))))
    count = sum(len(folders[folder]) for folder in hits)
    return (
        f"{counted(count, 'JSON file')} with shapes in {name_five([f'{h}/' for h in hits])}"
        if hits
        else None
    )


def read(tree: Tree, images: str | None, masks: str | None) -> Found:
    """The images that the labelme files of `tree` belong to, with masks drawn from their shapes.

    images: a folder that is searched first; else an image is where the file says, beside the file,
        anywhere in the tree, or inside the file.
    Raises `UserError` for `masks`, `DatasetError` where there are no labelme files and for more
    than 254 labels.
    """
    refuse_masks(masks, "labelme")
    faults: Faults = defaultdict(list)
    finder = ImageFinder(tree, images, faults)
    records, left_out = _read_all(tree, finder, faults)
    if not records and not faults:
        raise DatasetError(f"{tree.root}: no labelme files (JSON with shapes and imagePath)")
    labels = {label for record in records for label, _ in record.shapes}
    listed, listed_in = _listed_labels(tree, labels)
    unlisted = sorted(labels - set(listed), key=natural_key)
    values = number_classes((*listed, *unlisted), tree.root, void_names=_VOID)
    if listed:
        faults["unlisted-labels"] += [n for n in unlisted if values[n] not in (0, IGNORE_INDEX)]
    pairs, loose = _pairs(tree, records, values)
    left_out += loose
    if not tree.only:
        left_out += finder.unpaired([record.image for record in records])
    embedded = sum(not isinstance(pair.image, Path) for pair in pairs)
    places = list(dict.fromkeys(f"{_folder(record.name)}/" for record in records))
    return Found(
        pairs,
        f"{counted(len(pairs), 'pair')}: {counted(len(records), 'labelme file')} in "
        + name_five(places)
        + (f"; {counted(embedded, 'image')} inside them" if embedded else "")
        + about_splits(pairs, "by folder"),
        tuple(left_out),
        class_list=numbered_classes(listed_in or "the labels", values),
        ignore_values=(IGNORE_INDEX,) if IGNORE_INDEX in map(values.get, labels) else (),
        findings=tuple(fault_findings(faults, _KINDS, all_lost=not labels)),
    )


# ---- one file -----------------------------------------------------------------------------------


def _read_all(tree: Tree, finder: ImageFinder, faults: Faults) -> tuple[list[_Record], list[str]]:
    """The records of all labelme files, and a sentence about JSON files that are something else."""
    records, foreign = [], []
    for name in tree.files(".json"):
        try:
            content = read_json(tree.path(name))
        except DatasetError as error:
            finder.excused.add(PurePosixPath(name).stem)
            faults["unreadable-annotations"].append(str(error).replace(str(tree.path(name)), name))
            continue
        if not _is_record(content):
            foreign.append(name)
        elif record := _read_record(tree, name, content, finder, faults):
            records.append(record)
    if not foreign:
        return records, []
    count = counted(len(foreign), "JSON file")
    return records, [f"left out: {count} without shapes ({name_five(foreign)})"]


def _read_record(
    tree: Tree, name: str, content: dict[str, Any], finder: ImageFinder, faults: Faults
) -> _Record | None:
    embedded = bool(content.get("imageData"))
    found = finder.find(name, content.get("imagePath"), embedded=embedded)
    image: Path | Made | None = found[0] if len(found) == 1 else None
    if image is None and embedded:
        image = EmbeddedImage(tree.path(name))
    if image is None:
        faults["ambiguous-images" if found else "missing-images"].append(name)
        return None
    height, width = content.get("imageHeight"), content.get("imageWidth")
    size: tuple[int, int] | None = None
    if _is_length(height) and _is_length(width):
        size = (height, width)
    if size is None:
        try:
            size = _size_of(image)
        except DatasetError:
            if not isinstance(image, Path):
                faults["missing-images"].append(f"{name}: imageData cannot be decoded")
                return None
    shapes = []
    for number, entry in enumerate(content["shapes"], start=1):
        try:
            labelled = _labelled_shape(entry, size, content.get("line_width"))
            if labelled is not None:
                note_place(labelled[1], size, f"{name} shape {number}", faults)
        except ValueError as error:
            faults["broken-shapes"].append(f"{name} shape {number}: {error}")
            continue
        if labelled is None:
            faults["no-segmentation"].append(f"{name} shape {number}: {entry['shape_type']}")
            continue
        if isinstance(labelled[1], Line) and labelled[1].width == LINE_WIDTH:
            faults["line-width"].append(f"{name} shape {number}")
        shapes.append(labelled)
    return _Record(name, image, size, tuple(shapes))


def _labelled_shape(
    entry: Any, size: tuple[int, int] | None, line_width: Any
) -> tuple[str, Shape] | None:
    """The label of a shape and the shape, of value 0; None for points, which have no area."""
    if not isinstance(entry, dict):
        raise ValueError("is no shape")
    label = entry.get("label")
    if not isinstance(label, str | int) or not str(label).strip():
        raise ValueError("has no label")
    if entry.get("shape_type") in POINTS:
        return None
    return str(label).strip(), shape_of(entry, 0, size=size, line_width=line_width)


def _size_of(image: Path | Made) -> tuple[int, int]:
    if isinstance(image, Path):
        header = probe(image)
        return header.height, header.width
    height, width = image.pixels().shape[:2]
    return height, width


def _is_length(number: Any) -> TypeGuard[int]:
    return type(number) is int and number > 0


def _is_record(content: Any) -> bool:
    """Whether the content of a JSON file is a labelme file's, as far as its keys say."""
    return (
        isinstance(content, dict)
        and isinstance(content.get("shapes"), list)
        and bool(content.keys() & {"imagePath", "imageData"})
    )


def _is_labelme(path: Path) -> bool:
    ends, whole = both_ends(path, _HEAD)
    with contextlib.suppress(ValueError, RecursionError):  # a damaged file: its keys must do
        if whole:
            return _is_record(json.loads(ends))
    return all(key.search(ends) for key in _KEYS)


def _folder(name: str) -> str:
    return str(PurePosixPath(name).parent)


# ---- labels and pairs ---------------------------------------------------------------------------


def _listed_labels(tree: Tree, labels: set[str]) -> tuple[list[str], str | None]:
    """The labels in the order of a labels.txt beside the files that names one of them, and it."""
    folders = dict.fromkeys([".", *(_folder(name) for name in tree.files(".json"))])
    for path in (tree.root / folder / name for folder in folders for name in _LABEL_FILES):
        if path.is_file():
            lines = path.read_bytes().decode("utf-8-sig", "replace").splitlines()
            listed = [line.strip() for line in lines if line.strip()]
            if not labels.isdisjoint(listed):
                return list(dict.fromkeys(listed)), os.path.relpath(path, tree.root)
    return [], None


def _pairs(
    tree: Tree, records: list[_Record], values: dict[str, int]
) -> tuple[tuple[Pair, ...], list[str]]:
    """Pairs in natural order, and a sentence about those outside the splits that others are in."""
    stems = Counter(PurePosixPath(record.name).stem for record in records)
    pairs = []
    for record in records:
        path = PurePosixPath(record.name)
        sample_id = path.stem if max(stems.values()) == 1 else str(path.with_suffix(""))
        shapes = [replace(shape, value=values[label]) for label, shape in record.shapes]
        source = tree.path(record.name)
        image = record.image if isinstance(record.image, Path) else source
        mask = Drawing(str(source), image, largest_first(shapes), record.size)
        pairs.append(Pair(sample_id, record.image, mask, _split(tree, record)))
    pairs.sort(key=lambda pair: natural_key(pair.sample_id))
    kept, left_out = in_splits(pairs)
    return tuple(kept), left_out


def _split(tree: Tree, record: _Record) -> Split | None:
    """The split that a folder of the file names, or else one of the image inside the tree."""
    inside = os.path.relpath(record.image, tree.root) if isinstance(record.image, Path) else ""
    image_parts = () if inside.startswith("..") else Path(inside).parts[:-1]
    return split_of_path(Path(record.name).parts[:-1]) or split_of_path(image_parts)


FORMAT = Format("labelme: a JSON file of shapes for each image", recognise, read)
