"""Losses of single pixels, averaged over the valid ones: those of the learning notes.

Each is sum_i w(y_i) l_i / sum_i w(y_i) over the valid pixels i with true class y_i, where w are the
`class_weights` (all 1 where none are given). What follows says what l_i is, with x_i the logits
(K,), p_i = softmax(x_i), and t_i the one-hot truth. `criteria` has the same losses as torch has
them, for any prediction.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from unet_pipeline.training.losses.averaging import pixel_loss
from unet_pipeline.training.losses.contract import Pixels, require

_EPS = 1e-8  # named, so that poisson_nll can tell that it was set where it plays no part


@pixel_loss
def ce(pixels: Pixels, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of the softmax, averaged over the valid pixels: the first one to try.

        l_i = -sum_c q_i(c) log p_i(c),   q_i = (1 - e) t_i + e / K

    without smoothing -log p_i(y_i); equal logits give log K. A pixel weighs what its true class
    does, smoothed or not, so that a class of weight 0 takes no part. (torch weighs each term of a
    smoothed sum by its own class, but still divides by the weights of the true ones: where these
    are small, the mean has no bound.)

    label_smoothing: e, from 0 up to, not including, 1 (Szegedy et al. 2016, "Rethinking the
    Inception Architecture").
    """
    require(0 <= label_smoothing < 1, f"ce: label_smoothing = {label_smoothing}: use 0 up to 1")
    if label_smoothing == 0:
        return -pixels.true_log_probabilities
    means = pixels.log_probabilities.mean(1)
    return -torch.lerp(pixels.true_log_probabilities, means, label_smoothing)


@pixel_loss
def bce(pixels: Pixels) -> Tensor:
    """Binary cross-entropy of each class against the rest, averaged over classes and pixels.

        l_i = 1/K sum_c -(t_i(c) log s(x_i(c)) + (1 - t_i(c)) log(1 - s(x_i(c)))),   s = sigmoid

    Equal logits of 0 give log 2. Classes do not compete as in a softmax; the largest logit wins
    at prediction all the same.
    """
    values = F.binary_cross_entropy_with_logits(pixels.logits(), pixels.one_hot(), reduction="none")
    return values.mean(1)


@pixel_loss
def soft_margin(pixels: Pixels) -> Tensor:
    """Logistic loss of each class against the rest: the value of `bce`, by way of signs.

        l_i = 1/K sum_c log(1 + exp(-z_i(c) x_i(c))),   z_i(c) = 1 for the true class, else -1

    -log s(x) = log(1 + exp(-x)), so this is `bce` written down by another school.
    """
    # torch's own soft_margin_loss overflows: exp(-z x) is infinite from 89 on
    values = F.softplus((1 - 2 * pixels.one_hot()) * pixels.logits())
    return values.mean(1)


@pixel_loss
def l1(pixels: Pixels) -> Tensor:
    """Absolute distance of the probabilities to the one-hot truth, summed over classes.

        l_i = sum_c |p_i(c) - t_i(c)| = 2 (1 - p_i(y_i))

    Twice the expected error rate, between 0 and 2: robust to wrong labels, and slow to learn,
    since its gradient vanishes where a prediction is firmly wrong (Ghosh et al. 2017).
    """
    return -2 * torch.expm1(pixels.true_log_probabilities)  # 1 - p without cancellation


@pixel_loss
def mse(pixels: Pixels) -> Tensor:
    """Squared distance of the probabilities to the one-hot truth: the Brier score (Brier 1950).

        l_i = sum_c (p_i(c) - t_i(c))^2

    Between 0 and 2, summed over classes as Brier has it. A proper score: it is least where the
    probabilities are true.
    """
    values = F.mse_loss(pixels.probabilities, pixels.one_hot(), reduction="none")
    return values.sum(1)


