"""The categories of COCO files -> classes and their mask values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from unet_pipeline.datasets.findings import agree, name_five
from unet_pipeline.datasets.formats.class_list import ClassList
from unet_pipeline.datasets.formats.class_numbers import number_classes, numbered_classes
from unet_pipeline.datasets.formats.coco_file import MASK_VALUE, CocoFile
from unet_pipeline.datasets.manifest import natural_key
from unet_pipeline.errors import DatasetError


class CocoClasses(NamedTuple):
    """values: category name -> mask value. ground: the value of pixels that nothing covers.

    listed: None where no annotation uses a category. declared: the files themselves give the
    values, so that all images may well be ground.
    """

    values: dict[str, int]
    listed: ClassList | None
    ground: int = 0
    declared: bool = False


def find_coco_classes(root: Path, sources: Sequence[CocoFile], left_out: list[str]) -> CocoClasses:
    """The classes of `sources`: all categories by `MASK_VALUE` where each has one.

    Else those that segmentations use are 1, 2, ... in the order of their ids, one that is called
    background 0; what is not used goes to `left_out`.
    Raises `DatasetError` where files contradict each other, and for too many classes.
    """
    files = name_five([source.name for source in sources])
    values = _declared(sources, left_out)
    if values:
        ground = min((v for name, v in values.items() if _is_background(name)), default=0)
        names = {value: name for name, value in values.items()}
        names.setdefault(ground, "background")
        in_order = sorted(names)
        listed = ClassList(files, tuple(names[v] for v in in_order), tuple(in_order))
        return CocoClasses(values, listed, ground, declared=True)
    values = _by_use(root, sources, left_out)
    return CocoClasses(values, numbered_classes(files, values) if values else None)


def _is_background(name: str) -> bool:
    return name.strip("_ ").casefold() == "background"


def _declared(sources: Sequence[CocoFile], left_out: list[str]) -> dict[str, int]:
    """The mask value of each category by name; none where a file does not give them."""
    listing = [source for source in sources if source.categories]
    bare = [source.name for source in listing if not source.mask_values]
    if bare:
        if len(bare) < len(listing):
            left_out.append(
                f"left out: the {MASK_VALUE} of categories, which {name_five(bare)} "
                f"{agree(len(bare), 'do')} not give"
            )
        return {}
    values: dict[str, int] = {}
    names: dict[int, str] = {}
    for source in listing:
        for name, value in source.mask_values.items():
            former = values.setdefault(name, value), names.setdefault(value, name)
            if former != (value, name):
                told = f"it is {former[0]}" if former[0] != value else f"{former[1]!r} has it"
                raise DatasetError(
                    f"{source.path}: category {name!r} has {MASK_VALUE} {value}, but in another "
                    f"file {told}; give each name one in all files, or take all of them out"
                )
    return values


def _by_use(root: Path, sources: Sequence[CocoFile], left_out: list[str]) -> dict[str, int]:
    """The mask value of each category that is used, in the order of the ids."""
    listed = {(key, name) for source in sources for key, name in source.categories.items()}
    used = {
        (key, source.categories[key])
        for source in sources
        for key in {str(a.get("category_id")) for a in source.annotations if a.get("segmentation")}
        if key in source.categories
    }
    in_order = sorted(listed, key=lambda entry: (natural_key(entry[0]), entry[1]))
    if bare := [f"{name} (id {key})" for key, name in in_order if (key, name) not in used]:
        noun = "category" if len(bare) == 1 else "categories"
        left_out.append(
            f"left out: {len(bare)} {noun} that no segmentation uses: {name_five(bare)}"
        )
    return number_classes([name for key, name in in_order if (key, name) in used], root)
