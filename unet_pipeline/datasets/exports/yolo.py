"""YOLO-seg: images/<split>/, labels/<split>/ and a data.yaml.

A line is `class x1 y1 x2 y2 ...`, the corners as fractions of width and height. Facts of the
format: docs.ultralytics.com/datasets/segment.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml

from unet_pipeline.classes import IGNORE_INDEX
from unet_pipeline.datasets.exports.outlines import outlines
from unet_pipeline.datasets.exports.writing import (
    Indices,
    Numbering,
    each_sample,
    file_names,
    read_indices,
    splits_of,
    write_file,
    write_image,
)
from unet_pipeline.datasets.manifest import Manifest, Sample
from unet_pipeline.datasets.scan import Progress
from unet_pipeline.files import write_atomic

logger = logging.getLogger(__name__)

CONFIG_FILE = "data.yaml"

_KEPT = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

_INTO_PIXEL = 0.25
"""How far behind its pixel's index a corner is written: rounding and cutting off both give it."""


def write(manifest: Manifest, folder: Path, on_progress: Progress | None) -> None:
    """Write the outlines of every class but the background.

    Void pixels have no place in the format; they become background, and the log says how many.
    data.yaml names no `path`: YOLO then looks beside the file, but takes "." for a folder of its
    own.
    """
    names = file_names(manifest.samples)
    numbering = Numbering.of(manifest.facts.classes, kind="YOLO")

    def one(sample: Sample) -> int:
        name = names[sample.sample_id]
        numbers = numbering.table[read_indices(sample, manifest.facts.classes)]
        write_image(sample, folder / "images" / sample.split / name, kept=_KEPT)
        text = "".join(f"{line}\n" for line in _lines(numbers))
        write_file(folder / "labels" / sample.split / name, ".txt", text)
        return int((numbers == IGNORE_INDEX).sum())

    void = [count for _, count in each_sample(one, manifest, on_progress) if count]
    if void:
        logger.warning(
            "%d void pixels of %d images become background: YOLO cannot express void",
            sum(void),
            len(void),
        )
    content = {split: f"images/{split}" for split in splits_of(manifest)}
    text = yaml.safe_dump(
        {**content, "nc": len(numbering.names), "names": dict(enumerate(numbering.names))},
        sort_keys=False,
        allow_unicode=True,
    )
    write_atomic(folder / CONFIG_FILE, text)


def _lines(numbers: Indices) -> Iterator[str]:
    """A line for each outline; the first class behind the background has the number 0."""
    sides = np.array(numbers.shape[::-1])
    digits = len(str(sides.max())) + 2  # so that a corner is right to a hundredth of a pixel
    for number in np.unique(numbers).tolist():
        if number in (0, IGNORE_INDEX):
            continue
        for outline in outlines(numbers == number):
            corners = ((outline + _INTO_PIXEL) / sides).reshape(-1).tolist()
            yield f"{number - 1} " + " ".join(f"{corner:.{digits}f}" for corner in corners)
