"""What the values of masks mean: the classes, their names, void, and what is no mask."""

from __future__ import annotations

import numpy as np
import pytest

from tests.datasets.mask_cases import SOURCE, classes, held, rgb, scan, table
from unet_pipeline.classes import IGNORE_INDEX
from unet_pipeline.datasets.formats.class_list import ClassList
from unet_pipeline.datasets.mask_values import find_classes
from unet_pipeline.datasets.value_table import keyed_counts, value_rows
from unet_pipeline.errors import DatasetError, UserError

BLACK_WHITE = np.array([[0] * 3, [255] * 3], np.uint8)


# ---- what the values mean -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected", "void"),
    [
        ([0, 255], (0, 255), ()),
        ([0, 1], (0, 1), ()),
        ([0, 1, 2, 3], (0, 1, 2, 3), ()),
        ([0, 128, 255], (0, 128, 255), ()),  # three grey levels: 255 is a class
        ([0, 5, 15, 200], (0, 5, 15, 200), ()),
        ([1, 2], (1, 2), ()),
        ([0, 1, 255], (0, 1), (255,)),  # ids beside 255: void
        ([0, 1, 2, 255], (0, 1, 2), (255,)),
        ([0, 2, 255], (0, 2, 255), ()),  # a gap: nobody knows, so nothing is thrown away
        ([1, 2, 255], (1, 2, 255), ()),
        ([0, 600, 60000], (0, 600, 60000), ()),
    ],
)
def test_grey_values_become_classes_in_ascending_order(
    values: list[int], expected: tuple[int, ...], void: tuple[int, ...]
) -> None:
    found = classes(scan(values))
    assert (found.values, found.ignore_values, found.encoding) == (expected, void, "grey")
    assert found.colors[0] == (0, 0, 0)
    indices = found.to_indices(np.array([values]), source="m")
    assert set(indices.ravel().tolist()) - {IGNORE_INDEX} == set(range(len(expected)))
    back = found.to_values(indices)
    np.testing.assert_array_equal(back, [values])


def test_default_names_show_the_value() -> None:
    assert classes(scan([0, 255])).names == ("background", "foreground")
    assert classes(scan([0, 128, 255])).names == ("class_0", "class_128", "class_255")
    found = classes(rgb((0, 0, 0), (255, 0, 0), (0, 0, 255)))
    assert found.names == ("color_000000", "color_0000ff", "color_ff0000")


def test_palette_masks_keep_their_colours() -> None:
    palette = [(0, 0, 0), (200, 0, 0), (0, 200, 0)]
    found = classes(scan([0, 1], palette), scan([0, 2], palette))
    assert found.encoding == "palette"
    assert found.values == (0, 1, 2)
    assert found.colors == tuple(palette)


def test_the_border_of_pascal_voc_is_void_among_gaps() -> None:
    palette = np.zeros((256, 3), np.uint8)
    palette[:, 0] = np.arange(256)
    palette[255] = (224, 224, 192)
    found = classes(scan([0, 5, 15, 255], palette))
    assert (found.values, found.ignore_values) == ((0, 5, 15), (255,))


def test_colours_become_classes_with_black_first() -> None:
    found = classes(rgb((255, 255, 255), (255, 0, 0)), rgb((0, 0, 0), (0, 0, 1)))
    assert found.encoding == "rgb"
    assert found.values == ((0, 0, 0), (0, 0, 1), (255, 0, 0), (255, 255, 255))
    assert found.colors == found.values


def test_a_grey_file_among_coloured_ones_means_equal_channels() -> None:
    found = classes(rgb((0, 0, 0), (255, 0, 0)), scan([0, 255]))
    assert found.values == ((0, 0, 0), (255, 0, 0), (255, 255, 255))


def test_palettes_that_differ_between_files_mean_their_colours() -> None:
    # an image editor numbers the colours anew in each file
    one = scan([0, 1], [(0, 0, 0), (255, 0, 0)])
    two = scan([0, 1], [(255, 0, 0), (0, 0, 0)])
    found = classes(one, two)
    assert (found.encoding, found.values) == ("rgb", ((0, 0, 0), (255, 0, 0)))
    assert keyed_counts(two, "rgb") == {0xFF0000: 1, 0: 1}


def test_black_and_white_files_agree_with_grey_ones_by_what_they_show() -> None:
    found = classes(scan([0, 1], BLACK_WHITE), scan([0, 255]))
    assert (found.encoding, found.values) == ("rgb", ((0, 0, 0), (255, 255, 255)))
    found = classes(scan([0, 1], BLACK_WHITE), scan([0, 1]))
    assert (found.encoding, found.values) == ("grey", (0, 1))
    found = classes(scan([0, 1], BLACK_WHITE), scan([1, 1], BLACK_WHITE))
    assert (found.encoding, found.values) == ("palette", (0, 1))
    assert found.colors == ((0, 0, 0), (255, 255, 255))


