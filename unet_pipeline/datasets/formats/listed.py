"""Annotation files that list many images by name: which these are, and where their images lie."""

from __future__ import annotations

import contextlib
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from unet_pipeline.datasets.findings import Finding, agree, counted, name_five
from unet_pipeline.datasets.formats.contract import Pair, Tree, list_tree
from unet_pipeline.datasets.formats.layout import (
    MASK_AFFIXES,
    Folder,
    image_folders,
    is_image,
    num_common,
    split_of,
    split_of_path,
)
from unet_pipeline.datasets.formats.named_folders import named
from unet_pipeline.datasets.manifest import Split, natural_key
from unet_pipeline.datasets.shapes import Drawing, Shape
from unet_pipeline.errors import DatasetError


class Listed(NamedTuple):
    """An image as an annotation file lists it: by `name`, and by the id `key`.

    file: where that file is in the tree.
    """

    name: str
    file: str
    split: Split | None
    key: str


class Placed(NamedTuple):
    """The image file of a listed name; None where `num_fitting` files fit, none or several."""

    path: Path | None
    parts: tuple[str, ...] = ()
    num_fitting: int = 0


class Drawn(NamedTuple):
    """A listed image with its file and the shapes in it, in the order to paint them."""

    listed: Listed
    placed: Placed
    size: tuple[int, int] | None
    shapes: tuple[Shape, ...]


Places = dict[str, list[tuple[Folder, Path]]]
"""Image files with their folders, by name; upper and lower case are the same."""


# ---- the annotation files ------------------------------------------------------------------------


def few_of(tree: Tree, suffix: str) -> list[str]:
    """The files of a format that may describe many images; not one beside each of them.

    Of more than 50 in a folder, only those whose names speak of annotations or a split.
    """
    speaks = re.compile(r"coco|instances|annot|label", re.IGNORECASE)
    names = []
    for folder in tree.folders:
        here = tree.files(suffix, under=folder)
        if len(here) > 50:
            stems = {name: PurePosixPath(name).stem for name in here}
            here = [name for name in here if speaks.search(stems[name]) or split_of(stems[name])]
        names += here
    return names


def surroundings(tree: Tree) -> Tree:
    """`tree`; or, where it is one file, the tree of the folder it lies in (above annotations/)."""
    if tree.only is None:
        return tree
    return list_tree(tree.root.parent if tree.root.name in MASK_AFFIXES else tree.root)


def split_of_file(name: str) -> Split | None:
    """The split that the name of an annotation file says, or the innermost folder that says one."""
    path = PurePosixPath(name)
    return split_of_path((*path.parent.parts, path.stem))


# ---- their images --------------------------------------------------------------------------------


def image_places(tree: Tree, images: str | None) -> Places:
    """The image files of `tree`, or those in the folder that the user named."""
    folders = image_folders(tree)
    if images is not None:
        folders = named(tree.root, folders, images, "image")
    places: Places = {}
    for folder in folders:
        for path in folder.files:
            if is_image(path):
                places.setdefault(_fold(path.name), []).append((folder, path))
    return places


def locate(listed: Sequence[Listed], places: Places) -> list[Placed]:
    """Where each of the images of one annotation file is.

    The longest matching end of the path counts first, then a folder of the same split, then the
    nearest to the annotation file. A file that several names fit goes to the longest match.
    """
    found, tails = [], []
    for image in listed:
        want = _parts(image.name)
        ranked = [
            (_rank(image, want, folder, path), folder, path)
            for folder, path in places.get(want[-1] if want else "", [])
        ]
        best = max((rank for rank, _, _ in ranked), default=None)
        fitting = [(folder, path) for rank, folder, path in ranked if rank == best]
        tails.append(best[0] if best else 0)
        if len(fitting) == 1:
            folder, path = fitting[0]
            found.append(Placed(path, folder.parts, 1))
        else:
            found.append(Placed(None, num_fitting=len(fitting)))
    names: dict[Path, dict[tuple[str, ...], int]] = {}
    for image, place, tail in zip(listed, found, tails, strict=True):
        if place.path:
            names.setdefault(place.path, {})[_parts(image.name)] = tail
    for k, place in enumerate(found):
        others = names[place.path] if place.path else {}
        longest = max(others.values(), default=0)
        if len(others) > 1 and (tails[k] < longest or [*others.values()].count(longest) > 1):
            found[k] = Placed(None)
    return found


def _rank(image: Listed, want: tuple[str, ...], folder: Folder, path: Path) -> tuple[int, ...]:
    """How well a file fits a listed name; larger is better."""
    have = tuple(map(_fold, (*folder.parts, path.name)))
    file = PurePosixPath(image.file)
    here = file.parent.parts
    said = split_of_path(folder.parts)
    agreement = 0 if said is None or image.split is None else 1 if said == image.split else -1
    like_images = folder.role == "image" or file.stem in folder.parts
    return (
        num_common((reversed(want), reversed(have))),
        agreement,
        num_common((here, folder.parts)),
        2 if folder.parts == here else 1 if like_images else 0,
        path.name == image.name.replace("\\", "/").rsplit("/", 1)[-1],
    )


def _parts(name: str) -> tuple[str, ...]:
    """The parts of a path of any system, compared without case; ./ and ../ are dropped."""
    return tuple(_fold(p) for p in re.split(r"[/\\]+", name) if p not in ("", ".", ".."))


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def refuse_twice(root: Path, placed: Mapping[str, Sequence[Placed]]) -> None:
    """Raise `DatasetError` where two files annotate one image.

    placed: the images of each annotation file, by its path inside `root`.
    """
    paths = {
        name: {place.path for place in places if place.path} for name, places in placed.items()
    }
    for one, other in itertools.combinations(paths, 2):
        if common := sorted(paths[one] & paths[other]):
            raise DatasetError(
                f"{root}: {one} and {other} both annotate {counted(len(common), 'image')} "
                f"({common[0].name}, for one); give the one file to use instead of the folder"
            )


