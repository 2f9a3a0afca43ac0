"""A folder that is gone as a whole, which is not the same as a file that cannot be read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from unet_pipeline.datasets.samples_csv import Sample
from unet_pipeline.errors import DatasetError


def folders_of(samples: Sequence[Sample]) -> tuple[Path, ...]:
    """The folder that holds all images of `samples`, and the one of all masks, at any depth."""
    images = [sample.image for sample in samples]
    masks = [sample.mask for sample in samples if sample.mask is not None]
    return tuple(dict.fromkeys(_common(files) for files in (images, masks) if files))


def require_folders(folders: Iterable[Path]) -> None:
    """Raise `DatasetError` where one of `folders` is gone: nothing of it can be read any more."""
    for folder in folders:
        if not os.path.lexists(folder):
            raise DatasetError(
                f"the folder {folder} is gone, and with it the data: bring it back (is its disk "
                "mounted?), then continue with unet train --resume RUN"
            )


def _common(files: Sequence[Path]) -> Path:
    return Path(os.path.commonpath({file.parent for file in files}))
