"""Pascal VOC: JPEGImages/ and SegmentationClass/ with lists in ImageSets/Segmentation/.

Also what labelling tools export in this layout, with their classes in labelmap.txt
(`name:r,g,b:parts:actions`) or class_names.txt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from unet_pipeline.classes import MaskValue
from unet_pipeline.datasets.findings import Finding, agree, counted
from unet_pipeline.datasets.formats.class_list import ClassList
from unet_pipeline.datasets.formats.contract import Format, Found, Pair, Tree
from unet_pipeline.datasets.formats.named_folders import refuse_folders
from unet_pipeline.datasets.formats.pairs import about_splits
from unet_pipeline.datasets.formats.voc_lists import read_lists
from unet_pipeline.datasets.images import (
    IMAGE_EXTENSIONS,
    MASK_EXTENSIONS,
    Color,
    MaskPixels,
    decode_mask,
    read_bytes,
)
from unet_pipeline.datasets.manifest import Split, natural_key
from unet_pipeline.errors import DatasetError

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
    *("sheep", "sofa", "train", "tvmonitor"),
)
"""The 21 classes of Pascal VOC; the place of each is its mask value."""

_VOID = 255

_LOOKED_AT = 8  # masks from which the kind of all of them is judged
_VOC_ID = re.compile(r"20(07|08|09|10|11|12)_\d{6}")
_VOC_FOLDER = re.compile(r"VOC20\d\d", re.IGNORECASE)
_LISTS = "ImageSets/Segmentation"


def recognise(tree: Tree) -> str | None:
    """Lists of images in ImageSets/Segmentation/."""
    roots = [] if tree.only else _roots(tree)
    return f"{tree.join(roots[0], _LISTS)}/ lists the images" if roots else None


def read(tree: Tree, images: str | None, masks: str | None) -> Found:
    """The images that the lists of `tree` name, with their masks in SegmentationClass/.

    train.txt, val.txt and test.txt give the splits; trainval.txt counts where one of the first two
    is absent. Listed images without a file are findings; images in no list are left out.
    Raises `UserError` for folders that are named, `DatasetError` for several data sets in one
    folder and where lists, images or masks are absent altogether.
    """
    looked_for = f"JPEGImages/, SegmentationClass/ and {_LISTS}/"
    refuse_folders(tree, images, masks, format_name="voc", looked_for=looked_for)
    root = _one_root(tree)
    image_of = _by_id(tree, tree.join(root, "JPEGImages"), IMAGE_EXTENSIONS, ".jpg")
    mask_of = _by_id(tree, tree.join(root, "SegmentationClass"), MASK_EXTENSIONS, ".png")
    division = read_lists(tree, tree.join(root, _LISTS))
    listed, left_out = _without_masks_left_out(division.split_of, mask_of)
    left_out = [*division.left_out, *left_out]
    for kind, paths in (("image", image_of), ("mask", mask_of)):
        if count := sum(name not in division.split_of for name in paths):
            left_out.append(f"left out: {counted(count, kind)} that no list names")
    pairs = tuple(
        Pair(name, tree.path(image_of[name]), tree.path(mask_of[name]), listed[name])
        for name in sorted(listed, key=natural_key)
        if name in image_of and name in mask_of
    )
    class_list, ignore_values, sentences = _classes(tree, root, pairs)
    return Found(
        pairs,
        f"{counted(len(pairs), 'pair')} listed in {tree.join(root, _LISTS)}/"
        + about_splits(pairs, "by list"),
        (*left_out, *sentences),
        class_list=class_list,
        ignore_values=ignore_values,
        findings=(*division.findings, *_missing(listed, image_of, mask_of)),
    )


# ---- files and lists ----------------------------------------------------------------------------


def _roots(tree: Tree) -> list[str]:
    """The folders of `tree` that have lists of images with masks; "" for the tree itself."""
    return [
        "" if len(parts) == 2 else "/".join(parts[:-2])
        for where, names in tree.folders.items()
        if (parts := PurePosixPath(where).parts)[-2:] == tuple(_LISTS.split("/"))
        and any(name.endswith(".txt") for name in names)
    ]


def _one_root(tree: Tree) -> str:
    roots = _roots(tree)
    if not roots:
        raise DatasetError(f"{tree.root}: no lists of images: looked for {_LISTS}/*.txt")
    whole = [
        root
        for root in roots
        if {tree.join(root, "JPEGImages"), tree.join(root, "SegmentationClass")}
        <= tree.folders.keys()
    ]
    if not whole:
        raise DatasetError(
            f"{tree.path(roots[0])}: has lists of images, but not both JPEGImages/ and "
            "SegmentationClass/ beside them: add what is missing (export images with the masks)"
        )
    return tree.the_one(whole)


def _by_id(tree: Tree, folder: str, suffixes: tuple[str, ...], usual: str) -> dict[str, str]:
    """The files at or below `folder` by their path in it without suffix; `usual` goes first."""
    found: dict[str, str] = {}
    for where, names in tree.folders.items():
        if where != folder and not where.startswith(f"{folder}/"):
            continue
        for name in names:
            if name.lower().endswith(suffixes):
                path = PurePosixPath(where, name)
                key = str(path.relative_to(folder).with_suffix(""))
                if key not in found or path.suffix.lower() == usual:
                    found[key] = str(path)
    return found


def _without_masks_left_out(
    split_of: dict[str, Split | None], masks: dict[str, str]
) -> tuple[dict[str, Split | None], list[str]]:
    """The listed ids without those of a split that has no mask at all, as a test set has none."""
    with_masks = {split for key, split in split_of.items() if key in masks}
    bare = {key for key, split in split_of.items() if split == "test" and split not in with_masks}
    if not bare:
        return split_of, []
    kept = {key: split for key, split in split_of.items() if key not in bare}
    return kept, [f"left out: {counted(len(bare), 'image')} of test, which have no masks at all"]


def _missing(
    listed: Iterable[str], images: dict[str, str], masks: dict[str, str]
) -> Iterator[Finding]:
    for kind, folder, paths in (
        ("image", "JPEGImages", images),
        ("mask", "SegmentationClass", masks),
    ):
        absent = [name for name in listed if name not in paths]
        # `im5.jpg`, or `im5 1` of the lists for classification
        known = [n for n in absent if {n.rpartition(".")[0], n.split()[0]} & paths.keys()]
        if absent:
            yield Finding(
                f"missing-{kind}s",
                "error",
                f"{counted(len(absent), f'listed {kind}')} {agree(len(absent), 'are')} not in "
                f"{folder}/",
                len(absent),
                tuple(absent[:5]),
                "write one name a line, without extension or number"
                if known
                else "add the files, or take their names out of the lists",
            )


# ---- classes ----------------------------------------------------------------------------------


def _classes(
    tree: Tree, root: str, pairs: Sequence[Pair]
) -> tuple[ClassList | None, tuple[MaskValue, ...], list[str]]:
    """The classes that a file declares, or those of Pascal VOC where the masks are its own."""
    masks = _some_masks(pairs)
    for folder in (PurePosixPath(root), *PurePosixPath(root).parents):
        for name, parse in (("labelmap.txt", _parse_labelmap), ("class_names.txt", _parse_names)):
            path = tree.path(folder / name)
            if path.is_file():
                names, colors = parse(read_bytes(path).decode("utf-8-sig", "replace"))
                return _by_file(name, names, colors, masks)
    if _are_of_voc(tree, root, pairs, masks):
        values = tuple(range(len(CLASSES)))
        return (
            ClassList("Pascal VOC", CLASSES, values, tuple(map(_voc_color, values))),
            (_VOID,),
            [],
        )
    return None, (), []


def _some_masks(pairs: Sequence[Pair]) -> list[MaskPixels]:
    masks = []
    paths = [pair.mask for pair in pairs if isinstance(pair.mask, Path)]
    for path in paths[:: max(1, len(paths) // _LOOKED_AT)][:_LOOKED_AT]:
        try:
            masks.append(decode_mask(read_bytes(path), source=str(path)))
        except DatasetError:
            continue  # the file is reported when all are read
    return masks


def _parse_labelmap(text: str) -> tuple[list[str], list[Color] | None]:
    """Names and colours of lines `name:r,g,b:parts:actions`; no colours where some have none."""
    names, colors = [], []
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, color, _, _ = ([*line.rsplit(":", 3), "", "", ""])[:4]
        names.append(name.strip())
        match = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*", color)
        if match:
            colors.append((int(match[1]), int(match[2]), int(match[3])))
    return names, colors if len(colors) == len(names) else None


def _parse_names(text: str) -> tuple[list[str], None]:
    """Names, one a line; __ignore__ stands for void and has no place among them."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    names = [line for line in lines if line != "__ignore__"]
    return ["background" if name == "_background_" else name for name in names], None


