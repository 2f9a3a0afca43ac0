from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_pipeline.classes import (
    IGNORE_INDEX,
    Classes,
    default_colors,
    nearest_values,
    pack_colors,
    parse_value,
)
from unet_pipeline.errors import DatasetError, UserError


def make(*values: Any, **options: Any) -> Classes:
    return Classes(
        names=tuple(f"c{i}" for i in range(len(values))),
        colors=default_colors(len(values)),
        values=values,
        **options,
    )


RED, BLUE, BLACK, WHITE = (255, 0, 0), (0, 0, 255), (0, 0, 0), (255, 255, 255)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_grey_values_become_indices_and_come_back(dtype: type) -> None:
    classes = make(0, 128, 255, ignore_values=(7,))
    mask = np.array([[0, 128], [255, 7]], dtype)
    indices = classes.to_indices(mask, source="m")
    assert indices.dtype == np.uint8
    np.testing.assert_array_equal(indices, [[0, 1], [2, IGNORE_INDEX]])
    np.testing.assert_array_equal(classes.to_values(indices), mask)


def test_colours_become_indices_and_come_back() -> None:
    classes = make(BLACK, RED, BLUE, ignore_values=(WHITE,), encoding="rgb")
    mask = np.array([[BLACK, RED], [BLUE, WHITE]], np.uint8)
    indices = classes.to_indices(mask, source="m")
    np.testing.assert_array_equal(indices, [[0, 1], [2, IGNORE_INDEX]])
    np.testing.assert_array_equal(classes.to_values(indices), mask)
    grey = np.array([[0, 255]], np.uint8)  # a file whose channels are all equal
    np.testing.assert_array_equal(classes.to_indices(grey, source="m"), [[0, IGNORE_INDEX]])


