"""Datasets to be written, made in memory, and what the readers find in what was written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unet_pipeline.classes import IGNORE_INDEX, Classes, default_colors
from unet_pipeline.datasets.encoders import encode_png
from unet_pipeline.datasets.formats import Found, Made, Pair
from unet_pipeline.datasets.formats.catalogue import find_pairs
from unet_pipeline.datasets.images import (
    read_image,
    read_mask,
)
from unet_pipeline.datasets.manifest import (
    SPLITS,
    DatasetFacts,
    Extent,
    ImageSize,
    Manifest,
    Sample,
    count_splits,
    fingerprint,
)

Array = npt.NDArray[Any]
Picture = Callable[[tuple[int, int]], tuple[str, bytes]]
"""(height, width) -> suffix and bytes of an image file."""


def some_classes(count: int, *, void: bool = False, **changes: Any) -> Classes:
    """`count` classes whose mask values are no indices, so that a mix-up shows."""
    options: dict[str, Any] = {
        "names": ("background", *(f"thing {k}" for k in range(1, count))),
        "colors": default_colors(count),
        "values": tuple(range(100, 100 + count)),
        "ignore_values": (7,) if void else (),
    }
    return Classes(**options | changes)


def blobs(size: tuple[int, int], count: int, *, seed: int = 0, void: bool = False) -> Array:
    """A mask (H, W) of class indices in which every class touches every other, and noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, count, (size[0] // 5 + 1, size[1] // 5 + 1))
    mask = np.repeat(np.repeat(coarse, 5, axis=0), 5, axis=1)[: size[0], : size[1]]
    noise = rng.random(size) < 0.2
    mask[noise] = rng.integers(0, count, int(noise.sum()))
    if void:
        mask[rng.random(size) < 0.05] = IGNORE_INDEX
    return mask.astype(np.uint8)


def colored_png(size: tuple[int, int]) -> tuple[str, bytes]:
    rng = np.random.default_rng(size)
    return ".png", encode_png(rng.integers(0, 256, (*size, 3), dtype=np.uint8))


def dataset(
    root: Path,
    masks: Mapping[str, Array],
    classes: Classes,
    *,
    picture: Picture = colored_png,
    splits: Mapping[str, str] | None = None,
) -> Manifest:
    """A dataset of the class indices `masks`, by sample id; splits in turn where not given."""
    samples = []
    for number, (sample_id, mask) in enumerate(masks.items()):
        suffix, data = picture(mask.shape)
        image = root / "source" / f"{number}{suffix}"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(data)
        path = image.with_name(f"{number}_mask.png")
        path.write_bytes(encode_png(classes.to_values(mask)))
        split: Any = splits[sample_id] if splits else SPLITS[number % 3]
        content = hashlib.sha256(data).hexdigest()[:32]
        height, width = mask.shape
        samples.append(Sample(sample_id, image, path, split, sample_id, width, height, content))
    return Manifest(root, facts(samples, classes), tuple(samples))


def facts(samples: list[Sample], classes: Classes) -> DatasetFacts:
    pixels = read_image(samples[0].image)
    extent = Extent(min=1, median=1, max=1)
    channels = pixels.shape[2]
    return DatasetFacts(
        name="a dataset",
        classes=classes,
        in_channels=channels,
        dtype=str(pixels.dtype),  # type: ignore[arg-type]
        value_range=(0, 1),
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
        class_pixel_counts=(1,) * classes.num_classes,
        ignored_pixels=0,
        num_samples=count_splits(samples),
        image_size=ImageSize(height=extent, width=extent),
        fingerprint=fingerprint(samples),
    )


def read_back(folder: Path) -> Found:
    """What `--format auto` finds in `folder`."""
    return find_pairs(folder)


def indices_of(pair: Pair, found: Found, classes: Classes) -> Array:
    """The mask of `pair` in the class indices of `classes`, by the names that `found` gives."""
    values = read_mask(pair.mask) if isinstance(pair.mask, Path) else pair.mask.pixels()
    listed = found.class_list
    assert listed is not None
    assert listed.values is not None
    index_of: dict[Any, int] = dict.fromkeys(found.ignore_values, IGNORE_INDEX)
    names = [*classes.names, "void"]
    for name, value in zip(listed.names, listed.values, strict=True):
        index_of[value] = IGNORE_INDEX if name == "void" else names.index(name)
    table = np.full(65536, -1)
    for value, index in index_of.items():
        table[value] = index
    indices = table[values]
    assert (indices >= 0).all(), f"{pair.sample_id}: values without a class"
    return indices


def pixels_of(part: Path | Made) -> Array:
    """The pixels of an image, (H, W, C)."""
    return read_image(part) if isinstance(part, Path) else part.pixels()


def state(root: Path) -> dict[str, tuple[str, int]]:
    """Digest and time of every file below `root`."""
    return {
        str(p.relative_to(root)): (
            hashlib.sha256(p.read_bytes()).hexdigest(),
            p.stat().st_mtime_ns,
        )
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }
