"""Losses: hand values, independent references, gradients, and the contract of every entry."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import segmentation_models_pytorch as smp
import sklearn.metrics
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from segmentation_models_pytorch.losses._functional import softmax_focal_loss_with_logits
from torch import Tensor, nn

from unet_pipeline.catalogue import complete
from unet_pipeline.errors import UserError
from unet_pipeline.training.losses import (
    CRITERIA,
    LOSSES,
    NEED_MAPS,
    ce,
    dice,
    parse_loss,
)
from unet_pipeline.training.losses.hard_pixels import border_weights

Options = dict[str, Any]
Array = npt.NDArray[Any]
ALL = pytest.mark.parametrize("name", list(LOSSES))


def case(
    seed: int = 0, n: int = 3, k: int = 4, size: tuple[int, int] = (5, 7), ignored: float = 0.2
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, k, *size, generator=generator)
    target = torch.randint(k, (n, *size), generator=generator)
    target[torch.rand(target.shape, generator=generator) < ignored] = 255
    return logits, target


def options_of(name: str) -> Options:
    return complete(LOSSES[name], {}, label=name, given=("ignore_index",))


def with_option(option: str) -> list[str]:
    return [name for name in LOSSES if option in options_of(name)]


def value_and_gradient(
    name: str, logits: Tensor, target: Tensor, **options: Any
) -> tuple[Tensor, Tensor]:
    logits = logits.detach().requires_grad_()
    value = LOSSES[name](logits, target, **options)
    return value.detach(), torch.autograd.grad(value, logits)[0]


def close(value: Tensor, expected: Tensor, *, unless: bool = False) -> None:
    """They agree; or, where a loss is named as an exception, clearly do not."""
    if unless:
        assert abs(value - expected).max() > 1e-3
    else:
        torch.testing.assert_close(value, expected)


WEIGHTS = [0.5, 2.0, 0.25, 1.5]
OTHER_VALUES: dict[str, Any] = {
    "alpha": 0.9,
    "beta": 0.2,
    "class_weights": WEIGHTS,
    "eps": 0.1,
    "fraction": 0.6,
    "gamma": 3.0,
    "label_smoothing": 0.3,
    "log_input": False,
    "margin": 0.4,
    "min_fraction": 0.95,
    "p": 2,
    "sigma": 1.5,
    "smooth": 7.5,
    "threshold": 0.3,
    "w0": 3.0,
}
"""A value of each option that is not its default, whatever the loss."""

ONLY_WITH: dict[tuple[str, str], Options] = {("poisson_nll", "eps"): {"log_input": False}}
"""What else must be set for an option to have an effect."""


def variants() -> Iterator[Any]:
    """(name, options): each loss as it is, with each option, and with all of them."""
    for name in LOSSES:
        options = options_of(name)
        singles = [
            {option: OTHER_VALUES[option]} | ONLY_WITH.get((name, option), {}) for option in options
        ]
        together = (
            [{option: OTHER_VALUES[option] for option in options}] if len(options) > 1 else []
        )
        for chosen in ({}, *singles, *together):
            yield pytest.param(name, chosen, id=f"{name}({', '.join(map(str, chosen))})")


VARIANTS = pytest.mark.parametrize(("name", "options"), list(variants()))


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
    used = {option for name in LOSSES for option in options_of(name)}
    assert OTHER_VALUES.keys() == OUT_OF_RANGE.keys() == used
    assert LOSSES.keys() >= NOT_PIXEL_MEANS | NOT_OF_DIFFERENCES | NEED_MAPS


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


# ---- gradients and options


@VARIANTS
def test_the_gradient_is_that_of_the_value(name: str, options: Options) -> None:
    logits, target = case(n=2, k=4, size=(2, 2))
    logits = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, target, **options), (logits,))


@ALL
def test_every_option_has_an_effect(name: str) -> None:
    logits, target = case()
    for option, default in options_of(name).items():
        others = ONLY_WITH.get((name, option), {})
        assert OTHER_VALUES[option] != default
        changed = LOSSES[name](logits, target, **others, **{option: OTHER_VALUES[option]})
        close(changed, LOSSES[name](logits, target, **others), unless=True)


@pytest.mark.parametrize(("name", "option"), ONLY_WITH)
def test_an_option_that_would_have_no_effect_is_refused(name: str, option: str) -> None:
    with pytest.raises(UserError, match=f"{name}: {option} = .* no effect with log_input"):
        LOSSES[name](*case(), **{option: OTHER_VALUES[option]})


@ALL
def test_a_gradient_step_lowers_it(name: str) -> None:
    logits, target = case()
    before, gradient = value_and_gradient(name, logits, target)
    assert LOSSES[name](logits - gradient, target) < before


# ---- ignored pixels


@ALL
@pytest.mark.parametrize("ignore_index", [255, -1, 0])
def test_what_an_ignored_pixel_holds_changes_neither_value_nor_gradient(
    name: str, ignore_index: int
) -> None:
    clean, target = case()
    if ignore_index == 0:  # a class may be the one that is ignored
        target[target == 255] = 1
    else:
        target[target == 255] = ignore_index
    ignored = target == ignore_index
    value, gradient = value_and_gradient(name, clean, target, ignore_index=ignore_index)
    assert (gradient.movedim(1, -1)[ignored] == 0).all()
    assert (gradient.movedim(1, -1)[~ignored] != 0).any()
    for garbage in (math.nan, math.inf, -math.inf, 1e30):
        spoilt = torch.where(ignored[:, None], garbage, clean)
        of_spoilt = value_and_gradient(name, spoilt, target, ignore_index=ignore_index)
        assert torch.equal(of_spoilt[0], value)
        assert torch.equal(of_spoilt[1], gradient)


@VARIANTS
def test_garbage_below_ignored_pixels_is_harmless_with_any_option(
    name: str, options: Options
) -> None:
    clean, target = case()
    spoilt = torch.where((target == 255)[:, None], math.nan, clean)
    expected = value_and_gradient(name, clean, target, **options)
    assert all(
        torch.equal(a, b)
        for a, b in zip(value_and_gradient(name, spoilt, target, **options), expected, strict=True)
    )


@ALL
def test_ignoring_pixels_equals_leaving_them_out(name: str) -> None:
    logits, target = case(n=1, size=(1, 40), ignored=0.3)
    valid = target[0, 0] != 255
    expected = LOSSES[name](logits[..., valid], target[..., valid])
    # to leave pixels out of a map brings the others closer
    close(LOSSES[name](logits, target), expected, unless=name in NEED_MAPS)


@VARIANTS
def test_a_batch_of_void_costs_nothing_and_teaches_nothing(name: str, options: Options) -> None:
    logits = torch.full((2, 4, 4, 4), math.nan)
    value, gradient = value_and_gradient(name, logits, torch.full((2, 4, 4), 255), **options)
    assert value.item() == 0
    assert (gradient == 0).all()


@ALL
def test_another_ignore_index_is_honoured(name: str) -> None:
    logits, target = case()
    renamed = torch.where(target == 255, -1, target)
    assert torch.equal(LOSSES[name](logits, target), LOSSES[name](logits, renamed, ignore_index=-1))


# ---- invariances, and the losses that are known not to have them

SMOOTHED = {"dice", "jaccard", "tversky", "focal_tversky"}  # smooth is a number of pixels
NOT_PIXEL_MEANS = {*SMOOTHED, "lovasz", "mcc", "topk", "ohem", "border_ce"}
NOT_OF_DIFFERENCES = {"bce", "soft_margin", "poisson_nll"}  # a logit counts by itself


@ALL
def test_the_order_of_images_and_flips_do_not_matter(name: str) -> None:
    logits, target = case()
    expected = LOSSES[name](logits, target)
    order = torch.tensor([2, 0, 1])
    close(LOSSES[name](logits[order], target[order]), expected)
    for axis in (1, 2):
        close(LOSSES[name](logits.flip(axis + 1), target.flip(axis)), expected)


@ALL
def test_the_order_of_pixels_does_not_matter_but_for_maps(name: str) -> None:
    values, expected = [], []
    for seed in range(3):
        logits, target = case(seed)
        order = torch.randperm(target.numel(), generator=torch.Generator().manual_seed(seed))
        rows = logits.movedim(1, -1).flatten(0, 2)[order]
        shuffled = rows.view(*target.shape, -1).movedim(-1, 1)
        values.append(LOSSES[name](shuffled, target.flatten()[order].view_as(target)))
        expected.append(LOSSES[name](logits, target))
    close(torch.stack(values), torch.stack(expected), unless=name in NEED_MAPS)


@ALL
@pytest.mark.parametrize("order", [[0, 2, 3, 1], [2, 0, 3, 1]], ids=["foreground", "all"])
def test_the_order_of_classes_does_not_matter_but_for_the_background_of_maps(
    name: str, order: list[int]
) -> None:
    logits, target = case()
    new = torch.tensor(order)  # new class c is old class order[c]
    renamed = torch.where(target == 255, 255, new.argsort()[target.clamp_max(3)])
    for weights in (
        [{}, {"class_weights": WEIGHTS}] if name in with_option("class_weights") else [{}]
    ):
        moved = {option: [weight[c] for c in order] for option, weight in weights.items()}
        value = LOSSES[name](logits[:, new], renamed, **moved)
        expected = LOSSES[name](logits, target, **weights)
        close(value, expected, unless=name in NEED_MAPS and order[0] != 0)


@ALL
def test_repeating_the_batch_changes_nothing_but_for_the_smooth(name: str) -> None:
    logits, target = case()
    twice = logits.repeat(2, 1, 1, 1), target.repeat(2, 1, 1)
    close(LOSSES[name](*twice), LOSSES[name](logits, target), unless=name in SMOOTHED)
    if name in SMOOTHED:
        close(LOSSES[name](*twice, smooth=0.0), LOSSES[name](logits, target, smooth=0.0))
        close(LOSSES[name](*twice, smooth=2.0), LOSSES[name](logits, target, smooth=1.0))


def test_the_smoothed_losses_are_those_with_the_option() -> None:
    assert set(with_option("smooth")) == SMOOTHED


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in LOSSES),
        *((name, {"class_weights": WEIGHTS}) for name in with_option("class_weights")),
    ],
)
def test_the_loss_of_a_batch_is_the_mean_of_its_parts_where_it_is_one_of_pixels(
    name: str, options: Options
) -> None:
    weights = torch.tensor(options.get("class_weights", [1.0] * 4))
    values, expected = [], []
    for seed in range(3):
        logits, target = case(seed)
        total, scale = torch.tensor(0.0), torch.tensor(0.0)
        for part in (slice(0, 1), slice(1, 3)):
            labels = target[part][target[part] != 255]
            share = weights[labels].sum()
            total += share * LOSSES[name](logits[part], target[part], **options)
            scale += share
        values.append(total / scale)
        expected.append(LOSSES[name](logits, target, **options))
    close(torch.stack(values), torch.stack(expected), unless=name in NOT_PIXEL_MEANS)


@ALL
def test_a_constant_added_to_the_logits_of_a_pixel_changes_nothing_where_classes_compete(
    name: str,
) -> None:
    logits, target = case()
    constants = 3 * torch.randn(3, 1, 5, 7, generator=torch.Generator().manual_seed(1))
    expected = LOSSES[name](logits, target)
    close(LOSSES[name](logits + constants, target), expected, unless=name in NOT_OF_DIFFERENCES)


# ---- identities

Call = tuple[str, Options]
IDENTITIES: list[tuple[Call, Call]] = [
    (("soft_margin", {}), ("bce", {})),
    (("kl_div", {}), ("ce", {})),
    (("focal", {"gamma": 0}), ("ce", {})),
    (("focal_tversky", {"gamma": 1}), ("tversky", {})),
    (("tversky", {"alpha": 0.5, "beta": 0.5, "smooth": 1.5}), ("dice", {"smooth": 3})),
    (("tversky", {"alpha": 1, "beta": 1}), ("jaccard", {})),
    (("multilabel_margin", {}), ("multi_margin", {})),
    (("topk", {"fraction": 1}), ("ce", {})),
    (("ohem", {"min_fraction": 1}), ("ce", {})),
    (("ohem", {"threshold": 1e-9, "min_fraction": 0.5}), ("topk", {"fraction": 0.5})),
    (("border_ce", {"w0": 0}), ("ce", {})),
]


@pytest.mark.parametrize(
    ("left", "right"), IDENTITIES, ids=[f"{a}-{b}" for (a, _), (b, _) in IDENTITIES]
)
def test_two_losses_that_are_the_same_by_definition_are(left: Call, right: Call) -> None:
    both = left[0] in with_option("class_weights") and right[0] in with_option("class_weights")
    for options in ({}, {"class_weights": WEIGHTS}) if both else ({},):
        for seed in range(3):
            logits, target = case(seed, size=(6, 6), ignored=0)
            target[:, ::3, ::3] = 255  # 96 pixels are left, and a half of them is a whole number
            value, gradient = value_and_gradient(left[0], logits, target, **left[1], **options)
            expected = value_and_gradient(right[0], logits, target, **right[1], **options)
            torch.testing.assert_close(value, expected[0])
            torch.testing.assert_close(gradient, expected[1])


def test_kl_div_is_the_cross_entropy_less_the_entropy_of_the_smoothed_truth() -> None:
    logits, target = case()
    entropy = -(0.775 * math.log(0.775) + 3 * 0.075 * math.log(0.075))  # 1 - e + e/4, and e/4
    value = LOSSES["kl_div"](logits, target, label_smoothing=0.3)
    close(value, ce(logits, target, label_smoothing=0.3) - entropy)


def test_poisson_nll_at_the_best_common_factor_of_its_rates_is_cross_entropy_plus_one() -> None:
    logits, target = case()
    value = LOSSES["poisson_nll"](logits.log_softmax(1), target)
    close(value, ce(logits, target) + 1)
    for factor in (0.9, 1.1):
        other = LOSSES["poisson_nll"](logits.log_softmax(1) + math.log(factor), target)
        assert other > value + 1e-3


@pytest.mark.parametrize("name", with_option("class_weights"))
def test_only_the_ratios_of_class_weights_count_but_for_the_map(name: str) -> None:
    logits, target = case()
    loss = functools.partial(LOSSES[name], logits, target)
    close(loss(class_weights=[1.0] * 4), loss())
    added = name == "border_ce"  # its weights are added to those of the gaps
    close(loss(class_weights=[3.0] * 4), loss(), unless=added)
    ones, twos = WEIGHTS, [2 * weight for weight in WEIGHTS]
    close(loss(class_weights=twos), loss(class_weights=ones), unless=added)
    if added:
        close(loss(class_weights=twos, w0=20.0), loss(class_weights=ones, w0=10.0))


@pytest.mark.parametrize("name", with_option("class_weights"))
def test_a_batch_of_classes_without_weight_costs_nothing_and_teaches_nothing(name: str) -> None:
    logits, target = torch.randn(1, 2, 3, 3), torch.zeros(1, 3, 3, dtype=torch.int64)
    value, gradient = value_and_gradient(name, logits, target, class_weights=[0, 1])
    assert value.item() == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("name", with_option("label_smoothing"))
def test_smoothing_brings_no_pixel_back_whose_class_has_no_weight(name: str) -> None:
    # the fault it must not have: 4096 pixels of weight 0 beside one of weight 1 cost 367 times as
    # much, because their smoothed terms were counted and their weights were not
    logits, target = torch.randn(1, 2, 64, 64), torch.zeros(1, 64, 64, dtype=torch.int64)
    options: Options = {"class_weights": [0, 1], "label_smoothing": 0.1}
    assert LOSSES[name](logits, target, **options).item() == 0
    target[0, 5, 7] = 1
    alone = LOSSES[name](
        logits[..., 5:6, 7:8], target[..., 5:6, 7:8], label_smoothing=options["label_smoothing"]
    )
    close(LOSSES[name](logits, target, **options), alone)


# ---- numbers that are narrow, extreme, few or many


@VARIANTS
def test_low_precision_logits_are_computed_in_float32(name: str, options: Options) -> None:
    logits, target = case()
    for dtype in (torch.bfloat16, torch.float16):
        coarse = logits.to(dtype)
        with torch.autocast("cpu", torch.bfloat16):
            value = LOSSES[name](coarse, target, **options)
        assert value.dtype == torch.float32
        assert torch.equal(value, LOSSES[name](coarse.float(), target, **options))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_focal_of_sure_pixels_has_a_finite_gradient_for_any_gamma(gamma: float) -> None:
    _, target = case(ignored=0)
    for scale in (0, 10, 17, 100):
        sure = scale * F.one_hot(target, 4).movedim(-1, 1).float()
        _, gradient = value_and_gradient("focal", sure, target, gamma=gamma)
        assert gradient.isfinite().all()


@ALL
def test_any_number_of_classes_and_a_single_pixel_are_enough(name: str) -> None:
    for k in (2, 3, 150):
        for size in ((1, 1), (1, 3), (4, 1)):
            value, gradient = value_and_gradient(name, *case(n=1, k=k, size=size, ignored=0))
            assert value.shape == ()
            assert value.isfinite()
            assert gradient.isfinite().all()
            assert gradient.shape == (1, k, *size)


@ALL
def test_logits_may_lie_in_memory_in_any_order(name: str) -> None:
    logits, target = case()
    value, gradient = value_and_gradient(name, logits, target)
    transposed = logits.transpose(2, 3).contiguous().transpose(2, 3)
    every_other = logits.repeat_interleave(2, dim=3)[..., ::2]
    last = logits.contiguous(memory_format=torch.channels_last)
    for other in (transposed, every_other, last):
        assert not other.is_contiguous()
        of_other = value_and_gradient(name, other, target)
        torch.testing.assert_close(of_other[0], value)
        torch.testing.assert_close(of_other[1], gradient)


# ---- what segmentation-models-pytorch does, and ours must not: why we have our own


@pytest.mark.parametrize("name", ["dice", "jaccard", "tversky", "focal_tversky"])
def test_a_wrong_prediction_does_not_cost_less_for_classes_that_are_absent(name: str) -> None:
    target = torch.zeros(1, 8, 8, dtype=torch.int64)
    theirs: dict[str, Callable[[str], nn.Module]] = {
        "dice": smp.losses.DiceLoss,
        "jaccard": smp.losses.JaccardLoss,
        "tversky": smp.losses.TverskyLoss,
        "focal_tversky": smp.losses.TverskyLoss,
    }
    for num_classes in (2, 3, 11):
        wrong = torch.zeros(1, num_classes, 8, 8)
        wrong[:, 1] = 20
        assert LOSSES[name](wrong, target, smooth=0).item() == pytest.approx(1, abs=1e-6)
        share = theirs[name]("multiclass")(wrong, target).item()
        assert share == pytest.approx(1 / num_classes, abs=1e-6)


def test_their_focal_of_void_is_nan() -> None:
    logits, void = case()[0], torch.full((3, 5, 7), 255)
    assert smp.losses.FocalLoss("multiclass", ignore_index=255)(logits, void).isnan()
    assert LOSSES["focal"](logits, void) == 0


def test_their_lovasz_of_void_is_no_scalar_and_raises_on_float64() -> None:
    logits, target = case()
    theirs = smp.losses.LovaszLoss("multiclass", ignore_index=255)
    assert theirs(logits, torch.full((3, 5, 7), 255)).shape == (0, 4)
    with pytest.raises(RuntimeError, match="same dtype"):
        theirs(logits.double(), target)


def test_their_mcc_knows_two_classes_and_no_ignored_pixel() -> None:
    assert list(inspect.signature(smp.losses.MCCLoss).parameters) == ["eps"]
    p = torch.tensor([[[0.1, 0.2, 0.7, 0.4, 0.9, 0.2]]])
    target = torch.tensor([[[0, 1, 1, 0, 1, 255]]])
    other = torch.where(target == 255, 1 - p, p)
    assert smp.losses.MCCLoss()(p, target) != smp.losses.MCCLoss()(other, target)


# ---- cross-entropy


def test_cross_entropy_of_equal_logits_is_the_logarithm_of_the_number_of_classes() -> None:
    _, target = case()
    assert ce(torch.zeros(3, 4, 5, 7), target).item() == pytest.approx(math.log(4))


def test_cross_entropy_has_the_value_worked_out_by_hand() -> None:
    # softmax of (0, log 3) is (1/4, 3/4): the true class 1 has p = 3/4, the true class 0 p = 1/4
    logits = torch.tensor([0.0, math.log(3)]).reshape(1, 2, 1, 1).expand(1, 2, 1, 3)
    target = torch.tensor([[[1, 0, 255]]])
    expected = (-math.log(3 / 4) - math.log(1 / 4)) / 2
    assert ce(logits, target).item() == pytest.approx(expected)
    weighted = (-3 * math.log(3 / 4) - math.log(1 / 4)) / 4
    assert ce(logits, target, class_weights=[1, 3]).item() == pytest.approx(weighted)
    smooth = (-0.9 * math.log(3 / 4) - 0.1 * math.log(1 / 4)) / 2
    smooth += (-0.9 * math.log(1 / 4) - 0.1 * math.log(3 / 4)) / 2
    assert ce(logits, target, label_smoothing=0.2).item() == pytest.approx(smooth)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0, 0.0]])
def test_cross_entropy_equals_the_formula_written_out_in_numpy(
    smoothing: float, weights: list[float] | None
) -> None:
    logits, target = case(ignored=0.3)
    x, y = logits.double().movedim(1, -1).numpy(), target.numpy()
    minus_log_p = np.log(np.exp(x).sum(-1, keepdims=True)) - x
    w = np.array(weights or [1.0] * 4)
    total = scale = 0.0
    for row, label in zip(minus_log_p.reshape(-1, 4), y.ravel(), strict=True):
        if label != 255:
            total += w[label] * ((1 - smoothing) * row[label] + smoothing / 4 * row.sum())
            scale += w[label]
    value = ce(logits, target, label_smoothing=smoothing, class_weights=weights)
    assert value.item() == pytest.approx(total / scale, rel=1e-5)


# ---- dice


def test_dice_has_the_value_worked_out_by_hand() -> None:
    # p(1) = 3/4 everywhere; truth: one pixel of class 1, two of class 0
    logits = torch.tensor([0.0, math.log(3)]).reshape(1, 2, 1, 1).expand(1, 2, 1, 3)
    target = torch.tensor([[[1, 0, 0]]])
    dice_0 = (2 * (2 / 4) + 1) / (3 / 4 + 2 + 1)
    dice_1 = (2 * (3 / 4) + 1) / (9 / 4 + 1 + 1)
    assert dice(logits, target).item() == pytest.approx(1 - (dice_0 + dice_1) / 2)
    plain = (2 * (2 / 4) / (3 / 4 + 2) + 2 * (3 / 4) / (9 / 4 + 1)) / 2
    assert dice(logits, target, smooth=0).item() == pytest.approx(1 - plain)


@given(seed=st.integers(0, 10**6), k=st.integers(2, 6), smooth=st.sampled_from([0.0, 1.0, 7.5]))
@settings(max_examples=15, deadline=None)
def test_dice_equals_that_of_another_library_where_every_class_occurs(
    seed: int, k: int, smooth: float
) -> None:
    logits, target = case(seed, k=k, ignored=0.2)
    target[0].view(-1)[:k] = torch.arange(k)
    # its formula is (overlap + s) / (half the sizes + s): its s is half of ours
    reference = smp.losses.DiceLoss("multiclass", ignore_index=255, smooth=smooth / 2)
    torch.testing.assert_close(dice(logits, target, smooth=smooth), reference(logits, target))


@pytest.mark.parametrize("expression", ["dice", "ce + dice"])
def test_an_image_without_foreground_still_presses_the_foreground_down(expression: str) -> None:
    logits = torch.zeros(1, 2, 8, 8)
    logits[:, 1] = 3  # foreground everywhere, where the truth is all background
    logits.requires_grad_()
    parse_loss(expression)(logits, torch.zeros(1, 8, 8, dtype=torch.int64)).backward()
    assert logits.grad is not None
    assert (logits.grad[:, 1] > 0).all()
    assert (logits.grad[:, 0] < 0).all()


# ---- expressions


def test_an_expression_is_the_weighted_sum_of_its_parts() -> None:
    logits, target = case()
    loss = parse_loss("ce(label_smoothing=0.1) + 0.5*dice + 2*(dice(smooth=0) + ce)")
    parts = loss.loss_parts(logits, target)
    assert list(parts) == ["ce(label_smoothing=0.1)", "dice", "dice(smooth=0)", "ce"]
    expected = ce(logits, target, label_smoothing=0.1) + dice(logits, target) / 2
    expected += 2 * dice(logits, target, smooth=0) + 2 * ce(logits, target)
    torch.testing.assert_close(loss(logits, target), expected)
    torch.testing.assert_close(loss.total(parts), expected)
    assert torch.equal(parts["ce"], ce(logits, target))


@pytest.mark.parametrize("expression", ["dice", " dice ", "1*dice", "(dice)", "dice*1.0", "dice()"])
def test_one_loss_can_be_written_in_many_ways(expression: str) -> None:
    logits, target = case()
    torch.testing.assert_close(parse_loss(expression)(logits, target), dice(logits, target))


def test_weights_of_parentheses_multiply() -> None:
    terms = parse_loss("ce + 2*(0.25*dice)").terms
    assert [(term.name, term.weight) for term in terms] == [("ce", 1.0), ("dice", 0.5)]


def test_class_weights_reach_the_loss_through_an_expression() -> None:
    logits, target = case()
    expected = ce(logits, target, class_weights=[1, 2, 3, 4])
    value = parse_loss("ce(class_weights=[1, 2, 3, 4])", num_classes=4)(logits, target)
    assert torch.equal(value, expected)


def test_the_ignore_index_of_a_run_reaches_every_term() -> None:
    logits, target = case()
    renamed = torch.where(target == 255, 254, target)
    value = parse_loss("ce + dice", ignore_index=254)(logits, renamed)
    assert torch.equal(value, parse_loss("ce + dice")(logits, target))


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("dise", "unknown loss 'dise': did you mean 'dice'?"),
        ("ce + focl", "unknown loss 'focl'"),
        ("ce(label_smoothin=0.1)", "no option 'label_smoothin': did you mean 'label_smoothing'?"),
        ("ce(label_smoothing='much')", "label_smoothing = 'much'"),
        ("ce(ignore_index=3)", "ignore_index comes from the data"),
        ("ce(0.1)", "written by its name: ce(label_smoothing=...)"),
        ("ce(**{'smooth': 1})", "cannot read the loss"),
        ("ce + ce", "twice; write 2*ce"),
        ("ce - dice", "cannot read the loss 'ce - dice' at 'ce - dice'"),
        ("ce * dice", "cannot read the loss"),
        ("0*ce", "weight 0: use a positive number"),
        ("-1*ce", "at '-1*ce'"),
        ("1e999*ce", "weight inf"),
        ("True*ce", "cannot read the loss"),
        ("2", "cannot read the loss"),
        ("", "cannot read the loss ''"),
        ("ce +", "cannot read the loss"),
        ("ce; dice", "cannot read the loss"),
        ("ce(label_smoothing=__import__('os').getpid())", "cannot read the loss"),
        ("().__class__", "cannot read the loss"),
        ("losses.ce()", "cannot read the loss"),
        ("ce\0", "cannot read the loss"),
        ("ce(label_smoothing={[1]: 2})", "cannot read the loss"),
        ("ce(label_smoothing=0.1, label_smoothing=0.2)", "label_smoothing is given twice"),
        ("1" * 400 + "*ce", "weight inf"),
        ("(" * 900 + "ce" + ")" * 90, "cannot read the loss"),
        ("-" * 990 + "ce", "cannot read the loss"),
        ("ce" + " + dice" * 1000, "characters"),
    ],
)
def test_what_is_no_loss_is_refused_in_one_line(expression: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_loss(expression)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("ce(label_smoothing=1)", "label_smoothing = 1.0"),
        ("ce(label_smoothing=-0.1)", "label_smoothing = -0.1"),
        ("dice(smooth=-1)", "smooth = -1.0"),
        ("ce(class_weights=[1, 2])", "2 numbers for 3 classes"),
        ("ce(class_weights=[1, -2, 1])", "use numbers >= 0"),
        ("ce(class_weights=[0, 0, 0])", "not all of them 0"),
        ("ce(class_weights=[1, 2, 1e999])", "use numbers >= 0"),
    ],
)
def test_options_out_of_range_are_found_before_the_first_batch(
    expression: str, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        parse_loss(expression, num_classes=3)
    assert message in str(caught.value)


# ---- options out of range

OUT_OF_RANGE: dict[str, list[str]] = {
    "alpha": ["-0.1", "1e999", "nan", "much"],
    "beta": ["-0.1", "1e999", "nan", "much"],
    "class_weights": [
        "[1, 2]",
        "[1, 2, 3, 4]",
        "[]",
        "[1, -2, 1]",
        "[0, 0, 0]",
        "[1, 2, 1e999]",
        "[1, 2, 1e39]",
        "[1, 2, 'nan']",
        "[1e-50, 0, 0]",
        "[1, 'much', 2]",
        "ballanced",
        "'ballanced'",
        "5",
        "True",
    ],
    "eps": ["0", "-1", "1e999", "nan"],
    "fraction": ["0", "-0.1", "1.1", "nan", "much"],
    "gamma": ["-1", "1e999", "nan", "much"],
    "label_smoothing": ["-0.1", "1", "nan", "much"],
    "log_input": ["maybe", "2"],
    "margin": ["0", "-1", "1e999", "nan"],
    "min_fraction": ["0", "1.1", "nan"],
    "p": ["0", "3", "1.5"],
    "sigma": ["0", "-1", "1e999", "nan"],
    "smooth": ["-1", "1e999", "nan", "much"],
    "threshold": ["0", "1", "nan"],
    "w0": ["-1", "1e999", "nan"],
}


@ALL
def test_an_option_out_of_range_is_refused_in_one_line_that_names_it(name: str) -> None:
    for option in options_of(name):
        others = "".join(f", {k}={v}" for k, v in ONLY_WITH.get((name, option), {}).items())
        for value in OUT_OF_RANGE[option]:
            with pytest.raises(UserError) as caught:
                parse_loss(f"{name}({option}={value}{others})", num_classes=3)
            message = str(caught.value)
            assert message.removeprefix("loss ").startswith(f"{name}:")
            assert option in message
            assert "\n" not in message


@pytest.mark.parametrize(
    "expression",
    ["smooth_l1(beta=0)", "focal_tversky(gamma=0)", "tversky(alpha=0, beta=0)"],
)
def test_zero_is_refused_where_nothing_would_be_left(expression: str) -> None:
    with pytest.raises(UserError, match=r"= 0\.0"):
        parse_loss(expression, num_classes=3)


@pytest.mark.parametrize("name", [name for name in LOSSES if not options_of(name)])
def test_a_loss_without_options_says_so(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} has no options; write {name} alone"):
        parse_loss(f"{name}(1)")
    with pytest.raises(UserError, match="no option 'smooth'"):
        parse_loss(f"{name}(smooth=1)")


def test_there_is_a_loss_without_options() -> None:
    assert options_of("mcc") == options_of("lovasz") == {}


# ---- losses that cannot score a mask


@pytest.mark.parametrize("name", [name for name, c in CRITERIA.items() if c.dense is None])
def test_a_loss_that_cannot_score_a_mask_is_refused_with_reason_and_alternatives(name: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_loss(f"ce + 0.5*{name}")
    message = str(caught.value)
    assert message.startswith(f"loss {name!r} cannot train on masks: {CRITERIA[name].reason}")
    assert message.endswith("use one of " + ", ".join(LOSSES))
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "dense"), [(name, c.dense) for name, c in CRITERIA.items() if c.dense is not None]
)
def test_a_loss_of_the_notes_is_found_by_its_name_here(name: str, dense: str) -> None:
    if name in LOSSES:
        assert parse_loss(name).terms[0].entry == dense
    else:
        with pytest.raises(UserError, match=f"^loss {name!r} is called {dense!r} here$"):
            parse_loss(name)


def test_cross_entropy_is_called_ce() -> None:
    with pytest.raises(UserError, match="'cross_entropy' is called 'ce' here"):
        parse_loss("cross_entropy(label_smoothing=0.1)")
