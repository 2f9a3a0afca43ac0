"""What the names of folders say about the files in them: images or masks, and of which split."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from unet_pipeline.datasets.images import IMAGE_EXTENSIONS
from unet_pipeline.datasets.manifest import Split, natural_key
from unet_pipeline.errors import DatasetError, UserError

Role = Literal["image", "mask"]

IMAGE_AFFIXES = ("images", "image", "imgs", "img")
MASK_AFFIXES = (
    *("masks", "mask", "labels", "label", "annotations", "annotation", "annots", "annot"),
    *("segmentations", "segmentation", "seg", "groundtruth", "ground_truth", "gt"),
)
"""Words that also count as a part of a name: masks_png/, train_images/, x_mask.png."""

_IMAGE_FOLDERS = (*IMAGE_AFFIXES, "jpegimages", "photos", "pictures", "inputs", "input", "rgb")
_MASK_FOLDERS = (*MASK_AFFIXES, "segmentationclass", "segs", "gts", "targets", "target", "semantic")
_SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True, slots=True)
class Folder:
    """One folder of a tree, the images in it, and what its path says about them.

    parts: its path below the root of the tree; label: how messages call it.
    depth: how many of the parts lead to the one that names the role; exact: that part is nothing
        but a known word (masks, not masks_png).
    before, after: the parts that name neither role nor split, up to the role and below it.
    """

    label: str
    parts: tuple[str, ...]
    files: tuple[Path, ...]
    role: Role | None = None
    exact: bool = True
    depth: int = 0
    split: Split | None = None
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    @property
    def plain_parts(self) -> tuple[str, ...]:
        """The path without the folders that are nothing but a split."""
        return tuple(part for part in self.parts if part.casefold() not in _SPLIT_FOLDERS)


def walk(root: Path) -> list[Folder]:
    """Every folder at or below `root` with its images; links are followed, loops are not.

    Hidden folders and files are passed over. Raises `UserError` where there is no such folder and
    `DatasetError` where one cannot be listed.
    """
    if not root.exists():
        raise UserError(f"{root}: no such folder; check the path")
    if not root.is_dir():
        raise UserError(f"{root}: is a file; give the folder that holds the images and masks")

    def refuse(error: OSError) -> None:
        raise DatasetError(f"{error.filename}: cannot be listed: {error.strerror}") from error

    folders = []
    seen: set[str] = set()
    for path, names, files in os.walk(root, followlinks=True, onerror=refuse):
        real = os.path.realpath(path)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        names[:] = sorted(n for n in names if not n.startswith((".", "__")))
        found = [n for n in files if n.lower().endswith(IMAGE_EXTENSIONS) and n[0] != "."]
        parts = Path(path).relative_to(root).parts
        paths = tuple(Path(path) / n for n in sorted(found, key=natural_key))
        folders.append(_placed(parts, paths))
    return folders


def no_images(folder: Path) -> str:
    """The sentence about a folder without images, with what it holds instead."""
    names = [name for _, _, files in os.walk(folder) for name in files]
    others = Counter(Path(name).suffix.lower() or "without extension" for name in names)
    held = ", ".join(f"{count} {extension}" for extension, count in others.most_common(3))
    looked = " ".join(IMAGE_EXTENSIONS)
    instead = f"it holds {held}" if held else "it is empty"
    return f"{folder}: holds no images (looked for {looked}); {instead}"


def named(source: Path, tree: list[Folder], name: str, role: Role) -> list[Folder]:
    """The folders that the user called `name`, with all that lies below them, in the given role.

    That is the folder `source`/`name`, or else every folder of the tree whose path ends so (one
    in each split), or else the folder `name` elsewhere.
    """
    wanted = Path(os.path.normpath(name)).parts
    paths = {folder.parts for folder in tree}
    roots: set[tuple[str, ...]]
    if wanted == (".",):
        roots = {()}
    elif wanted in paths:
        roots = {wanted}
    else:
        roots = {parts for parts in paths if parts[-len(wanted) :] == wanted}
    if roots:
        found = [
            _below(folder, max(above, key=len), role)
            for folder in tree
            if (above := [root for root in roots if folder.parts[: len(root)] == root])
        ]
    elif elsewhere := next((p for p in (source / name, Path(name)) if p.is_dir()), None):
        place = os.path.normpath(elsewhere)
        found = [
            replace(_below(folder, (), role), label=f"{place}/{'/'.join(folder.parts)}")
            for folder in walk(elsewhere)
        ]
    else:
        held = ", ".join(folder.label for folder in tree if len(folder.parts) == 1)
        raise UserError(
            f"--{role}s {name}: there is no such folder in {source}"
            + (f", which holds {held}" if held else "")
        )
    found = [folder for folder in found if folder.files]
    if not found:
        raise DatasetError(no_images(source / name))
    return found


def choose(folders: list[Folder], role: Role, source: Path) -> list[Folder]:
    """The folders of one role; of several in one place, the one named by a known word alone.

    Raises `DatasetError` where that leaves more than one.
    """
    chosen = []
    folders = [folder for folder in folders if folder.role == role]
    for place in dict.fromkeys((f.split, f.before) for f in folders):
        here = [f for f in folders if (f.split, f.before) == place]
        here = [f for f in here if f.exact] or here
        roots = dict.fromkeys("/".join(f.parts[: f.depth]) + "/" for f in here)
        if len(roots) > 1:
            raise DatasetError(
                f"{source}: several folders could hold the {role}s: {', '.join(roots)}; "
                f"choose one with --{role}s"
            )
        chosen += here
    return chosen


def labels(folders: list[Folder]) -> str:
    """Up to four folders by name, for a sentence."""
    names = list(dict.fromkeys(folder.label for folder in folders))
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def counted(number: int, noun: str) -> str:
    """`number` with its noun: 1 image, 2 images."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def any_of(words: Iterable[str]) -> str:
    """A regular expression for one of `words`, the longest that fits."""
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


