"""The cases that every model shows."""

from __future__ import annotations

import numpy as np

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
    truth, prediction = np.zeros((2, 200, 900), dtype=np.uint8)
    truth[:, :600] = 1
    prediction[:, 300:] = 1
    image = np.zeros((200, 900, 3), dtype=np.uint8)
    table = CaseTable(["a", "gone", "z"])
    for name in ("a", "other"):
        table.add(name, image, truth, prediction)
    matrices = np.stack([confusion_matrix(truth, prediction, num_classes=2)] * 2)
    ((name, iou, dice, picture),) = table.rows(["other", "a"], matrices)
    assert name == "a"
    assert (iou, dice) == (round(1 / 3 / 2, 4), 0.25)  # background is nowhere right
    assert picture.shape == (57, 256, 3)
    assert picture.dtype == np.uint8
    thirds = [picture[28, 42], picture[28, 128], picture[28, 213]]
    for pixel, color in zip(thirds, (MISSED, CORRECT, FALSE_ALARM), strict=True):
        np.testing.assert_allclose(pixel, 0.8 * np.array(color), atol=2)
