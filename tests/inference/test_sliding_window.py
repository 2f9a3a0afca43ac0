"""Windows, bands, blending; flips; thresholds."""

from __future__ import annotations

import contextlib
import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from unet_pipeline.errors import DatasetError, DivergedError, ResourceError, UserError
from unet_pipeline.inference import predict
from unet_pipeline.inference.sliding_window import (
    _axis,
    fits_whole,
    iterate_bands,
    predict_image,
    predict_logits,
)
from unet_pipeline.models.unet import UNet
from unet_pipeline.runtime import evaluation_mode


def pixelwise(in_channels=3, num_classes=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(in_channels, num_classes, 1), nn.Tanh())


def random_image(height, width, channels=1, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels)).astype(dtype)


def random_pixels(*shape):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    window=st.integers(1, 40),
    overlap=st.floats(0, 0.95),
    batch_size=st.integers(1, 5),
    count=st.integers(1, 2),
)
def test_a_pixelwise_model_gives_the_whole_images_result_through_any_windows(
    make_segmenter, height, width, window, overlap, batch_size, count
):
    segmenter = make_segmenter(pixelwise(), num_classes=4, in_channels=3)
    pixels = random_pixels(count, 3, height, width)
    with torch.no_grad():
        whole = segmenter(pixels)

    logits = predict_logits(
        segmenter, pixels, window=window, overlap=overlap, batch_size=batch_size
    )

    assert logits.shape == (count, 4, height, width)
    assert logits.dtype == torch.float32
    assert (logits - whole).abs().max() <= 1e-6


@settings(max_examples=30, deadline=None)
@given(length=st.integers(1, 3000), window=st.integers(1, 600), overlap=st.floats(0, 0.9))
def test_windows_cover_every_pixel_inside_the_image_with_weights_that_sum_to_one(
    length, window, overlap
):
    axis = _axis(length, window, overlap)
    assert axis.side == min(length, window)
    assert axis.starts == sorted(set(axis.starts))
    assert axis.starts[0] == 0
    assert axis.starts[-1] + axis.side == length
    steps = np.diff(axis.starts)
    assert (steps <= max(1, math.ceil(axis.side * (1 - overlap)))).all()
    assert (axis.weights > 0).all()
    total = np.zeros(length)
    for start, weights in zip(axis.starts, axis.weights, strict=True):
        total[start : start + axis.side] += weights.numpy()
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_a_constant_image_gives_a_constant_answer_through_windows(make_segmenter):
    segmenter = make_segmenter(pixelwise(1, 3), num_classes=3)
    pixels = torch.full((1, 1, 90, 117), 77, dtype=torch.uint8)
    logits = predict_logits(segmenter, pixels, window=32, overlap=0.3)
    assert (logits - logits[:, :, :1, :1]).abs().max() <= 1e-6


def test_blending_leaves_no_seam_where_windows_disagree(make_segmenter):
    class Ramp(nn.Module):
        """Its answer depends on the place in the window, as that of a network without context."""

        def forward(self, x):
            ramp = torch.linspace(-1, 1, x.shape[3]).expand(x.shape[0], 1, *x.shape[2:])
            return torch.cat([ramp, -ramp], dim=1)

    pixels = torch.zeros((1, 1, 32, 400), dtype=torch.uint8)
    logits = predict_logits(make_segmenter(Ramp()), pixels, window=64, overlap=0.5)
    within, jumps = 2 / 63, logits[0, 0, 0].diff().abs().max().item()
    assert jumps < 4 * within  # butted windows would jump by 2


def test_the_size_of_batches_of_windows_changes_nothing(make_segmenter):
    segmenter = make_segmenter(pixelwise(), num_classes=4, in_channels=3)
    pixels = random_pixels(2, 3, 100, 77)
    results = [
        predict_logits(segmenter, pixels, window=24, overlap=0.4, batch_size=batch_size)
        for batch_size in (1, 3, 50)
    ]
    for result in results[1:]:
        assert (result - results[0]).abs().max() <= 1e-6


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (3, 1700)])
def test_a_huge_aspect_ratio_is_no_obstacle(make_segmenter, shape):
    segmenter = make_segmenter(pixelwise(1, 3), num_classes=3)
    image = random_image(*shape)
    indices, probabilities = predict_image(
        segmenter, image, window=64, overlap=0.25, probabilities=True
    )
    with torch.no_grad():
        whole = segmenter(torch.from_numpy(image).permute(2, 0, 1)[None])[0]
    np.testing.assert_array_equal(indices, whole.argmax(0).numpy())
    np.testing.assert_allclose(probabilities, whole.softmax(0).numpy(), atol=1e-3)


