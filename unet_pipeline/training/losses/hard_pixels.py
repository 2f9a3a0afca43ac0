"""Cross-entropies that do not weigh all pixels alike: the hard ones, or those between objects."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import scipy.ndimage
import torch
from torch import Tensor

from unet_pipeline.training.losses.averaging import mask_loss, pixel_loss
from unet_pipeline.training.losses.class_weights import ClassWeights, weights_as_tensor
from unet_pipeline.training.losses.contract import Pixels, ratio_over_processes, require

_REACH = 6.0
"""In sigmas: from there on exp(-reach^2 / 2) is below 2e-8, less than float32 adds to 1."""


@pixel_loss
def focal(pixels: Pixels, *, gamma: float = 2.0) -> Tensor:
    """Cross-entropy that fades where a pixel is easy (Lin et al. 2017, equations 4 and 5).

        l_i = -(1 - p_i(y_i))^gamma log p_i(y_i)

    averaged as `ce` averages, with `class_weights` in the place of the paper's alpha. gamma = 0 is
    `ce`. The paper has a sigmoid for each class; here p is the softmax, as everywhere.

    gamma: how fast easy pixels fade, 0 or more.
    """
    require(0 <= gamma < math.inf, f"focal: gamma = {gamma}: use 0 or more")
    values = -pixels.true_log_probabilities
    # 1 - p without cancellation; the floor keeps the power's gradient finite for gamma below 1
    doubt = -torch.expm1(-values).clamp_max(-1e-12)
    return doubt**gamma * values


@mask_loss
def topk(pixels: Pixels, *, fraction: float = 0.25) -> Tensor:
    """Mean cross-entropy of the hardest pixels: the worst `fraction` of the batch's valid ones.

        loss = 1/k sum of the k largest -log p_i(y_i),   k = fraction * number of valid pixels

    Where k is no whole number, the last pixel counts by its rest, so that the loss of a batch
    repeated is the loss of the batch (Wu et al. 2016, "Bridging Category-level and Instance-level
    Semantic Image Segmentation"; the conditional value at risk of statistics).

    Of several processes each sorts the pixels that it has: the mean is over what all have chosen,
    which is exact for a fraction of 1 alone.

    fraction: above 0, up to 1, which is `ce`.
    """
    require(0 < fraction <= 1, f"topk: fraction = {fraction}: use a share above 0, up to 1")
    # ignored pixels have 0 here, the least there is, and so come last
    values = (-pixels.true_log_probabilities * pixels.valid).flatten().sort(descending=True).values
    count = fraction * pixels.valid.sum().to(values.dtype)
    ranks = torch.arange(len(values), device=values.device, dtype=values.dtype)
    shares = (count - ranks).clamp(0, 1)
    return ratio_over_processes((values * shares).sum(), count)


@mask_loss
def ohem(pixels: Pixels, *, threshold: float = 0.7, min_fraction: float = 0.0625) -> Tensor:
    """Mean cross-entropy of the pixels that are not yet sure: online hard example mining.

    Those whose true class has a probability of at most `threshold`; if they are fewer than
    `min_fraction` of the valid pixels, the hardest so many (Shrivastava et al. 2016, in the form
    that segmentation uses).

    Of several processes each sorts the pixels that it has: the mean is over what all have chosen,
    which is exact where `threshold` chooses, and not where `min_fraction` does.

    threshold: between 0 and 1. min_fraction: above 0, up to 1; 1/16 is common.
    """
    require(0 < threshold < 1, f"ohem: threshold = {threshold}: use a probability between 0 and 1")
    require(
        0 < min_fraction <= 1,
        f"ohem: min_fraction = {min_fraction}: use a share above 0, up to 1",
    )
    values = -pixels.true_log_probabilities * pixels.valid
    ordered = values.detach().flatten().sort(descending=True).values
    # 0.3 * 50 is 15.000001 in float32, which is not to count as 16
    least = ((1 - 1e-6) * min_fraction * pixels.valid.sum()).ceil().long().clamp_min(1)
    # taken, not indexed: an index is read on the host, which would wait for the device
    bound = ordered.take(least - 1).clamp_max(-math.log(threshold))
    return pixels.mean(values, (values.detach() >= bound).to(values.dtype))


@mask_loss
def border_ce(
    pixels: Pixels,
    *,
    w0: float = 10.0,
    sigma: float = 5.0,
    class_weights: ClassWeights = None,
) -> Tensor:
    """Cross-entropy with the U-Net paper's weight map: narrow gaps between objects weigh most.

        w(i) = w(y_i) + w0 exp(-(d1(i) + d2(i))^2 / (2 sigma^2))

    for background pixels, with d1 and d2 the distances in pixels to the nearest and the second
    nearest object; inside objects, and where there is no second one, w(i) = w(y_i). The map is
    that of Ronneberger et al. 2015, equation 2, w0 = 10 and sigma = 5 are theirs. Ours are the
    limit to background, and the mean: the loss is sum_i w(i) (-log p_i(y_i)) / sum_i w(i), where
    their equation 1 has the sum alone. See `border_weights` for what an object is.

    The distances are computed on the CPU from the target of each batch, crops and all.
    """
    require(0 <= w0 < math.inf, f"border_ce: w0 = {w0}: use 0 or more")
    require(0 < sigma < math.inf, f"border_ce: sigma = {sigma}: use a distance above 0, in pixels")
    # ignored pixels are neither background nor object
    labels = torch.where(pixels.valid, pixels.labels, -1).cpu().numpy()
    gaps = np.stack([border_weights(mask, w0=w0, sigma=sigma) for mask in labels])
    weights = torch.from_numpy(gaps).to(pixels.given)
    of_classes = weights_as_tensor(class_weights, pixels.given, label="border_ce")
    weights = weights + (1.0 if of_classes is None else of_classes[pixels.labels])
    return pixels.mean(-pixels.true_log_probabilities, weights)


def border_weights(
    mask: npt.NDArray[np.int64], *, w0: float, sigma: float
) -> npt.NDArray[np.float64]:
    """The second term of the weight map (H, W): w0 exp(-(d1 + d2)^2 / (2 sigma^2)) in gaps.

    mask: (H, W) class indices; what is negative is ignored. An object is a connected piece
    (corners connect) of one class above 0: two cells that touch are one, as a mask of classes
    cannot tell them apart. Exact to float32: an object further away than 6 sigma adds nothing.
    """
    nearest = np.full((2, *mask.shape), np.inf)
    pad = math.ceil(_REACH * sigma)
    for index in np.unique(mask[mask > 0]):
        pieces, _ = scipy.ndimage.label(mask == index, structure=np.ones((3, 3)))
        for number, (rows, cols) in enumerate(scipy.ndimage.find_objects(pieces), start=1):
            near = (
                slice(max(0, rows.start - pad), rows.stop + pad),
                slice(max(0, cols.start - pad), cols.stop + pad),
            )
            distance = scipy.ndimage.distance_transform_edt(pieces[near] != number)
            first, second = nearest[(0, *near)], nearest[(1, *near)]
            np.minimum(second, np.maximum(first, distance), out=second)
            np.minimum(first, distance, out=first)
    weights = w0 * np.exp(-(nearest.sum(axis=0) ** 2) / (2 * sigma**2))
    gaps: npt.NDArray[np.float64] = np.where(mask == 0, weights, 0.0)
    return gaps
