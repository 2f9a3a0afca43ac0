from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unet_pipeline.classes import IGNORE_INDEX, Classes
from unet_pipeline.datasets.file_kind import FileKind
from unet_pipeline.datasets.formats.class_list import ClassList, read_class_list
from unet_pipeline.datasets.images import MaskPixels, decode_mask
from unet_pipeline.datasets.mask_values import find_classes
from unet_pipeline.datasets.scan_pixels import scan_mask
from unet_pipeline.datasets.scan_records import MaskScan
from unet_pipeline.datasets.value_table import (
    ValueTable,
    class_pixels,
    count_values,
    keyed_counts,
    snapping,
)
from unet_pipeline.errors import DatasetError, UserError

SOURCE = Path("data")
BLACK_WHITE = np.array([[0] * 3, [255] * 3], np.uint8)


def scan(values: object, palette: object = None, *, lossy: bool = False) -> MaskScan:
    array = np.atleast_2d(np.array(values))
    array = array.astype(np.uint8 if array.max() < 256 else np.uint16)
    colors = None if palette is None else np.array(palette, np.uint8)
    return scan_mask(MaskPixels(array, colors, lossy))


def rgb(*colors: tuple[int, int, int]) -> MaskScan:
    return scan_mask(MaskPixels(np.array([colors], np.uint8)))


def table(*scans: MaskScan) -> ValueTable:
    return count_values((f"s{i}", s) for i, s in enumerate(scans))


def classes(*scans: MaskScan, **options: Any) -> Classes:
    return find_classes(table(*scans), source=SOURCE, **options)[0]


# ---- counting -----------------------------------------------------------------------------------


def test_values_are_counted_with_the_masks_that_hold_them() -> None:
    counted = table(scan([0, 0, 7]), scan([7, 300]))
    assert counted.encoding == "grey"
    assert {key: (use.pixels, use.examples) for key, use in counted.uses.items()} == {
        0: (2, ["s0"]),
        7: (2, ["s0", "s1"]),
        300: (1, ["s1"]),
    }
    assert counted.complete


def test_colours_are_counted_exactly() -> None:
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (9, 3), dtype=np.uint8)
    mask = colors[rng.integers(0, 9, (31, 17))]
    counts = scan_mask(MaskPixels(mask), ()).counts
    found, numbers = np.unique(mask.reshape(-1, 3), axis=0, return_counts=True)
    keys = found.astype(int) @ [1 << 16, 1 << 8, 1]
    expected = dict(zip(keys.tolist(), numbers.tolist(), strict=True))
    assert counts == expected


def test_a_photograph_keeps_few_values_but_those_asked_for() -> None:
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 65536, (200, 200), dtype=np.uint16)
    mask[0, 0] = 4242
    mask[mask == 17] = 18
    mask[5, 5] = 17
    listed = scan_mask(MaskPixels(mask), (17,))
    assert listed.num_values > 10_000
    assert len(listed.counts) <= 513
    assert listed.counts[17] == 1
    assert not table(listed).complete


