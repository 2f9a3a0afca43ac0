"""Values of losses: by hand, at the best and the worst, by formula, by other libraries."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import sklearn.metrics
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from segmentation_models_pytorch.losses._functional import softmax_focal_loss_with_logits
from torch import Tensor, nn

from tests.training.loss_cases import (
    ALL,
    OTHER_VALUES,
    VARIANTS,
    Array,
    Options,
    case,
    options_of,
    value_and_gradient,
)
from unet_pipeline.training.losses import (
    LOSSES,
    NEED_MAPS,
    ce,
)
from unet_pipeline.training.losses.hard_pixels import border_weights

# ---- values worked out by hand
#
# Four pixels in a row and an ignored one, two classes. The logits are (0, x), so that both the
# softmax and the sigmoid of x is the probability of class 1.

X = [math.log(3), math.log(3), 0.0, -math.log(3)]
P1 = [3 / 4, 3 / 4, 1 / 2, 1 / 4]
TRUTH = [1, 0, 0, 1]
LOG2, LOG3, LOG4 = math.log(2), math.log(3), math.log(4)
CE = [LOG4 - LOG3, LOG4, LOG2, LOG4]  # -log of 3/4, 1/4, 1/2, 1/4
BCE = [(LOG2 + LOG4 - LOG3) / 2, (LOG2 + LOG4) / 2, LOG2, (LOG2 + LOG4) / 2]  # of s(0), s(x)
# overlap, predicted, true: class 0 has 1/4 + 1/2 of 1/4 + 1/4 + 1/2 + 3/4, class 1 3/4 + 1/4 of 9/4
O0, P0, T0, O1, P1_SUM, T1 = 3 / 4, 7 / 4, 2, 1, 9 / 4, 2
TVERSKY = [
    1 - (O0 + 1) / (O0 + 0.3 * (P0 - O0) + 0.7 * (T0 - O0) + 1),
    1 - (O1 + 1) / (O1 + 0.3 * (P1_SUM - O1) + 0.7 * (T1 - O1) + 1),
]
GAP = 1 + 10 * math.exp(-(3**2) / (2 * 5**2))  # of pixels 1 and 2: one and two from an object

HAND = {
    "ce": sum(CE) / 4,
    "dice": 1 - ((2 * O0 + 1) / (P0 + T0 + 1) + (2 * O1 + 1) / (P1_SUM + T1 + 1)) / 2,
    "jaccard": 1 - ((O0 + 1) / (P0 + T0 - O0 + 1) + (O1 + 1) / (P1_SUM + T1 - O1 + 1)) / 2,
    "tversky": sum(TVERSKY) / 2,
    "focal_tversky": (TVERSKY[0] ** 0.75 + TVERSKY[1] ** 0.75) / 2,
    # errors 1/4, 3/4, 1/2, 3/4. Class 0 loses 2/3 of its IoU by pixels 1 and 3, 1 with pixel 2;
    # class 1 loses 2/3, then 3/4, and 1 with pixel 0
    "lovasz": ((3 / 4 * 2 / 3 + 1 / 2 * 1 / 3) + (3 / 4 * 2 / 3 + 1 / 2 * 1 / 12 + 1 / 4 * 1 / 4))
    / 2,
    # shares of class 1: 9/16 predicted, 1/2 true; 7/16 of all are right, 1/2 would be by chance
    "mcc": 1 - (7 / 16 - 1 / 2) / math.sqrt((1 - (49 + 81) / 256) * (1 - 1 / 2)),
    "focal": (CE[0] / 16 + CE[1] * 9 / 16 + CE[2] / 4 + CE[3] * 9 / 16) / 4,
    "topk": LOG4,  # the worst of four
    "ohem": (LOG4 + LOG2 + LOG4) / 3,  # all but the one whose truth has 3/4
    "border_ce": (CE[0] + GAP * CE[1] + GAP * CE[2] + CE[3]) / (2 + 2 * GAP),
    "bce": sum(BCE) / 4,
    "soft_margin": sum(BCE) / 4,
    "l1": 2 * (1 / 4 + 3 / 4 + 1 / 2 + 3 / 4) / 4,
    "mse": 2 * (1 / 16 + 9 / 16 + 1 / 4 + 9 / 16) / 4,
    # squared below 1/2, and 3/4 - 1/4 or 1/2 - 1/4 from there on
    "smooth_l1": 2 * (1 / 16 + 1 / 2 + 1 / 4 + 1 / 2) / 4,
    "kl_div": sum(CE) / 4,
    # rates 1 and 3, 3, 1, 1/3, less the logarithm of the true one
    "poisson_nll": ((4 - LOG3) + 4 + 2 + (4 / 3 + LOG3)) / 4,
    "multi_margin": (0 + (1 + LOG3) + 1 + (1 + LOG3)) / 2 / 4,
    "multilabel_margin": (0 + (1 + LOG3) + 1 + (1 + LOG3)) / 2 / 4,
}


@ALL
def test_it_has_the_value_worked_out_by_hand(name: str) -> None:
    x = torch.tensor([*X, math.nan], dtype=torch.float64)
    logits = torch.stack([torch.zeros_like(x), x]).reshape(1, 2, 1, 5)
    value = LOSSES[name](logits, torch.tensor([[[*TRUTH, 255]]]))
    assert value.item() == pytest.approx(HAND[name], rel=1e-12)


# ---- the best and the worst prediction: S for what it says, -S for what it does not
#
# Ten pixels, of 4, 3, 2 and 1 of each class. The worst gives a third to every wrong class.

S = 30.0
T = [4, 3, 2, 1]
CERTAIN_ERROR = 2 * S + LOG3
WORST_TVERSKY = [1 - 1 / (0.3 * (10 - t) / 3 + 0.7 * t + 1) for t in T]

BEST_AND_WORST: dict[str, tuple[float, float]] = {
    "ce": (0, CERTAIN_ERROR),
    "dice": (0, 1 - sum(1 / ((10 - t) / 3 + t + 1) for t in T) / 4),
    "jaccard": (0, 1 - sum(1 / ((10 - t) / 3 + t + 1) for t in T) / 4),
    "tversky": (0, sum(WORST_TVERSKY) / 4),
    "focal_tversky": (0, sum(loss**0.75 for loss in WORST_TVERSKY) / 4),
    "lovasz": (0, 1),
    "mcc": (
        0,
        1
        + sum((10 - t) / 30 * t / 10 for t in T)
        / math.sqrt((1 - sum(((10 - t) / 30) ** 2 for t in T)) * (1 - sum(t**2 for t in T) / 100)),
    ),
    "focal": (0, CERTAIN_ERROR),
    "topk": (0, CERTAIN_ERROR),
    "ohem": (0, CERTAIN_ERROR),
    "border_ce": (0, CERTAIN_ERROR),
    "bce": (0, S),
    "soft_margin": (0, S),
    "l1": (0, 2),
    "mse": (0, 1 + 3 / 9),
    "smooth_l1": (0, (1 - 1 / 4) + 3 / 9),
    "kl_div": (0, CERTAIN_ERROR),
    "poisson_nll": (1, 3 + S),  # log-rates: 0 for what it says, -S for what it does not
    "multi_margin": (0, 3 / 4 * (1 + 2 * S)),
    "multilabel_margin": (0, 3 / 4 * (1 + 2 * S)),
}


@ALL
def test_the_best_and_the_worst_prediction_have_their_exact_values(name: str) -> None:
    target = torch.tensor([0, 1, 0, 2, 0, 1, 3, 0, 1, 2]).reshape(1, 2, 5)
    best = S * (2 * F.one_hot(target, 4).movedim(-1, 1).double() - 1)
    worst = -best
    if name == "poisson_nll":
        best, worst = best.clamp_max(0), worst.clamp_max(0)
    values = tuple(LOSSES[name](logits, target).item() for logits in (best, worst))
    assert values == pytest.approx(BEST_AND_WORST[name], rel=1e-9, abs=1e-9)


def test_the_best_prediction_costs_nothing_however_steep_the_power() -> None:
    # the fault it must not have: (1 - TI) was floored at 1e-7, and 1e-7^(1/10) is 0.2
    _, target = case(ignored=0)
    best = S * F.one_hot(target, 4).movedim(-1, 1).float()
    assert LOSSES["focal_tversky"](best, target, gamma=10.0).item() == 0


# ---- formulas written out, from logits (P, K) and classes (P,) of the valid pixels


def softmax(x: Array) -> Array:
    return np.exp(x) / np.exp(x).sum(1, keepdims=True)


def one_hot(x: Array, y: Array) -> Array:
    return np.eye(x.shape[1])[y]


def minus_log_p(x: Array, y: Array) -> Array:
    return np.array([np.log(np.exp(row).sum()) - row[c] for row, c in zip(x, y, strict=True)])


def weighted(losses: Array, x: Array, y: Array, class_weights: Any) -> float:
    w = np.array(class_weights or [1.0] * x.shape[1])[y]
    return float((w * losses).sum() / w.sum())


def per_pixel(losses: Callable[..., Array]) -> Callable[..., float]:
    """The mean of the losses (P,), by the weights of the true classes."""

    def reference(x: Array, y: Array, *, class_weights: Any = None, **options: Any) -> float:
        return weighted(losses(x, y, **options), x, y, class_weights)

    return reference


def ce_(x: Array, y: Array, *, label_smoothing: float = 0.0, class_weights: Any = None) -> float:
    w = np.array(class_weights or [1.0] * x.shape[1])
    total = 0.0
    for row, c in zip(x, y, strict=True):
        costs = np.log(np.exp(row).sum()) - row
        total += w[c] * ((1 - label_smoothing) * costs[c] + label_smoothing * costs.mean())
    return float(total / w[y].sum())


@per_pixel
def bce_(x: Array, y: Array) -> Array:
    s, t = 1 / (1 + np.exp(-x)), one_hot(x, y)
    return -(t * np.log(s) + (1 - t) * np.log(1 - s)).mean(1)


@per_pixel
def soft_margin_(x: Array, y: Array) -> Array:
    return np.log(1 + np.exp(-(2 * one_hot(x, y) - 1) * x)).mean(1)


@per_pixel
def l1_(x: Array, y: Array) -> Array:
    return 2 * (1 - np.exp(-minus_log_p(x, y)))


@per_pixel
def mse_(x: Array, y: Array) -> Array:
    return ((softmax(x) - one_hot(x, y)) ** 2).sum(1)


@per_pixel
def smooth_l1_(x: Array, y: Array, beta: float = 0.5) -> Array:
    d = np.abs(softmax(x) - one_hot(x, y))
    return np.where(d < beta, d**2 / (2 * beta), d - beta / 2).sum(1)


@per_pixel
def kl_div_(x: Array, y: Array, label_smoothing: float = 0.0) -> Array:
    q = (1 - label_smoothing) * one_hot(x, y) + label_smoothing / x.shape[1]
    return (q * (np.log(np.where(q > 0, q, 1)) - np.log(softmax(x)))).sum(1)


@per_pixel
def poisson_nll_(x: Array, y: Array, log_input: bool = True, eps: float = 1e-8) -> Array:
    rates = np.exp(x) if log_input else softmax(x)
    logs = x if log_input else np.log(rates + eps)
    return (rates - one_hot(x, y) * logs).sum(1)


@per_pixel
def multi_margin_(x: Array, y: Array, p: int = 1, margin: float = 1.0) -> Array:
    k = x.shape[1]
    return np.array(
        [
            sum(max(0, margin - row[t] + row[c]) ** p for c in range(k) if c != t) / k
            for row, t in zip(x, y, strict=True)
        ]
    )


def over_classes(losses: Callable[..., dict[int, float]]) -> Callable[..., float]:
    """The mean of the losses of the classes that occur, by their weights."""

    def reference(x: Array, y: Array, *, class_weights: Any = None, **options: Any) -> float:
        of_class = losses(x, y, **options)
        w = class_weights or [1.0] * x.shape[1]
        return sum(w[c] * of_class[c] for c in of_class) / sum(w[c] for c in of_class)

    return reference


def errors_of_class(x: Array, y: Array, c: int) -> tuple[float, float, float]:
    """Soft true positives, false positives, false negatives."""
    p = softmax(x)[:, c]
    return p[y == c].sum(), p[y != c].sum(), (1 - p[y == c]).sum()


@over_classes
def dice_(x: Array, y: Array, smooth: float = 1.0) -> dict[int, float]:
    counts = {c: errors_of_class(x, y, c) for c in set(y.tolist())}
    return {
        c: 1 - (2 * tp + smooth) / (2 * tp + fp + fn + smooth) for c, (tp, fp, fn) in counts.items()
    }


@over_classes
def jaccard_(x: Array, y: Array, smooth: float = 1.0) -> dict[int, float]:
    counts = {c: errors_of_class(x, y, c) for c in set(y.tolist())}
    return {c: 1 - (tp + smooth) / (tp + fp + fn + smooth) for c, (tp, fp, fn) in counts.items()}


@over_classes
def focal_tversky_(
    x: Array,
    y: Array,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 4 / 3,
    smooth: float = 1,
) -> dict[int, float]:
    counts = {c: errors_of_class(x, y, c) for c in set(y.tolist())}
    return {
        c: (1 - (tp + smooth) / (tp + alpha * fp + beta * fn + smooth)) ** (1 / gamma)
        for c, (tp, fp, fn) in counts.items()
    }


@over_classes
def lovasz_(x: Array, y: Array) -> dict[int, float]:
    """By its definition: errors from the largest on, each by what the growing set takes more."""
    losses = {}
    for c in set(y.tolist()):
        error = np.abs((y == c) - softmax(x)[:, c])
        losses[c], before, wrong = 0.0, 0.0, set()
        truth = set(np.flatnonzero(y == c).tolist())
        for i in sorted(range(len(y)), key=lambda i: -error[i]):
            wrong.add(i)
            now = 1 - len(truth - wrong) / len(truth | wrong)
            losses[c] += error[i] * (now - before)
            before = now
    return losses


def mcc_(x: Array, y: Array) -> float:
    """Gorodkin's triple sum over the confusion matrix."""
    confusion = one_hot(x, y).T @ softmax(x)
    k = range(x.shape[1])
    covariance = sum(
        confusion[a, a] * confusion[b, c] - confusion[a, b] * confusion[c, a]
        for a in k
        for b in k
        for c in k
    )
    n, true, predicted = len(y), confusion.sum(1), confusion.sum(0)
    spread = math.sqrt(n**2 - (true**2).sum()) * math.sqrt(n**2 - (predicted**2).sum())
    return float(1 - covariance / spread)


