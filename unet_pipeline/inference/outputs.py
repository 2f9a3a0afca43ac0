"""What `predict` can write for an image: a catalogue of files, each whole or absent."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from unet_pipeline.catalogue import lookup
from unet_pipeline.classes import Classes
from unet_pipeline.datasets.encoders import encode_png
from unet_pipeline.errors import UserError
from unet_pipeline.evaluation.pictures import overlay
from unet_pipeline.files import atomic_path, resource_errors


@dataclass(frozen=True)
class Prediction:
    """All that is known of a predicted image.

    image: (H, W, C) as read, upright. indices: class indices (H, W), uint8.
    probabilities: float16 (K, H, W), or None where nobody asked for them.
    """

    image: npt.NDArray[Any]
    indices: npt.NDArray[np.uint8]
    probabilities: npt.NDArray[np.float16] | None
    classes: Classes


@dataclass(frozen=True)
class Output:
    """An entry of the catalogue: `suffix` follows the stem of the image, `write` makes the file."""

    suffix: str
    write: Callable[[Prediction, Path], None]


def encode_mask(prediction: Prediction) -> bytes:
    """The mask in the values and the encoding of the training masks: PNG, grey, palette or RGB.

    A palette makes classes visible in any viewer while the pixels stay the values.
    """
    classes = prediction.classes
    return encode_png(classes.to_values(prediction.indices), _palette(classes))


def encode_color(prediction: Prediction) -> bytes:
    """The mask in the colours of the classes: RGB PNG."""
    return encode_png(prediction.classes.to_colors(prediction.indices))


def encode_overlay(prediction: Prediction) -> bytes:
    """The image with the classes laid over it: RGB PNG."""
    return encode_png(overlay(prediction.image, prediction.indices, prediction.classes))


PICTURES: dict[str, Callable[[Prediction], bytes]] = {
    "mask": encode_mask,
    "color": encode_color,
    "overlay": encode_overlay,
}
"""kind of output -> the PNG file of it."""


def _write_picture(kind: str, prediction: Prediction, path: Path) -> None:
    path.write_bytes(PICTURES[kind](prediction))


def write_probabilities(prediction: Prediction, path: Path) -> None:
    """The softmax, float16 (K, H, W), as .npy.

    `numpy.load(path, mmap_mode="r")` reads parts of it; a zipped .npz could not, and zipping saves
    little of such numbers at a hundred times the time.
    """
    array = prediction.probabilities
    assert array is not None
    with path.open("wb") as file:
        # np.save would write through C, whose error on a full disk does not say that it is full
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(np.ascontiguousarray(array).data)


OUTPUTS: dict[str, Output] = {
    "mask": Output(".png", functools.partial(_write_picture, "mask")),
    "color": Output("_color.png", functools.partial(_write_picture, "color")),
    "overlay": Output("_overlay.png", functools.partial(_write_picture, "overlay")),
    "probabilities": Output("_probabilities.npy", write_probabilities),
}


def output_names(relative: PurePath, save: Sequence[str]) -> dict[str, PurePath]:
    """Where the outputs called `save` go, relative to the output folder: kind -> path.

    relative: the image's own place, such as cells/7.tif; its folders are mirrored and the ending
    is replaced: cells/7.png, cells/7_overlay.png, ...
    Raises `UserError` for an unknown kind, for none at all and for one that is named twice.
    """
    if not save:
        raise UserError(f"nothing to save: name some of {', '.join(OUTPUTS)} with --save")
    if len(set(save)) != len(save):
        raise UserError(f"--save {','.join(save)}: a kind is named twice")
    entries = {kind: lookup(OUTPUTS, kind, kind="--save kind") for kind in save}
    return {
        kind: relative.with_name(relative.stem + entry.suffix) for kind, entry in entries.items()
    }


def write_outputs(prediction: Prediction, outputs: dict[str, Path]) -> None:
    """Write each of `outputs`, kind -> path, in folders made as needed, every file atomically.

    Raises `ResourceError` where the machine refuses (no space, no permission) and `OSError` for
    what concerns this one file, such as a name that is too long.
    """
    for kind, path in outputs.items():
        with resource_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            OUTPUTS[kind].write(prediction, temporary)


def _palette(classes: Classes) -> list[tuple[int, int, int]] | None:
    """Colours by mask value, white for void; None where the masks have no palette."""
    if classes.encoding != "palette":
        return None
    colors = dict(zip(classes.values, classes.colors, strict=True))
    colors |= dict.fromkeys(classes.ignore_values, (255, 255, 255))
    highest = max(value for value in colors if isinstance(value, int))
    return [colors.get(value, (0, 0, 0)) for value in range(highest + 1)]
