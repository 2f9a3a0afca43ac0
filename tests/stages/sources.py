"""Sources of data in several formats, all of the same small scenes, and what they hold."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import yaml
from PIL import Image

from tests.stages.conftest import TINY
from unet_pipeline import cli
from unet_pipeline.datasets.images import read_mask
from unet_pipeline.datasets.manifest import Manifest

Array = npt.NDArray[Any]
HEIGHT, WIDTH = 32, 40
CLASSES = ("background", "cell", "debris")


class Box(NamedTuple):
    """A rectangle of one class (1 or 2); right and bottom belong to it."""

    number: int
    left: int
    top: int
    right: int
    bottom: int

    @property
    def corners(self) -> list[tuple[int, int]]:
        return [
            (self.left, self.top),
            (self.right, self.top),
            (self.right, self.bottom),
            (self.left, self.bottom),
        ]


def boxes(n: int) -> list[Box]:
    """The objects of scene `n`: a cell on the left, debris on the right."""
    rng = np.random.default_rng(n)
    left, top = (int(v) for v in rng.integers(1, 6, 2))
    cell = Box(1, left, top, left + 6 + n % 5, top + 9 + n % 7)
    return [cell, Box(2, 22 + left, top + 4, 27 + left + n % 3, top + 10 + n % 4)]


def mask_of(n: int) -> Array:
    """The class indices of scene `n`."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    for box in boxes(n):
        mask[box.top : box.bottom + 1, box.left : box.right + 1] = box.number
    return mask


def image_of(n: int) -> Array:
    """The picture of scene `n`: each class of its own colour, with noise."""
    noise = np.random.default_rng(n).integers(0, 40, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    colors = np.array([[20, 20, 20], [200, 60, 60], [60, 200, 60]], dtype=np.uint8)
    return np.asarray(colors[mask_of(n)] + noise)


def save(path: Path, pixels: Array, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def name(n: int) -> str:
    return f"s{n:02d}"


# ---- formats ------------------------------------------------------------------------------------


def plain(root: Path, numbers: Sequence[int] = range(8)) -> Path:
    for n in numbers:
        save(root / "images" / f"{name(n)}.png", image_of(n))
        save(root / "masks" / f"{name(n)}.png", mask_of(n))
    return root


def coco(
    root: Path,
    numbers: Sequence[int] = range(8),
    *,
    categories: Mapping[str, int] | None = None,
) -> Path:
    """images/ beside annotations.json. categories: name -> id, of both classes."""
    categories = categories or {"cell": 1, "debris": 2}
    content: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": what} for what, number in categories.items()],
    }
    for n in numbers:
        save(root / "images" / f"{name(n)}.png", image_of(n))
        content["images"].append(
            {"id": n + 1, "file_name": f"{name(n)}.png", "height": HEIGHT, "width": WIDTH}
        )
        content["annotations"] += [
            {
                "id": 10 * n + box.number,
                "image_id": n + 1,
                "category_id": categories[CLASSES[box.number]],
                "segmentation": [[float(v) for corner in box.corners for v in corner]],
                "iscrowd": 0,
            }
            for box in boxes(n)
        ]
    (root / "annotations.json").write_text(json.dumps(content))
    return root


def labelme(root: Path, numbers: Sequence[int] = range(8)) -> Path:
    for n in numbers:
        save(root / f"{name(n)}.png", image_of(n))
        shapes = [
            {"label": CLASSES[box.number], "points": box.corners, "shape_type": "polygon"}
            for box in boxes(n)
        ]
        content = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": f"{name(n)}.png",
            "imageData": None,
            "imageHeight": HEIGHT,
            "imageWidth": WIDTH,
        }
        (root / f"{name(n)}.json").write_text(json.dumps(content))
    return root


