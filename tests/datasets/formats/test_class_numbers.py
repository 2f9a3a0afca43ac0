from __future__ import annotations

from pathlib import Path

import pytest

from unet_pipeline.datasets.formats.class_numbers import number_classes, numbered_classes
from unet_pipeline.errors import DatasetError


def test_classes_are_numbered_in_their_order_without_background_and_void() -> None:
    names = ["cat", "_Background_", "dog", "cat", "Void"]
    values = number_classes(names, Path("x"), void_names=frozenset({"void"}))
    assert values == {"cat": 1, "_Background_": 0, "dog": 2, "Void": 255}
    classes = numbered_classes("x.json", values)
    assert (classes.source, classes.names) == ("x.json", ("background", "cat", "dog"))
    assert classes.values == (0, 1, 2)


def test_void_is_a_class_where_no_name_means_void() -> None:
    assert number_classes(["void"], Path("x")) == {"void": 1}


def test_255_classes_do_not_fit_into_a_mask_beside_background_and_void() -> None:
    names = [f"c{number}" for number in range(255)]
    assert max(number_classes(names[:-1], Path("x")).values()) == 254
    with pytest.raises(DatasetError, match=r"here: the annotations use 255 classes \(c0, c1"):
        number_classes(names, Path("here"))
