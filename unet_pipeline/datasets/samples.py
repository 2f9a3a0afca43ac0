"""The embedded data: scenes of real handwritten digits, made on the spot, with nothing to download.

The digits are the 1,797 of scikit-learn (8x8 pixels, from the UCI set "Optical Recognition of
Handwritten Digits", Alpaydin and Kaynak 1998). They are enlarged smoothly, turned, and written in
inks of many colours on textured, stained and noisy canvases of odd sizes.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from unet_pipeline.datasets.encoders import encode_png
from unet_pipeline.errors import UserError
from unet_pipeline.files import make_writable_folder, resource_errors, write_atomic

CLASS_NAMES = (
    "background",
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
)
"""Digit d is class d + 1."""

_NAMES_FILE = "classes.txt"
_SPLITS = {"train": 0.70, "val": 0.15, "test": 0.15}
_SIDES = (90, 140)  # pixels, both included; odd sizes and H != W are what real folders hold
_DIGIT_HEIGHTS = (18.0, 48.0)  # pixels
_ROTATION = 12.0  # degrees either way: far from where a 6 begins to be a 9
_EDGE = 0.45  # of the ink of a stroke: where a digit ends
_GAP = 2  # pixels of canvas that stay free around every digit

_Floats = npt.NDArray[np.float32]


def write_scenes(folder: Path, *, num_scenes: int, seed: int = 0) -> Path:
    """Write `num_scenes` images of handwritten digits with their masks, and return `folder`.

    The layout is that of many datasets: train/, val/ and test/ (70, 15 and 15 %), each with
    images/NAME.png (RGB, uint8) and masks/NAME.png (grey, the class index: 0 background, d + 1 for
    digit d), and beside them classes.txt with one `index name` a line. No two splits share a
    handwritten digit, so a good test score is not a good memory. The same seed writes the same
    bytes, and scene k of a split is the same whatever the number of scenes.

    Raises `UserError` for fewer than 3 scenes and for a folder that holds a split already, and
    `ResourceError` where it cannot be written. The splits appear when all scenes are drawn.
    """
    if num_scenes < len(_SPLITS):
        raise UserError(f"num_scenes = {num_scenes}: at least 3 are needed, one for each split")
    if seed < 0:
        raise UserError(f"seed = {seed}: use a whole number from 0 up")
    make_writable_folder(folder)
    for name in (*_SPLITS, _NAMES_FILE):
        if (folder / name).exists():
            raise UserError(f"{folder} holds {name} already: choose a new folder")
    with (
        resource_errors(folder),
        tempfile.TemporaryDirectory(dir=folder, prefix=".scenes-") as temporary,
    ):
        _write_splits(Path(temporary), num_scenes, seed)
        lines = [f"{index} {name}\n" for index, name in enumerate(CLASS_NAMES)]
        write_atomic(folder / _NAMES_FILE, "".join(lines))
        for split in _SPLITS:
            (Path(temporary) / split).replace(folder / split)
    return folder


def remove_scenes(folder: Path) -> None:
    """Remove what `write_scenes` has written into `folder`, and nothing else."""
    for split in _SPLITS:
        shutil.rmtree(folder / split, ignore_errors=True)
    (folder / _NAMES_FILE).unlink(missing_ok=True)


def draw_scene(
    rng: np.random.Generator, digits: npt.NDArray[Any], labels: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """One scene: its image (H, W, 3) and its mask (H, W) of class indices, both uint8.

    digits, labels: the handwritten digits to choose from, (N, 8, 8) in 0..16, and what they are.
    """
    height, width = (int(side) for side in rng.integers(_SIDES[0], _SIDES[1] + 1, size=2))
    canvas = _canvas(rng, height, width)
    _scribble(rng, canvas)
    mask = np.zeros((height, width), dtype=np.uint8)
    for _ in range(rng.integers(5, 12)):
        chosen = int(rng.integers(len(labels)))
        alpha = _write_digit(rng, digits[chosen])
        place = _free_place(rng, mask, alpha)
        if place is not None:
            _ink(rng, canvas[place], alpha)
            mask[place][alpha >= 0.5] = labels[chosen] + 1
    return _photograph(rng, canvas), mask


def split_digits(seed: int) -> dict[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """The digits (N, 8, 8) and labels (N,) of each split: disjoint, every digit in every split."""
    # Imported here: scikit-learn takes a second, and only these scenes need it
    from sklearn.datasets import load_digits

    data = load_digits()
    shares = np.cumsum([0.0, *_SPLITS.values()])
    rng = np.random.default_rng([seed, 0])
    chosen: dict[str, list[npt.NDArray[Any]]] = {split: [] for split in _SPLITS}
    for digit in range(10):
        order = rng.permutation(np.flatnonzero(data.target == digit))
        bounds = np.round(shares * len(order)).astype(int)
        for split, (start, end) in zip(_SPLITS, itertools.pairwise(bounds), strict=True):
            chosen[split].append(order[start:end])
    result = {}
    for split, parts in chosen.items():
        indices = np.concatenate(parts)
        result[split] = (data.images[indices], data.target[indices])
    return result


def _write_splits(folder: Path, num_scenes: int, seed: int) -> None:
    pools = split_digits(seed)
    num_held_out = max(1, round(num_scenes * _SPLITS["val"]))
    counts = {"val": num_held_out, "test": num_held_out}
    number = 0
    for part, split in enumerate(_SPLITS):
        images, masks = folder / split / "images", folder / split / "masks"
        images.mkdir(parents=True)
        masks.mkdir()
        for scene in range(counts.get(split, num_scenes - 2 * num_held_out)):
            rng = np.random.default_rng([seed, 1, part, scene])
            image, mask = draw_scene(rng, *pools[split])
            name = f"scene_{number:04d}.png"  # a name occurs once, so splits may be merged
            (images / name).write_bytes(encode_png(image))
            (masks / name).write_bytes(encode_png(mask))
            number += 1


def _noise(rng: np.random.Generator, height: int, width: int, grain: float) -> _Floats:
    """Smooth noise (H, W) of mean 0 and deviation about 1, its bumps `grain` pixels wide."""
    rows, cols = max(2, round(height / grain)) + 1, max(2, round(width / grain)) + 1
    coarse = rng.standard_normal((rows, cols)).astype(np.float32)
    return np.asarray(
        cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.float32
    )


def _canvas(rng: np.random.Generator, height: int, width: int) -> _Floats:
    """An empty page (H, W, 3) in 0..1: a tint, clouds, stains, grain, and ruling on some."""
    tint = rng.uniform(0.6, 0.88) + rng.uniform(-0.1, 0.1, size=3)
    page = np.empty((height, width, 3), dtype=np.float32)
    page[:] = tint
    for grain, strength in ((60, 0.06), (18, 0.04), (5, 0.03)):
        page += (_noise(rng, height, width, grain) * rng.uniform(0.2, 1) * strength)[..., None]
    # a stain of another tint
    stain = np.clip(_noise(rng, height, width, rng.uniform(20, 60)) - 0.7, 0, 0.5)[..., None]
    page += stain * rng.uniform(-0.25, 0.25, size=3).astype(np.float32)
    if rng.random() < 0.4:
        page += _ruling(rng, height, width)[..., None]
    return page


def _ruling(rng: np.random.Generator, height: int, width: int) -> _Floats:
    """Lines, squares or weave (H, W), to be added to a page."""
    angle = rng.uniform(-0.15, 0.15) + rng.choice([0.0, np.pi / 2])
    y, x = np.mgrid[:height, :width].astype(np.float32)
    across = x * np.sin(angle) + y * np.cos(angle)
    along = x * np.cos(angle) - y * np.sin(angle)
    period = rng.uniform(3, 22)
    lines = np.clip(1.5 - np.abs((across + rng.uniform(0, period)) % period - 1.5), 0, 1)
    if rng.random() < 0.5:
        lines = np.maximum(lines, np.clip(1.5 - np.abs(along % period - 1.5), 0, 1))
    ruling: _Floats = (lines * rng.uniform(0.04, 0.14) * rng.choice([-1, 1])).astype(np.float32)
    return ruling


def _scribble(rng: np.random.Generator, canvas: _Floats) -> None:
    """Draw strokes and dots that are no digits: ink alone must not mean foreground."""
    height, width = canvas.shape[:2]
    for _ in range(rng.integers(0, 3)):
        start = rng.uniform([0, 0], [width, height])
        bend, end = start + rng.normal(0, 22, size=(2, 2))
        t = np.linspace(0, 1, 24)[:, None]
        curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
        alpha = np.zeros((height, width), dtype=np.uint8)
        points = np.round(curve * 16).astype(np.int32)
        cv2.polylines(
            alpha, [points], False, 255, int(rng.integers(1, 3)), lineType=cv2.LINE_AA, shift=4
        )
        _ink(rng, canvas, alpha.astype(np.float32) / np.float32(255))


def _write_digit(rng: np.random.Generator, digit: npt.NDArray[Any]) -> _Floats:
    """How much ink (S, S), 0..1, a handwritten digit (8, 8) leaves: scaled, turned and slanted."""
    size = rng.uniform(*_DIGIT_HEIGHTS)
    scale, angle = size / 8, np.deg2rad(rng.uniform(-_ROTATION, _ROTATION))
    side = int(np.ceil(size * 1.5))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    slant = np.array([[rng.uniform(0.85, 1.15), rng.uniform(-0.2, 0.2)], [0, 1]])
    linear = turn @ slant * scale
    shift = (side - 1) / 2 - linear @ [3.5, 3.5]
    enlarged = cv2.warpAffine(
        digit.astype(np.float32) / 16,
        np.column_stack([linear, shift]),
        (side, side),
        flags=cv2.INTER_CUBIC,
    )
    # cubic alone leaves the 8x8 lattice visible in large digits
    enlarged = cv2.GaussianBlur(enlarged, (0, 0), 0.2 * scale)
    # The grey levels are kept, only steepened: at 8x8 the hole of a 6 is a lighter shade of ink,
    # and a hard threshold would close it
    alpha: _Floats = np.clip((enlarged - _EDGE) * rng.uniform(1.3, 2.0) + 0.5, 0, 1)
    return alpha


def _free_place(
    rng: np.random.Generator, mask: npt.NDArray[np.uint8], alpha: _Floats
) -> tuple[slice, slice] | None:
    """Where a digit lies wholly inside the canvas and off the others; None after 20 tries."""
    side = alpha.shape[0]
    rows, cols = mask.shape[0] - side, mask.shape[1] - side
    near = cv2.dilate((alpha > 0).astype(np.uint8), np.ones((2 * _GAP + 1,) * 2, np.uint8)) > 0
    for _ in range(20):
        top, left = int(rng.integers(rows + 1)), int(rng.integers(cols + 1))
        place = slice(top, top + side), slice(left, left + side)
        if not mask[place][near].any():
            return place
    return None


def _ink(rng: np.random.Generator, page: _Floats, alpha: _Floats) -> None:
    """Lay ink of a random colour on `page` (H, W, 3) where `alpha` (H, W) says, in place.

    The ink is darker than the page under it by 0.35 to 0.65 of the range, so that it can be read.
    """
    weight = alpha[..., None] / max(float(alpha.sum()), 1e-6)
    under = float((page * weight).sum()) / 3
    step = -rng.uniform(0.35, 0.65)
    hue = rng.uniform(-0.2, 0.2, size=3)
    color = under + step + hue - hue.mean()
    flow = 1 + 0.08 * _noise(rng, alpha.shape[0], alpha.shape[1], 6)  # a pen does not write evenly
    cover = np.clip(alpha * flow * rng.uniform(0.8, 1.0), 0, 1)[..., None]
    page += (color.astype(np.float32) - page) * cover


def _photograph(rng: np.random.Generator, canvas: _Floats) -> npt.NDArray[np.uint8]:
    """The scene as a camera gives it (H, W, 3), uint8: uneven light, soft focus, sensor noise."""
    height, width = canvas.shape[:2]
    light = 1 + rng.uniform(0, 0.12) * _noise(rng, height, width, 80)
    seen = canvas * light[..., None]
    if rng.random() < 0.3:
        seen = cv2.GaussianBlur(seen, (0, 0), rng.uniform(0.4, 0.8))
    seen = seen + rng.normal(0, rng.uniform(0.01, 0.05), size=canvas.shape)
    return np.clip(np.round(seen * 255), 0, 255).astype(np.uint8)
