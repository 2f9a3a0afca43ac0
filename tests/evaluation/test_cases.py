"""The cases that every model shows."""

from __future__ import annotations

import numpy as np

from unet_pipeline.classes import Classes
from unet_pipeline.evaluation.cases import CaseTable, spread_cases
from unet_pipeline.evaluation.metrics import confusion_matrix
from unet_pipeline.evaluation.pictures import CORRECT, FALSE_ALARM, MISSED


def test_the_cases_depend_on_the_names_alone():
    names = [f"image {n:03d}" for n in range(233)]
    chosen = spread_cases(names)
    assert chosen == spread_cases(names[::-1])
    assert len(set(chosen)) == 20
    assert (chosen[0], chosen[-1]) == (names[0], names[-1])
    gaps = np.diff([names.index(name) for name in chosen])
    assert gaps.max() - gaps.min() <= 1
    assert spread_cases(names[:3]) == names[:3]
    assert spread_cases([]) == []


def test_a_row_holds_the_scores_and_a_small_picture_of_hits_and_errors():
    truth, prediction = np.zeros((2, 300, 900), dtype=np.uint8)
    truth[:, :600] = 1
    prediction[:, 300:] = 1
    image = np.zeros((300, 900, 3), dtype=np.uint8)
    classes = Classes(names=("a", "b"), colors=((0, 0, 0), (250, 0, 0)), values=(0, 1))
    table = CaseTable(["a", "gone", "z"], classes)
    for name in ("a", "other"):
        table.add(name, image, truth, prediction)
    matrices = np.stack([confusion_matrix(truth, prediction, num_classes=2)] * 2)
    ((name, picture, iou, dice),) = table.rows(["other", "a"], matrices)
    assert name == "a"
    assert (iou, dice) == (round(1 / 3 / 2, 4), 0.25)  # background is nowhere right
    assert picture.shape == (512, 512, 3)
    assert picture.dtype == np.uint8
    thirds = [picture[60, 42], picture[60, 128], picture[60, 213]]
    for pixel, color in zip(thirds, (MISSED, CORRECT, FALSE_ALARM), strict=True):
        np.testing.assert_allclose(pixel, 0.8 * np.array(color), atol=2)
    assert picture[10:30, :100].max() == 255  # the score
    assert picture[200, 100].tolist() == [255] * 3  # below the picture, paper
    left, right = 256 + 42, 256 + 213
    assert picture[60, left].tolist() == [0, 0, 0]
    assert picture[60, right, 0] > 100  # the prediction
    assert picture[256 + 60, 42, 0] > 100  # the truth
    assert picture[256 + 60, left:].max() == 0  # the image


def test_images_of_any_shape_are_shown():
    classes = Classes(names=("a", "b"), colors=((0, 0, 0), (250, 0, 0)), values=(0, 1))
    for size in ((900, 30), (5, 7), (1, 1), (1, 2000)):
        table = CaseTable(["a"], classes)
        ones = np.ones(size, dtype=np.uint8)
        table.add("a", np.zeros((*size, 3), np.uint8), ones, ones)
        matrix = confusion_matrix(ones, ones, num_classes=2)[None]
        picture = table.rows(["a"], matrix)[0][1]
        assert picture.shape == (512, 512, 3)
        known = np.abs(picture[:256, :256] - 0.8 * np.array(CORRECT)).max(axis=2) < 2
        assert known.any()