@pytest.mark.parametrize("options", [{}, {"other": 1}, {"snap": True}])
def test_pixels_of_classes_agree_with_the_indices(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    found = Classes(
        names=("a", "b", "c"),
        colors=((0, 0, 0), (1, 1, 1), (2, 2, 2)),
        values=(0, 9, 30),
        ignore_values=(20,),
        **options,
    )
    values = rng.choice([0, 9, 20] if not options else np.arange(40), (30, 40)).astype(np.uint8)
    indices, numbers = np.unique(found.to_indices(values, source="m"), return_counts=True)
    expected = dict(zip(indices.tolist(), numbers.tolist(), strict=True))
    assert class_pixels(scan_mask(MaskPixels(values)), found) == expected


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


def held(values: list[int]) -> MaskScan:
    """A mask file of signed integers."""
    data = io.BytesIO()
    np.save(data, np.array([values]))
    return scan_mask(decode_mask(data.getvalue(), source="m"))


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


# ---- numbered objects ----------------------------------------------------------------------------


def numbered(rng: np.random.Generator, count: int, *, dtype: type = np.uint16) -> MaskScan:
    """A mask of `count` objects of any size, the background around them."""
    sizes = np.exp(rng.normal(3, 0.7, count)).astype(int) + 1
    values = np.repeat(np.arange(count + 1), [sizes.sum() * 3, *sizes])[None]
    kind = FileKind("png", bits=8 * np.dtype(dtype).itemsize)
    return scan_mask(MaskPixels(values.astype(dtype)), kind=kind)


def gradient(top: int) -> MaskScan:
    """A soft mask: black, and every grey up to `top` about as often as its neighbours."""
    values = np.repeat(np.arange(top + 1), [5000, *(np.arange(top) % 9 + 40)])[None]
    return scan_mask(MaskPixels(values.astype(np.uint8)))


@pytest.mark.parametrize(
    ("counts", "dtype"),
    [((3, 40, 80), np.uint8), ((3, 11, 30), np.uint16), ((7, 1213, 900), np.uint16)],
)
def test_masks_that_number_objects_have_background_and_foreground(
    counts: tuple[int, ...], dtype: type
) -> None:
    rng = np.random.default_rng(1)
    masks = [numbered(rng, count, dtype=dtype) for count in counts]
    found, notes = find_classes(table(*masks), source=SOURCE)
    assert found.names == ("background", "foreground")
    assert (found.values, found.other) == ((0, 255), 1)
    bits = " (16-bit)" if dtype is np.uint16 else ""
    most = f"{max(counts):,}"
    assert notes == [f"masks number up to {most} objects{bits}: all of them are `foreground`"]
    indices = found.to_indices(np.array([[0, 1, 255, 1213]], np.uint16), source="m")
    np.testing.assert_array_equal(indices, [[0, 1, 1, 1]])
    np.testing.assert_array_equal(found.to_values(indices), [[0, 255, 255, 255]])


def test_names_and_values_of_the_user_win_over_numbered_objects() -> None:
    masks = [numbered(np.random.default_rng(1), count) for count in (2, 70, 75)]
    assert classes(*masks, class_names=["field", "cell"]).names == ("field", "cell")
    assert classes(*masks, listed=ClassList("c.txt", ("cell",), None)).names[1] == "cell"
    assert classes(*masks, values=[0, 1], other=0).values == (0, 1)
    names = [f"c{i}" for i in range(76)]
    assert classes(*masks, class_names=names).num_classes == 76


def test_objects_keep_the_void_of_their_files() -> None:
    rng = np.random.default_rng(1)
    own = held([0] * 99 + [-1, 1, 2, 3, 4, 5])
    found = classes(own, *(numbered(rng, count) for count in (30, 90)))
    assert (found.values, found.ignore_values, found.other) == ((0, 254), (255,), 1)


def test_few_values_in_16_bits_are_classes_where_they_recur() -> None:
    wide = FileKind("png", bits=16)
    masks = [
        scan_mask(MaskPixels(np.array([[0] * 9 + own], np.uint16)), kind=wide)
        for own in ([1, 2, 3], [1, 2, 3], [1, 2], [1])
    ]
    assert classes(*masks).values == (0, 1, 2, 3)


def test_what_may_number_objects_is_mentioned() -> None:
    rng = np.random.default_rng(1)
    masks = [numbered(rng, count, dtype=np.uint8) for count in (3, 9, 20)]
    found, notes = find_classes(table(*masks), source=SOURCE)
    assert found.num_classes == 21
    assert any("up to 20, another number in each" in note for note in notes)
    assert any("--values 0,255 --other 1" in note for note in notes)


def test_soft_masks_and_photographs_are_not_numbered_objects() -> None:
    for masks in (
        [gradient(255), gradient(255), gradient(254)],  # ends everywhere at white
        [gradient(255), gradient(180), gradient(90)],  # smooth
    ):
        with pytest.raises(DatasetError, match="too many to be classes"):
            classes(*masks)
    rng = np.random.default_rng(1)
    photographs = [rng.normal(m, 30, (99, 99)).clip(0, 255).astype(np.uint8) for m in (90, 120)]
    with pytest.raises(DatasetError, match="too many to be classes"):
        classes(*(scan_mask(MaskPixels(p)) for p in photographs))


# ---- masks stored as JPEG ------------------------------------------------------------------------


def jpeg(values: np.ndarray, quality: int) -> np.ndarray:
    """What a JPEG file of a mask holds."""
    file = io.BytesIO()
    Image.fromarray(values).save(file, format="JPEG", quality=quality)
    return decode_mask(file.getvalue(), source="m").values


def regions(rng: np.random.Generator, values: object) -> np.ndarray:
    """A picture (160, 200) of big round regions, each of one of `values`."""
    y, x = np.mgrid[:160, :200]
    levels = np.array(values, np.uint8)
    picture = np.full((160, 200, *levels.shape[1:]), levels[0])
    for k in range(1, 3 * len(levels)):
        center_y, center_x = rng.uniform(0, 160), rng.uniform(0, 200)
        inside = (y - center_y) ** 2 + (x - center_x) ** 2 < rng.uniform(15, 40) ** 2
        picture[inside] = levels[k % len(levels)]
    return picture


@pytest.mark.parametrize("quality", [50, 75, 95])
@pytest.mark.parametrize(
    "values",
    [
        (0, 255),
        (0, 128, 255),
        (0, 60, 120, 180, 240),
        ((0, 0, 0), (255, 0, 0), (0, 0, 255)),
    ],
)
def test_the_classes_under_the_blur_of_jpeg_are_found(values: Any, quality: int) -> None:
    rng = np.random.default_rng(quality)
    masks = [regions(rng, values) for _ in range(8)]
    blurred = [jpeg(mask, quality) for mask in masks]
    scans = [scan_mask(MaskPixels(mask, lossy=True)) for mask in blurred]
    found, notes = find_classes(table(*scans), source=SOURCE)
    order = sorted(values)
    assert found.num_classes == len(values)
    assert found.snap
    np.testing.assert_allclose(found.values, order, atol=8)
    (note,) = notes
    assert re.match(r"masks are JPEG: \d+\.\d% of their pixels were snapped", note)
    wrong = total = 0
    exact = Classes(
        names=found.names, colors=found.colors, values=tuple(order), encoding=found.encoding
    )
    for mask, read in zip(masks, blurred, strict=True):
        indices = found.to_indices(read, source="m")
        wrong += int((indices != exact.to_indices(mask, source="m")).sum())
        total += indices.size
    assert wrong / total < 0.03  # the outlines


def test_values_of_the_user_are_what_jpeg_masks_are_snapped_to() -> None:
    blurred = scan([0, 3, 120, 131, 250, 255, 255], lossy=True)
    for options in (
        {"values": [0, 128, 255]},
        {"listed": ClassList("c", ("a", "b", "c"), (0, 128, 255))},
    ):
        found, notes = find_classes(table(blurred), source=SOURCE, **options)
        assert (found.values, found.snap) == ((0, 128, 255), True)
        assert snapping(table(blurred), found) == (4, 8)
        assert any("57.1%" in note and "furthest by 8" in note for note in notes)
        indices = found.to_indices(np.array([[0, 3, 120, 131, 250]]), source="m")
        np.testing.assert_array_equal(indices, [[0, 0, 1, 1, 2]])
    found = classes(blurred, values=[0, 255], other=0)
    assert (found.snap, found.other) == (False, 0)


def test_png_and_jpeg_masks_together_are_snapped() -> None:
    rng = np.random.default_rng(0)
    masks = [regions(rng, (0, 128, 255)) for _ in range(4)]
    scans = [scan_mask(MaskPixels(jpeg(mask, 75), lossy=True)) for mask in masks[:2]]
    scans += [scan_mask(MaskPixels(mask)) for mask in masks[2:]]
    found = classes(*scans, class_names=["ground", "body", "core"])
    assert (found.names, found.values) == (("ground", "body", "core"), (0, 128, 255))


def test_jpeg_files_that_are_no_masks_are_refused() -> None:
    rng = np.random.default_rng(1)
    photograph = rng.normal(110, 40, (99, 99)).clip(0, 255).astype(np.uint8)
    with pytest.raises(DatasetError, match=r"JPEG files, whose.*values; save .*--values"):
        classes(scan(photograph, lossy=True))
    with pytest.raises(DatasetError, match=r"JPEG files, whose compression blurs values"):
        classes(scan([0, 1, 2, 2, 1, 0], lossy=True))  # class indices, gone beyond repair


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
    with pytest.raises(DatasetError, match="same name"):
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
    with pytest.raises(DatasetError, match="other = 5"):
        classes(scan([0, 1]), values=[0, 1], other=5)


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


# ---- class files --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "names", "values"),
    [
        (
            "classes.txt",
            "0 sky\n1 tall building\n\n11 void\n",
            "sky|tall building|void",
            (0, 1, 11),
        ),
        ("classes.txt", "sky\r\nlayer 1\r\n", "sky|layer 1", None),
        ("classes.txt", "0: sky\n1: road", "sky|road", (0, 1)),
        ("classes.txt", "0,sky\n1,road", "sky|road", (0, 1)),
        (
            "label_colors.txt",
            "64 128 64\tAnimal\n192 0 128\t\tArch way",
            "Animal|Arch way",
            ((64, 128, 64), (192, 0, 128)),
        ),
        (
            "class_dict.csv",
            "name,r,g,b\nAnimal,64,128,64\nArch 2,192,0,128",
            "Animal|Arch 2",
            ((64, 128, 64), (192, 0, 128)),
        ),
        ("classes.txt", "\ufeffid,name\n0,sky\n4,road", "sky|road", (0, 4)),
        ("classes.txt", "0 sky\nroad", "0 sky|road", None),
    ],
)
def test_class_files_are_read_as_people_write_them(
    tmp_path: Path, name: str, text: str, names: str, values: object
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    listed = read_class_list(tmp_path)
    assert listed is not None
    assert listed.names == tuple(names.split("|"))
    assert listed.values == values
    assert listed.source == name


def test_no_class_file_or_an_empty_one_is_no_list(tmp_path: Path) -> None:
    assert read_class_list(tmp_path) is None
    (tmp_path / "classes.txt").write_text("\n")
    assert read_class_list(tmp_path) is None
