"""One mask file for every object, as the Data Science Bowl of 2018 has it.

`<id>/images/x.png` with `<id>/masks/*.png`, or `images/<id>.png` with `masks/<id>/*.png`; folders
of classes may lie between (`<id>/masks/<class>/*.png`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import NamedTuple

from unet_pipeline.datasets.findings import Finding, agree, counted
from unet_pipeline.datasets.formats.class_list import ClassList
from unet_pipeline.datasets.formats.contract import Format, Found, Pair, Tree
from unet_pipeline.datasets.formats.layout import SPLIT_NAMES, image_folders, num_common
from unet_pipeline.datasets.formats.named_folders import refuse_folders
from unet_pipeline.datasets.formats.object_masks import ObjectMasks
from unet_pipeline.datasets.formats.pairs import about_splits
from unet_pipeline.datasets.images import MASK_EXTENSIONS
from unet_pipeline.datasets.manifest import Split, natural_key
from unet_pipeline.errors import DatasetError

_FOREGROUND = 255  # the value of objects without classes: viewers show it

_IMAGES, _MASKS = ("images", "image"), ("masks", "mask")


class _Entry(NamedTuple):
    """One image, or several that claim the same masks; paths inside the tree.

    id_parts: its path without roles and splits. masks: the folder of its object files, "" where
    there is none. names: the files in it, those of a class with their folder.
    """

    id_parts: tuple[str, ...]
    split: Split | None
    images: tuple[str, ...]
    masks: str
    names: tuple[str, ...]


@dataclass
class _Place:
    """A folder with images/, masks/ or both; paths inside the tree, "" where there is none."""

    images: str = ""
    masks: str = ""
    image_names: tuple[str, ...] = ()
    mask_names: tuple[str, ...] = ()
    subfolders: list[str] = field(default_factory=list)  # of masks

    @property
    def by_image(self) -> list[str]:
        """The folders masks/<id>/ that have an image images/<id>.png."""
        if self.mask_names:
            return []
        stems = {_stem(name) for name in self.image_names}
        return [where for where in self.subfolders if _name(where) in stems]


def recognise(tree: Tree) -> str | None:
    """Several mask files for one image, in folders that belong to that image alone."""
    if tree.only:
        return None
    places = _places(tree)
    for place in places.values():
        if place.by_image:
            return f"{place.by_image[0]}/ holds the objects of one image of {place.images}/"
    if "" in places and places[""].image_names:
        return None  # the source has images itself; what lies deeper is something else
    alone = [where for where, place in places.items() if _is_of_one_image(where, place, tree)]
    if len(alone) * 2 < sum(bool(p.image_names and p.masks) for p in places.values()):
        return None
    return next(
        (
            f"{where}/images/ holds one image, {where}/masks/ {len(names)} files"
            for where in alone
            if len(names := _object_names(tree, places[where].masks, places[where].subfolders)) > 1
        ),
        None,
    )


def read(tree: Tree, images: str | None, masks: str | None) -> Found:
    """The images of `tree`, each with the objects in its files.

    An image without object files is all background. Raises `UserError` for folders that are
    named, `DatasetError` where there are no such folders, and where objects with a class (in a
    folder of that name) stand beside objects without.
    """
    looked_for = "<id>/images/ with <id>/masks/, or images/ with masks/<id>/"
    refuse_folders(tree, images, masks, format_name="objects", looked_for=looked_for)
    entries, left_out = _without_masks_left_out(_entries(tree))
    several = [entry for entry in entries if len(entry.images) > 1]
    # images/ beside masks/ with a mask each: no folder belongs to one image alone
    is_other = len(several) * 2 > len(entries) and recognise(tree) is None
    if is_other or not any(entry.names for entry in entries):
        raise DatasetError(
            f"{tree.root}: no folder with one mask file for each object was found (looked for "
            "<id>/images/ with <id>/masks/, and for images/ with masks/<id>/)"
        )
    usable = [entry for entry in entries if len(entry.images) == 1]
    class_names = _class_names(tree, usable)
    pairs = _pairs(tree, usable, class_names)
    num_objects = sum(len(entry.names) for entry in usable)
    return Found(
        pairs,
        f"{counted(len(pairs), 'image')} with {counted(num_objects, 'object')}, one mask file each"
        + (f", of {counted(len(class_names), 'class folder')}" if class_names else "")
        + about_splits(pairs, "by folder"),
        tuple(left_out),
        class_list=_class_list(class_names),
        findings=tuple(_findings(entries)),
    )


# ---- folders ------------------------------------------------------------------------------------


def _places(tree: Tree) -> dict[str, _Place]:
    """Every folder of `tree` with images/ or masks/ in it, by its path."""
    places: dict[str, _Place] = {}
    by_masks: dict[str, _Place] = {}
    for where in tree.folders:
        parent, _, name = where.rpartition("/")
        if name.casefold() in _IMAGES:
            place = places.setdefault(parent, _Place())
            place.images, place.image_names = where, _pictures(tree, where)
        elif name.casefold() in _MASKS:
            by_masks[where] = place = places.setdefault(parent, _Place())
            place.masks, place.mask_names = where, _pictures(tree, where)
    for where in tree.folders:
        above = by_masks.get(where.rpartition("/")[0])
        if above is not None and where:
            above.subfolders.append(where)
    return places


def _is_of_one_image(where: str, place: _Place, tree: Tree) -> bool:
    """Whether the masks at `where` look like pieces of its one image, not like its mask."""
    if len(place.image_names) != 1 or not _object_names(tree, place.masks, place.subfolders):
        return False
    return (
        bool(where)
        and _name(where).casefold() not in SPLIT_NAMES
        and _stem(place.image_names[0]) not in map(_stem, place.mask_names)
    )


def _entries(tree: Tree) -> list[_Entry]:
    """The images of `tree` with their object files, and object files without an image."""
    children: dict[str, list[str]] = {}
    for where in tree.folders:
        children.setdefault(where.rpartition("/")[0], []).append(where)
    entries = []
    for where, place in _places(tree).items():
        parts, split = _path_and_split(tree, where)
        if not place.by_image:
            names = _object_names(tree, place.masks, place.subfolders)
            images = tuple(f"{place.images}/{name}" for name in place.image_names)
            if images or names:
                entries.append(_Entry(parts, split, images, place.masks, names))
            continue
        folders = {_name(folder): folder for folder in place.subfolders}
        for name in place.image_names:
            stem = _stem(name)
            folder = folders.pop(stem, "")
            names = _object_names(tree, folder, children.get(folder, ())) if folder else ()
            image = f"{place.images}/{name}"
            entries.append(_Entry((*parts, stem), split, (image,), folder or place.masks, names))
        for stem, folder in folders.items():
            names = _object_names(tree, folder, children.get(folder, ()))
            if names:
                entries.append(_Entry((*parts, stem), split, (), folder, names))
    return entries


def _object_names(tree: Tree, folder: str, subfolders: Sequence[str]) -> tuple[str, ...]:
    """The files of `folder` and of its subfolders, which are classes; paths inside it."""
    if not folder:
        return ()
    return _pictures(tree, folder) + tuple(
        f"{_name(where)}/{name}" for where in subfolders for name in _pictures(tree, where)
    )


def _pictures(tree: Tree, folder: str) -> tuple[str, ...]:
    return tuple(n for n in tree.folders[folder] if n.lower().endswith(MASK_EXTENSIONS))


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _stem(path: str) -> str:
    name = _name(path)
    return name.rpartition(".")[0] or name


def _path_and_split(tree: Tree, where: str) -> tuple[tuple[str, ...], Split | None]:
    """The parts of a path that are no split, and the split that the others name."""
    folder = image_folders(replace(tree, folders={where: ()}))[0]
    return folder.plain_parts, folder.split


# ---- pairs --------------------------------------------------------------------------------------


def _without_masks_left_out(entries: list[_Entry]) -> tuple[list[_Entry], list[str]]:
    """The entries of those folders in which any image has masks; a test set often has none."""
    places = {id(entry): (entry.id_parts[:-1], entry.split) for entry in entries}
    with_masks = {places[id(entry)] for entry in entries if entry.masks}
    bare = [entry for entry in entries if places[id(entry)] not in with_masks]
    if not bare:
        return entries, []
    above = sorted({_above(entry) for entry in bare})
    count = sum(len(entry.images) for entry in bare)
    sentence = f"left out: {counted(count, 'image')} in {', '.join(above)}, which have no masks"
    return [entry for entry in entries if places[id(entry)] in with_masks], [sentence]


def _above(entry: _Entry) -> str:
    """The folder that tells where images without masks are: theirs, or that of all ids."""
    folder = PurePosixPath(entry.images[0]).parent
    return f"{folder if len(entry.images) > 1 else folder.parent.parent}/"


def _class_names(tree: Tree, entries: list[_Entry]) -> tuple[str, ...]:
    """The folders of classes, in natural order; none where objects have no class."""
    with_class = {name.split("/")[0] for e in entries for name in e.names if "/" in name}
    without = next((f"{e.masks}/{n}" for e in entries for n in e.names if "/" not in n), None)
    if with_class and without:
        raise DatasetError(
            f"{tree.path(without)}: is in no class folder, while other masks are (in "
            f"{min(with_class, key=natural_key)}/): move each mask to the folder of its class"
        )
    if len(with_class) >= _FOREGROUND:
        raise DatasetError(
            f"{tree.root}: the masks lie in folders of {len(with_class)} different names, too many "
            "to be classes: put the files of each object directly into masks/"
        )
    return tuple(sorted(with_class, key=natural_key))


def _pairs(tree: Tree, entries: list[_Entry], class_names: tuple[str, ...]) -> tuple[Pair, ...]:
    """One pair an entry, with unique ids, in their natural order."""
    value_of = {name: value for value, name in enumerate(class_names, start=1)}
    common = num_common([entry.id_parts[:-1] for entry in entries])
    ids = ["/".join(e.id_parts[common:]) or _stem(e.images[0]) for e in entries]
    repeated = {name for name, count in Counter(ids).items() if count > 1}
    pairs = []
    for name, entry in zip(ids, entries, strict=True):
        image = tree.path(entry.images[0])
        values = tuple(value_of.get(n.split("/")[0], _FOREGROUND) for n in entry.names)
        mask = ObjectMasks(tree.path(entry.masks or entry.images[0]), entry.names, values, image)
        sample_id = f"{entry.split}/{name}" if name in repeated and entry.split else name
        pairs.append(Pair(sample_id, image, mask, entry.split))
    return tuple(sorted(pairs, key=lambda pair: natural_key(pair.sample_id)))


def _class_list(class_names: tuple[str, ...]) -> ClassList:
    if class_names:
        values = tuple(range(len(class_names) + 1))
        return ClassList("the class folders", ("background", *class_names), values)
    return ClassList("the object files", ("background", "foreground"), (0, _FOREGROUND))


def _findings(entries: list[_Entry]) -> Iterator[Finding]:
    without_image = [entry.masks for entry in entries if not entry.images]
    if without_image:
        yield Finding(
            "unpaired-masks",
            "error",
            f"{len(without_image)} of {counted(len(entries), 'folder')} of masks "
            f"{agree(len(without_image), 'have')} no image",
            len(without_image),
            tuple(without_image[:5]),
            "put the image beside them, or remove these folders",
        )
    several = [entry for entry in entries if len(entry.images) > 1]
    if several:
        yield Finding(
            "ambiguous-images",
            "error",
            f"{len(several)} of {counted(len(entries), 'folder')} "
            f"{agree(len(several), 'hold')} more than one image for the masks",
            len(several),
            tuple(", ".join(entry.images[:2]) for entry in several[:5]),
            "keep the one that the masks were drawn over, each other image in a folder of its own",
        )
    empty = [entry for entry in entries if entry.images and not entry.names]
    if empty:
        yield Finding(
            "background-images",
            "note",
            f"{len(empty)} of {counted(len(entries), 'image')} {agree(len(empty), 'have')} no "
            "object files: all background",
            len(empty),
            tuple(entry.images[0] for entry in empty[:5]),
        )


FORMAT = Format("one mask file an object: <id>/images/x.png, <id>/masks/*.png", recognise, read)
