"""The mask values of classes that annotations call by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from unet_pipeline.classes import IGNORE_INDEX
from unet_pipeline.datasets.findings import name_five
from unet_pipeline.datasets.formats.class_list import ClassList
from unet_pipeline.errors import DatasetError

_MAX_CLASSES = 254  # 1..254; 0 is background, 255 void


def number_classes(
    names: Iterable[str], where: Path, *, void_names: frozenset[str] = frozenset()
) -> dict[str, int]:
    """The mask value of each name: 1, 2, ... in their order; 0 for one that means background.

    void_names: in lower case; they get 255.
    Raises `DatasetError`, naming `where`, for more classes than 8 bits hold.
    """
    values: dict[str, int] = {}
    numbered: list[str] = []
    for name in dict.fromkeys(names):
        if name.casefold() in void_names:
            values[name] = IGNORE_INDEX
        elif name.strip("_ ").casefold() == "background":
            values[name] = 0
        else:
            numbered.append(name)
            values[name] = len(numbered)
    if len(numbered) > _MAX_CLASSES:
        raise DatasetError(
            f"{where}: the annotations use {len(numbered)} classes ({name_five(numbered)}); at "
            f"most {_MAX_CLASSES} are possible: merge or remove some, and number no object in the "
            "name of its class"
        )
    return values


def numbered_classes(source: str, values: Mapping[str, int]) -> ClassList:
    """The classes of drawn masks: background, then each name with its mask value."""
    names = [name for name, value in values.items() if value not in (0, IGNORE_INDEX)]
    return ClassList(source, ("background", *names), tuple(range(len(names) + 1)))
