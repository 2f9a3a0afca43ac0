"""Prediction for those who have a model and an array, and want to set nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from unet_pipeline.inference.inputs import fit_image
from unet_pipeline.inference.sliding_window import OVERLAP, predict_image

if TYPE_CHECKING:
    from unet_pipeline.models.segmenter import Segmenter


def predict(
    model: Segmenter,
    image: npt.NDArray[Any],
    *,
    window: int | None = None,
    overlap: float = OVERLAP,
    tta: bool = False,
    threshold: float | None = None,
) -> npt.NDArray[np.uint8]:
    """Class indices (H, W), uint8, of an image (H, W) or (H, W, C) of the model's pixel type.

    model: from `load_model`. `model.card.classes.to_values(indices)` gives the values of the
    training masks, `.to_colors(indices)` a picture.
    window: side of the sliding window on large images, the model's own where not given. overlap,
    tta, threshold: see `predict_image`, which also gives probabilities.

    Grey and RGB are converted into each other. Raises `DatasetError` for other channels and for
    pixels of another type than those of training.
    """
    image = image[..., None] if image.ndim == 2 else image
    indices, _ = predict_image(
        model,
        fit_image(image, model.card, source="the image"),
        window=model.card.window if window is None else window,
        overlap=overlap,
        tta=tta,
        threshold=threshold,
    )
    return indices