def test_an_image_of_twice_a_windows_area_goes_through_whole_a_larger_one_does_not(make_segmenter):
    sizes = []

    class Spy(nn.Module):
        def forward(self, x):
            sizes.append(tuple(x.shape))
            return torch.zeros(x.shape[0], 2, *x.shape[2:])

    segmenter = make_segmenter(Spy())
    for height, width in ((64, 128), (65, 128)):
        predict_logits(segmenter, random_pixels(1, 1, height, width), window=64, batch_size=2)
    assert fits_whole(64, 128, window=64)
    assert not fits_whole(65, 128, window=64)
    assert sizes[0] == (1, 1, 64, 128)
    assert sizes[1:] == [(2, 1, 64, 64), (1, 1, 64, 64)] * 2
    assert not fits_whole(1, 600, window=64)  # it would be padded to 32 x 608


def test_windows_of_a_real_network_agree_with_the_whole_image_away_from_borders(make_segmenter):
    torch.manual_seed(0)
    network = UNet(in_channels=1, num_classes=2, base_channels=4, depth=1).eval()
    segmenter = make_segmenter(network)
    image = random_image(120, 120)
    whole, _ = predict_image(segmenter, image, window=200, overlap=0.5)
    tiled, _ = predict_image(segmenter, image, window=48, overlap=0.5)
    assert (whole == tiled).mean() > 0.97


def test_predict_image_decides_as_the_logits_do(make_segmenter):
    segmenter = make_segmenter(pixelwise(), num_classes=4, in_channels=3)
    image = random_image(81, 60, 3)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    logits = predict_logits(segmenter, pixels, window=32, overlap=0.25)[0]

    indices, none = predict_image(segmenter, image, window=32, overlap=0.25)
    again, probabilities = predict_image(
        segmenter, image, window=32, overlap=0.25, probabilities=True
    )

    assert indices.dtype == np.uint8
    assert none is None
    np.testing.assert_array_equal(indices, logits.argmax(0).numpy())
    np.testing.assert_array_equal(indices, again)
    assert probabilities.dtype == np.float16
    np.testing.assert_allclose(probabilities, logits.softmax(0).numpy(), atol=1e-3)
    np.testing.assert_allclose(probabilities.astype(float).sum(axis=0), 1, atol=2e-3)


@pytest.mark.parametrize(
    ("dtype", "bright"), [("uint8", 200), ("uint16", 60_000), ("float32", 0.9)]
)
@pytest.mark.parametrize("tta", [False, True])
def test_every_pixel_type_is_taken_as_its_files_hold_it(make_segmenter, dtype, bright, tta):
    image = np.zeros((50, 70, 1), dtype=dtype)
    image[10:20, 30:60] = bright
    indices, _ = predict_image(make_segmenter(dtype=dtype), image, window=32, overlap=0.25, tta=tta)
    np.testing.assert_array_equal(indices, image[..., 0] > 0)


@pytest.mark.parametrize("change", ["read-only", "flipped", "big-endian"])
def test_arrays_that_torch_does_not_like_are_taken_too(make_segmenter, change):
    image = random_image(20, 30, dtype=np.uint16) * 256
    expected, _ = predict_image(make_segmenter(dtype="uint16"), image, window=32, overlap=0)
    if change == "read-only":
        image.flags.writeable = False
    elif change == "flipped":
        image = image[:, ::-1].copy()[:, ::-1]
    else:
        image = image.astype(">u2")
    indices, _ = predict_image(make_segmenter(dtype="uint16"), image, window=32, overlap=0)
    np.testing.assert_array_equal(indices, expected)


def test_tta_is_the_mean_softmax_over_the_four_flips(make_segmenter):
    torch.manual_seed(0)
    segmenter = make_segmenter(nn.Conv2d(1, 2, 3, padding=1))
    image = random_image(20, 30)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    with torch.no_grad():
        flips = [
            segmenter(pixels.flip(axes)).softmax(1).flip(axes)[0]
            for axes in ((2,), (3,), (2, 3), ())
        ]
    _, probabilities = predict_image(
        segmenter, image, window=32, overlap=0.25, tta=True, probabilities=True
    )
    mean = torch.stack(flips).mean(0)
    assert (flips[0] - mean).abs().max() > 0.01
    np.testing.assert_allclose(probabilities, mean.numpy(), atol=1e-3)


@pytest.mark.parametrize("size", [(20, 30), (90, 100)])
def test_tta_of_a_mirrored_image_is_the_mirrored_answer(make_segmenter, size):
    torch.manual_seed(0)
    segmenter = make_segmenter(nn.Conv2d(1, 2, 3, padding=1))
    image = random_image(*size)
    options = {"window": 200, "overlap": 0.25, "tta": True, "probabilities": True}
    _, straight = predict_image(segmenter, image, **options)
    _, mirrored = predict_image(segmenter, image[:, ::-1].copy(), **options)
    np.testing.assert_allclose(mirrored[..., ::-1], straight, atol=1e-3)


def test_a_threshold_decides_by_the_probability_of_class_1(make_segmenter):
    class Given(nn.Module):
        def forward(self, x):
            share = x[:, :1]
            return torch.cat([(1 - share).log(), share.log()], dim=1)

    image = np.array([[[0.1], [0.29], [0.31], [0.5], [0.9]]], dtype=np.float32)
    segmenter = make_segmenter(Given(), dtype="float32")
    for threshold, expected in ((0.3, [0, 0, 1, 1, 1]), (0.8, [0, 0, 0, 0, 1])):
        indices, _ = predict_image(segmenter, image, window=32, overlap=0.25, threshold=threshold)
        assert indices[0].tolist() == expected