def test_void_can_be_named() -> None:
    found, _ = find_classes(table(scan([0, 5, 254])), source=SOURCE, ignore_values=[254])
    assert (found.values, found.ignore_values) == ((0, 5), (254,))
    found = classes(rgb((0, 0, 0), (9, 9, 9), (5, 0, 0)), ignore_values=[(9, 9, 9)])
    assert found.values == ((0, 0, 0), (5, 0, 0))


def test_naming_void_that_does_not_occur_or_does_not_fit_is_a_user_error() -> None:
    with pytest.raises(UserError, match="--ignore-values 9: no mask holds it; they hold 0, 1"):
        classes(scan([0, 1]), ignore_values=[9])
    with pytest.raises(UserError, match="1/2/3: the masks of this data hold whole numbers"):
        classes(scan([0, 1]), ignore_values=[(1, 2, 3)])
    with pytest.raises(UserError, match="9: the masks of this data hold colours"):
        classes(rgb((0, 0, 0), (1, 2, 3)), ignore_values=[9])


def test_a_255_among_ids_with_gaps_is_mentioned() -> None:
    _, notes = find_classes(table(scan([0, 5, 15, 255])), source=SOURCE)
    assert any("--ignore-values 255" in note for note in notes)
    _, notes = find_classes(table(scan([0, 128, 255])), source=SOURCE)
    assert notes == []


# ---- void in the files themselves ----------------------------------------------------------------


def test_minus_one_is_void_without_being_asked() -> None:
    found, notes = find_classes(table(held([0, 9, 15, -1]), held([0, 0])), source=SOURCE)
    assert (found.values, found.ignore_values) == ((0, 9, 15), (255,))
    assert notes == ["mask value -1 is void (ignored); it is read as 255"]
    found = classes(held([0, 300, -1]))
    assert (found.values, found.ignore_values) == ((0, 300), (65535,))
    found = classes(held([0, 300, -1]), held([0, -1]))
    assert (found.values, found.ignore_values) == ((0, 300), (255, 65535))


def test_a_255_beside_minus_one_is_void_too_unless_it_can_be_a_class() -> None:
    assert classes(held([0, 5, -1]), scan([0, 5, 255])).values == (0, 5)
    with pytest.raises(DatasetError, match=r"-1 \(void\), which is read as 255, and s1 holds"):
        classes(held([0, 5, -1]), held([0, 255, 256]))


# ---- names and declared classes -----------------------------------------------------------------


def test_names_are_given_in_the_order_of_the_values() -> None:
    found = classes(scan([0, 128, 255]), class_names=["bg", "body", "core"])
    assert dict(zip(found.names, found.values, strict=True)) == {"bg": 0, "body": 128, "core": 255}
    found = classes(scan([0, 1, 255]), class_names=["bg", "cell"])
    assert (found.names, found.ignore_values) == (("bg", "cell"), (255,))
    found = classes(scan([0, 1, 255]), class_names=["bg", "cell", "wall"])
    assert (found.values, found.ignore_values) == ((0, 1, 255), ())


def test_more_names_than_values_are_classes_that_never_occur() -> None:
    found = classes(scan([0, 2]), class_names=["a", "b", "c", "d"])
    assert found.values == (0, 1, 2, 3)


def test_one_name_less_than_values_leaves_out_background() -> None:
    found = classes(scan([0, 1, 2]), class_names=["date", "fig"])
    assert found.names == ("background", "date", "fig")


def test_names_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="3 class names for the mask values 0, 255"):
        classes(scan([0, 255]), class_names=["a", "b", "c"])
    with pytest.raises(UserError, match="--class-names names a twice"):
        classes(scan([0, 255]), class_names=["a", "a"])


def test_a_name_can_mean_void() -> None:
    found, notes = find_classes(
        table(scan([0, 1, 2])), source=SOURCE, class_names=["sky", "Void", "road"]
    )
    assert (found.names, found.values, found.ignore_values) == (("sky", "road"), (0, 2), (1,))
    assert any("void, by its name 'Void'" in note for note in notes)


def test_a_class_list_with_values_declares_the_classes() -> None:
    listed = ClassList("classes.txt", ("sky", "road", "car", "void"), (0, 3, 7, 9))
    found = classes(scan([0, 3]), listed=listed)
    assert (found.values, found.ignore_values) == ((0, 3, 7), (9,))


def test_values_outside_the_declared_classes_are_refused_with_their_masks() -> None:
    listed = ClassList("classes.txt", ("sky", "road"), (0, 1))
    with pytest.raises(DatasetError) as caught:
        classes(scan([0, 1]), scan([0, 7, 7, 9]), listed=listed)
    assert (
        "3 pixels hold the mask values 7, 9 (in s1), which are none of the classes of "
        "classes.txt (0, 1)" in str(caught.value)
    )
    assert caught.value.exit_code == 4
    # 255 beside declared ids is void as ever
    assert classes(scan([0, 1, 255]), listed=listed).ignore_values == (255,)


