"""A model over images of any size: whole where they are small, else window by window, blended.

Windows of one side stand on a grid whose last row and column are shifted inwards, so every window
lies inside the image; a side of the image that is shorter than the window is kept whole. Values of
overlapping windows are averaged with Gaussian weights (standard deviation: an eighth of the
window), which trust the centre of a window more than its border, where context is missing. The
weights are a product of one profile down and one across, each divided beforehand by its sum over
all windows: they are above 0 everywhere and sum to 1 at every pixel.

Results leave band by band, from top to bottom, so memory grows with window x width, not with the
image.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unet_pipeline.errors import DivergedError, UserError
from unet_pipeline.runtime import evaluation_mode, memory_errors

if TYPE_CHECKING:
    from unet_pipeline.models.segmenter import Segmenter

IMAGE_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))

# An image of up to twice the area of a window goes through whole: just above the window's size,
# windows would cost up to 4 forward passes of mostly the same pixels.
_WHOLE_AREA = 2
_MIN_SIDE = 32  # networks pad shorter sides to about this, so they cost as much
_FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))

Compute = Callable[[Tensor], Tensor]

OVERLAP = 0.25
"""The fraction by which neighbouring windows overlap, where nobody says otherwise."""

BATCH_SIZE = 4
"""Windows that cross the network together, where nobody says otherwise."""


def predict_logits(
    segmenter: Segmenter,
    pixels: Tensor,
    *,
    window: int,
    overlap: float = OVERLAP,
    batch_size: int = BATCH_SIZE,
    autocast_dtype: torch.dtype | None = None,
) -> Tensor:
    """Logits (N, K, H, W), float32, on the segmenter's device, of raw pixels (N, C, H, W).

    An image of at most twice the area of a window goes through whole (see `fits_whole`); larger
    ones window by window, `batch_size` windows at a time. Evaluation mode and no gradients.
    window: side of a window in pixels. overlap: fraction of it shared by neighbours, in [0, 1).
    autocast_dtype: the type to compute in, None for float32.
    Raises `UserError` for a window or an overlap that cannot be.
    """
    check_window(window, overlap, least=segmenter.least_window)
    compute = forward(segmenter, autocast_dtype)
    with evaluation_mode(segmenter):
        bands = [
            band.clone()
            for _, band in iterate_bands(
                compute, pixels, window=window, overlap=overlap, batch_size=batch_size
            )
        ]
    return torch.cat(bands, dim=2) if len(bands) > 1 else bands[0]


def predict_image(
    segmenter: Segmenter,
    image: npt.NDArray[Any],
    *,
    window: int,
    overlap: float,
    batch_size: int = BATCH_SIZE,
    autocast_dtype: torch.dtype | None = None,
    probabilities: bool = False,
    tta: bool = False,
    threshold: float | None = None,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16] | None]:
    """Class indices (H, W), uint8, of an image (H, W, C), and probabilities if they are asked for.

    probabilities: also give the softmax as float16 (K, H, W). Without them no map of all classes
        is ever held, only bands of it, however large the image.
    tta: average the softmax over the four flips (none, horizontal, vertical, both).
    threshold: of two classes, choose class 1 where its probability is at least this; otherwise
        the largest logit (with tta: the largest mean probability) decides.
    window, overlap, batch_size, autocast_dtype: see `predict_logits`.

    Raises `UserError` for an array that is no image of this model and for a threshold with more
    than two classes, `DivergedError` where the network's output is not finite, `ResourceError`
    where memory is short.
    """
    num_classes = segmenter.card.classes.num_classes
    check_threshold(threshold, num_classes)
    check_window(window, overlap, least=segmenter.least_window)
    pixels = as_pixels([image])
    height, width = image.shape[:2]
    indices = np.empty((height, width), dtype=np.uint8)
    shares = np.empty((num_classes, height, width), dtype=np.float16) if probabilities else None
    compute = forward(segmenter, autocast_dtype)
    advice = f"an image of {width}x{height} pixels; use a smaller --window or --batch-size"
    with evaluation_mode(segmenter), memory_errors(advice):
        for top, band in iterate_bands(
            _flip_average(compute) if tta else compute,
            pixels,
            window=window,
            overlap=overlap,
            batch_size=batch_size,
        ):
            values = band[0]
            rows = slice(top, top + values.shape[1])
            # Whoever needs no probabilities is spared the softmax
            share = values if tta or (threshold is None and shares is None) else values.softmax(0)
            chosen = values.argmax(0) if threshold is None else share[1] >= threshold
            indices[rows] = chosen.to(torch.uint8).cpu().numpy()
            if shares is not None:
                shares[:, rows] = share.half().cpu().numpy()
    return indices, shares


def fits_whole(height: int, width: int, *, window: int) -> bool:
    """Whether an image goes through the network in one piece: at most twice a window's area."""
    return max(height, _MIN_SIDE) * max(width, _MIN_SIDE) <= _WHOLE_AREA * window * window