def test_bands_give_every_row_once_and_hold_no_more_than_a_row_of_windows():
    pixels = random_pixels(1, 1, 203, 50)
    rows = []
    for top, band in iterate_bands(
        lambda x: x.float(), pixels, window=30, overlap=0.25, batch_size=3
    ):
        rows.append((top, band.shape[2]))
        assert band.untyped_storage().nbytes() <= 4 * 30 * 50
    assert [top for top, _ in rows] == list(np.cumsum([0] + [n for _, n in rows])[:-1])
    assert sum(n for _, n in rows) == 203
    assert max(n for _, n in rows) <= 30


def test_no_map_of_all_classes_is_held_when_only_the_mask_is_asked_for(make_segmenter):
    segmenter = make_segmenter(num_classes=6)
    image = np.zeros((1000, 200, 1), dtype=np.uint8)
    tracemalloc.start()  # sees the arrays of NumPy; the bands are those of the test above
    predict_image(segmenter, image, window=64, overlap=0.25)
    _, mask_alone = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    predict_image(segmenter, image, window=64, overlap=0.25, probabilities=True)
    _, with_probabilities = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert mask_alone < 1000 * 200 + 300_000
    assert with_probabilities > 6 * 1000 * 200 * 2


def test_the_modes_of_all_parts_come_back_and_no_gradient_is_kept(make_segmenter):
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Dropout())
    segmenter = make_segmenter(network).train()
    network[1].eval()  # frozen by the user
    before = {k: v.clone() for k, v in segmenter.state_dict().items()}

    logits = predict_logits(segmenter, random_pixels(1, 1, 9, 9), window=32)

    assert not logits.requires_grad
    assert [part.training for part in network] == [True, False, True]
    for name, value in segmenter.state_dict().items():
        assert torch.equal(value, before[name])
    with contextlib.suppress(ZeroDivisionError), evaluation_mode(segmenter):
        assert not network[0].training
        raise ZeroDivisionError
    assert network[0].training
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("size", [(9, 9), (100, 100)])
def test_an_answer_that_is_not_finite_is_no_mask(make_segmenter, size):
    segmenter = make_segmenter(nn.Conv2d(1, 2, 1))
    segmenter.network.bias.data[1] = math.nan
    with pytest.raises(DivergedError, match="not finite"):
        predict_image(segmenter, random_image(*size), window=32, overlap=0.25)


def test_a_lack_of_memory_names_the_option_that_helps(make_segmenter):
    class Greedy(nn.Module):
        def forward(self, x):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ResourceError, match="12x9 pixels; use a smaller --window"):
        predict_image(make_segmenter(Greedy()), random_image(9, 12), window=32, overlap=0.25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window 0"),
        ({"overlap": 1.0}, "overlap 1.0"),
        ({"overlap": -0.1}, "overlap -0.1"),
        ({"overlap": math.nan}, "overlap nan"),
        ({"batch_size": 0}, "batch size 0"),
        ({"threshold": 1.5}, "threshold 1.5"),
    ],
)
def test_options_that_cannot_be_are_refused(make_segmenter, options, message):
    options = {"window": 32, "overlap": 0.25} | options
    with pytest.raises(UserError, match=message):
        predict_image(make_segmenter(), random_image(99, 99), **options)


def test_a_threshold_for_three_classes_is_refused(make_segmenter):
    segmenter = make_segmenter(num_classes=3)
    with pytest.raises(UserError, match="two classes, but the model has 3"):
        predict_image(segmenter, random_image(9, 9), window=32, overlap=0.25, threshold=0.5)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), dtype=np.uint8), r"shape \(4, 4\)"),
        (np.zeros((0, 4, 1), dtype=np.uint8), r"shape \(0, 4, 1\)"),
        (np.zeros((4, 4, 1), dtype=np.int64), "int64"),
        (np.zeros((4, 4, 2), dtype=np.uint8), "takes"),
    ],
)
def test_arrays_that_are_no_image_of_the_model_are_refused(make_segmenter, image, message):
    with pytest.raises(UserError, match=message):
        predict_image(make_segmenter(), image, window=32, overlap=0.25)


def test_predict_takes_an_array_and_nothing_else(make_segmenter):
    segmenter = make_segmenter(window=16)
    image = np.zeros((60, 70), dtype=np.uint8)
    image[:30] = 220

    np.testing.assert_array_equal(predict(segmenter, image), image > 0)
    rgb = np.repeat(image[..., None], 3, axis=2)
    np.testing.assert_array_equal(predict(segmenter, rgb), image > 0)
    assert segmenter.card.classes.to_values(predict(segmenter, image)).max() == 255
    with pytest.raises(DatasetError, match="float64 pixels, but the model was trained on uint8"):
        predict(segmenter, image / 255)
    with pytest.raises(DatasetError, match=r"\(H, W, C\)"):
        predict(segmenter, image[0])
