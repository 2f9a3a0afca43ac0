"""Predictors with nothing to train: the majority class and Otsu's threshold."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_pipeline.errors import UserError
from unet_pipeline.models import RULES, build_network
from unet_pipeline.models.rules import MajorityClass, OtsuThreshold, otsu_threshold


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (37, 53)])
def test_every_rule_keeps_the_contract_of_a_network(name: str, size: tuple[int, int]) -> None:
    network = build_network(name, {}, in_channels=3, num_classes=2).eval()
    assert network(torch.randn(2, 3, *size)).shape == (2, 2, *size)
    assert not list(network.parameters())


def test_the_majority_class_is_the_same_everywhere() -> None:
    network = MajorityClass(in_channels=1, num_classes=3)
    network.shares.copy_(torch.tensor([0.2, 0.7, 0.1]))
    logits = network(torch.randn(2, 1, 4, 5))
    assert (logits.argmax(1) == 1).all()
    torch.testing.assert_close(
        logits.softmax(1)[0, :, 0, 0], torch.tensor([0.2, 0.7, 0.1]), atol=1e-6, rtol=0
    )


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), levels=st.integers(2, 256), side=st.integers(2, 24))
def test_otsu_parts_an_image_as_opencv_does(seed: int, levels: int, side: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, levels, size=(side, side)).astype(np.uint8)
    if image.min() == image.max():
        return
    ours = float(otsu_threshold(torch.from_numpy(image).float()))
    _, theirs = cv2.threshold(image, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)

    def variance(foreground: np.ndarray) -> float:
        inside, outside = image[foreground], image[~foreground]
        return len(inside) * len(outside) * (inside.mean() - outside.mean()) ** 2

    # where two thresholds are equally good, either may be taken
    assert variance(image > ours) == pytest.approx(variance(theirs == 1), rel=1e-9)


def test_otsu_lies_halfway_between_the_values_that_it_parts() -> None:
    values = torch.tensor([[1.0, 1.0, 2.0], [8.0, 9.0, 9.0]])
    assert otsu_threshold(values) == 5.0
    assert otsu_threshold(torch.full((3, 3), 4.0)) == 4.0
    assert otsu_threshold(torch.tensor([[7.0]])) == 7.0


@pytest.mark.parametrize(("sign", "bright_class"), [(1.0, 1), (-1.0, 0)])
def test_otsu_takes_each_image_by_itself_and_knows_its_sign(sign: float, bright_class: int) -> None:
    network = OtsuThreshold(in_channels=1, num_classes=2)
    network.sign.fill_(sign)
    images = torch.zeros(2, 1, 4, 4)
    images[0, :, :2] = 1.0
    images[1] = 50 + 100 * images[0]  # another range, the same picture
    prediction = network(images).argmax(1)
    assert (prediction[:, :2] == bright_class).all()
    assert (prediction[:, 2:] == 1 - bright_class).all()


def test_otsu_of_an_even_image_is_all_background() -> None:
    network = OtsuThreshold(in_channels=2, num_classes=2)
    assert (network(torch.full((1, 2, 5, 5), 0.3)).argmax(1) == 0).all()


def test_otsu_with_more_than_two_classes_is_refused() -> None:
    with pytest.raises(UserError, match="otsu parts two classes, and the data has 3"):
        build_network("otsu", {}, in_channels=1, num_classes=3)
