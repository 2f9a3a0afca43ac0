"""What an epoch costs by number of images, pixels an image, and classes: are these straight lines?

Usage: python scripts/bench_scaling.py [--set SECTION.KEY=VALUE ...]

Makes datasets of noise, trains `unet train` on each for three epochs and takes the shorter of the
last two (validation is not in it). A line is fitted through the costs; R^2 says how straight it is.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import unet_pipeline as up
from unet_pipeline.config import load_config
from unet_pipeline.settings_files import parse_assignments

IMAGES, SIDE, CLASSES = 32, 128, 4
FIXED = {"output.tracking": "off", "training.epochs": 3, "training.val_every": 3,
         "model.base_channels": 8, "model.depth": 3, "model.stem": 1, "training.batch_size": 4,
         "runtime.workers": 0, "transforms.class_balance": 0}  # fmt: skip


def make(folder: Path, num_images: int, side: int, num_classes: int) -> Path:
    """A dataset with its own splits: so many training images, and two for validation."""
    rng = np.random.default_rng(0)
    for split, count in (("train", num_images), ("val", 2)):
        for name in ("images", "masks"):
            (folder / split / name).mkdir(parents=True)
        for number in range(count):
            image = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            mask = rng.integers(0, num_classes, (side, side), dtype=np.uint8)
            Image.fromarray(image).save(folder / split / "images" / f"{number:04d}.png")
            Image.fromarray(mask).save(folder / split / "masks" / f"{number:04d}.png")
    return folder


def seconds_per_epoch(
    assignments: Sequence[str],
    *,
    num_images: int = IMAGES,
    side: int = SIDE,
    classes: int = CLASSES,
) -> float:
    with tempfile.TemporaryDirectory() as folder:
        data = make(Path(folder) / "data", num_images, side, classes)
        settings = (
            FIXED
            | parse_assignments(list(assignments))
            | {
                "data.path": str(data),
                "output.runs_dir": str(Path(folder) / "runs"),
                "training.image_size": side,
            }
        )
        run = up.train(load_config(overrides=settings))
        with (run.folder / "history.csv").open() as file:
            rows = list(csv.DictReader(file))
    return min(float(row["time/epoch_seconds"]) for row in rows[2:])


def show(title: str, xs: Sequence[float], costs: Sequence[float], unit: str) -> None:
    """The costs, the line through them, and how straight it is."""
    slope, start = np.polyfit(xs, costs, 1)
    rest = np.asarray(costs) - (slope * np.asarray(xs) + start)
    straight = 1 - (rest**2).sum() / ((costs - np.mean(costs)) ** 2).sum()
    print(f"\n| {title} | seconds an epoch |\n|---|---|")
    for x, cost in zip(xs, costs, strict=True):
        print(f"| {x:g} | {cost:.2f} |")
    print(f"\n{start:.2f} s + {1000 * slope:.3g} ms {unit}, R^2 = {straight:.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", dest="assignments", action="append", default=[])
    given = parser.parse_args().assignments
    counts = (16, 32, 64, 128)
    costs = [seconds_per_epoch(given, num_images=count) for count in counts]
    show(f"images of {SIDE}x{SIDE}", counts, costs, "an image")
    sides = (64, 96, 128, 192, 256)
    costs = [seconds_per_epoch(given, side=side) for side in sides]
    kilopixels = [IMAGES * side**2 / 1000 for side in sides]
    show(f"thousand pixels in {IMAGES} images", kilopixels, costs, "a thousand pixels")
    classes = (2, 8, 16, 32, 64)
    costs = [seconds_per_epoch(given, classes=count) for count in classes]
    show(f"classes, {IMAGES} images of {SIDE}x{SIDE}", classes, costs, "a class")


if __name__ == "__main__":
    main()
