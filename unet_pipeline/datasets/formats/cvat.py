"""CVAT for images 1.1: an XML file of images with polygons, boxes, lines, ellipses and masks.

Format: https://docs.cvat.ai/docs/other/xml_format.
"""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree
from xml.parsers import expat

from unet_pipeline.datasets.findings import counted, name_five
from unet_pipeline.datasets.formats.class_numbers import number_classes, numbered_classes
from unet_pipeline.datasets.formats.contract import Format, Found, Tree
from unet_pipeline.datasets.formats.cvat_shapes import shape_of
from unet_pipeline.datasets.formats.faults import (
    SHAPE_KINDS,
    Faults,
    Kind,
    fault_findings,
)
from unet_pipeline.datasets.formats.layout import split_of
from unet_pipeline.datasets.formats.listed import (
    Drawn,
    Listed,
    few_of,
    image_places,
    locate,
    pair_up,
    refuse_twice,
    split_of_file,
    surroundings,
)
from unet_pipeline.datasets.formats.named_folders import refuse_masks
from unet_pipeline.datasets.formats.pairs import about_splits
from unet_pipeline.datasets.formats.placement import note_place
from unet_pipeline.datasets.images import open_regular, read_bytes
from unet_pipeline.datasets.manifest import Split
from unet_pipeline.datasets.raster import MAX_PIXELS
from unet_pipeline.datasets.shapes import Line, Shape
from unet_pipeline.errors import DatasetError

_SHAPES = ("polygon", "box", "polyline", "ellipse", "mask")
_NOT_DRAWN = ("points", "cuboid", "skeleton")
_KINDS = SHAPE_KINDS | {
    "line-width": Kind("polyline", "drawn one pixel wide", severity="note"),
}


def recognise(tree: Tree) -> str | None:
    """Why `tree` is CVAT: its XML files with the root `annotations` and images in it."""
    names = _candidates(tree)
    if not names:
        return None
    verb = "is an XML file" if len(names) == 1 else "are XML files"
    return f"{name_five(names)} {verb} of CVAT"


def read(tree: Tree, images: str | None, masks: str | None) -> Found:
    """The images that the XML files list, with masks drawn from their shapes.

    Shapes are painted by z_order, within one the larger first; lines are one pixel wide. Labels
    become classes in the order of the file. Raises `DatasetError` for files that are no CVAT for
    images, that declare entities, or of which two annotate one image.
    """
    refuse_masks(masks, "CVAT")
    names = [tree.only] if tree.only else _candidates(tree)
    if not names:
        raise DatasetError(f"{tree.root}: no .xml file in it is one of CVAT for images")
    around = surroundings(tree)
    places = image_places(around if images is None else tree, images)
    faults: Faults = defaultdict(list)
    contents = {name: _load(tree, around, name, faults) for name in names}
    placed = {name: locate([i.listed for i in c.images], places) for name, c in contents.items()}
    refuse_twice(tree.root, placed)
    classes, left_out = _number_labels(contents.values(), tree.root)
    drawn = [
        Drawn(image.listed, place, image.size, _painted(image.shapes, classes))
        for name, content in contents.items()
        for image, place in zip(content.images, placed[name], strict=True)
    ]
    pairs, also_left_out, findings = pair_up(tree.root, drawn, places)
    num_shapes = sum(len(each.shapes) for each in drawn)
    files = name_five(names)
    if not num_shapes and not faults:
        raise DatasetError(f"{tree.root}: {files} has no shape on any image")
    return Found(
        pairs,
        f"{counted(len(pairs), 'pair')}: {counted(num_shapes, 'shape')} drawn from {files}"
        + about_splits(pairs, "by name"),
        (*also_left_out, *left_out),
        class_list=numbered_classes(files, classes) if classes else None,
        findings=(*findings, *fault_findings(faults, _KINDS, all_lost=not num_shapes)),
    )


# ---- the files ----------------------------------------------------------------------------------


class _Labelled(NamedTuple):
    """A shape before its label has a mask value; its value is 0."""

    label: str
    z_order: int
    shape: Shape


class _Image(NamedTuple):
    listed: Listed
    size: tuple[int, int] | None
    shapes: list[_Labelled]


class _Content(NamedTuple):
    """What a file holds; labels: in its order, those of shapes that it does not list at the end."""

    labels: list[str]
    images: list[_Image]


def _candidates(tree: Tree) -> list[str]:
    return [name for name in few_of(tree, ".xml") if _looks_like_cvat(tree.path(name))]


def _looks_like_cvat(path: Path) -> bool:
    """Judged from the head of the file: the root element, and what CVAT puts first into it."""
    head = b""
    with contextlib.suppress(OSError, DatasetError), open_regular(path) as file:
        head = file.read(2**16)
    tags = _first_tags(head)
    return tags[:1] == ["annotations"] and bool({"meta", "image", "track"} & {*tags[1:]})


