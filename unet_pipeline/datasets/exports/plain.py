"""Folders of images and masks: <split>/images/x.jpg, <split>/masks/x.png, and a classes.txt."""

from __future__ import annotations

from pathlib import Path

from unet_pipeline.datasets.exports.writing import (
    class_lines,
    each_sample,
    file_names,
    indexed_png,
    read_indices,
    write_file,
    write_image,
)
from unet_pipeline.datasets.images import IMAGE_EXTENSIONS
from unet_pipeline.datasets.manifest import Manifest, Sample
from unet_pipeline.datasets.scan import Progress
from unet_pipeline.files import write_atomic


def write(manifest: Manifest, folder: Path, on_progress: Progress | None) -> None:
    """Write images as they are and masks as indexed PNG; classes.txt says what an index means."""
    classes, names = manifest.facts.classes, file_names(manifest.samples)

    def one(sample: Sample) -> None:
        place, name = folder / sample.split, names[sample.sample_id]
        mask = indexed_png(read_indices(sample, classes), classes)
        write_image(sample, place / "images" / name, kept=IMAGE_EXTENSIONS)
        write_file(place / "masks" / name, ".png", mask)

    for _ in each_sample(one, manifest, on_progress):
        pass
    write_atomic(folder / "classes.txt", class_lines(classes))
