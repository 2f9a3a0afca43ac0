"""Trained models on the samples of a split: how fast they predict, and their masks in a picture."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy.typing as npt

from unet_pipeline.config import TrainConfig, WindowSettings
from unet_pipeline.datasets.loaders import read_sample
from unet_pipeline.datasets.manifest import DatasetFacts, Sample
from unet_pipeline.evaluation import gallery
from unet_pipeline.inference import OVERLAP, predict_image
from unet_pipeline.models import RULES, Segmenter
from unet_pipeline.runtime import choose_device, choose_precision, place
from unet_pipeline.stages.assembly import given_or

NUM_PICTURES = 4
_TIMED_PIXELS = 4e6  # of prediction, or
_TIMED_SECONDS = 2.0

Predictor = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
"""image (H, W, C) -> class indices (H, W)."""


def windows_of(config: TrainConfig, network: str) -> WindowSettings:
    """The windows that a network predicts in; a rule sees images whole, whatever they are."""
    return WindowSettings() if network in RULES else config.inference


def make_predictor(segmenter: Segmenter, config: TrainConfig) -> Predictor:
    """The model as a function of an image, as `evaluate` predicts with the same settings."""
    device = choose_device(config.runtime.device)
    segmenter = place(segmenter, device)
    windows = windows_of(config, segmenter.card.network)

    def predict(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        indices, _ = predict_image(
            segmenter,
            image,
            window=given_or(windows.window, segmenter.card.window),
            overlap=given_or(windows.overlap, OVERLAP),
            autocast_dtype=choose_precision(config.runtime.amp, device),
        )
        return indices

    return predict


def prediction_speed(predict: Predictor, samples: Sequence[Sample], facts: DatasetFacts) -> float:
    """Megapixels a second, decoding left out, over 4 megapixels or 2 s; the first image warms up.

    Image after image, each of its own size, as a folder of files would come.
    """
    images: list[npt.NDArray[Any]] = []
    for sample in samples:
        images.append(_read(sample, facts)[0])
        if sum(image.shape[0] * image.shape[1] for image in images) > _TIMED_PIXELS:
            break
    predict(images[0])
    num_pixels, seconds, began = 0, 0.0, time.perf_counter()
    for image in itertools.cycle(images):
        predict(image)
        num_pixels += image.shape[0] * image.shape[1]
        seconds = time.perf_counter() - began
        if num_pixels > _TIMED_PIXELS or seconds > _TIMED_SECONDS:
            break
    return num_pixels / 1e6 / seconds


def masks_side_by_side(
    predictors: Mapping[str, Predictor], samples: Sequence[Sample], facts: DatasetFacts
) -> Any:
    """A picture (H, W, 3), uint8: a few images, spread over the samples, truth, and each mask."""
    count = min(NUM_PICTURES, len(samples))
    rows = []
    for number in range(count):
        sample = samples[round(number * (len(samples) - 1) / max(1, count - 1))]
        image, mask = _read(sample, facts)
        masks = {name: predict(image) for name, predict in predictors.items()}
        rows.append((sample.sample_id, image, {"truth": mask} | masks))
    return gallery(rows, facts.classes)


def _read(sample: Sample, facts: DatasetFacts) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    decoded = read_sample(sample, classes=facts.classes, in_channels=facts.in_channels)
    return decoded.image, decoded.mask