@per_pixel
def focal_(x: Array, y: Array, gamma: float = 2.0) -> Array:
    p = softmax(x)[range(len(y)), y]
    return -((1 - p) ** gamma) * np.log(p)


def topk_(x: Array, y: Array, *, fraction: float = 0.25) -> float:
    """The largest, one by one, until so many are used up; the last one by its rest."""
    left = count = fraction * len(y)
    total = 0.0
    for loss in sorted(minus_log_p(x, y).tolist(), reverse=True):
        total += min(1, left) * loss
        left = max(0, left - 1)
    return total / count


def ohem_(x: Array, y: Array, *, threshold: float = 0.7, min_fraction: float = 0.0625) -> float:
    losses = sorted(minus_log_p(x, y).tolist(), reverse=True)
    unsure = [loss for loss in losses if math.exp(-loss) <= threshold]
    least = losses[: math.ceil(round(min_fraction * len(y), 9))]
    return float(np.mean(unsure if len(unsure) >= len(least) else least))


FORMULAS: dict[str, Callable[..., float]] = {
    "ce": ce_,
    "dice": dice_,
    "jaccard": jaccard_,
    "tversky": functools.partial(focal_tversky_, gamma=1.0),
    "focal_tversky": focal_tversky_,
    "lovasz": lovasz_,
    "mcc": mcc_,
    "focal": focal_,
    "topk": topk_,
    "ohem": ohem_,
    "bce": bce_,
    "soft_margin": soft_margin_,
    "l1": l1_,
    "mse": mse_,
    "smooth_l1": smooth_l1_,
    "kl_div": kl_div_,
    "poisson_nll": poisson_nll_,
    "multi_margin": multi_margin_,
    "multilabel_margin": multi_margin_,
}


