"""What is written for an image, in the encoding of the training masks."""

from __future__ import annotations

from pathlib import PurePath

import numpy as np
import pytest
from PIL import Image

from unet_pipeline.classes import Classes
from unet_pipeline.datasets.images import read_mask
from unet_pipeline.evaluation import overlay
from unet_pipeline.inference.outputs import OUTPUTS, Prediction, output_names, write_outputs

COLORS = ((0, 0, 0), (200, 10, 20), (30, 40, 250))
RNG = np.random.default_rng(0)


def prediction(values=(0, 1, 2), encoding="grey", ignore_values=()):
    classes = Classes(
        names=("a", "b", "c"), colors=COLORS, values=values, encoding=encoding,
        ignore_values=ignore_values,
    )  # fmt: skip
    return Prediction(
        image=RNG.integers(0, 256, (11, 13, 3), dtype=np.uint8),
        indices=RNG.integers(0, 3, (11, 13)).astype(np.uint8),
        probabilities=RNG.random((3, 11, 13)).astype(np.float16),
        classes=classes,
    )


@pytest.mark.parametrize(
    ("values", "encoding", "mode"),
    [
        ((0, 128, 255), "grey", "L"),
        ((0, 300, 60_000), "grey", "I;16"),
        ((7, 3, 250), "palette", "P"),
        (((0, 0, 0), (255, 0, 0), (1, 2, 3)), "rgb", "RGB"),
    ],
)
def test_masks_hold_the_values_of_the_training_masks_in_their_encoding(
    tmp_path, values, encoding, mode
):
    given = prediction(values, encoding)
    write_outputs(given, {"mask": tmp_path / "sub" / "m.png"})

    path = tmp_path / "sub" / "m.png"
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.mode == mode
    np.testing.assert_array_equal(read_mask(path), given.classes.to_values(given.indices))
    np.testing.assert_array_equal(
        given.classes.to_indices(read_mask(path), source="m"), given.indices
    )


def test_a_palette_mask_shows_the_colours_of_the_classes(tmp_path):
    given = prediction((0, 5, 9), "palette", ignore_values=(255,))
    write_outputs(given, {"mask": tmp_path / "m.png"})
    with Image.open(tmp_path / "m.png") as picture:
        np.testing.assert_array_equal(
            np.array(picture.convert("RGB")), given.classes.to_colors(given.indices)
        )


def test_colours_overlay_and_probabilities_are_those_of_the_prediction(tmp_path):
    given = prediction()
    paths = {
        kind: tmp_path / name for kind, name in output_names(PurePath("x.tif"), [*OUTPUTS]).items()
    }
    write_outputs(given, paths)

    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "x.png", "x_color.png", "x_overlay.png", "x_probabilities.npy",
    ]  # fmt: skip
    with Image.open(paths["color"]) as picture:
        np.testing.assert_array_equal(np.array(picture), given.classes.to_colors(given.indices))
    with Image.open(paths["overlay"]) as picture:
        np.testing.assert_array_equal(
            np.array(picture), overlay(given.image, given.indices, given.classes)
        )
    probabilities = np.load(paths["probabilities"], mmap_mode="r", allow_pickle=False)
    assert probabilities.dtype == np.float16
    np.testing.assert_array_equal(probabilities, given.probabilities)


def test_a_link_at_the_place_of_an_output_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "canary").write_text("alive")
    (tmp_path / "m.png").symlink_to(tmp_path / "canary")
    write_outputs(prediction(), {"mask": tmp_path / "m.png"})
    assert (tmp_path / "canary").read_text() == "alive"
    assert not (tmp_path / "m.png").is_symlink()
