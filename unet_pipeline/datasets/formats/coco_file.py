"""One JSON file of COCO: what it lists, checked as far as ids and keys go."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from unet_pipeline.classes import IGNORE_INDEX
from unet_pipeline.datasets.formats.contract import Tree
from unet_pipeline.datasets.formats.json_file import both_ends, read_json
from unet_pipeline.datasets.formats.listed import Listed, split_of_file
from unet_pipeline.datasets.manifest import Split
from unet_pipeline.errors import DatasetError

MASK_VALUE = "mask_value"
"""The key by which our own exports say of each category which value its pixels have in masks."""

_HEAD = 2**20  # bytes of either end that are looked at; instances_train2017.json has 450 million
_SIGNS = {  # in longer files the keys lie in the middle, and what is below them tells
    "images": (rb'"images"\s*:\s*\[', rb'"file_name"\s*:'),
    "annotations": (rb'"annotations"\s*:\s*\[', rb'"category_id"\s*:'),
    "categories": (rb'"categories"\s*:\s*\[', rb'"supercategory"\s*:'),
}


COCO_KEYS = tuple(_SIGNS)


class CocoImage(NamedTuple):
    listed: Listed
    size: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class CocoFile:
    """One JSON file; name: its path inside the tree. images, categories: by id.

    mask_values: of each category by name, where the file gives them.
    """

    path: Path
    name: str
    images: dict[str, CocoImage]
    annotations: list[dict[str, Any]]
    categories: dict[str, str]
    mask_values: dict[str, int]
    has_keypoints: bool

    @property
    def split(self) -> Split | None:
        return next((image.listed.split for image in self.images.values()), None)


def looks_like_coco(path: Path) -> bool:
    """Judged from both ends of the file."""
    ends, whole = both_ends(path, _HEAD)
    if whole and ends.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        ends = ends.decode("utf-16", "ignore").encode()
    if not ends.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") or b'"segments_info"' in ends:
        return False  # a bare list of results, or panoptic
    if whole:  # a list that is null or something else is told where the file is read
        lists = [bool(re.search(signs[0], ends)) for signs in _SIGNS.values()]
        return any(lists) and all(re.search(rb'"%b"\s*:' % key.encode(), ends) for key in _SIGNS)
    return all(any(re.search(sign, ends) for sign in signs) for signs in _SIGNS.values())


def load(tree: Tree, around: Tree, name: str) -> CocoFile:
    """The file `name` of `tree`, its images listed by where it lies in `around`.

    Raises `DatasetError` where it is no COCO, or one id stands for two things.
    """
    path = tree.path(name)
    content = read_json(path)
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: holds no object of images, annotations and categories")
    split = None if tree.only else split_of_file(name)
    inside = path.relative_to(around.root).as_posix()
    categories: dict[str, str] = {}
    listed = _entries(content, "categories", path)
    for number, entry in enumerate(listed):
        key, label = (_required(entry, k, f"{path}: categories[{number}]") for k in ("id", "name"))
        if categories.setdefault(key, label) != label:
            raise DatasetError(
                f"{path}: category id {key} stands for {categories[key]} and for {label}; "
                "give each its own"
            )
    images: dict[str, CocoImage] = {}
    for number, entry in enumerate(_entries(content, "images", path)):
        where = f"{path}: images[{number}]"
        key, file_name = (_required(entry, k, where) for k in ("id", "file_name"))
        image = CocoImage(Listed(file_name, inside, split, key), _size(entry))
        if images.setdefault(key, image).listed.name != file_name:
            raise DatasetError(
                f"{path}: image id {key} stands for {images[key].listed.name} and for {file_name}; "
                "give each its own"
            )
    keypoints = any("keypoints" in entry for entry in listed)
    annotations = _entries(content, "annotations", path)
    values = _mask_values(listed, path)
    return CocoFile(path, name, images, annotations, categories, values, keypoints)


def _mask_values(categories: list[dict[str, Any]], path: Path) -> dict[str, int]:
    """Name -> `mask_value`, which no COCO has but our export writes; none where no entry has it.

    Raises `DatasetError` where one entry lacks it, it is no mask value, or two names share it.
    """
    if not any(MASK_VALUE in entry for entry in categories):
        return {}
    values: dict[str, int] = {}
    names: dict[int, str] = {}
    for number, entry in enumerate(categories):
        name, value = str(entry["name"]), _whole_number(entry.get(MASK_VALUE))
        if value is None or not 0 <= value < IGNORE_INDEX:
            given = f"{MASK_VALUE} {str(entry.get(MASK_VALUE))[:40]!r}"
            problem = f"has {given if MASK_VALUE in entry else 'none'}"
        elif values.setdefault(name, value) != value:
            problem = f"has {MASK_VALUE} {value}, but {values[name]} before"
        elif names.setdefault(value, name) != name:
            problem = f"has {MASK_VALUE} {value}, as {names[value]!r} has"
        else:
            continue
        raise DatasetError(
            f"{path}: categories[{number}], {name!r}, {problem}; give each name a {MASK_VALUE} of "
            f"its own, a whole number from 0 to {IGNORE_INDEX - 1}, or take all of them out"
        )
    return values


def _whole_number(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value // 1:
        return None
    return int(value)


def _entries(content: dict[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    entries = content.get(key)
    lacks = f'{path}: has no list of objects "{key}", which COCO files have'
    if not isinstance(entries, list):
        raise DatasetError(f"{lacks}: it {_told(entries) if key in content else 'is not there'}")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DatasetError(f"{lacks}: {key}[{number}] {_told(entry)}")
    return entries


def _told(content: Any) -> str:
    """What stands where something else should."""
    if content is None:
        return "is null"
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return f"is {kinds.get(type(content), 'a number')}"


def _required(entry: dict[str, Any], key: str, where: str) -> str:
    if isinstance(entry.get(key), (str, int)) and entry[key] != "":
        return str(entry[key])
    raise DatasetError(f'{where} has no "{key}"; correct it or export again')


def _size(entry: dict[str, Any]) -> tuple[int, int] | None:
    sides = entry.get("height"), entry.get("width")
    if all(isinstance(side, (int, float)) and side >= 1 and side == side // 1 for side in sides):
        return int(sides[0]), int(sides[1])  # type: ignore[arg-type]
    return None