def iterate_bands(
    compute: Compute, pixels: Tensor, *, window: int, overlap: float, batch_size: int
) -> Iterator[tuple[int, Tensor]]:
    """Yield (first row, values (N, K, rows, W)) from top to bottom until all H rows are given.

    compute: pixels (M, C, h, w), wherever they are -> values (M, K, h, w), float32.
    A band is only valid until the next one is asked for. Raises `DivergedError` for values that
    are not finite, which would become a mask that looks like one.
    """
    check_window(window, overlap)
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}: it must be at least 1")
    count, _, height, width = pixels.shape
    if fits_whole(height, width, window=window):
        yield 0, _checked(compute(pixels))
        return
    down, across = _axis(height, window, overlap), _axis(width, window, overlap)
    at_once = max(1, batch_size // count)
    sums: Tensor | None = None
    for row, top in enumerate(down.starts):
        crops = pixels[:, :, top : top + down.side]
        # First across, then down: fewer terms are added up than window by window, so rounding
        # stays below 1e-6 even where hundreds of windows overlap
        strip = _blend_across(compute, crops, across, at_once)
        weights = down.weights[row].to(strip.device)[:, None]
        sums = strip.mul_(weights) if sums is None else sums.addcmul_(strip, weights)
        del strip  # as large as a band, and the next one is on its way
        end = down.starts[row + 1] if row + 1 < len(down.starts) else height
        done = end - top
        yield top, _checked(sums[:, :, :done])
        # What the next windows will add to moves up; the rest starts from 0
        kept = sums[:, :, done:].clone()
        sums.zero_()
        sums[:, :, : kept.shape[2]] = kept


def _blend_across(compute: Compute, pixels: Tensor, axis: _Axis, at_once: int) -> Tensor:
    """Values (N, K, h, W) of a row of windows, blended where they overlap from left to right."""
    count, _, height, width = pixels.shape
    strip: Tensor | None = None
    for first in range(0, len(axis.starts), at_once):
        lefts = axis.starts[first : first + at_once]
        values = compute(torch.cat([pixels[..., left : left + axis.side] for left in lefts]))
        if strip is None:
            strip = values.new_zeros(count, values.shape[1], height, width)
        for n, left in enumerate(lefts):
            weights = axis.weights[first + n].to(values.device)
            part = values[n * count : (n + 1) * count]
            strip[..., left : left + axis.side].addcmul_(part, weights)
    assert strip is not None
    return strip


def check_window(window: int, overlap: float, *, least: int = 1) -> None:
    """Raise `UserError` for a window below `least` or an overlap outside [0, 1)."""
    if window < least:
        pixels = "pixel" if least == 1 else "pixels"
        raise UserError(
            f"window {window}: the side of the window must be at least {least} {pixels} for this "
            "model"
        )
    if not 0 <= overlap < 1:
        raise UserError(
            f"overlap {overlap}: use a fraction of the window from 0 up to, but below, 1; 0.25 is "
            "a good one"
        )


def as_pixels(images: list[npt.NDArray[Any]]) -> Tensor:
    """Images (H, W, C) of one shape as raw pixels (N, C, H, W); a single one is not copied.

    Raises `UserError` for arrays that are not (H, W, C) of uint8, uint16 or float32.
    """
    for image in images:
        if image.ndim != 3 or 0 in image.shape:
            raise UserError(f"an array of the shape {image.shape}: an image is (H, W, C)")
        if image.dtype.newbyteorder("=") not in IMAGE_DTYPES:
            raise UserError(f"an image of {image.dtype}: use uint8, uint16 or float32")
    array = np.stack(images) if len(images) > 1 else images[0][None]
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    if not array.flags.writeable:  # torch has no read-only tensors and would complain
        array = array.copy()
    return torch.from_numpy(array).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class _Axis:
    """The windows along one side of the image: where they start, what each pixel weighs."""

    side: int
    starts: list[int]
    weights: Tensor  # (number of windows, side), float32; sums to 1 at every pixel of the image


def _axis(length: int, window: int, overlap: float) -> _Axis:
    side = min(window, length)
    step = max(1, int(side * (1 - overlap)))
    starts = [*range(0, length - side, step), length - side]
    places = np.arange(side) - (side - 1) / 2
    profile = np.exp(-0.5 * (places / (side / 8)) ** 2)
    total = np.zeros(length)
    for start in starts:
        total[start : start + side] += profile
    weights = np.stack([profile / total[start : start + side] for start in starts])
    return _Axis(side, starts, torch.from_numpy(weights.astype(np.float32)))


def forward(segmenter: Segmenter, autocast_dtype: torch.dtype | None) -> Compute:
    """The segmenter as a function of raw pixels, computing where its weights are."""
    device = next(itertools.chain(segmenter.parameters(), segmenter.buffers())).device

    def compute(pixels: Tensor) -> Tensor:
        if pixels.dtype == torch.uint16:  # torch can hardly compute with it
            pixels = pixels.to(torch.int32)
        with torch.autocast(device.type, autocast_dtype, enabled=autocast_dtype is not None):
            logits: Tensor = segmenter(pixels.to(device))
        return logits

    return compute


def _flip_average(compute: Compute) -> Compute:
    """Mean softmax over the four flips of each crop, flipped back."""

    def average(pixels: Tensor) -> Tensor:
        pixels = pixels.to(torch.int32) if pixels.dtype == torch.uint16 else pixels
        total: Tensor | float = 0.0
        for axes in _FLIPS:
            total = total + compute(pixels.flip(axes)).softmax(1).flip(axes)
        assert isinstance(total, Tensor)
        return total / len(_FLIPS)

    return average


def _checked(values: Tensor) -> Tensor:
    smallest, largest = torch.aminmax(values)
    if not (torch.isfinite(smallest) and torch.isfinite(largest)):
        raise DivergedError(
            "the output of the network is not finite (NaN or infinity): the weights are damaged, "
            "training diverged, or the pixel values are far from those of training; try --amp off"
        )
    return values


def check_threshold(threshold: float | None, num_classes: int) -> None:
    if threshold is None:
        return
    if num_classes != 2:
        raise UserError(
            f"--threshold decides between two classes, but the model has {num_classes}: "
            "leave it out, the most probable class is chosen"
        )
    if not 0 <= threshold <= 1:
        raise UserError(f"threshold {threshold}: a probability lies between 0 and 1")
