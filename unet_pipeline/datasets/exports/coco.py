"""COCO: <split>/_annotations.coco.json beside its images, every object a run-length code.

Format: https://cocodataset.org, "Data format". Run lengths are exact, holes included; polygons
are not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from unet_pipeline.classes import IGNORE_INDEX, Classes
from unet_pipeline.datasets.exports.writing import (
    Indices,
    Numbering,
    each_sample,
    file_names,
    read_indices,
    relative,
    splits_of,
    write_image,
)
from unet_pipeline.datasets.formats.coco_file import MASK_VALUE
from unet_pipeline.datasets.images import IMAGE_EXTENSIONS
from unet_pipeline.datasets.manifest import Manifest, Sample
from unet_pipeline.datasets.scan import Progress
from unet_pipeline.files import write_atomic

ANNOTATIONS_FILE = "_annotations.coco.json"

_KEPT = frozenset(IMAGE_EXTENSIONS) - {".npy", ".npz"}


class _Region(NamedTuple):
    """Pixels of one object; inside (h, w): within a box whose corner is (left, top)."""

    number: int
    inside: npt.NDArray[np.bool_]
    left: int
    top: int


def write(manifest: Manifest, folder: Path, on_progress: Progress | None) -> None:
    """Write an annotation for each connected region (8 neighbours) of a class but the background.

    Void becomes one annotation with iscrowd 1, of the first category: COCO has no other place
    for it. Each category has a `mask_value`, the index of its class, by which our reader finds the
    same classes again, those without pixels included.
    """
    names = file_names(manifest.samples)
    numbering = Numbering.of(manifest.facts.classes, kind="COCO", lacking="annotation")
    splits: dict[str, dict[str, list[Any]]] = {
        split: {"images": [], "annotations": []} for split in splits_of(manifest)
    }

    def one(sample: Sample) -> tuple[str, list[dict[str, Any]]]:
        place = folder / sample.split
        numbers = numbering.table[read_indices(sample, manifest.facts.classes)]
        image = write_image(sample, place / names[sample.sample_id], kept=_KEPT)
        return relative(image, place), list(_annotations(numbers))

    for sample, (file_name, regions) in each_sample(one, manifest, on_progress):
        content = splits[sample.split]
        size = {"width": sample.width, "height": sample.height}
        image = {"id": len(content["images"]) + 1, "file_name": file_name, **size}
        content["images"].append(image)
        for region in regions:
            number = len(content["annotations"]) + 1
            content["annotations"].append({"id": number, "image_id": image["id"], **region})
    categories = list(_categories(manifest.facts.classes, numbering))
    info = {"description": manifest.facts.name}
    for split, content in splits.items():
        text = json.dumps({"info": info, "licenses": [], "categories": categories, **content})
        write_atomic(folder / split / ANNOTATIONS_FILE, text)


def _categories(classes: Classes, numbering: Numbering) -> Iterator[dict[str, Any]]:
    """The categories 1, 2, ...; 0, the background, only where readers would not guess it.

    Programs that train on the file take a category without annotations for one class more.
    """
    numbers = numbering.table[: classes.num_classes].tolist()
    for number, index in sorted((number, index) for index, number in enumerate(numbers)):
        if (number, index, classes.names[index]) != (0, 0, "background"):
            yield {
                "id": number,
                "name": classes.names[index],
                "supercategory": "none",
                MASK_VALUE: index,
            }


def _annotations(numbers: Indices) -> Iterator[dict[str, Any]]:
    for region in _regions(numbers):
        height, width = region.inside.shape
        yield {
            "category_id": 1 if region.number == IGNORE_INDEX else region.number,
            "bbox": [region.left, region.top, width, height],
            "area": int(region.inside.sum()),
            "segmentation": _run_length_code(region, *numbers.shape),
            "iscrowd": int(region.number == IGNORE_INDEX),
        }


def _regions(numbers: Indices) -> Iterator[_Region]:
    """The connected regions of each number but 0; void is one region, connected or not."""
    for number in np.unique(numbers).tolist():
        alike = (numbers == number).astype(np.uint8)
        if number == IGNORE_INDEX:
            left, top, width, height = cv2.boundingRect(alike)
            box = alike[top : top + height, left : left + width]
            yield _Region(number, box.astype(np.bool_), left, top)
        elif number:
            _, labels, boxes, _ = cv2.connectedComponentsWithStats(alike, connectivity=8)
            for label, (left, top, width, height, _) in enumerate(boxes.tolist()):
                if label:
                    box = labels[top : top + height, left : left + width]
                    yield _Region(number, box == label, left, top)


def _run_length_code(region: _Region, height: int, width: int) -> dict[str, Any]:
    """The pixels of a picture (height, width) column by column: lengths of off and on in turn."""
    from pycocotools import mask as coco

    columns, rows = np.nonzero(region.inside.T)
    places = (columns + region.left) * height + rows + region.top
    breaks = np.diff(places) > 1
    starts, ends = places[np.r_[True, breaks]], places[np.r_[breaks, True]] + 1
    edges = np.stack([starts, ends], axis=1).reshape(-1)
    counts = np.diff(np.r_[0, edges, height * width]).tolist()
    if counts[-1] == 0:
        counts.pop()
    code = coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": code["counts"].decode("ascii")}