def pair_up(
    root: Path, drawn: Sequence[Drawn], places: Places
) -> tuple[tuple[Pair, ...], list[str], list[Finding]]:
    """The pairs of all images that were found, what was left out, and the images that are missing.

    Where no annotation file names a split, the folders of the images may.
    """
    entries: dict[Path, list[Drawn]] = {}
    for each in drawn:
        if each.placed.path:
            entries.setdefault(each.placed.path, []).append(each)
    findings = [*_missing(root, drawn), *_repeated(list(entries.values()))]
    rows = {  # of an image that is listed twice, all shapes count
        path: same[-1]._replace(shapes=tuple(shape for each in same for shape in each.shapes))
        for path, same in entries.items()
    }
    splits: dict[Path, Split | None] = {path: row.listed.split for path, row in rows.items()}
    if not any(splits.values()):
        by_folder = {path: split_of_path(row.placed.parts) for path, row in rows.items()}
        if all(by_folder.values()) and len(set(by_folder.values())) > 1:
            splits = by_folder
    left_out = list(_unlisted(rows, places))
    if any(splits.values()) and not all(splits.values()):
        loose = [row.listed.name for path, row in rows.items() if splits[path] is None]
        left_out.append(f"left out: {counted(len(loose), 'pair')} in no split ({name_five(loose)})")
        rows = {path: row for path, row in rows.items() if splits[path]}
    ids = _sample_ids(rows, splits)
    pairs = [
        Pair(
            ids[path],
            path,
            Drawing(f"{root / row.listed.file} ({row.listed.name})", path, row.shapes, row.size),
            splits[path],
        )
        for path, row in rows.items()
    ]
    return tuple(sorted(pairs, key=lambda pair: natural_key(pair.sample_id))), left_out, findings


def _missing(root: Path, drawn: Sequence[Drawn]) -> Iterator[Finding]:
    """The images that no file fits, those that lie elsewhere, and those that several files fit."""
    lost = [each for each in drawn if not each.placed.path]
    unfit = [each for each in lost if each.placed.num_fitting < 2]
    outside = [each.listed.name for each in unfit if _is_elsewhere(root, each.listed)]
    absent = [each.listed.name for each in unfit if each.listed.name not in outside]
    several = [each.listed.name for each in lost if each.placed.num_fitting > 1]
    of_all = f"of {counted(len(drawn), 'listed image')}"
    if absent:
        yield _error(
            "missing-images",
            f"{len(absent)} {of_all} {agree(len(absent), 'are')} not there",
            absent,
            "put them beside the annotations, or name their folder with --images",
        )
    if outside:
        yield _error(
            "missing-images",
            f"{len(outside)} {of_all} {agree(len(outside), 'lie')} outside the folder: paths that "
            "lead out of it are not followed",
            outside,
            "put them beside the annotations, or name their folder with --images",
        )
    if several:
        yield _error(
            "ambiguous-images",
            f"{len(several)} {of_all} {agree(len(several), 'fit')} several files",
            several,
            "name the folder of the images with --images",
        )


def _is_elsewhere(root: Path, listed: Listed) -> bool:
    """Whether the path of an image, as it stands, leads to a file."""
    with contextlib.suppress(OSError, ValueError):  # no name for a file
        return (root / listed.file).parent.joinpath(listed.name).is_file()
    return False


def _repeated(entries: Sequence[Sequence[Drawn]]) -> Iterator[Finding]:
    """The images that several entries list; all of their shapes are drawn over one another.

    entries: those of each image.
    """
    twice = [[each.listed for each in same] for same in entries if len(same) > 1]
    if twice:
        yield _error(
            "repeated-images",
            f"{counted(len(twice), 'image')} {agree(len(twice), 'are')} listed more than once",
            [
                f"{first.name} in {first.file} by the ids "
                + " and ".join(entry.key for entry in (first, *others))
                for first, *others in twice
            ],
            "keep one entry an image, with all of its annotations",
        )


def _error(code: str, message: str, examples: Sequence[str], remedy: str) -> Finding:
    """The error about all of `examples`."""
    return Finding(code, "error", message, len(examples), tuple(examples[:5]), remedy)


def _unlisted(rows: Mapping[Path, Drawn], places: Places) -> Iterator[str]:
    """A sentence about images that lie among the listed ones but are not listed."""
    folders = {path.parent for path in rows}
    bare = [
        path
        for files in places.values()
        for _, path in files
        if path not in rows and path.parent in folders
    ]
    if bare:
        names = sorted((path.name for path in bare), key=natural_key)
        noun = counted(len(bare), "image")
        yield f"left out: {noun} that no annotation file lists ({name_five(names)})"


def _sample_ids(rows: Mapping[Path, Drawn], splits: Mapping[Path, Split | None]) -> dict[Path, str]:
    """Ids: the path below the folder of images, with the split or the extension where needed."""
    where = {
        path: tuple(p for p in row.placed.parts if splits[path] is None or not split_of(p))
        for path, row in rows.items()
    }
    common = num_common(where.values())
    ids = {path: "/".join((*where[path][common:], path.stem)) for path in rows}
    if len(set(ids.values())) < len(ids) and any(splits.values()):
        ids = {path: f"{splits[path]}/{name}" for path, name in ids.items()}
    counts = Counter(ids.values())
    ids = {path: name + (path.suffix if counts[name] > 1 else "") for path, name in ids.items()}
    if len(set(ids.values())) < len(ids):  # train/a.png and train2017/a.png
        ids = {path: "/".join((*row.placed.parts, path.name)) for path, row in rows.items()}
    return ids
