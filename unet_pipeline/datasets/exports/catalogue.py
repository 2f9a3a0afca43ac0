"""The formats that a dataset can be written in, by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from unet_pipeline.catalogue import lookup
from unet_pipeline.datasets.exports import coco, nnunet, plain, yolo
from unet_pipeline.datasets.findings import name_five
from unet_pipeline.datasets.manifest import Manifest
from unet_pipeline.datasets.scan import Progress
from unet_pipeline.errors import DatasetError, UserError
from unet_pipeline.files import make_writable_folder


class Export(NamedTuple):
    """One format; write: (manifest, folder, on_progress), folder is there and empty."""

    about: str
    write: Callable[[Manifest, Path, Progress | None], None]


EXPORTS: dict[str, Export] = {
    "coco": Export("COCO JSON with run-length codes, in the layout of Roboflow", coco.write),
    "yolo": Export("YOLO-seg: data.yaml and a text file of outlines for each image", yolo.write),
    "nnunet": Export("nnU-Net, 2-D: imagesTr/, labelsTr/ and dataset.json", nnunet.write),
    "plain": Export("folders of images and indexed PNG masks, one a split", plain.write),
}


def export(
    name: str, manifest: Manifest, folder: Path, *, on_progress: Progress | None = None
) -> None:
    """Write every sample of `manifest` into `folder` in the format `name`; all or nothing.

    Images are copied byte for byte where the format takes them as they are, else they are written
    anew without loss; masks hold the class indices of the manifest.
    on_progress: called as on_progress(done, total) after each sample.
    Raises `UserError` for an unknown format and a folder that holds something, `DatasetError` for
    samples without masks, unreadable files, and what the format cannot hold.
    """
    entry = lookup(EXPORTS, name, kind="export")
    bare = [sample.sample_id for sample in manifest.samples if sample.mask is None]
    if bare:
        raise DatasetError(
            f"{manifest.root}: {len(bare)} samples have no mask ({name_five(bare)}); take their "
            "rows out of samples.csv, or export the annotated data alone"
        )
    if folder.is_dir() and _content(folder):
        raise UserError(f"{folder} is not empty: choose another folder for the export")
    make_writable_folder(folder)
    try:
        entry.write(manifest, folder, on_progress)
    except BaseException:
        for path in _content(folder):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        raise


def _content(folder: Path) -> list[Path]:
    """What lies in `folder`; hidden files, such as the lock of a run, do not count."""
    return [path for path in folder.iterdir() if not path.name.startswith(".")]
