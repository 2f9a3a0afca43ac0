"""Annotation files and tables that are too damaged for any format to recognise them."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

from unet_pipeline.datasets.findings import Finding, counted
from unet_pipeline.datasets.formats.coco_file import COCO_KEYS
from unet_pipeline.datasets.formats.contract import Tree
from unet_pipeline.datasets.formats.json_file import both_ends, read_json
from unet_pipeline.datasets.formats.table import damage_of_table
from unet_pipeline.datasets.images import read_bytes
from unet_pipeline.errors import DatasetError

_SPEAKS = re.compile(r"coco|instances|annot|label", re.IGNORECASE)
_SIGNS = tuple(f'"{key}"'.encode() for key in (*COCO_KEYS, "shapes"))
_MOST_FILES = 20  # of each kind that are looked at: one beside each image is another format
_HEAD = 2**16


def damaged_annotations(tree: Tree, *, lone: bool) -> Iterator[Finding]:
    """The error about files of `tree` that are annotations by name or head and cannot be read.

    lone: nothing else was found, so that files which can be read but hold no annotations count too.
    """
    reasons = [
        " ".join(reason.replace(f"{tree.root}/", "").split())
        for suffix, damage in ((".json", _of_json), (".xml", _of_xml))
        for name in tree.files(suffix)[:_MOST_FILES]
        if (reason := damage(tree.path(name), lone))
    ]
    reasons += [
        reason.replace(f"{tree.root}/", "")
        for name in tree.files(".csv", ".tsv", under="")[:_MOST_FILES]
        if (reason := damage_of_table(tree.path(name)))
    ]
    if reasons:
        yield Finding(
            "unreadable-annotations",
            "error",
            f"{counted(len(reasons), 'annotation file')} cannot be used",
            len(reasons),
            tuple(reasons[:5]),
            "mend or export them again, or take them out of the folder"
            + ("" if lone else "; --format plain reads the folders of images and masks alone"),
        )


def _of_json(path: Path, lone: bool) -> str:
    """What is wrong with a JSON file of annotations; empty for all other files."""
    speaks = _SPEAKS.search(path.stem)
    ends, _ = both_ends(path, _HEAD)
    if not speaks and not any(sign in ends for sign in _SIGNS):
        return ""
    try:
        content = read_json(path)
    except DatasetError as error:
        return str(error)
    return _lacking(path, content) if lone else ""


def _lacking(path: Path, content: Any) -> str:
    """What a JSON file lacks to be one of COCO or labelme."""
    if not isinstance(content, dict) or not content:
        kinds = {"dict": "an empty object", "list": "a list"}
        shown = kinds.get(type(content).__name__, repr(content)[:20])
        return f"{path}: holds {shown}, no annotations"
    absent = [f'"{key}"' for key in COCO_KEYS if key not in content]
    if 0 < len(absent) < len(COCO_KEYS):
        return f"{path}: has no list {' and no list '.join(absent)}, which COCO files have"
    return ""


def _of_xml(path: Path, lone: bool) -> str:
    """What is wrong with an XML file of annotations; empty for all other files."""
    ends, _ = both_ends(path, _HEAD)
    if not _SPEAKS.search(path.stem) and b"<annotations" not in ends:
        return ""
    if b"<!DOCTYPE" in ends:
        return ""  # not parsed here: it can define entities without end
    root = ""
    try:
        for _, element in ElementTree.iterparse(io.BytesIO(read_bytes(path)), events=("start",)):
            root = root or element.tag
    except DatasetError as error:
        return str(error)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        return f"{path}: is no valid XML ({error}); is it cut off? Export it again"
    if lone and PurePosixPath(path.name).stem.casefold() == "annotations" and root != "annotations":
        return f"{path}: begins with <{root}>, not with <annotations> as files of CVAT do"
    return ""