def _by_file(
    source: str, names: list[str], colors: list[Color] | None, masks: list[MaskPixels]
) -> tuple[ClassList | None, tuple[MaskValue, ...], list[str]]:
    """The classes of a file, their values as the masks have them: colours, indices or numbers."""
    if not names:
        return None, (), [f"left out: {source}, which names no class"]
    # a mask of nothing but background looks grey whatever the others are
    mask = next((m for m in masks if m.encoding == "rgb"), None) or next(
        (m for m in masks if m.palette is not None), None
    )
    values: tuple[MaskValue, ...] | None = tuple(range(len(names)))
    if mask is not None and mask.encoding == "rgb":
        values = tuple(colors) if colors else None
    elif mask is not None and mask.palette is not None and colors:
        index_of: dict[Color, int] = {}
        for index, (red, green, blue) in enumerate(mask.palette.tolist()):
            index_of.setdefault((red, green, blue), index)
        found = [index_of[color] for color in colors if color in index_of]
        values = tuple(found) if len(found) == len(colors) else None
    elif mask is None and colors and all(len(set(color)) == 1 for color in colors):
        values = tuple(color[0] for color in colors)
    listed = ClassList(source, tuple(names), values, tuple(colors) if colors else None)
    whole = values is not None and all(isinstance(value, int) for value in values)
    return listed, (_VOID,) if whole and _VOID not in (values or ()) else (), []


