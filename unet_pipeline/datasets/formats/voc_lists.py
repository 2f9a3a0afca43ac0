"""The lists of Pascal VOC: text files that name the images of each split."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import NamedTuple

from unet_pipeline.datasets.findings import Finding, name_five
from unet_pipeline.datasets.formats.contract import Tree
from unet_pipeline.datasets.formats.layout import SPLIT_NAMES
from unet_pipeline.datasets.formats.pairs import in_several_splits
from unet_pipeline.datasets.images import read_bytes
from unet_pipeline.datasets.manifest import Split
from unet_pipeline.errors import DatasetError

_WHOLE = ("trainval", "default")  # lists that are the sum of others, or of everything


class Division(NamedTuple):
    """The split of each listed id, and what is to be said about the lists."""

    split_of: dict[str, Split | None]
    left_out: tuple[str, ...]
    findings: tuple[Finding, ...]


def read_lists(tree: Tree, folder: str) -> Division:
    """What the lists in `folder` say. Raises `DatasetError` where they name no image.

    train.txt, val.txt and test.txt give the splits; trainval.txt counts where one of the first two
    is absent, any other list where there are no splits.
    """
    lists = _ids_by_list(tree, folder)
    split_of: dict[str, Split | None] = {}
    twice: list[str] = []
    for name, ids in lists.items():
        split = SPLIT_NAMES.get(name.casefold())
        if split is not None:
            twice += [key for key in ids if split_of.setdefault(key, split) != split]
    given = set(split_of.values())
    rest = {name: ids for name, ids in lists.items() if name.casefold() not in SPLIT_NAMES}
    whole = {name: ids for name, ids in rest.items() if name.casefold() in _WHOLE}
    if not given:
        whole = whole or rest
    if not {"train", "val"} <= given:
        # beside a list of one split, a sum of lists holds the other
        remaining: Split | None = None if not given else "val" if "train" in given else "train"
        for ids in whole.values():
            split_of |= {key: remaining for key in ids if key not in split_of}
    if not split_of:
        raise DatasetError(
            f"{tree.path(folder)}: the lists name no image; put one name into each line"
        )
    unused = [f"{name}.txt" for name in rest if name not in whole and name.casefold() not in _WHOLE]
    left_out = (f"left out: the lists {name_five(unused)}",) if unused else ()
    return Division(split_of, left_out, in_several_splits(twice, "image", len(split_of)))


def _ids_by_list(tree: Tree, folder: str) -> dict[str, list[str]]:
    """The ids in each list, by the name of the list without suffix."""
    lists = {}
    for path in tree.files(".txt", under=folder):
        text = read_bytes(tree.path(path)).decode("utf-8-sig", "replace")
        lines = (line.strip() for line in text.splitlines())
        # ids with blanks are quoted by some exporters
        lists[PurePosixPath(path).stem] = [line.strip('"') for line in lines if line]
    return lists