def border_ce_by_formula(
    logits: Tensor, target: Tensor, *, class_weights: Any = None, w0: float = 10, sigma: float = 5
) -> float:
    valid = target.numpy() != 255
    x, y = logits.double().movedim(1, -1).numpy()[valid], target.numpy()[valid]
    masks = np.where(valid, target.numpy(), -1)
    gaps = np.stack([border_weights_by_brute_force(mask, w0, sigma) for mask in masks])[valid]
    weights = gaps + np.array(class_weights or [1.0] * x.shape[1])[y]
    return float((weights * minus_log_p(x, y)).sum() / weights.sum())


@VARIANTS
def test_it_equals_the_formula_written_out_in_numpy(name: str, options: Options) -> None:
    for seed in range(4):
        logits, target = case(seed, ignored=0.3)
        if seed > 1:
            target[target == 2] = 255  # a class that does not occur
        logits = logits.double()
        value = LOSSES[name](logits, target, **options).item()
        if name in NEED_MAPS:
            expected = border_ce_by_formula(logits, target, **options)
        else:
            valid = target != 255
            x = logits.movedim(1, -1)[valid].numpy()
            expected = FORMULAS[name](x, target[valid].numpy(), **options)
        assert value == pytest.approx(expected, rel=1e-9)


@given(
    seed=st.integers(0, 10**6),
    fraction=st.integers(1, 1000).map(lambda permille: permille / 1000),
    sure=st.sampled_from([0.1, 1.0, 10.0]),
)
@settings(max_examples=25, deadline=None)
def test_the_hard_pixels_are_those_that_sorting_by_hand_finds(
    seed: int, fraction: float, sure: float
) -> None:
    logits, target = case(seed, n=1)
    logits = logits.double() / 2 + sure * F.one_hot(target % 255 % 4, 4).movedim(-1, 1)
    valid = target != 255
    x, y = logits.movedim(1, -1)[valid].numpy(), target[valid].numpy()
    topk = LOSSES["topk"](logits, target, fraction=fraction).item()
    assert topk == pytest.approx(topk_(x, y, fraction=fraction), rel=1e-9)
    ohem = LOSSES["ohem"](logits, target, min_fraction=fraction).item()
    assert ohem == pytest.approx(ohem_(x, y, min_fraction=fraction), rel=1e-9)