def test_a_class_list_that_does_not_fit_is_left_out_and_mentioned() -> None:
    for listed in (
        ClassList("classes.txt", ("a", "b", "c"), None),
        ClassList("classes.txt", ("a", "b"), ((0, 0, 0), (1, 1, 1))),
    ):
        found, notes = find_classes(table(scan([0, 255])), source=SOURCE, listed=listed)
        assert found.names == ("background", "foreground")
        assert any("classes.txt was left out" in note for note in notes)


def test_values_can_be_declared_with_a_class_for_all_others() -> None:
    grey = [(i, i, i) for i in range(100)]
    found = classes(
        rgb(*grey, (0, 0, 255), (255, 0, 0)),
        values=[(0, 0, 0), (0, 0, 255), (255, 0, 0)],
        other=0,
        class_names=["matrix", "secondary", "tertiary"],
    )
    assert found.other == 0
    indices = found.to_indices(np.array([[(50, 50, 50), (0, 0, 255)]], np.uint8), source="m")
    np.testing.assert_array_equal(indices, [[0, 1]])
    numbered = classes(scan([*range(90)]), values=[0, 1], other=1)  # instances to foreground
    np.testing.assert_array_equal(
        numbered.to_indices(np.array([[0, 1, 77]]), source="m"), [[0, 1, 1]]
    )


def test_declared_values_without_other_must_cover_everything() -> None:
    with pytest.raises(DatasetError, match=r"mask values 2 .* of the values given \(0, 1\)"):
        classes(scan([0, 1, 2]), values=[0, 1])
    with pytest.raises(UserError, match="--other needs --values"):
        classes(scan([0, 1]), other=0)
    with pytest.raises(UserError, match="1 class names for 2 mask values"):
        classes(scan([0, 1]), values=[0, 1], class_names=["a"])
    with pytest.raises(UserError, match="--other 5: is no class index of 2 classes"):
        classes(scan([0, 1]), values=[0, 1], other=5)
    with pytest.raises(UserError, match="--values names 1 twice"):
        classes(scan([0, 1]), values=[0, 1, 1])


# ---- what is no mask ----------------------------------------------------------------------------


def test_more_than_64_grey_values_are_numbered_objects_or_soft_masks() -> None:
    with pytest.raises(DatasetError, match=r"hold 65 different values.*instances.*soft"):
        classes(scan([*range(65)]))  # of one pixel each, as in a gradient
    assert classes(scan([*range(64)])).num_classes == 64
    names = [f"c{i}" for i in range(150)]
    assert classes(scan([*range(150)]), class_names=names).num_classes == 150


def test_more_than_64_colours_are_told_what_to_do() -> None:
    with pytest.raises(DatasetError, match=r"65 different colours.*anti-aliased.*--values"):
        classes(rgb(*((i, 0, 1) for i in range(65))))


def test_masks_of_one_value_are_refused() -> None:
    with pytest.raises(DatasetError, match="the masks hold 0: at least two classes"):
        classes(scan([0, 0]))
    with pytest.raises(DatasetError, match="0, 255, of which 255 is void: at least two"):
        classes(scan([0, 255]), ignore_values=[255])


def test_two_encodings_that_never_share_a_mask_are_told_with_what_to_do() -> None:
    mixed = [scan([0, 0, 1]), scan([0, 255, 255]), scan([0, 1, 1])]
    with pytest.raises(DatasetError, match=r"2 masks hold 0, 1 \(s0.* and 1 hold 0, 255 \(s1"):
        classes(*mixed)
    for names in ({"listed": ClassList("classes.txt", ("ground", "cell"))},
                  {"class_names": ["ground", "cell"]}):  # fmt: skip
        with pytest.raises(DatasetError, match="two encodings"):
            classes(*mixed, **names)
    assert classes(*mixed, ignore_values=[255]).values == (0, 1)
    both = classes(*mixed, values=[0, 1], other=1)
    assert both.to_indices(np.array([[0, 1, 255]], np.uint8), source="m").tolist() == [[0, 1, 1]]
    assert classes(*mixed, class_names=["ground", "cell", "white"]).values == (0, 1, 255)


def test_a_255_that_meets_classes_somewhere_is_void_still() -> None:
    assert classes(scan([0, 1, 1]), scan([0, 255]), scan([0, 1, 255])).ignore_values == (255,)
    assert classes(scan([0, 1, 1]), scan([255, 255])).ignore_values == (255,)


def test_a_255_is_no_void_beside_a_single_class_of_the_declared_ones() -> None:
    with pytest.raises(DatasetError, match=r"hold the mask values 255 .* none of the classes"):
        classes(scan([0, 255]), values=[0, 1])
    assert classes(scan([0, 1, 255]), values=[0, 1]).ignore_values == (255,)


def test_minus_one_is_told_as_the_files_hold_it() -> None:
    with pytest.raises(DatasetError, match=r"the masks hold 0, -1, of which -1 is void"):
        classes(held([0, -1, 0]))
    counted = table(held([0, -1, 1]))
    assert [row[0] for row in value_rows(counted, None)] == [0, 1, -1]
