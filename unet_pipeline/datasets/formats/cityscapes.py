"""Cityscapes: leftImg8bit/<split>/<city>/x_leftImg8bit.png with gtFine/.../x_gtFine_labelIds.png.

Labels, their numbers and colours as the data set's own tools define them; 19 of the 34 count in
its evaluation, all others are void.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from unet_pipeline.datasets.findings import Finding, agree, counted
from unet_pipeline.datasets.formats.class_list import ClassList
from unet_pipeline.datasets.formats.contract import Format, Found, Pair, Tree
from unet_pipeline.datasets.formats.named_folders import refuse_folders
from unet_pipeline.datasets.formats.pairs import about_splits
from unet_pipeline.datasets.images import Color, read_mask
from unet_pipeline.datasets.manifest import Split, natural_key
from unet_pipeline.errors import DatasetError

CLASSES: tuple[tuple[str, int, Color], ...] = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)
"""Name, label id and colour of each class; its place in the list is its train id."""

LABEL_IDS = tuple(label_id for _, label_id, _ in CLASSES)
_VOID = 255  # no label of the table; what other tools write for void, and the one of train ids

_IMAGE_END = "_leftImg8bit.png"
_MASK_ENDS = (
    "_gtFine_labelIds.png",
    "_gtFine_labelTrainIds.png",
    "_gtCoarse_labelIds.png",
    "_gtCoarse_labelTrainIds.png",
)
_SPLITS: dict[str, Split] = {"train": "train", "train_extra": "train", "val": "val", "test": "test"}
_LOOKED_AT = 3  # masks of the test split that decide whether they are dummies


@dataclass(frozen=True, slots=True)
class _File:
    """A file of the data set: its path in the tree, the folder of its split, its frame."""

    path: str
    part: str
    frame: str

    @property
    def key(self) -> tuple[str, str]:
        return self.part, self.frame


def recognise(tree: Tree) -> str | None:
    """Files x_leftImg8bit.png below a folder leftImg8bit, and masks of one of the known endings."""
    image = None if tree.only else next(_files(tree, _IMAGE_END), None)
    if image is None or _mask_end(tree) is None:
        return None
    return f"{PurePosixPath(image.path).parent}/ holds files *{_IMAGE_END}"


def read(tree: Tree, images: str | None, masks: str | None) -> Found:
    """The images of `tree` with the finest masks there are; the group of each is its city.

    Parts without masks (test, or train_extra beside the fine masks) are left out, and so is a test
    part whose masks hold nothing but void, as the public ones do. Raises `UserError` for folders
    that are named, `DatasetError` where there are no masks.
    """
    looked_for = "leftImg8bit/<split>/<city>/ with gtFine/<split>/<city>/"
    refuse_folders(tree, images, masks, format_name="cityscapes", looked_for=looked_for)
    found_images, end = list(_files(tree, _IMAGE_END)), _mask_end(tree)
    if end is None or not found_images:
        raise DatasetError(
            f"{tree.root}: no {'images' if end else 'masks'} of Cityscapes: looked for files "
            f"*{_IMAGE_END if end else _MASK_ENDS[0]}"
        )
    found_masks = list(_files(tree, end))
    kept, left_out = _kept_parts(tree, found_images, found_masks)
    image_of = {file.key: file for file in found_images if file.part in kept}
    mask_of = {file.key: file for file in found_masks if file.part in kept}
    pairs = _pairs(tree, image_of, mask_of)
    left_out += [
        f"left out: the masks *{other}, beside *{end}"
        for other in _MASK_ENDS
        if other != end and next(_files(tree, other), None)
    ]
    return Found(
        pairs,
        f"{counted(len(pairs), 'pair')}: images *{_IMAGE_END}, masks *{end}"
        + about_splits(pairs, "by folder"),
        tuple(left_out),
        class_list=_class_list(end),
        ignore_values=_ignore_values(end),
        findings=tuple(_unpaired(image_of, mask_of)),
    )


def _pairs(
    tree: Tree, image_of: dict[tuple[str, str], _File], mask_of: dict[tuple[str, str], _File]
) -> tuple[Pair, ...]:
    """The frames that have both, in natural order; the city is the group.

    Where a frame is in several parts, the ids of all begin with their part.
    """
    frames = Counter(frame for part, frame in image_of if (part, frame) in mask_of)
    repeated = any(count > 1 for count in frames.values())
    return tuple(
        Pair(
            f"{part}/{frame}" if repeated and part else frame,
            tree.path(image_of[part, frame].path),
            tree.path(mask_of[part, frame].path),
            _SPLITS.get(part),
            group=frame.split("_")[0],
        )
        for part, frame in sorted(image_of, key=lambda key: natural_key(key[1]))
        if (part, frame) in mask_of
    )


def _files(tree: Tree, end: str) -> Iterator[_File]:
    """The files of `tree` that end so, in a folder of a split."""
    for where, names in tree.folders.items():
        parts = PurePosixPath(where).parts
        part = next((p for p in reversed(parts) if p in _SPLITS), "")
        if end == _IMAGE_END and "leftImg8bit" not in parts:
            continue
        for name in names:
            if name.endswith(end):
                yield _File(tree.join(where, name), part, name.removesuffix(end))


def _mask_end(tree: Tree) -> str | None:
    """The ending of the finest masks that there are."""
    return next((end for end in _MASK_ENDS if next(_files(tree, end), None)), None)


def _kept_parts(tree: Tree, images: list[_File], masks: list[_File]) -> tuple[set[str], list[str]]:
    """The parts (train, val, ...) that have masks to learn from, and sentences about the others."""
    with_masks = {file.part for file in masks}
    kept, left_out = set(), []
    for part, count in Counter(file.part for file in images).items():
        if part not in with_masks:
            left_out.append(f"left out: {counted(count, 'image')} in {part}/, which have no masks")
        elif part == "test" and _are_dummies(tree, [f for f in masks if f.part == part]):
            left_out.append(
                f"left out: {counted(count, 'image')} in {part}/, whose masks are nothing but void"
            )
        else:
            kept.add(part)
    for part, count in Counter(file.part for file in masks).items():
        if part not in {file.part for file in images}:
            left_out.append(f"left out: {counted(count, 'mask')} in {part}/, which have no images")
    return kept, left_out


def _are_dummies(tree: Tree, masks: list[_File]) -> bool:
    classes = LABEL_IDS if masks[0].path.endswith("labelIds.png") else range(len(CLASSES))
    for file in masks[:_LOOKED_AT]:
        try:
            mask = read_mask(tree.path(file.path))
        except DatasetError:
            return False  # the file is reported when all are read
        if np.isin(mask, list(classes)).any():
            return False
    return True


def _class_list(end: str) -> ClassList:
    by_id = end.endswith("labelIds.png")
    return ClassList(
        "the classes of Cityscapes",
        tuple(name for name, _, _ in CLASSES),
        LABEL_IDS if by_id else tuple(range(len(CLASSES))),
        tuple(color for _, _, color in CLASSES),
    )


def _ignore_values(end: str) -> tuple[int, ...]:
    if not end.endswith("labelIds.png"):
        return (_VOID,)
    return (*(k for k in range(max(LABEL_IDS)) if k not in LABEL_IDS), _VOID)


def _unpaired(
    images: dict[tuple[str, str], _File], masks: dict[tuple[str, str], _File]
) -> Iterator[Finding]:
    for kind, partner, files, others in (
        ("image", "mask", images, masks),
        ("mask", "image", masks, images),
    ):
        alone = [file.path for key, file in files.items() if key not in others]
        if alone:
            yield Finding(
                f"unpaired-{kind}s",
                "error",
                f"{len(alone)} of {counted(len(files), kind)} {agree(len(alone), 'have')} no "
                f"{partner}",
                len(alone),
                tuple(alone[:5]),
                f"complete the download, or remove the {kind}s",
            )


FORMAT = Format("Cityscapes: leftImg8bit/ with gtFine/ or gtCoarse/, 19 classes", recognise, read)