def _are_of_voc(tree: Tree, root: str, pairs: Sequence[Pair], masks: list[MaskPixels]) -> bool:
    """Whether palette and values are those of VOC, and the names of files or folder its own.

    The palette alone does not tell: labelling tools paint other classes with it.
    """
    folder = PurePosixPath(root).name or tree.root.name
    named = _VOC_FOLDER.fullmatch(folder) or all(_VOC_ID.fullmatch(p.sample_id) for p in pairs)
    if not named or not masks:
        return False
    palette = np.array([_voc_color(index) for index in range(len(CLASSES))])
    return all(
        mask.palette is not None
        and (mask.palette[: len(CLASSES)] == palette).all()
        and set(np.unique(mask.values).tolist()) <= {*range(len(CLASSES)), _VOID}
        for mask in masks
    )


def _voc_color(index: int) -> Color:
    """The colour that VOC gives a mask value: its bits in turn to red, green, blue, from the top.

    >>> _voc_color(1), _voc_color(15), _voc_color(255)
    ((128, 0, 0), (192, 128, 128), (224, 224, 192))
    """
    red = green = blue = 0
    for place in range(8):
        red |= (index >> (3 * place) & 1) << (7 - place)
        green |= (index >> (3 * place + 1) & 1) << (7 - place)
        blue |= (index >> (3 * place + 2) & 1) << (7 - place)
    return red, green, blue


FORMAT = Format("Pascal VOC: JPEGImages/, SegmentationClass/ and lists of images", recognise, read)
