"""The formats by name, and which of them a source is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from unet_pipeline.catalogue import lookup
from unet_pipeline.datasets.findings import Finding, agree, counted
from unet_pipeline.datasets.formats import (
    cityscapes,
    coco,
    cvat,
    idx,
    labelme,
    nnunet,
    objects,
    plain,
    table,
    voc,
    yolo,
)
from unet_pipeline.datasets.formats.contract import Format, Found, Tree, list_tree
from unet_pipeline.datasets.formats.damaged import damaged_annotations
from unet_pipeline.datasets.formats.pairs import with_ids_of_their_own
from unet_pipeline.datasets.images import MASK_EXTENSIONS
from unet_pipeline.errors import DatasetError, UserError

FORMATS: dict[str, Format] = {
    "plain": plain.FORMAT,
    "objects": objects.FORMAT,
    "voc": voc.FORMAT,
    "cityscapes": cityscapes.FORMAT,
    "nnunet": nnunet.FORMAT,
    "coco": coco.FORMAT,
    "labelme": labelme.FORMAT,
    "yolo": yolo.FORMAT,
    "cvat": cvat.FORMAT,
    "table": table.FORMAT,
    "idx": idx.FORMAT,
}
"""plain is what is left where no other format recognises a source."""

_TEXTS = (".txt", ".md", ".rst", ".csv", ".json", ".xml", ".yaml", ".yml")
"""Notes and lists that people keep beside data on purpose."""


def find_pairs(
    source: Path, *, format_name: str = "auto", images: str | None = None, masks: str | None = None
) -> Found:
    """The images of `source` with their masks.

    format_name: a name of `FORMATS`, or auto: the one that recognises the source, else plain.
    images, masks: the folders, where they are not recognised; masks makes it plain.
    Raises `UserError` for a source or a folder that does not exist and for an unknown format,
    `DatasetError` where several formats recognise the source, and where the one finds no pairs.
    """
    tree = list_tree(source)
    is_asked = format_name != "auto" or masks is not None
    if format_name == "auto":
        format_name, reason = _recognise(tree, by_folders=masks is not None)
    else:
        entry = lookup(FORMATS, format_name, kind="format")
        reason = entry.recognise(tree) or ""
    damaged: tuple[Finding, ...] = ()
    try:
        found = FORMATS[format_name].read(tree, images, masks)
    except DatasetError as error:
        if (reason and is_asked) or (format_name != "plain" and not is_asked):
            raise
        damaged = tuple(damaged_annotations(tree, lone=True))
        if not damaged and reason:
            raise
        if not damaged:
            raise DatasetError(f"{error}{_recognised_by(tree)}") from error
        found, reason = Found((), "nothing that can be read"), reason or "named by --format"
    else:
        if format_name == "plain" and not is_asked:
            damaged = tuple(damaged_annotations(tree, lone=False))
    found = replace(found, findings=(*found.findings, *damaged))
    reason = reason or "named by --format"
    if not found.pairs and not any(f.severity == "error" for f in found.findings):
        raise DatasetError(f"{source}: no pair of image and mask; {found.sentence}")
    pairs, repeated = with_ids_of_their_own(found.pairs)
    return replace(
        found,
        pairs=pairs,
        sentence=f"format {format_name} ({reason}): {found.sentence}",
        findings=(*found.findings, *repeated, *_passed_over(tree, found)),
    )


def _recognise(tree: Tree, *, by_folders: bool) -> tuple[str, str]:
    """The format of `tree` and the reason; plain where no other fits, or folders were named."""
    if by_folders:
        return "plain", "the folder of masks is named"
    reasons = _reasons(tree)
    if len(reasons) > 1:
        seen = ", ".join(f"{name} ({reason})" for name, reason in reasons.items())
        raise DatasetError(
            f"{tree.root}: could be several formats: {seen}; choose one with --format, or plain "
            "for folders of masks"
        )
    if reasons:
        return next(iter(reasons.items()))
    if tree.only:
        for finding in damaged_annotations(tree, lone=True):
            raise DatasetError(f"{tree.root / finding.examples[0]}; {finding.remedy}")
        raise UserError(
            f"{tree.root / tree.only}: is a file, and no annotation file of a known format; name "
            "its format with --format, or give the folder (all: unet list formats)"
        )
    return "plain", "folders of images and masks"


def _reasons(tree: Tree) -> dict[str, str]:
    """The formats other than plain that recognise `tree`, each with its reason."""
    return {
        name: reason
        for name, entry in FORMATS.items()
        if name != "plain" and (reason := entry.recognise(tree))
    }


def _recognised_by(tree: Tree) -> str:
    """The end of a sentence: what a tree is that is not of the format that was named."""
    reasons = _reasons(tree)
    if len(reasons) > 1:
        seen = ", ".join(f"{name} ({reason})" for name, reason in reasons.items())
        return f"; it could be {seen}"
    if reasons or not tree.only:
        return f"; --format auto takes it for {next(iter(reasons), 'plain')}"
    return ""


def _passed_over(tree: Tree, found: Found) -> Iterator[Finding]:
    """Hidden files, and files among the images and masks that are neither."""
    used = {
        os.path.relpath(part.parent, tree.root).replace(os.sep, "/")
        for pair in found.pairs
        for part in (pair.image, pair.mask)
        if isinstance(part, Path)
    }
    folders = {"" if folder == "." else folder for folder in used}
    known = (*MASK_EXTENSIONS, *_TEXTS)
    foreign = [
        path
        for folder in sorted(folders)
        for path in tree.files(under=folder)
        if PurePosixPath(path).suffix and not path.lower().endswith(known)
    ]
    for code, noun, where, what, files in (
        ("hidden-files", "hidden file", "", "passed over", tree.hidden),
        ("foreign-files", "file", " among the images and masks", "neither", foreign),
    ):
        if files:
            yield Finding(
                code,
                "note",
                f"{counted(len(files), noun)}{where} {agree(len(files), 'are')} {what}",
                len(files),
                tuple(files[:5]),
                "" if code == "hidden-files" else "remove them if they do not belong there",
            )
