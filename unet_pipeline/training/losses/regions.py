"""Losses of regions: how well all pixels of a class, over the whole batch, overlap its truth.

With p_i(c) the softmax and t_i(c) the one-hot truth, over all valid pixels i of all images
together (one small object in one image does not weigh as much as a batch of large ones):

    overlap o_c = sum_i p_i(c) t_i(c)     predicted p_c = sum_i p_i(c)     true t_c = sum_i t_i(c)

A class that does not occur in the batch is left out of the mean over classes. To count it (as 0 or
as 1) would scale the loss with the number of classes absent, as the losses of
segmentation-models-pytorch do: a wholly wrong prediction of one class in three costs 1/3 there.
False positives of an absent class still cost: they take probability from the classes that are
there, background included, and the cross-entropy beside it, `ce + dice`, presses them down.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unet_pipeline.training.losses.averaging import mask_loss, region_loss
from unet_pipeline.training.losses.contract import Pixels, Regions, ratio_over_processes, require

_FLOOR = 1e-7
"""Below it a power or a root counts as 0: its gradient would be infinite."""


@region_loss
def dice(regions: Regions, *, smooth: float = 1.0) -> Tensor:
    """One minus the soft Dice coefficient of the batch, averaged over the classes in its truth.

        loss = 1 - mean_c (2 o_c + s) / (p_c + t_c + s)

    Milletari et al. 2016, "V-Net", with plain sums in the denominator where they have squares (as
    Sudre et al. 2017).

    smooth: s >= 0, in pixels.
    class_weights: of the mean over classes.
    Raises `UserError` for options out of range.
    """
    require(0 <= smooth < math.inf, f"dice: smooth = {smooth}: use 0 or more pixels")
    scores = (2 * regions.overlap + smooth) / _sizes(regions.predicted + regions.true, smooth)
    return 1 - scores


@region_loss
def jaccard(regions: Regions, *, smooth: float = 1.0) -> Tensor:
    """One minus the soft Jaccard index (IoU) of the batch, averaged over the classes in its truth.

        loss = 1 - mean_c (o_c + s) / (p_c + t_c - o_c + s)

    Rahman and Wang 2016. Options as for `dice`.
    """
    require(0 <= smooth < math.inf, f"jaccard: smooth = {smooth}: use 0 or more pixels")
    union = regions.predicted + regions.true - regions.overlap
    scores = (regions.overlap + smooth) / _sizes(union, smooth)
    return 1 - scores


@region_loss
def tversky(
    regions: Regions, *, alpha: float = 0.3, beta: float = 0.7, smooth: float = 1.0
) -> Tensor:
    """Dice with a price of its own for false positives (alpha) and false negatives (beta).

        loss = 1 - mean_c (o_c + s) / (o_c + alpha (p_c - o_c) + beta (t_c - o_c) + s)

    Salehi et al. 2017 ("Tversky loss function for image segmentation using 3D fully convolutional
    deep networks"), who find alpha 0.3 and beta 0.7 best for small lesions: misses cost more.
    alpha = beta = 0.5 is `dice` (with twice the smooth), alpha = beta = 1 is `jaccard`.

    alpha, beta: 0 or more, not both 0. smooth, class_weights: as for `dice`.
    """
    return 1 - _tversky_index(regions, alpha, beta, smooth, label="tversky")


@region_loss
def focal_tversky(
    regions: Regions,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 4 / 3,
    smooth: float = 1.0,
) -> Tensor:
    """Tversky with a power, which moves the weight between good and bad classes.

        loss = mean_c (1 - TI_c)^(1 / gamma),   TI_c as in `tversky`

    Abraham and Khan 2019. The slope in TI is (1 / gamma) (1 - TI)^(1 / gamma - 1): above 1, as
    their 4/3, it grows as a class gets better, so that training does not stall close to the end;
    below 1, badly found classes weigh more; 1 is `tversky`. (They call alpha what others call
    beta: here alpha is the price of false positives, as in `tversky`.)

    gamma: above 0. The other options as for `tversky`.
    """
    require(0 < gamma < math.inf, f"focal_tversky: gamma = {gamma}: use a number above 0")
    losses = 1 - _tversky_index(regions, alpha, beta, smooth, label="focal_tversky")
    return torch.where(losses > _FLOOR, losses.clamp_min(_FLOOR) ** (1 / gamma), 0.0)


@mask_loss
def lovasz(pixels: Pixels) -> Tensor:
    """The Lovász-Softmax loss: a convex surrogate of one minus the IoU (Berman et al. 2018).

    Errors |t_i(c) - p_i(c)| are sorted, and each is weighed by what it would take from the class's
    IoU; averaged over the classes that occur in the batch. No option: there is nothing to smooth.

    Of several processes each sorts the errors that it has: the loss is the mean of theirs over
    those with a valid pixel, not that of the whole batch.

    (That of segmentation-models-pytorch, by the paper's author, raises on float64 and on void.)
    """
    probabilities = pixels.probabilities.movedim(1, -1)[pixels.valid]
    labels = pixels.labels[pixels.valid]
    truths = ((c, labels == c) for c in range(pixels.num_classes))
    losses = [_lovasz_of_class(probabilities[:, c], truth) for c, truth in truths if truth.any()]
    # without a valid pixel still a sum of the logits: every process takes part, with a gradient
    loss = torch.stack(losses).mean() if losses else probabilities.sum()
    return ratio_over_processes(loss, loss.new_tensor(float(bool(losses))))


@mask_loss
def mcc(pixels: Pixels) -> Tensor:
    """One minus Matthews' correlation coefficient of truth and prediction, for K classes.

        loss = 1 - (sum_c o_c / n - sum_c P_c T_c) / sqrt((1 - sum_c P_c^2) (1 - sum_c T_c^2))

    with P_c = p_c / n and T_c = t_c / n shares of the n valid pixels: Gorodkin's R_K (2004) with
    soft counts, for two classes the coefficient of Abhishek and Hamarneh 2021. It counts true
    negatives too, so neither class is privileged. Where the truth of a batch is a single class
    there is nothing to correlate with: the loss is 0 and teaches nothing; add another, `ce + mcc`.

    (That of segmentation-models-pytorch knows two classes and no ignored pixels.)
    """
    regions = pixels.regions
    num_valid = regions.true.sum().clamp_min(1)
    predicted, true = regions.predicted / num_valid, regions.true / num_valid
    covariance = regions.overlap.sum() / num_valid - (predicted * true).sum()
    # sum P (1 - P) is 1 - sum P^2 without its cancellation where one class is nearly all
    spread = (predicted * (1 - predicted)).sum() * (true * (1 - true)).sum()
    correlation = covariance / spread.clamp_min(_FLOOR**2).sqrt()
    defined = (regions.true > 0).sum() > 1
    return torch.where(defined, 1 - correlation, 0.0 * correlation)


def _lovasz_of_class(probabilities: Tensor, truth: Tensor) -> Tensor:
    """The Lovász extension of one minus the IoU at the errors (P,) of one class."""
    errors, order = (truth.to(probabilities.dtype) - probabilities).abs().sort(descending=True)
    hits = truth[order]
    left = hits.sum() - hits.cumsum(0)  # of the intersection, once so many pixels are wrong
    union = hits.sum() + (~hits).cumsum(0)
    losses = 1 - left.to(errors.dtype) / union
    return torch.dot(errors, losses.diff(prepend=losses.new_zeros(1)))


def _sizes(sizes: Tensor, smooth: float) -> Tensor:
    """A denominator: only a class that is nowhere has 0, and its score is not looked at."""
    return torch.where(sizes + smooth > 0, sizes + smooth, 1.0)


def _tversky_index(
    regions: Regions, alpha: float, beta: float, smooth: float, *, label: str
) -> Tensor:
    require(0 <= smooth < math.inf, f"{label}: smooth = {smooth}: use 0 or more pixels")
    require(
        alpha >= 0 and beta >= 0 and 0 < alpha + beta < math.inf,
        f"{label}: alpha = {alpha}, beta = {beta}: use numbers >= 0, not both 0",
    )
    false_positives = regions.predicted - regions.overlap
    false_negatives = regions.true - regions.overlap
    sizes = regions.overlap + alpha * false_positives + beta * false_negatives
    return (regions.overlap + smooth) / _sizes(sizes, smooth)
