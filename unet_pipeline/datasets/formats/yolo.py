"""YOLO-seg: a text file an image, one outline a line, and a YAML file that names the classes.

A line is `class x1 y1 x2 y2 ...`, the corners as fractions of width and height. Facts of the
format: docs.ultralytics.com/datasets/segment.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from unet_pipeline.datasets.findings import Finding, counted, name_five
from unet_pipeline.datasets.formats.class_list import read_class_list
from unet_pipeline.datasets.formats.class_numbers import number_classes, numbered_classes
from unet_pipeline.datasets.formats.contract import Format, Found, Pair, Tree
from unet_pipeline.datasets.formats.faults import SHAPE_KINDS, Faults, Kind, fault_findings
from unet_pipeline.datasets.formats.named_folders import refuse_masks
from unet_pipeline.datasets.formats.pairs import about_splits, in_splits
from unet_pipeline.datasets.formats.yolo_config import (
    Config,
    Listing,
    broken_configs,
    class_count,
    configured_images,
    find_config,
    images_of_folders,
)
from unet_pipeline.datasets.formats.yolo_labels import (
    Outline,
    find_labels,
    holds_outlines,
    lone_labels,
    places,
    read_outlines,
)
from unet_pipeline.datasets.manifest import Split, natural_key
from unet_pipeline.datasets.shapes import Drawing, largest_first
from unet_pipeline.errors import DatasetError

_KINDS = {
    "unreadable-annotations": Kind(
        "YAML file",
        "that cannot be used, and so names neither classes nor splits",
        "mend it, or take it out of the folder",
        "error",
    ),
    "broken-lines": Kind("line", "with something else than numbers, left out", "correct the lines"),
    **SHAPE_KINDS,
    "unpaired-labels": Kind(
        "label file",
        "without an image",
        "give both files of a pair the same name, or leave these out with --fix",
        "error",
    ),
    "background-images": Kind("image", "without outlines: all background", severity="note"),
}


@dataclass(frozen=True, slots=True)
class _Image:
    """An image, the split that it is named in, its label file and what that holds."""

    path: Path
    split: Split | None
    label: Path | None
    outlines: tuple[Outline, ...]


def recognise(tree: Tree) -> str | None:
    """The YAML file that names classes and images, or the folder whose text files hold outlines."""
    if config := find_config(tree):
        return f"{config.name} names classes and images"
    folders: dict[str, list[str]] = defaultdict(list)
    for name in tree.files(".txt"):
        folders[str(PurePosixPath(name).parent)].append(name)
    sample = [(folder, name) for folder, names in folders.items() for name in names[:5]][:50]
    hits = list(dict.fromkeys(f for f, name in sample if holds_outlines(tree.path(name))))
    count = sum(len(folders[folder]) for folder in hits)
    shown = name_five([f"{folder}/" for folder in hits])
    return f"{counted(count, 'text file')} with outlines in {shown}" if hits else None


def read(tree: Tree, images: str | None, masks: str | None) -> Found:
    """The images of `tree` with masks drawn from the outlines in their label files.

    The images are those that the YAML file names; where there is none, or with `images`, those of
    the folders. An image without a label file, or with an empty one, is background, as YOLO
    takes it; a folder of images none of which has one is left out.
    Raises `UserError` for `masks`, `DatasetError` where there are no images or no label files,
    where these hold boxes, and for more than 254 classes.
    """
    refuse_masks(masks, "YOLO")
    config = find_config(tree)
    if config and images is None:
        listing = configured_images(config, tree)
    else:
        listing = Listing(images_of_folders(tree, images), [], [])
    faults: Faults = defaultdict(list)
    labels, bare = _labels(tree, listing.splits)
    used = [
        _Image(path, listing.splits[path], label, _outlines(tree, path, label, config, faults))
        for path, label in labels.items()
    ]
    num_outlines = sum(len(image.outlines) for image in used)
    _refuse_boxes(tree, num_outlines, faults)
    if config is None:
        faults["unreadable-annotations"] += broken_configs(tree)
    faults["unpaired-labels"] += lone_labels(tree, {label for label in labels.values() if label})
    names, about_names = _class_names(tree, config, used)
    values = number_classes(names.values(), tree.root)
    pairs, loose = _pairs(used, {number: values[name] for number, name in names.items()})
    told = fault_findings(faults, _KINDS, all_lost=not num_outlines)
    folders = dict.fromkeys(os.path.relpath(i.label.parent, tree.root) for i in used if i.label)
    return Found(
        pairs,
        f"{counted(len(pairs), 'pair')}: {counted(num_outlines, 'outline')} in "
        + name_five([f"{folder}/" for folder in folders])
        + about_splits(pairs),
        (*listing.left_out, *bare, *loose),
        class_list=numbered_classes(config.name if config else "the label files", values),
        findings=(*listing.findings, *told, *about_names),
    )


# ---- images and outlines ------------------------------------------------------------------------


def _labels(
    tree: Tree, splits: Mapping[Path, Split | None]
) -> tuple[dict[Path, Path | None], list[str]]:
    """The images with their label files; folders of images where none has one are left out."""
    if not splits:
        raise DatasetError(f"{tree.root}: no images for the label files; name them with --images")
    found = find_labels(tree, splits)
    labelled = {image.parent for image, label in found.items() if label}
    if not labelled:
        raise DatasetError(
            f"{tree.root}: none of {counted(len(found), 'image')} has a label file (looked for "
            f"{places(next(iter(found)))[0]}, for one)"
        )
    bare = Counter(image.parent for image in found if image.parent not in labelled)
    left_out = [
        f"left out: {counted(count, 'image')} in {os.path.relpath(folder, tree.root)}/, none of "
        "which has a label file"
        for folder, count in bare.items()
    ]
    return {i: label for i, label in found.items() if i.parent in labelled}, left_out


def _outlines(
    tree: Tree, image: Path, label: Path | None, config: Config | None, faults: Faults
) -> tuple[Outline, ...]:
    """The outlines of an image; it is noted where there are none at all."""
    outlines = None
    if label is not None:
        name = os.path.relpath(label, tree.root)
        known = config.classes.keys() if config else None
        outlines = read_outlines(label, image, name, known, faults)
    if outlines is None:
        faults["background-images"].append(os.path.relpath(image, tree.root))
    return tuple(outlines or ())


def _refuse_boxes(tree: Tree, num_outlines: int, faults: Faults) -> None:
    """Raise `DatasetError` where the label files hold nothing but boxes."""
    boxes = faults["no-segmentation"]
    others = sum(len(faults[code]) for code in ("broken-lines", *SHAPE_KINDS)) - len(boxes)
    if boxes and not num_outlines and not others:
        raise DatasetError(
            f"{tree.root}: the label files hold boxes, not outlines ({boxes[0].partition(' ')[0]}, "
            "for one); masks need the labels of a segmentation dataset"
        )


# ---- classes and pairs --------------------------------------------------------------------------


def _class_names(
    tree: Tree, config: Config | None, used: list[_Image]
) -> tuple[dict[int, str], list[Finding]]:
    """Class number -> name, by the YAML file, a class list, or the numbers that occur."""
    if config is not None:
        return config.classes, list(class_count(config))
    numbers = sorted({number for image in used for number, _ in image.outlines})
    folders = {image.label.parent for image in used if image.label}
    for folder in (tree.root, *sorted(folders), *sorted({f.parent for f in folders})):
        listed = read_class_list(folder)
        if listed and numbers and len(listed.names) > numbers[-1]:
            return dict(enumerate(listed.names)), []
    note = Finding(
        "unnamed-classes",
        "note",
        "no data.yaml or classes.txt names the classes: they are called by their numbers",
    )
    return {number: f"class_{number}" for number in numbers}, [note]


def _pairs(used: list[_Image], values: dict[int, int]) -> tuple[tuple[Pair, ...], list[str]]:
    """Pairs in natural order; those outside the splits that others are in are left out."""
    top = os.path.commonpath([image.path.parent for image in used])
    pairs = []
    for image in used:
        shapes = [replace(shape, value=values[number]) for number, shape in image.outlines]
        source = str(image.label or image.path)
        mask = Drawing(source, image.path, largest_first(shapes), None)
        pairs.append(Pair(image.path.stem, image.path, mask, image.split))
    for extension in ("without", "with"):  # a.jpg beside a.png
        if len({pair.sample_id for pair in pairs}) < len(pairs):
            names = [image.path.relative_to(top) for image in used]
            names = [name.with_suffix("") for name in names] if extension == "without" else names
            pairs = [pair.renamed(name.as_posix()) for pair, name in zip(pairs, names, strict=True)]
    pairs.sort(key=lambda pair: natural_key(pair.sample_id))
    kept, left_out = in_splits(pairs)
    return tuple(kept), left_out


FORMAT = Format(
    "YOLO-seg: a text file of outlines for each image, and a data.yaml", recognise, read
)
