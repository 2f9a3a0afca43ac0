"""Windows, bands, blending; flips; thresholds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from unet_pipeline.errors import DivergedError, ResourceError, UserError
from unet_pipeline.inference import predict
from unet_pipeline.inference.sliding_window import (
    _axis,
    evaluation_mode,
    fits_whole,
    iterate_bands,
    predict_image,
    predict_logits,
)
from unet_pipeline.models.unet import UNet


def pixelwise(in_channels=3, num_classes=4, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(in_channels, num_classes, 1), nn.Tanh())


def random_pixels(shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    window=st.integers(1, 40),
    overlap=st.floats(0, 0.95),
    batch_size=st.integers(1, 5),
    count=st.integers(1, 2),
)
def test_a_pixelwise_model_gives_the_whole_images_result_through_any_windows(
    make_segmenter_once, height, width, window, overlap, batch_size, count
):
    segmenter = make_segmenter_once
    pixels = random_pixels((count, 3, height, width))
    with torch.no_grad():
        whole = segmenter(pixels)

    logits = predict_logits(
        segmenter, pixels, window=window, overlap=overlap, batch_size=batch_size
    )

    assert logits.shape == (count, 4, height, width)
    assert logits.dtype == torch.float32
    assert (logits - whole).abs().max() <= 1e-6


@pytest.fixture(scope="module")
def make_segmenter_once(request):
    from tests_inference_conftest import build  # type: ignore[import-not-found]

    return build(pixelwise(), num_classes=4, in_channels=3)