def test_ohem_takes_the_unsure_pixels_or_where_they_are_few_the_hardest() -> None:
    probabilities = torch.tensor([0.1, 0.3, 0.6, 0.8, 0.9])
    logits = torch.stack([probabilities, 1 - probabilities]).log().reshape(1, 2, 1, 5)
    target = torch.zeros(1, 1, 5, dtype=torch.int64)
    ohem = functools.partial(LOSSES["ohem"], logits, target)
    costs = [-math.log(p) for p in probabilities.tolist()]
    assert ohem(threshold=0.7, min_fraction=0.4).item() == pytest.approx(sum(costs[:3]) / 3)
    assert ohem(threshold=0.05, min_fraction=0.4).item() == pytest.approx(sum(costs[:2]) / 2)
    assert ohem(threshold=0.05, min_fraction=0.41).item() == pytest.approx(sum(costs[:3]) / 3)
    assert ohem(threshold=0.05, min_fraction=1e-9).item() == pytest.approx(costs[0])


def test_ohem_does_not_count_a_pixel_for_the_rounding_of_float32() -> None:
    # 0.3 * 50 is 15.000001 in float32
    logits = torch.stack([torch.linspace(1, 2, 50), torch.zeros(50)]).reshape(1, 2, 1, 50)
    target = torch.ones(1, 1, 50, dtype=torch.int64)
    value = LOSSES["ohem"](logits, target, threshold=1e-3, min_fraction=0.3)
    expected = F.cross_entropy(logits[..., 35:], target[..., 35:])
    torch.testing.assert_close(value, expected)