def test_values_above_255_are_written_with_16_bits() -> None:
    classes = make(0, 300, 60000)
    mask = np.array([[0, 300, 60000]], np.uint16)
    indices = classes.to_indices(mask, source="m")
    np.testing.assert_array_equal(indices, [[0, 1, 2]])
    assert classes.to_values(indices).dtype == np.uint16
    np.testing.assert_array_equal(classes.to_values(indices), mask)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_any_mask_of_known_values_comes_back(data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, 65535), min_size=2, max_size=255, unique=True))
    void = data.draw(st.integers(0, len(values) - 2))
    classes = make(*values[void:], ignore_values=tuple(values[:1]) if void else ())
    known = [*classes.values, *classes.ignore_values]
    mask = np.array(data.draw(st.lists(st.sampled_from(known), min_size=1)), np.uint16)[None]
    back = classes.to_values(classes.to_indices(mask, source="m"))
    np.testing.assert_array_equal(back, mask)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.array([[0, 1, 1, 3]], np.uint8), "m.png: 3 pixels hold the mask values 1, 3"),
        (np.array([[0, -1]], np.int32), "the mask values -1"),
        (np.array([[0, 10**6]], np.int64), "the mask values 1000000"),
        (np.arange(256, dtype=np.uint8)[None], r"the mask values 1, 2, 3, 4, 5 and 249 more"),
    ],
)
def test_values_that_are_no_class_are_named(mask: np.ndarray, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        make(0, 255).to_indices(mask, source="m.png")


def test_colours_that_are_no_class_are_named() -> None:
    classes = make(BLACK, RED, encoding="rgb")
    with pytest.raises(DatasetError, match=r"1 pixels hold the mask values \(0, 0, 255\)"):
        classes.to_indices(np.array([[BLACK, BLUE]], np.uint8), source="m")
    with pytest.raises(DatasetError, match="a coloured mask in a dataset of single-channel masks"):
        make(0, 1).to_indices(np.array([[BLACK, BLUE]], np.uint8), source="m")


def test_three_equal_channels_are_one() -> None:
    mask = np.repeat(np.array([[0, 255]], np.uint8)[..., None], 3, axis=2)
    np.testing.assert_array_equal(make(0, 255).to_indices(mask, source="m"), [[0, 1]])


def test_other_takes_what_is_not_listed() -> None:
    classes = make(BLACK, RED, encoding="rgb", other=0)
    mask = np.array([[(9, 9, 9), RED]], np.uint8)
    np.testing.assert_array_equal(classes.to_indices(mask, source="m"), [[0, 1]])
    mask = np.array([[5, -7, 70000, 1]])
    np.testing.assert_array_equal(make(0, 1, other=1).to_indices(mask, source="m"), [[1, 1, 1, 1]])


def test_blurred_values_are_snapped_to_the_nearest_class_or_void() -> None:
    classes = make(0, 128, 255, ignore_values=(200,), snap=True)
    mask = np.array([[0, 63, 64, 65, 164, 165, 227, 228, 255]], np.uint8)
    expected = [[0, 0, 0, 1, 1, IGNORE_INDEX, IGNORE_INDEX, 2, 2]]  # ties go to the lower value
    np.testing.assert_array_equal(classes.to_indices(mask, source="m"), expected)
    np.testing.assert_array_equal(classes.to_indices(mask.astype(np.int64), source="m"), expected)


@settings(max_examples=8, deadline=None)  # each makes a table of 32 MB
@given(st.integers(0, 10**6))
def test_snapped_colours_agree_with_all_distances(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.unique(rng.integers(0, 256, (9, 3)), axis=0)  # sorted as packed
    classes = make(*(tuple(v) for v in values.tolist()), encoding="rgb", snap=True)
    mask = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    distances = ((mask[..., None, :].astype(int) - values) ** 2).sum(axis=-1)
    expected = distances.argmin(axis=-1)
    for _ in range(2):  # what was looked up before comes from the table
        np.testing.assert_array_equal(classes.to_indices(mask, source="m"), expected)


def test_the_nearest_value_and_its_distance_are_given() -> None:
    classes = make(BLACK, RED, ignore_values=(WHITE,), encoding="rgb", snap=True)
    index, away = nearest_values(classes, np.array([0x030400, 0xFF0000, 0xF0FFFF]))
    assert index.tolist() == [0, 1, IGNORE_INDEX]
    assert away.tolist() == [5, 0, 15]


def test_the_table_of_one_dataset_is_never_used_for_another() -> None:
    mask = np.array([[0, 9]], np.uint8)
    np.testing.assert_array_equal(make(0, 9).to_indices(mask, source="m"), [[0, 1]])
    np.testing.assert_array_equal(make(9, 0).to_indices(mask, source="m"), [[1, 0]])


def test_ignored_pixels_are_written_as_the_first_void_value_or_255() -> None:
    void = np.array([[IGNORE_INDEX]], np.uint8)
    assert make(0, 1).to_values(void).tolist() == [[255]]
    assert make(0, 1, ignore_values=(9, 8)).to_values(void).tolist() == [[9]]
    assert make(BLACK, RED, encoding="rgb").to_values(void).tolist() == [[[255, 255, 255]]]


def test_pictures_of_classes_have_their_colours() -> None:
    classes = make(0, 1, 2)
    picture = classes.to_colors(np.array([[0, 2, IGNORE_INDEX]], np.uint8))
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[0], [BLACK, classes.colors[2], WHITE])


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        ((0,), {}, "1 classes: between 2 and 255"),
        (tuple(range(256)), {}, "256 classes"),
        ((0, 0), {}, "listed twice"),
        ((0, 1), {"ignore_values": (1,)}, "listed twice"),
        ((0, RED), {}, "does not fit the encoding grey"),
        ((0, 1), {"encoding": "rgb"}, "does not fit the encoding rgb"),
        ((0, 65536), {}, "out of range"),
        ((0, -1), {}, "out of range"),
        ((BLACK, (0, 0, 256)), {"encoding": "rgb"}, "out of range"),
        ((0, 1), {"other": 2}, "other = 2 is not a class index"),
        ((0, 1), {"other": 0, "snap": True}, "`snap` and `other`"),
    ],
)
def test_classes_that_contradict_themselves_are_refused(
    values: tuple[Any, ...], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        make(*values, **options)


def test_names_and_colours_must_match_the_values() -> None:
    with pytest.raises(ValueError, match="1 names and 2 colours for 2 mask values"):
        Classes(names=("a",), colors=default_colors(2), values=(0, 1))
    with pytest.raises(ValueError, match="two classes have the same name"):
        Classes(names=("a", "a"), colors=default_colors(2), values=(0, 1))


def test_classes_survive_json() -> None:
    classes = make(BLACK, RED, ignore_values=(WHITE,), encoding="rgb", other=0)
    assert Classes.model_validate_json(classes.model_dump_json()) == classes
    assert Classes.model_validate(make(0, 5).model_dump(mode="json")) == make(0, 5)


def test_default_colours_are_distinct_and_begin_with_black() -> None:
    colors = default_colors(200)
    assert colors[0] == BLACK
    assert len(set(colors)) == 200


def test_colours_are_packed_as_in_html() -> None:
    mask = np.array([[RED, (1, 2, 3)]], np.uint8)
    np.testing.assert_array_equal(pack_colors(mask), [[0xFF0000, 0x010203]])
    np.testing.assert_array_equal(pack_colors(np.array([[7]], np.uint8)), [[0x070707]])


@pytest.mark.parametrize("text", ["", "x", "-1", "1/2", "1/2/3/4", "256/0/0", "#12345", "#gggggg"])
def test_a_mask_value_nobody_can_read_is_a_user_error(text: str) -> None:
    with pytest.raises(UserError, match="use a whole number, or a colour"):
        parse_value(text)


def test_mask_values_are_read_as_people_type_them() -> None:
    assert parse_value("128") == 128
    assert parse_value("255/0/10") == (255, 0, 10)
    assert parse_value("#Ff000a") == (255, 0, 10)