class _Meaning(NamedTuple):
    """What one part of a path says."""

    role: Role | None = None
    exact: bool = True
    split: Split | None = None
    rest: tuple[str, ...] = ()


_AFFIXES = any_of((*IMAGE_AFFIXES, *MASK_AFFIXES))
_SPLIT_THEN_ROLE = re.compile(rf"(?P<split>{any_of(_SPLIT_FOLDERS)})[ _.-]*(?P<word>{_AFFIXES})")
_ROLE_THEN_SPLIT = re.compile(rf"(?P<word>{_AFFIXES})[ _.-]*(?P<split>{any_of(_SPLIT_FOLDERS)})")
_REST_THEN_ROLE = re.compile(rf"(?P<rest>.+)[ _.-](?P<word>{_AFFIXES})")
_ROLE_THEN_MORE = re.compile(rf"(?P<word>{_AFFIXES})[ _.-].+")


def _meaning(part: str) -> _Meaning:
    name = part.casefold()
    if name in _SPLIT_FOLDERS:
        return _Meaning(split=_SPLIT_FOLDERS[name])
    if name in _IMAGE_FOLDERS:
        return _Meaning("image")
    if name in _MASK_FOLDERS:
        return _Meaning("mask")
    if match := _SPLIT_THEN_ROLE.fullmatch(name) or _ROLE_THEN_SPLIT.fullmatch(name):
        return _Meaning(_role_of(match["word"]), split=_SPLIT_FOLDERS[match["split"]])
    if match := _REST_THEN_ROLE.fullmatch(name):  # cells_masks/ beside cells_images/
        # image_labels/ holds labels of images; there is no other part to it
        rest = () if match["rest"] in IMAGE_AFFIXES else (part[: match.end("rest")],)
        return _Meaning(_role_of(match["word"]), rest=rest)
    if match := _ROLE_THEN_MORE.fullmatch(name):  # masks_png/
        return _Meaning(_role_of(match["word"]), exact=False)
    return _Meaning(rest=(part,))


def _role_of(word: str) -> Role:
    return "image" if word in IMAGE_AFFIXES else "mask"


def _placed(parts: tuple[str, ...], files: tuple[Path, ...]) -> Folder:
    """The folder at `parts`, with the role and the split that its path names."""
    folder = Folder(label="/".join(parts) + "/" if parts else "./", parts=parts, files=files)
    for depth, part in enumerate(parts, start=1):
        role, exact, split, rest = _meaning(part)
        if role is not None:  # the innermost counts: images/masks/ holds masks
            before = folder.before + folder.after + rest
            folder = replace(folder, role=role, exact=exact, depth=depth, before=before, after=())
        elif folder.role is None:
            folder = replace(folder, before=folder.before + rest)
        else:
            folder = replace(folder, after=folder.after + rest)
        if split is not None:
            folder = replace(folder, split=split)
    return folder


def _below(folder: Folder, root: tuple[str, ...], role: Role) -> Folder:
    """`folder`, which lies at or below `root`, in the role that the user gave to `root`."""

    def plain(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name.casefold() not in _SPLIT_FOLDERS)

    return replace(
        folder,
        role=role,
        exact=True,
        depth=len(root),
        before=plain(folder.parts[: max(len(root) - 1, 0)]),
        after=plain(folder.parts[len(root) :]),
    )
