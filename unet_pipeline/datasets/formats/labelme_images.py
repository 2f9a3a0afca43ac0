"""Which image a labelme file belongs to, and which images belong to none."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from unet_pipeline.datasets.findings import counted
from unet_pipeline.datasets.formats.contract import Made, Tree
from unet_pipeline.datasets.formats.faults import Faults
from unet_pipeline.datasets.formats.layout import is_image, num_common, pictures
from unet_pipeline.datasets.formats.named_folders import folders_of_images
from unet_pipeline.datasets.images import IMAGE_EXTENSIONS


class ImageFinder:
    """Finds the image of a labelme file, and in the end the images that belong to none."""

    def __init__(self, tree: Tree, images: str | None, faults: Faults) -> None:
        self._root = tree.root
        self._faults = faults
        self._folders = folders_of_images(tree, images)
        self._are_named = images is not None
        self._by_name: dict[str, list[Path]] = defaultdict(list)  # and by stem, in lower case
        for _, path in pictures(self._folders):
            self._by_name[path.name.casefold()].append(path)
            self._by_name[path.stem.casefold()].append(path)
        self.excused: set[str] = set()  # stems of files that cannot be read: one fault, not two

    def find(self, name: str, written: Any, *, embedded: bool) -> list[Path]:
        """The images that the file `name` may belong to.

        written: its imagePath. embedded: it holds the image too, so that an image elsewhere must
        have the whole name that is written; without, the stem is enough.
        """
        here = self._root / PurePosixPath(name).parent
        is_path = isinstance(written, str) and "\0" not in written
        # Files made under Windows have backslashes, and a drive in front
        told = PurePosixPath(PureWindowsPath(written).as_posix() if is_path else "")
        stem = PurePosixPath(name).stem
        elsewhere = self._elsewhere(name, told, "" if embedded else stem)
        if elsewhere and self._are_named:
            return elsewhere
        beside = [here / f"{stem}{end}" for ext in IMAGE_EXTENSIONS for end in (ext, ext.upper())]
        for path in ([here / told] if told.name else []) + beside:
            with contextlib.suppress(OSError):  # a name too long for the system
                if path.is_file():
                    return [Path(os.path.normpath(path))]
        return elsewhere

    def _elsewhere(self, name: str, told: PurePosixPath, stem: str) -> list[Path]:
        """The images of that name; of several those whose folders resemble most what is written."""
        found = self._by_name.get(told.name.casefold()) or self._by_name.get(stem.casefold(), [])
        for parts in (told.parent.parts, PurePosixPath(name).parent.parts):
            alike = [num_common((path.parent.parts[::-1], parts[::-1])) for path in found]
            most = max(alike, default=0)
            found = [path for path, number in zip(found, alike, strict=True) if number == most]
        return found

    def unpaired(self, paired: Iterable[Path | Made]) -> list[str]:
        """A sentence about folders of images without labelme files; lone images are a fault."""
        used = {os.path.normpath(image) for image in paired if isinstance(image, Path)}
        stems = {os.path.splitext(image)[0] for image in used}  # noqa: PTH122  a whole path
        left_out: list[str] = []
        for folder in self._folders:
            files = [os.path.normpath(file) for file in folder.files if is_image(file)]
            lone = [file for file in files if os.path.splitext(file)[0] not in stems]  # noqa: PTH122
            if not used.isdisjoint(files):
                self._faults["unpaired-images"] += [
                    os.path.relpath(file, self._root)
                    for file in lone
                    if Path(file).stem not in self.excused
                ]
            elif lone:
                left_out.append(f"left out: {counted(len(lone), 'image')} in {folder.label}")
        return left_out
