from __future__ import annotations

import logging

import numpy as np
import pytest

from unet_pipeline.classes import Classes, default_colors
from unet_pipeline.datasets.class_matching import by_names
from unet_pipeline.datasets.formats.class_list import ClassList
from unet_pipeline.errors import DatasetError

NAMES = ("background", "cell", "debris")
MODEL = Classes(names=NAMES, colors=default_colors(3), values=(0, 1, 2))


def listed(**values: int | tuple[int, int, int]) -> ClassList:
    return ClassList("data", tuple(values), tuple(values.values()))


def test_the_same_names_take_the_values_of_the_data() -> None:
    classes = by_names(MODEL, listed(background=0, debris=1, cell=2))
    mask = np.array([[0, 1, 2]], np.uint8)
    assert classes.to_indices(mask, source="x").tolist() == [[0, 2, 1]]


def test_colours_are_matched_too() -> None:
    classes = by_names(MODEL, listed(background=(0, 0, 0), cell=(9, 0, 0), debris=(0, 9, 0)))
    mask = np.array([[(0, 9, 0), (9, 0, 0), (0, 0, 0)]], np.uint8)
    assert classes.to_indices(mask, source="x").tolist() == [[2, 1, 0]]


def test_a_class_that_the_data_lacks_takes_no_value_of_it() -> None:
    classes = by_names(MODEL, listed(background=0, debris=1))
    assert classes.values[2] == 1
    assert classes.values[1] not in (0, 1, 255)
    assert len(set(classes.values)) == 3


@pytest.mark.parametrize(
    "data", [None, ClassList("data", NAMES), listed(background=0, cell=1, debris=2)]
)
def test_without_other_values_nothing_changes(data: ClassList | None) -> None:
    assert by_names(MODEL, data) is MODEL


def test_names_that_are_partly_known_are_refused() -> None:
    with pytest.raises(DatasetError, match="animal are no classes of the model"):
        by_names(MODEL, listed(background=0, animal=1, cell=2))


def test_entirely_other_names_are_compared_by_value_with_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("unet_pipeline"), "propagate", True)
    assert by_names(MODEL, listed(background=0, horse=1, cow=2)) is MODEL
    assert "compared by their values" in caplog.text


def test_a_void_class_of_the_data_is_no_unknown_one() -> None:
    classes = by_names(MODEL, listed(background=0, debris=1, cell=2, void=9))
    assert classes.values == (0, 2, 1)
