from __future__ import annotations

from pathlib import Path

import pytest

from unet_pipeline.datasets.checks import (
    check_scans,
    mixed_channels,
    mixed_types,
    name_five,
    other_sizes,
    unreadable,
)
from unet_pipeline.datasets.formats import Pair
from unet_pipeline.datasets.scan import ImageScan, MaskScan, PairScan
from unet_pipeline.errors import DatasetError


def scan(
    name: str,
    image: tuple[int, int] = (40, 60),
    mask: tuple[int, int] = (40, 60),
    channels: int = 3,
    dtype: str = "uint8",
) -> PairScan:
    """What was read of a pair; sizes are (height, width)."""
    zeros = (0.0,) * channels
    return PairScan(
        Pair(name, Path(f"{name}.jpg"), Path(f"{name}.png"), None),
        ImageScan(*image, channels, dtype, 0, 0, zeros, zeros, name.encode()),
        MaskScan(*mask, "grey", {0: 1, 1: 1}, 2, {}, False),
        name,
    )


def test_nothing_wrong_says_nothing() -> None:
    scans = [scan("a"), scan("b", channels=1), scan("c", (50, 50), (50, 50))]
    assert check_scans(Path("data"), scans) == scans
    for check in (other_sizes, mixed_channels, mixed_types):
        assert check(scans) == []
    assert unreadable([], 3) == []


def test_masks_of_another_size_are_counted_and_named() -> None:
    scans = [scan(f"s{i}", mask=(40, 61)) for i in range(7)] + [scan("fine")]
    (sentence,) = other_sizes(scans)
    assert sentence.startswith(
        "7 of 8 masks have another size than their image (s0: image 60x40, mask 61x40, s1: "
    )
    assert "s4: image 60x40, mask 61x40 and 2 more" in sentence
    assert "turned" not in sentence


def test_a_mask_that_fits_when_turned_is_told_so() -> None:
    (sentence,) = other_sizes([scan("a", (40, 60), (60, 40)), scan("b")])
    assert "1 of them fit when turned by a quarter" in sentence
    assert "EXIF" in sentence


def test_channels_that_do_not_go_together_are_counted() -> None:
    scans = [*(scan(f"s{i}") for i in range(4)), scan("odd", channels=4)]
    (sentence,) = mixed_channels(scans)
    assert "3 channels in 4, 4 channels in 1 images (4 channels: odd)" in sentence
    assert mixed_channels([scan("a", channels=5), scan("b", channels=5)]) == []


def test_pixel_types_have_no_common_scale() -> None:
    (sentence,) = mixed_types([scan("a"), scan("b"), scan("c", dtype="uint16")])
    assert "pixel types: uint8 in 2, uint16 in 1 images (uint16: c)" in sentence


def test_everything_wrong_is_told_in_one_line_with_exit_code_4() -> None:
    scans = [
        DatasetError("x.png: is empty (0 bytes)"),
        scan("a", mask=(1, 1)),
        scan("b", channels=4),
        scan("c", dtype="float32"),
    ]
    with pytest.raises(DatasetError) as caught:
        check_scans(Path("data"), scans)
    message = str(caught.value)
    assert message.startswith("data: 1 of 4 pairs cannot be read (x.png: is empty (0 bytes))")
    for words in ("another size", "differ in their channels", "differ in their pixel types"):
        assert words in message
    assert "\n" not in message
    assert caught.value.exit_code == 4


def test_five_are_named_and_the_rest_counted() -> None:
    assert name_five(["a", "b"]) == "a, b"
    assert name_five(list("abcde")) == "a, b, c, d, e"
    assert name_five(list("abcdefg")) == "a, b, c, d, e and 2 more"