def yolo(root: Path, numbers: Sequence[int] = range(8)) -> Path:
    for n in numbers:
        save(root / "images" / f"{name(n)}.png", image_of(n))
        lines = [
            f"{box.number - 1} "
            + " ".join(
                f"{(x + 0.25) / WIDTH:.6f} {(y + 0.25) / HEIGHT:.6f}" for x, y in box.corners
            )
            for box in boxes(n)
        ]
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels" / f"{name(n)}.txt").write_text("\n".join(lines))
    config = {"train": "images", "names": {0: "cell", 1: "debris"}}
    (root / "data.yaml").write_text(yaml.safe_dump(config))
    return root


def _fractions(x: int, y: int) -> str:
    """A corner as YOLO has it, a quarter of a pixel beyond so that rounding gives the pixel."""
    return f"{(x + 0.25) / WIDTH:.6f} {(y + 0.25) / HEIGHT:.6f}"


def objects(root: Path, numbers: Sequence[int] = range(8)) -> Path:
    """One mask file an object; which class it is of, no file says."""
    for n in numbers:
        save(root / name(n) / "images" / f"{name(n)}.png", image_of(n))
        for box in boxes(n):
            alone = np.where(mask_of(n) == box.number, 255, 0).astype(np.uint8)
            save(root / name(n) / "masks" / f"{box.number}.png", alone)
    return root


def table(root: Path, numbers: Sequence[int] = range(8)) -> Path:
    """pairs.csv with splits by thirds of the numbers, and two scenes a group."""
    plain(root, numbers)
    with (root / "pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "mask", "group", "split"])
        for n in numbers:
            split = ("train", "train", "val", "test")[n // 2 % 4]
            writer.writerow([f"images/{name(n)}.png", f"masks/{name(n)}.png", f"g{n // 2}", split])
    return root


# ---- what is there ------------------------------------------------------------------------------


def snapshot(*folders: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of change of every file below `folders`, and the folders themselves."""
    return {
        str(path): (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns)
        for folder in folders
        for path in (folder, *folder.rglob("*"))
    }


def contents(folder: Path) -> dict[str, bytes]:
    """The files below `folder` by their paths in it."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def masks_in(folder: Path) -> dict[str, Array]:
    """File name of each sample -> its mask as class indices, of a prepared dataset."""
    manifest = Manifest.load(folder)
    classes = manifest.facts.classes
    result = {}
    for sample in manifest.samples:
        assert sample.mask is not None
        values = read_mask(sample.mask, encoding=classes.encoding)
        result[sample.image.stem] = classes.to_indices(values, source=str(sample.mask))
    return result


def pixels_by_class(folder: Path) -> dict[str, int]:
    """Class name -> pixels over all masks of a prepared dataset."""
    names = Manifest.load(folder).facts.classes.names
    every = np.concatenate([mask.ravel() for mask in masks_in(folder).values()])
    return {what: int((every == k).sum()) for k, what in enumerate(names)}


def expected_pixels(numbers: Sequence[int] = range(8)) -> dict[str, int]:
    every = np.stack([mask_of(n) for n in numbers])
    return {what: int((every == k).sum()) for k, what in enumerate(CLASSES)}


def splits_in(folder: Path) -> dict[str, str]:
    """Sample id -> split."""
    return {s.sample_id: s.split for s in Manifest.load(folder).samples}


def error_of(capsys: pytest.CaptureFixture[str], arguments: Sequence[str], code: int) -> str:
    """The one error line of a command that is to end with `code`."""
    capsys.readouterr()
    assert cli.run(list(arguments)) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, lines
    return lines[0]


def prepare(*arguments: str | Path) -> None:
    """`unet prepare` with these arguments, which must succeed."""
    assert cli.run(["prepare", *map(str, arguments)]) == 0


def train(data: str | Path, *options: str, name: str = "run") -> Path:
    """The folder of a run of two steps on `data`, a prepared dataset or any source."""
    arguments = ["train", "--data", str(data), "--max-steps", "2", "--tracking", "off",
                 "--output", "runs", "--experiment", "e", "--run-name", name, *options,
                 *TINY]  # fmt: skip
    assert cli.run(arguments) == 0
    return Path("runs", "e", name)
