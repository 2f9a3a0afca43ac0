"""Which file is whose mask: the layouts that folders of images and masks have in practice.

Two folders side by side (images/ + masks/, train/ + trainannot/, JPEGImages/ + SegmentationClass/,
...), with splits above or below them; or images and masks in one folder, told apart by a suffix
(x.png + x_mask.png) or by the extension (x.jpg + x.png).
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from unet_pipeline.datasets.findings import Finding, agree, counted
from unet_pipeline.datasets.formats.class_list import read_class_list
from unet_pipeline.datasets.formats.contract import Format, Found, Pair, Tree
from unet_pipeline.datasets.formats.layout import (
    IMAGE_AFFIXES,
    MASK_AFFIXES,
    Folder,
    any_of,
    choose,
    image_folders,
    labels,
    num_common,
)
from unet_pipeline.datasets.formats.named_folders import named, no_images, refuse_exchanged
from unet_pipeline.datasets.formats.pairs import about_splits, in_splits
from unet_pipeline.datasets.images import IMAGE_EXTENSIONS
from unet_pipeline.datasets.manifest import Split, natural_key
from unet_pipeline.errors import DatasetError, UserError

# In one folder, x.jpg + x.png: the more a format suits masks, the later it stands
_LIKE_MASKS = (
    *(".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"),
    *(".png", ".gif", ".npy", ".npz", ".mat"),
)


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    split: Split | None
    where: tuple[str, ...]

    @property
    def stem(self) -> str:
        return unicodedata.normalize("NFC", self.path.stem)


def recognise(tree: Tree) -> str | None:
    """Any folder may be images and masks; whether it is, `read` finds out."""
    return None if tree.only else "folders of images and masks"


def read(tree: Tree, images: str | None, masks: str | None) -> Found:
    """The images of `tree` with their masks, by the layout of its folders.

    images, masks: the folders, where they are not recognised: paths inside the tree, names that
        occur below it (in every split, say), or paths elsewhere.
    Images and masks without a partner are findings. Raises `UserError` where a folder does not
    exist, `DatasetError` where there are no images, no masks, or several candidates.
    """
    source = tree.root
    if tree.only:
        raise UserError(f"{source / tree.only}: is a file; give the folder of images and masks")
    every = image_folders(tree)
    folders = [folder for folder in every if folder.files]
    if not folders:
        raise DatasetError(no_images(source))
    if images and masks:
        refuse_exchanged(images, masks)
    image_side = named(source, every, images, "image") if images else []
    mask_side = named(source, every, masks, "mask") if masks else []
    if {f.label for f in image_side} & {f.label for f in mask_side}:
        raise UserError(f"--images {images} and --masks {masks} name the same files; leave one out")
    taken = {folder.label for folder in image_side + mask_side}
    free = [folder for folder in folders if folder.label not in taken]
    mask_side = mask_side or choose(free, "mask", source)
    if not mask_side:
        return _in_one_folder(source, image_side or folders)
    image_side = image_side or choose(free, "image", source)
    # train/ beside trainannot/ says nothing of images, but what else could it hold
    image_side = image_side or [folder for folder in free if folder.role is None]
    if not image_side:
        raise DatasetError(
            f"{source}: found masks ({labels(mask_side)}) but no folder of images; name it with "
            "--images"
        )
    return _in_two_folders(source, image_side, mask_side, folders)


# ---- pairing ------------------------------------------------------------------------------------


def _in_two_folders(
    source: Path, image_side: list[Folder], mask_side: list[Folder], folders: list[Folder]
) -> Found:
    """Pairs of image folders and mask folders, in every split and subfolder."""
    if any(not f.before for f in image_side) and any(not f.before for f in mask_side):
        # the source has both itself; what lies deeper is something else
        image_side = [f for f in image_side if not f.before]
        mask_side = [f for f in mask_side if not f.before]
    image_splits, mask_splits = {f.split for f in image_side}, {f.split for f in mask_side}
    left_out = []
    keyed = mask_splits != {None} and image_splits != {None}
    if keyed and not image_splits <= mask_splits:
        bare = [f for f in image_side if f.split not in mask_splits]
        count = sum(len(f.files) for f in bare)
        left_out.append(
            f"left out: {counted(count, 'image')} in {labels(bare)}, which have no masks at all"
        )
        image_side = [f for f in image_side if f.split in mask_splits]
        folders = [f for f in folders if f not in bare]
    used = {folder.label for folder in image_side + mask_side}
    if unused := [folder for folder in folders if folder.label not in used]:
        count = sum(len(f.files) for f in unused)
        left_out.append(f"left out: {counted(count, 'image')} in {labels(unused)}")
    sentence = f"images in {labels(image_side)}, masks in {labels(mask_side)}"
    images, masks = _files(image_side), _files(mask_side)
    images = [f for f in images if f.path.suffix.lower() in IMAGE_EXTENSIONS]
    return _paired(source, images, masks, keyed=keyed, sentence=sentence, left_out=left_out)


def _in_one_folder(source: Path, folders: list[Folder]) -> Found:
    """Pairs of files in one folder, told apart by a suffix or by the extension."""
    files = [_File(path, f.split, f.plain_parts) for f in folders for path in f.files]
    by_name = {(f.split, f.where, f.stem.casefold()) for f in files}
    marked = [f for f in files if _strip(f.stem, _MASK_AFFIX) is not None]
    others = [f for f in files if _strip(f.stem, _MASK_AFFIX) is None]
    bare = {(f.split, f.where, _without_image_affix(f).casefold()) for f in others}
    if any((f.split, f.where, _without_mask_affix(f).casefold()) in bare for f in marked):
        words = sorted({_affix_of(f) for f in marked})
        sentence = f"images and masks in one folder, masks named by {', '.join(words)}"
        return _paired(source, others, marked, keyed=True, sentence=sentence, left_out=[])
    extensions = {f.path.suffix.lower() for f in files}
    if len(by_name) < len(files) and len(extensions) > 1:
        mask_extension = max(extensions, key=_LIKE_MASKS.index)
        masks = [f for f in files if f.path.suffix.lower() == mask_extension]
        images = [f for f in files if f.path.suffix.lower() != mask_extension]
        kinds = " ".join(sorted(extensions - {mask_extension}))
        sentence = f"images ({kinds}) and masks ({mask_extension}) in one folder"
        return _paired(source, images, masks, keyed=True, sentence=sentence, left_out=[])
    raise DatasetError(
        f"{source}: found {counted(len(files), 'image')} in {labels(folders)} but no masks; put "
        "them into images/ and masks/, or beside the images as x_mask.png, or name the folders "
        "with --images and --masks"
    )


def _files(folders: list[Folder]) -> list[_File]:
    """The files of one side; what all folders of the side have in common tells nothing apart."""
    before = num_common([f.before for f in folders])
    after = num_common([f.after for f in folders])
    return [
        _File(path, f.split, f.before[before:] + f.after[after:])
        for f in folders
        for path in f.files
    ]


_SEPARATED = r"[ _.-]"
_MASK_AFFIX = re.compile(
    rf"(?P<stem>.+){_SEPARATED}(?P<end>{any_of(MASK_AFFIXES)})"
    rf"|(?P<start>{any_of(MASK_AFFIXES)}){_SEPARATED}(?P<rest>.+)",
    re.IGNORECASE,
)
_IMAGE_AFFIX = re.compile(
    rf"(?P<stem>.+){_SEPARATED}(?P<end>{any_of((*IMAGE_AFFIXES, 'sat'))})"
    rf"|(?P<start>{any_of(IMAGE_AFFIXES)}){_SEPARATED}(?P<rest>.+)",
    re.IGNORECASE,
)


def _strip(stem: str, affix: re.Pattern[str]) -> str | None:
    """`stem` without its affix (x of x_mask or mask_x), None where it has none."""
    match = affix.fullmatch(stem)
    return match and (match["stem"] or match["rest"])


def _without_mask_affix(file: _File) -> str:
    return _strip(file.stem, _MASK_AFFIX) or file.stem


def _without_image_affix(file: _File) -> str:
    return _strip(file.stem, _IMAGE_AFFIX) or file.stem


def _affix_of(file: _File) -> str:
    bare = _without_mask_affix(file)
    return file.stem.replace(bare, "", 1)


# How the names of an image and its mask may agree, the strictest first
_AGREEMENTS: tuple[tuple[Callable[[_File], str], Callable[[_File], str]], ...] = (
    (lambda image: image.stem, lambda mask: mask.stem),
    (lambda image: image.stem, _without_mask_affix),
    (_without_image_affix, _without_mask_affix),
    (
        lambda image: _without_image_affix(image).casefold(),
        lambda mask: _without_mask_affix(mask).casefold(),
    ),
)


def _paired(
    source: Path,
    images: list[_File],
    masks: list[_File],
    *,
    keyed: bool,
    sentence: str,
    left_out: list[str],
) -> Found:
    """The pairs of `images` and `masks`; keyed: their splits must agree too.

    Raises `DatasetError` for files of either side that have no partner, or more than one.
    """
    matched: list[tuple[_File, _File]] = []
    for image_name, mask_name in _AGREEMENTS:
        wanted = _by_key(images, image_name, keyed)
        offered = _by_key(masks, mask_name, keyed)
        common = [key for key in wanted if key in offered]
        for key in common:
            if len(wanted[key]) > 1 or len(offered[key]) > 1:
                kind, several = ("masks", offered) if len(offered[key]) > 1 else ("images", wanted)
                names = ", ".join(str(f.path) for f in several[key][:5])
                raise DatasetError(
                    f"{source}: {len(several[key])} {kind} of one name, {names}: which pairs with "
                    f"which is open; keep one, or name the folders with --images and --masks"
                )
        matched += [(wanted[key][0], offered[key][0]) for key in common]
        taken = {file.path for pair in matched for file in pair}
        images = [f for f in images if f.path not in taken]
        masks = [f for f in masks if f.path not in taken]
    kept, loose = in_splits(_pairs(matched))
    pairs = _with_unique_ids(kept)
    return Found(
        pairs,
        f"{counted(len(pairs), 'pair')}: {sentence}" + about_splits(pairs, "by folder"),
        (*left_out, *loose),
        class_list=read_class_list(source),
        findings=tuple(_unpaired(source, images, masks, len(matched))),
    )


def _by_key(
    files: list[_File], name: Callable[[_File], str], keyed: bool
) -> dict[tuple[object, ...], list[_File]]:
    result: dict[tuple[object, ...], list[_File]] = {}
    for file in files:
        key = (file.split if keyed else None, file.where, name(file))
        result.setdefault(key, []).append(file)
    return result


def _unpaired(
    source: Path, images: list[_File], masks: list[_File], num_pairs: int
) -> Iterator[Finding]:
    for kind, partner, files in (("image", "mask", images), ("mask", "image", masks)):
        if files:
            yield Finding(
                code=f"unpaired-{kind}s",
                severity="error",
                message=f"{len(files)} of {counted(num_pairs + len(files), kind)} "
                f"{agree(len(files), 'have')} no {partner}",
                count=len(files),
                examples=tuple(os.path.relpath(f.path, source) for f in files[:5]),
                remedy="give both files of a pair the same name, name the folders with --images "
                "and --masks, or leave these out with --fix",
            )


def _pairs(matched: list[tuple[_File, _File]]) -> list[Pair]:
    pairs = []
    for image, mask in matched:
        sample_id = "/".join((*filter(None, image.where), image.stem))
        pairs.append(Pair(sample_id, image.path, mask.path, image.split or mask.split))
    return pairs


def _with_unique_ids(pairs: list[Pair]) -> tuple[Pair, ...]:
    """The pairs in natural order; with their splits, where one name is in two of them."""
    if len({pair.sample_id for pair in pairs}) < len(pairs):
        pairs = [pair.renamed(f"{pair.split}/{pair.sample_id}") for pair in pairs]
    return tuple(sorted(pairs, key=lambda pair: natural_key(pair.sample_id)))


FORMAT = Format(
    "folders of images and masks (images/ + masks/, x.png + x_mask.png, ...)", recognise, read
)
