"""predict where each channel of an image is a file of its own, as nnU-Net has them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.stages import sources
from unet_pipeline import cli

COUNT = 8


def channels_of(n: int, number: int) -> npt.NDArray[Any]:
    """`number` channels (H, W, C) of scene `n`."""
    return np.concatenate([sources.image_of(n)] * 2, axis=2)[..., :number]


def channel_files(folder: Path, numbers: range, number: int) -> None:
    for n in numbers:
        for channel in range(number):
            pixels = channels_of(n, number)[..., channel]
            sources.save(folder / f"{sources.name(n)}_{channel:04}.png", pixels)


def trained(number: int) -> Path:
    """A run on nnU-Net data of `number` files an image."""
    channel_files(Path("raw/imagesTr"), range(COUNT), number)
    for n in range(COUNT):
        sources.save(Path("raw/labelsTr") / f"{sources.name(n)}.png", sources.mask_of(n))
    facts = {
        "channel_names": {str(k): f"m{k}" for k in range(number)},
        "labels": {name: k for k, name in enumerate(sources.CLASSES)},
        "file_ending": ".png",
    }
    Path("raw/dataset.json").write_text(json.dumps(facts))
    sources.prepare("raw", "-o", "data")
    return sources.train("data")


@pytest.mark.parametrize("number", [2, 3, 4])
def test_files_of_single_channels_are_refused_and_one_of_all_is_predicted(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    model = trained(number)
    channel_files(Path("in"), range(2), number)
    arguments = ["predict", "in", "--model", str(model), "-o", "out"]
    line = sources.error_of(capsys, arguments, 3)
    assert f"{2 * number} of {2 * number} inputs have no mask" in line
    assert (
        f"in/s00_0000.png: is by its name one of the channels of s00, but the model takes all "
        f"{number} in one file: save s00_0000.png to s00_{number - 1:04}.png as one .npy or TIFF "
        f"of height x width x {number}"
    ) in line
    with Path("out/failures.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2 * number

    Path("whole").mkdir()
    np.save("whole/s00.npy", channels_of(0, number))
    assert cli.run(["predict", "whole", "--model", str(model), "-o", "masks"]) == 0
    assert [path.name for path in Path("masks").glob("*.png")] == ["s00.png"]
