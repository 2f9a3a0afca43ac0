"""What the names of folders say about the files in them: images or masks, and of which split."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from unet_pipeline.datasets.findings import name_five
from unet_pipeline.datasets.formats.contract import Tree
from unet_pipeline.datasets.images import IMAGE_EXTENSIONS, MASK_EXTENSIONS
from unet_pipeline.datasets.manifest import Split
from unet_pipeline.errors import DatasetError

Role = Literal["image", "mask"]

IMAGE_AFFIXES = ("images", "image", "imgs", "img")
MASK_AFFIXES = (
    *("masks", "mask", "labels", "label", "annotations", "annotation", "annots", "annot"),
    *("segmentations", "segmentation", "seg", "groundtruth", "ground_truth", "gt"),
)
"""Words that also count as a part of a name: masks_png/, train_images/, x_mask.png."""

_IMAGE_FOLDERS = (*IMAGE_AFFIXES, "jpegimages", "photos", "pictures", "inputs", "input", "rgb")
_MASK_FOLDERS = (*MASK_AFFIXES, "segmentationclass", "segs", "gts", "targets", "target", "semantic")
SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""What folders and lists of a split are called, in lower case."""


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
        return tuple(part for part in self.parts if part.casefold() not in SPLIT_NAMES)


def image_folders(tree: Tree) -> list[Folder]:
    """Every folder of `tree` with the files in it that may be images or masks."""
    return [
        _placed(
            PurePosixPath(where).parts,
            tuple(
                tree.root / where / name for name in names if name.lower().endswith(MASK_EXTENSIONS)
            ),
        )
        for where, names in tree.folders.items()
    ]


def pictures(folders: Iterable[Folder]) -> list[tuple[Folder, Path]]:
    """The image files of `folders`, each with its folder; of mask folders only if need be."""
    every = list(folders)
    return [
        (folder, path)
        for folder in [f for f in every if f.role != "mask"] or every
        for path in folder.files
        if is_image(path)
    ]


def is_image(path: Path) -> bool:
    """Whether a file is called like an image."""
    return path.name.lower().endswith(IMAGE_EXTENSIONS)


def choose(folders: list[Folder], role: Role, source: Path) -> list[Folder]:
    """The folders of one role; of several in one place, the one named by a known word alone.

    Raises `DatasetError` where that leaves more than one.
    """
    chosen = []
    folders = [folder for folder in folders if folder.role == role]
    for place in dict.fromkeys((f.split, f.before) for f in folders):
        here = [f for f in folders if (f.split, f.before) == place]
        here = [f for f in here if not _is_matlab(f)] or here  # pictures of the same masks win
        here = [f for f in here if f.exact] or here
        roots = dict.fromkeys("/".join(f.parts[: f.depth]) + "/" for f in here)
        if len(roots) > 1:
            raise DatasetError(
                f"{source}: several folders could hold the {role}s: {', '.join(roots)}; "
                f"choose one with --{role}s"
            )
        chosen += here
    return chosen


def _is_matlab(folder: Folder) -> bool:
    return all(path.suffix.lower() == ".mat" for path in folder.files)


def split_of(name: str) -> Split | None:
    """The split that a name says by a whole word: instances_val2017, train_images.

    None where it says none, or several (train_val).
    """
    words = re.findall(r"[^\W\d_]+", name.casefold())
    said = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    return said.pop() if len(said) == 1 else None


def split_of_path(parts: Sequence[str]) -> Split | None:
    """The split that the innermost of `parts` says, of those that say one."""
    return next(filter(None, map(split_of, reversed(parts))), None)


def num_common(paths: Iterable[Iterable[str]]) -> int:
    """How many parts at the beginning all of `paths` share."""
    together = zip(*paths, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda parts: len(set(parts)) == 1, together))


def labels(folders: Iterable[Folder]) -> str:
    """Up to five folders by name, for a sentence."""
    return name_five(list(dict.fromkeys(folder.label for folder in folders)))


def role_of(name: str) -> Role | None:
    """What the path of a folder says that it holds, by its innermost part that says it."""
    return _placed(PurePosixPath(name).parts, ()).role


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
_SPLIT_THEN_ROLE = re.compile(rf"(?P<split>{any_of(SPLIT_NAMES)})[ _.-]*(?P<word>{_AFFIXES})")
_ROLE_THEN_SPLIT = re.compile(rf"(?P<word>{_AFFIXES})[ _.-]*(?P<split>{any_of(SPLIT_NAMES)})")
_REST_THEN_ROLE = re.compile(rf"(?P<rest>.+)[ _.-](?P<word>{_AFFIXES})")
_ROLE_THEN_MORE = re.compile(rf"(?P<word>{_AFFIXES})[ _.-].+")


def _meaning(part: str) -> _Meaning:
    name = part.casefold()
    if name in SPLIT_NAMES:
        return _Meaning(split=SPLIT_NAMES[name])
    if name in _IMAGE_FOLDERS:
        return _Meaning("image")
    if name in _MASK_FOLDERS:
        return _Meaning("mask")
    if match := _SPLIT_THEN_ROLE.fullmatch(name) or _ROLE_THEN_SPLIT.fullmatch(name):
        return _Meaning(_role_of(match["word"]), split=SPLIT_NAMES[match["split"]])
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