# ---- other libraries, from logits (P, K) and classes (P,) of the valid pixels


def hot(x: Tensor, y: Tensor) -> Tensor:
    return F.one_hot(y, x.shape[1]).to(x)


def as_image(loss: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, y: loss(x.T[None, :, None], y[None, None])


def focal_tversky_by_smp(x: Tensor, y: Tensor) -> Tensor:
    # its power is that of the mean over classes: one class at a time
    losses = [
        as_image(
            smp.losses.TverskyLoss(
                "multiclass", classes=[c], alpha=0.3, beta=0.7, gamma=0.75, smooth=1.0
            )
        )(x, y)
        for c in range(x.shape[1])
    ]
    return torch.stack(losses).mean()


def ohem_by_torch(x: Tensor, y: Tensor) -> Tensor:
    p = x.softmax(1).gather(1, y[:, None])[:, 0]
    return nn.CrossEntropyLoss()(x[p <= 0.7], y[p <= 0.7])


def topk_by_torch(x: Tensor, y: Tensor) -> Tensor:
    assert len(y) % 4 == 0
    return F.cross_entropy(x, y, reduction="none").topk(len(y) // 4).values.mean()


LIBRARIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ce": nn.CrossEntropyLoss(),
    # its formula is (overlap + s) / (half the sizes + s): its s is half of ours
    "dice": as_image(smp.losses.DiceLoss("multiclass", smooth=0.5)),
    "jaccard": as_image(smp.losses.JaccardLoss("multiclass", smooth=1.0)),
    "tversky": as_image(smp.losses.TverskyLoss("multiclass", alpha=0.3, beta=0.7, smooth=1.0)),
    "focal_tversky": focal_tversky_by_smp,
    "lovasz": as_image(smp.losses.LovaszLoss("multiclass")),
    "mcc": lambda x, y: smp.losses.MCCLoss(eps=0.0)(x.softmax(1)[None, :, 1], y[None]),
    "focal": softmax_focal_loss_with_logits,
    "topk": topk_by_torch,
    "ohem": ohem_by_torch,
    "bce": lambda x, y: nn.BCEWithLogitsLoss()(x, hot(x, y)),
    "soft_margin": lambda x, y: nn.SoftMarginLoss()(x, 2 * hot(x, y) - 1),
    "l1": lambda x, y: nn.L1Loss()(x.softmax(1), hot(x, y)) * x.shape[1],
    "mse": lambda x, y: nn.MSELoss()(x.softmax(1), hot(x, y)) * x.shape[1],
    "smooth_l1": lambda x, y: nn.SmoothL1Loss(beta=0.5)(x.softmax(1), hot(x, y)) * x.shape[1],
    "kl_div": lambda x, y: nn.KLDivLoss(reduction="batchmean")(x.log_softmax(1), hot(x, y)),
    "poisson_nll": lambda x, y: nn.PoissonNLLLoss()(x, hot(x, y)) * x.shape[1],
    "multi_margin": nn.MultiMarginLoss(),
    "multilabel_margin": lambda x, y: nn.MultiLabelMarginLoss()(
        x, F.pad(y[:, None], (0, x.shape[1] - 1), value=-1)
    ),
}
"""All but `border_ce`, for which no library is at hand: its map is tested below."""


@pytest.mark.parametrize("name", list(LIBRARIES))
def test_value_and_gradient_equal_those_of_another_library(name: str) -> None:
    for seed in range(5):
        logits, target = case(seed, k=2 if name == "mcc" else 5, ignored=0)
        target.view(-1)[5:][::4] = 255  # 80 of 105 are left, with every class
        assert target.unique().tolist() == [*range(logits.shape[1]), 255]
        value, gradient = value_and_gradient(name, logits, target)
        logits.requires_grad_()
        valid = target != 255
        expected = LIBRARIES[name](logits.movedim(1, -1)[valid], target[valid])
        torch.testing.assert_close(value, expected.detach())
        torch.testing.assert_close(gradient, torch.autograd.grad(expected, logits)[0])


def test_the_tables_hold_every_loss_and_nothing_else() -> None:
    assert HAND.keys() == BEST_AND_WORST.keys() == LOSSES.keys()
    assert FORMULAS.keys() == LIBRARIES.keys() == LOSSES.keys() - NEED_MAPS
    assert OTHER_VALUES.keys() == {option for name in LOSSES for option in options_of(name)}


@pytest.mark.parametrize("k", [2, 5])
def test_mcc_of_hard_predictions_is_that_of_scikit_learn(k: int) -> None:
    for seed in range(3):
        logits, target = case(seed, k=k)
        right = torch.rand(target.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
        guess = torch.where(right, target % 255 % k, logits.argmax(1))
        hard = 200 * F.one_hot(guess, k).movedim(-1, 1).float()
        valid = target != 255
        expected = sklearn.metrics.matthews_corrcoef(target[valid], guess[valid])
        assert LOSSES["mcc"](hard, target).item() == pytest.approx(1 - expected, abs=1e-6)


# ---- the weight map of border_ce


def border_weights_by_brute_force(mask: Array, w0: float, sigma: float) -> Array:
    """Objects by flood fill, distances by trying every pixel of every object."""
    objects: list[list[tuple[int, int]]] = []
    seen: set[tuple[int, int]] = set()
    for start in np.argwhere(mask > 0).tolist():
        queue = [] if tuple(start) in seen else [tuple(start)]
        seen.update(queue)
        for r, c in queue:  # grows as it goes
            for at in [(r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]:
                inside = 0 <= at[0] < mask.shape[0] and 0 <= at[1] < mask.shape[1]
                if inside and at not in seen and mask[at] == mask[r, c]:
                    seen.add(at)
                    queue.append(at)
        if queue:
            objects.append(queue)
    weights = np.zeros(mask.shape)
    for r, c in np.argwhere(mask == 0).tolist() if len(objects) > 1 else []:
        d1, d2 = sorted(min(math.dist((r, c), at) for at in pixels) for pixels in objects)[:2]
        weights[r, c] = w0 * math.exp(-((d1 + d2) ** 2) / (2 * sigma**2))
    return weights


def drawn(*rows: str) -> Array:
    """A mask: . is background, x is ignored, a digit is a class."""
    return np.array([[-1 if c == "x" else int(c.replace(".", "0")) for c in row] for row in rows])


MASKS = {
    "a gap": ["11...11", "11...11", "......."],
    "corners that touch": ["11.....", "..1...1", ".......", "1......"],
    "two classes side by side": ["1122...", "1122...", ".......", "...3..."],
    "an ignored bridge": ["11xxx11", "..xxx..", ".......", "...1..."],
    "one object": ["..1....", "..11..."],
    "a ring around another": ["11111", "1...1", "1.1.1", "1...1", "11111"],
    "no object": [".......", "xx....."],
    "no background": ["1122", "x3x1"],
}


@pytest.mark.parametrize("rows", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("sigma", [0.3, 2.0, 5.0])
def test_the_weight_map_is_that_of_brute_force(rows: list[str], sigma: float) -> None:
    mask = drawn(*rows)
    weights = border_weights(mask, w0=10, sigma=sigma)
    np.testing.assert_allclose(weights, border_weights_by_brute_force(mask, 10, sigma), atol=2e-7)


@given(seed=st.integers(0, 10**6), density=st.sampled_from([0.05, 0.2, 0.5]))
@settings(max_examples=10, deadline=None)
def test_the_weight_map_of_random_masks_is_that_of_brute_force(seed: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    objects = rng.integers(1, 4, (12, 15)) * (rng.random((12, 15)) < density)
    mask = np.where(rng.random((12, 15)) < 0.1, -1, objects)
    weights = border_weights(mask, w0=10, sigma=0.7)  # it looks 5 pixels far
    np.testing.assert_allclose(weights, border_weights_by_brute_force(mask, 10, 0.7), atol=2e-7)


def test_objects_of_one_image_make_no_gap_in_another() -> None:
    target = torch.zeros(2, 5, 5, dtype=torch.int64)
    target[0, 2, 2] = target[1, 2, 3] = 1
    logits = case(n=2, k=2, size=(5, 5))[0]
    torch.testing.assert_close(LOSSES["border_ce"](logits, target), ce(logits, target))