def _first_tags(head: bytes) -> list[str]:
    """The elements that begin in the head of an XML file; none where it is something else."""
    tags: list[str] = []
    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda tag, _: tags.append(tag)
    try:
        parser.Parse(head, False)
    except (expat.ExpatError, ValueError, LookupError):  # the last two: of its encoding
        return tags
    return tags


def _refuse_entities(data: bytes, path: Path) -> None:
    """A document type can define entities that grow without end; CVAT writes none.

    It can only stand before the root element, and so no more than that is read here.
    """

    class _AtRootError(Exception):
        pass

    def refuse(*_: object) -> None:
        raise DatasetError(
            f"{path}: declares a document type (<!DOCTYPE ...>), which is not read; remove it"
        )

    def stop(*_: object) -> None:
        raise _AtRootError

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = stop
    try:
        parser.Parse(data, True)
    except (_AtRootError, expat.ExpatError, ValueError, LookupError):
        return  # damaged files are refused where they are read


def _load(tree: Tree, around: Tree, name: str, faults: Faults) -> _Content:
    path = tree.path(name)
    inside = path.relative_to(around.root).as_posix()
    split = None if tree.only else split_of_file(name)
    data = read_bytes(path)
    _refuse_entities(data, path)
    labels: list[str] = []
    images: list[_Image] = []
    root = None
    try:
        for event, element in ElementTree.iterparse(io.BytesIO(data), events=("start", "end")):
            if event == "start":
                root = element if root is None else root
            elif element.tag == "meta":
                names = (label.findtext("name") or "" for label in element.iter("label"))
                labels += [name.strip() for name in names if name.strip()]
            elif element.tag == "track":
                raise DatasetError(
                    f"{path}: is CVAT for video (it holds tracks); export as CVAT for images"
                )
            elif element.tag == "image" and root is not None:
                images.append(_image(element, path, inside, split, faults))
                labels += [shape.label for shape in images[-1].shapes]
                root.clear()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DatasetError(
            f"{path}: is no valid XML ({error}); is it cut off? Export it again"
        ) from error
    if not images:
        raise DatasetError(f"{path}: lists no images; export as CVAT for images 1.1")
    return _Content(labels, images)


def _image(
    element: ElementTree.Element, path: Path, inside: str, split: Split | None, faults: Faults
) -> _Image:
    name = element.get("name", "")
    if not name:
        raise DatasetError(f"{path}: image {element.get('id', '?')} has no name; export it again")
    sides = element.get("height", ""), element.get("width", "")
    size = (int(sides[0]), int(sides[1])) if all(s.isdecimal() for s in sides) else None
    if size is not None and (min(size) < 1 or size[0] * size[1] > MAX_PIXELS):
        size = None
    shapes = [
        shape
        for number, child in enumerate(element, start=1)
        if (shape := _labelled(child, size, f"shape {number} in {inside}, {name}", faults))
    ]
    subset = split_of(element.get("subset", ""))
    key = element.get("id", "?")
    return _Image(Listed(name, inside, subset or split, key), size, shapes)


def _labelled(
    element: ElementTree.Element, size: tuple[int, int] | None, where: str, faults: Faults
) -> _Labelled | None:
    """The shape of an element; None for what is none, and for what goes to `faults`."""
    label = element.get("label", "")
    where = f"{label or element.tag}, {where}"
    if element.tag in _NOT_DRAWN:
        faults["no-segmentation"].append(f"{where}: {element.tag}")
    if element.tag not in _SHAPES:
        return None
    try:
        if not label:
            raise ValueError("no label")
        shape = shape_of(element, size)
        note_place(shape, size, where, faults)
    except ValueError as error:
        faults["broken-shapes"].append(f"{where}: {error}")
        return None
    if isinstance(shape, Line):
        faults["line-width"].append(where)
    return _Labelled(label, _z_order(element), shape)


# ---- labels -------------------------------------------------------------------------------------


def _z_order(element: ElementTree.Element) -> int:
    text = element.get("z_order", "0")
    return int(text) if text.lstrip("-").isdecimal() else 0


def _number_labels(contents: Iterable[_Content], root: Path) -> tuple[dict[str, int], list[str]]:
    """The mask value of each label that a shape has; a sentence about labels that none has."""
    labels = list(dict.fromkeys(label for content in contents for label in content.labels))
    used = {s.label for content in contents for image in content.images for s in image.shapes}
    unused = [label for label in labels if label not in used]
    left_out = [f"left out: labels that no shape has: {name_five(unused)}"] if unused else []
    return number_classes([label for label in labels if label in used], root), left_out


def _painted(shapes: list[_Labelled], classes: dict[str, int]) -> tuple[Shape, ...]:
    """Shapes with the mask values of their labels, the lowest first."""
    in_order = sorted(shapes, key=lambda each: (each.z_order, -each.shape.area()))
    return tuple(replace(each.shape, value=classes[each.label]) for each in in_order)


FORMAT = Format("CVAT for images 1.1: .xml with polygons, boxes, masks", recognise, read)
