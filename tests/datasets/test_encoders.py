"""What is written comes back exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from unet_pipeline.datasets.encoders import encode_png
from unet_pipeline.datasets.images import decode_image, decode_mask


@settings(max_examples=30, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.uint16]),
        st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3])),
    )
)
def test_what_is_written_comes_back(array: np.ndarray) -> None:
    data = encode_png(array)
    back = decode_image(data, source="x")
    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_palette_masks_come_back_with_their_colours(mask: np.ndarray) -> None:
    colours = [(i, 255 - i, 7) for i in range(256)]
    back = decode_mask(encode_png(mask, colours), source="x")
    np.testing.assert_array_equal(back.values, mask)
    assert back.palette is not None
    np.testing.assert_array_equal(back.palette, colours)


@pytest.mark.parametrize("num_colors", [2, 3, 16, 200])
def test_values_beyond_a_short_palette_come_back_exactly(num_colors: int) -> None:
    mask = np.array([[0, 1, 201, 255]], np.uint8)
    colors = [(n, 0, 9) for n in range(num_colors)]
    values = decode_mask(encode_png(mask, colors), source="x").values
    np.testing.assert_array_equal(values, mask)