@pixel_loss
def smooth_l1(pixels: Pixels, *, beta: float = 0.5) -> Tensor:
    """Squared near the truth and absolute far from it, summed over classes (Girshick 2015).

        l_i = sum_c d^2 / (2 beta) if d < beta else d - beta / 2,   d = |p_i(c) - t_i(c)|

    beta: where the two meet, above 0. Differences of probabilities end at 1, so that from 1 on
    nothing but a scaled squared distance is left; torch's own default is 1.
    """
    require(0 < beta < math.inf, f"smooth_l1: beta = {beta}: use a number above 0")
    values = F.smooth_l1_loss(pixels.probabilities, pixels.one_hot(), beta=beta, reduction="none")
    return values.sum(1)


@pixel_loss
def kl_div(pixels: Pixels, *, label_smoothing: float = 0.0) -> Tensor:
    """Kullback-Leibler divergence of the probabilities from the truth.

        l_i = sum_c q_i(c) (log q_i(c) - log p_i(c)),   q_i = (1 - e) t_i + e / K

    The cross-entropy less the entropy of the truth: without smoothing the two are equal; with it,
    the least value of this one is 0.

    label_smoothing: e, from 0 up to, not including, 1.
    """
    require(0 <= label_smoothing < 1, f"kl_div: label_smoothing = {label_smoothing}: use 0 up to 1")
    truth = (1 - label_smoothing) * pixels.one_hot() + label_smoothing / pixels.num_classes
    values = F.kl_div(pixels.log_probabilities, truth, reduction="none")
    return values.sum(1)


@pixel_loss
def poisson_nll(pixels: Pixels, *, log_input: bool = True, eps: float = _EPS) -> Tensor:
    """Poisson negative log-likelihood of the one-hot truth as counts, its constant left out.

        l_i = sum_c r_i(c) - t_i(c) log r_i(c),   rates r_i = exp(x_i)

    Least, 1, where the rates are the truth. At the best common factor of the rates it is the
    cross-entropy plus 1 (Baker 1994, the multinomial-Poisson transformation).

    log_input: logits are log-rates, which must stay below 88 (exp overflows float32); off, the
    rates are the probabilities, r_i = p_i, and the logarithm is that of r + eps.
    eps: above 0; only without log_input.
    """
    require(0 < eps < math.inf, f"poisson_nll: eps = {eps}: use a small number above 0")
    require(
        not log_input or eps == _EPS,
        f"poisson_nll: eps = {eps}: it has no effect with log_input; leave it out",
    )
    values = F.poisson_nll_loss(
        pixels.logits() if log_input else pixels.probabilities,
        pixels.one_hot(),
        log_input=log_input,
        eps=eps,
        reduction="none",
    )
    return values.sum(1)


@pixel_loss
def multi_margin(pixels: Pixels, *, p: Literal[1, 2] = 1, margin: float = 1.0) -> Tensor:
    """Hinge loss: every other logit should stay a margin below that of the true class.

        l_i = 1/K sum_{c != y_i} max(0, margin - x_i(y_i) + x_i(c))^p

    Pixels that keep the margin teach nothing (Weston and Watkins 1999).
    """
    require(0 < margin < math.inf, f"multi_margin: margin = {margin}: use a number above 0")
    return F.multi_margin_loss(
        pixels.logits().movedim(1, -1).flatten(0, -2),
        pixels.labels.flatten(),
        p=p,
        margin=margin,
        reduction="none",
    ).view_as(pixels.labels)


@pixel_loss
def multilabel_margin(pixels: Pixels) -> Tensor:
    """Hinge loss between the classes that are true and those that are not.

        l_i = 1/K sum_{c in Y_i} sum_{d not in Y_i} max(0, 1 - (x_i(c) - x_i(d)))

    A pixel of a mask has one true class, Y_i = {y_i}, so this is `multi_margin` with p = 1 and
    margin = 1.
    """
    rows = pixels.logits().movedim(1, -1).flatten(0, -2)
    true_classes = torch.full(rows.shape, -1, dtype=torch.int64, device=rows.device)
    true_classes[:, 0] = pixels.labels.flatten()  # a list of classes, ended by -1
    return F.multilabel_margin_loss(rows, true_classes, reduction="none").view_as(pixels.labels)
