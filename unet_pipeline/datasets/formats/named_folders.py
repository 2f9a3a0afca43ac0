"""The folders that the user named with --images and --masks."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

from unet_pipeline.datasets.formats.contract import Tree, list_tree
from unet_pipeline.datasets.formats.layout import (
    SPLIT_NAMES,
    Folder,
    Role,
    image_folders,
    role_of,
)
from unet_pipeline.datasets.images import IMAGE_EXTENSIONS
from unet_pipeline.errors import DatasetError, UserError


def folders_of_images(tree: Tree, images: str | None) -> list[Folder]:
    """The folders that the user named, or all of `tree`; around a single file all beside it."""
    folders = image_folders(list_tree(tree.root) if tree.only else tree)
    return named(tree.root, folders, images, "image") if images else folders


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
            for folder in image_folders(list_tree(elsewhere))
        ]
    else:
        held = ", ".join(folder.label for folder in tree if len(folder.parts) == 1)
        raise UserError(
            f"--{role}s {name}: there is no such folder in {source}"
            + (f", which holds {held}" if held else "")
        )
    found = [folder for folder in found if folder.files]
    if not found:
        raise DatasetError(no_images(source / name, role))
    return found


def refuse_exchanged(images: str, masks: str) -> None:
    """Raises `UserError` for a folder of images that is called like masks, and the other way."""
    if role_of(images) == "mask" and role_of(masks) == "image":
        raise UserError(
            f"--images {images} and --masks {masks}: are --images and --masks exchanged?"
        )


def no_images(folder: Path, role: Role = "image") -> str:
    """The sentence about a folder without images, or without masks, with what it holds instead."""
    names = [name for _, _, files in os.walk(folder) for name in files]
    others = Counter(Path(name).suffix.lower() or "without extension" for name in names)
    held = ", ".join(f"{count} {extension}" for extension, count in others.most_common(3))
    looked = " ".join(IMAGE_EXTENSIONS) + ("; masks may be .mat too" if role == "mask" else "")
    instead = f"it holds {held}" if held else "it is empty"
    return f"{folder}: holds no images (looked for {looked}); {instead}"


def refuse_masks(masks: str | None, format_name: str) -> None:
    """Raises `UserError` for a folder of masks where they are drawn from annotations."""
    if masks is not None:
        raise UserError(
            f"--masks {masks} has no effect: the masks are drawn from the {format_name} files; "
            "leave it out, or name --format plain"
        )


def refuse_folders(
    tree: Tree, images: str | None, masks: str | None, *, format_name: str, looked_for: str
) -> None:
    """Raises `UserError` for named folders and single files where the layout is fixed.

    looked_for: the folders and files of that layout.
    """
    if images or masks or tree.only:
        raise UserError(
            f"--format {format_name} takes one folder, without --images and --masks: it looks for "
            f"{looked_for}"
        )


def _below(folder: Folder, root: tuple[str, ...], role: Role) -> Folder:
    """`folder`, which lies at or below `root`, in the role that the user gave to `root`."""

    def plain(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in names if name.casefold() not in SPLIT_NAMES)

    return replace(
        folder,
        role=role,
        exact=True,
        depth=len(root),
        before=plain(folder.parts[: max(len(root) - 1, 0)]),
        after=plain(folder.parts[len(root) :]),
    )
