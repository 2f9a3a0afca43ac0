"""The fifteen losses of the learning notes, as torch has them: for values, vectors and sequences.

Each is a function of torch.nn.functional with its formula beside it, and with errors for what torch
takes silently. x is the input, y the target, i counts elements or samples, K is the number of
classes. `reduction` is "mean", "sum" or "none" (each loss by itself); a mean over nothing is NaN,
as in torch. What trains a network on masks has its form for that in `LOSSES`; `CRITERIA` says which
and, of the others, why they cannot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch  # noqa: F401  the examples need it
import torch.nn.functional as F
from torch import Tensor

from unet_pipeline.training.losses import criteria_checks as check
from unet_pipeline.training.losses.class_weights import weights_as_tensor
from unet_pipeline.training.losses.contract import require
from unet_pipeline.training.losses.criteria_pairs import (
    Reduction,
    cosine_embedding,
    ctc,
    hinge_embedding,
    margin_ranking,
    triplet_margin,
)

# ---- values against values


def bce(probabilities: Tensor, target: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Binary cross-entropy of probabilities: l_i = -(y_i log x_i + (1 - y_i) log(1 - x_i)).

    Input: probabilities in [0, 1], such as sigmoid(logits), of any shape. Target: the same shape,
    in [0, 1]: 0, 1 or a probability. The logarithms are cut at -100: a certain error costs 100.
    reduction: "mean" divides by the number of elements.
    Raises `UserError` for numbers outside [0, 1] (NaN is), and for unequal shapes.

    >>> bce(torch.tensor([0.5, 0.25]), torch.tensor([1.0, 1.0]))  # (log 2 + log 4) / 2
    tensor(1.0397)
    """
    check.same_shape("bce", probabilities=probabilities, target=target)
    check.inside("bce", "{} is no probability: use numbers in [0, 1]", probabilities, 0, 1)
    check.inside("bce", "the target holds {}: use numbers in [0, 1]", target, 0, 1)
    return F.binary_cross_entropy(probabilities, target.to(probabilities), reduction=reduction)


def l1(values: Tensor, target: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Absolute errors: l_i = |x_i - y_i|.

    Input: values of any shape. Target: the same shape. Where they are equal, the gradient is 0.
    reduction: "mean" divides by the number of elements. Raises `UserError` for unequal shapes.

    >>> l1(torch.tensor([1.0, 2.0, 5.0]), torch.tensor([1.0, 4.0, 1.0]))  # (0 + 2 + 4) / 3
    tensor(2.)
    """
    check.same_shape("l1", values=values, target=target)
    return F.l1_loss(values, target, reduction=reduction)


def mse(values: Tensor, target: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Squared errors: l_i = (x_i - y_i)^2.

    Input: values of any shape. Target: the same shape.
    reduction: "mean" divides by the number of elements. Raises `UserError` for unequal shapes.

    >>> mse(torch.tensor([1.0, 2.0, 5.0]), torch.tensor([1.0, 4.0, 1.0]))  # (0 + 4 + 16) / 3
    tensor(6.6667)
    """
    check.same_shape("mse", values=values, target=target)
    return F.mse_loss(values, target, reduction=reduction)


def smooth_l1(
    values: Tensor, target: Tensor, *, beta: float = 1.0, reduction: Reduction = "mean"
) -> Tensor:
    """Squared errors where they are small, absolute ones where they are large.

        l_i = d^2 / (2 beta)  where d = |x_i - y_i| < beta,  d - beta / 2  elsewhere

    Input: values of any shape. Target: the same shape. Girshick 2015, "Fast R-CNN"; beta times
    this is the Huber loss.
    reduction: "mean" divides by the number of elements.
    Raises `UserError` for beta <= 0 (the limit at 0 is l1), and for unequal shapes.

    >>> smooth_l1(torch.tensor([0.5, 3.0]), torch.tensor([0.0, 0.0]))  # (0.125 + 2.5) / 2
    tensor(1.3125)
    """
    require(beta > 0, f"smooth_l1: beta = {beta}: use a positive number, or l1 for the limit at 0")
    check.same_shape("smooth_l1", values=values, target=target)
    return F.smooth_l1_loss(values, target, beta=beta, reduction=reduction)


def poisson_nll(
    rates: Tensor,
    target: Tensor,
    *,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    reduction: Reduction = "mean",
) -> Tensor:
    """Minus the log-likelihood of counts under Poisson distributions of the rates given.

        l_i = exp(x_i) - y_i x_i            with log_input, the default
        l_i = x_i - y_i log(x_i + eps)      without
        plus, with full, y_i log y_i - y_i + log(2 pi y_i) / 2 where y_i > 1

    The exact likelihood has log(y_i!), which no gradient sees; full adds Stirling's approximation.
    Input: logarithms of rates, or the rates themselves without log_input, of any shape. Target:
    counts, the same shape. Losses may be negative.
    eps: keeps log from a rate of 0; it plays no part with log_input.
    reduction: "mean" divides by the number of elements.
    Raises `UserError` for negative counts or rates, for eps <= 0, and for unequal shapes.

    >>> poisson_nll(torch.tensor([2.0, 4.0]).log(), torch.tensor([0.0, 1.0]))  # (2 + 4 - log 4) / 2
    tensor(2.3069)
    """
    require(eps > 0, f"poisson_nll: eps = {eps}: use a positive number")
    check.same_shape("poisson_nll", rates=rates, target=target)
    check.inside("poisson_nll", "the target holds {}: use counts of 0 or more", target, 0)
    if not log_input:
        advice = "use rates of 0 or more, or log_input=True for their logarithms"
        check.inside("poisson_nll", f"the rates hold {{}}: {advice}", rates, 0)
    return F.poisson_nll_loss(
        rates, target, log_input=log_input, full=full, eps=eps, reduction=reduction
    )


def kl_div(
    log_probs: Tensor,
    target: Tensor,
    *,
    log_target: bool = False,
    reduction: Literal["batchmean", "mean", "sum", "none"] = "batchmean",
) -> Tensor:
    """The Kullback-Leibler divergence of the target from the predicted distribution.

        l_i = y_i (log y_i - x_i),   x_i a log-probability;   0 where y_i = 0

    Input: log-probabilities, such as log_softmax(logits, 1), (N, ...). Target: probabilities, or
    their logarithms with log_target, the same shape. That they sum to 1 is not checked. A
    log-probability of -inf gives inf, and NaN where the target's probability is 0 as well.
    reduction: "batchmean" divides the sum by N, which is the divergence; "mean", torch's own
    default, divides by the number of elements, classes included.
    Raises `UserError` for log-probabilities above 0 (logits or probabilities, by mistake; 0.001 is
    left for rounding), for probabilities outside [0, 1], and for unequal shapes.

    >>> kl_div(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[1.0, 0.0]]))  # 1 log(1 / 0.5)
    tensor(0.6931)
    """
    check.same_shape("kl_div", log_probs=log_probs, target=target)
    check.log_probabilities("kl_div", log_probs)
    if log_target:
        check.log_probabilities("kl_div with log_target", target)
    else:
        advice = "use probabilities, or log_target=True for their logarithms"
        check.inside("kl_div", f"the target holds {{}}: {advice}", target, 0, 1.001)
    # torch warns that a later "mean" of its own will be "batchmean"
    theirs = "none" if reduction == "mean" else reduction
    losses = F.kl_div(log_probs, target, log_target=log_target, reduction=theirs)
    return losses.mean() if reduction == "mean" else losses


# ---- scores against classes


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    class_weights: list[float] | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    """Minus the log-probability that the softmax of the logits gives to the true class.

        l_i = (1 - e) w(y_i) (-log p_i(y_i)) + e/K sum_c w(c) (-log p_i(c)),   p_i = softmax(x_i)

    with e the label smoothing and w the class weights. Input: logits, raw scores, (N, K) or
    (N, K, ...). Target: class indices from 0 to K - 1, (N) or (N, ...).
    class_weights: w, one number >= 0 a class, not all 0; None weighs all alike.
    label_smoothing: e in [0, 1].
    ignore_index: a target that costs 0. torch's -100, not the 255 of masks, which may be a class.
    reduction: "mean" divides by the sum of w(y_i) over the targets that are not ignored: without
    weights, by their number. Where all are ignored it is NaN.
    Raises `UserError` for other shapes, targets that are no class, and options out of range.

    >>> cross_entropy(torch.tensor([[1.0, 3.0]]).log(), torch.tensor([0]))  # p = 1/4, 3/4: log 4
    tensor(1.3863)
    """
    require(
        0 <= label_smoothing <= 1,
        f"cross_entropy: label_smoothing = {label_smoothing}: use 0 up to 1",
    )
    check.classes("cross_entropy", logits, target, ignore_index)
    return F.cross_entropy(
        logits,
        target.long(),
        weight=weights_as_tensor(class_weights, logits, label="cross_entropy"),
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )


def multi_margin(
    logits: Tensor,
    target: Tensor,
    *,
    p: int = 1,
    margin: float = 1.0,
    class_weights: list[float] | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """How far the score of the true class is from beating every other one by the margin.

        l_i = 1/K sum_{c != y_i} w(y_i) max(0, margin - x_i(y_i) + x_i(c))^p

    Input: logits, raw scores, (N, K). Target: class indices from 0 to K - 1, (N).
    p: 1 or 2. class_weights: w, one number >= 0 a class, not all 0; None weighs all alike.
    reduction: "mean" divides by N, whatever the weights.
    Raises `UserError` for other shapes, targets that are no class, and options out of range.

    >>> scores = torch.tensor([[0.1, 0.2, 0.4, 0.8]])
    >>> multi_margin(scores, torch.tensor([3]))  # (0.3 + 0.4 + 0.6) / 4
    tensor(0.3250)
    """
    require(p in (1, 2), f"multi_margin: p = {p}: use 1 or 2")
    check.score_rows("multi_margin", logits)
    check.classes("multi_margin", logits, target)
    weights = weights_as_tensor(class_weights, logits, label="multi_margin")
    return F.multi_margin_loss(
        logits, target.long(), p=p, margin=margin, weight=weights, reduction=reduction
    )


def multilabel_margin(logits: Tensor, target: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """How far the scores of all true classes are from beating those of all others by 1.

        l_i = 1/K sum_{t true} sum_{c not true} max(0, 1 - x_i(t) + x_i(c))

    Input: logits, raw scores, (N, K). Target: (N, K), in each row the indices of the true classes,
    then -1; what follows the first -1 is not read. A row without a true class, or with all of
    them, costs 0; a class listed twice counts twice.
    reduction: "mean" divides by N.
    Raises `UserError` for other shapes, and for targets that are neither a class nor -1.

    >>> scores = torch.tensor([[0.1, 0.2, 0.4, 0.8]])
    >>> labels = torch.tensor([[3, 0, -1, -1]])
    >>> multilabel_margin(scores, labels)  # (0.4 + 0.6 + 1.1 + 1.3) / 4
    tensor(0.8500)
    """
    check.score_rows("multilabel_margin", logits)
    check.same_shape("multilabel_margin", logits=logits, target=target)
    check.indices(
        "multilabel_margin", target, -1, logits.shape[1] - 1, "the classes and -1 for the end"
    )
    return F.multilabel_margin_loss(logits, target.long(), reduction=reduction)


def soft_margin(logits: Tensor, target: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Logistic loss of scores whose sign should be that of the target.

        l_i = log(1 + exp(-y_i x_i))

    Input: logits, raw scores, of any shape. Target: +1 or -1, the same shape. It equals bce of
    sigmoid(x) with the target (y + 1) / 2 and is computed so: torch's own soft_margin_loss is inf
    at y x < -88 in float32, and its gradient NaN.
    reduction: "mean" divides by the number of elements.
    Raises `UserError` for targets other than +1 and -1, and for unequal shapes.

    >>> soft_margin(torch.tensor([0.0, 0.0]), torch.tensor([1.0, -1.0]))  # log 2
    tensor(0.6931)
    """
    check.same_shape("soft_margin", logits=logits, target=target)
    check.signs("soft_margin", target)
    truth = ((target + 1) / 2).to(logits)
    return F.binary_cross_entropy_with_logits(logits, truth, reduction=reduction)


# ---- the catalogue


@dataclass(frozen=True)
class Criterion:
    """One of the fifteen: what it takes, and whether it can train a network on masks."""

    function: Callable[..., Tensor]
    inputs: str
    """What its input must be, in a word: probabilities, logits, pairs, ..."""
    dense: str | None
    """The name in `LOSSES` of its form for masks, None where there cannot be one."""
    reason: str = ""
    """Where there is none: why it cannot score a mask."""


CRITERIA: dict[str, Criterion] = {
    "bce": Criterion(bce, "probabilities", "bce"),
    "cross_entropy": Criterion(cross_entropy, "logits", "ce"),
    "l1": Criterion(l1, "values", "l1"),
    "mse": Criterion(mse, "values", "mse"),
    "smooth_l1": Criterion(smooth_l1, "values", "smooth_l1"),
    "poisson_nll": Criterion(poisson_nll, "rates", "poisson_nll"),
    "kl_div": Criterion(kl_div, "log-probabilities", "kl_div"),
    "margin_ranking": Criterion(
        margin_ranking, "pairs", None, "it orders scores, and the classes of a mask have no order"
    ),
    "multilabel_margin": Criterion(multilabel_margin, "logits", "multilabel_margin"),
    "soft_margin": Criterion(soft_margin, "logits", "soft_margin"),
    "multi_margin": Criterion(multi_margin, "logits", "multi_margin"),
    "triplet_margin": Criterion(
        triplet_margin, "triplets", None, "it compares embeddings, and a mask holds class indices"
    ),
    "hinge_embedding": Criterion(
        hinge_embedding, "distances", None, "it takes distances, and a mask holds class indices"
    ),
    "cosine_embedding": Criterion(
        cosine_embedding, "pairs", None, "it compares embeddings, and a mask holds class indices"
    ),
    "ctc": Criterion(
        ctc,
        "sequences",
        None,
        "it aligns label sequences of unknown timing, and a mask says where each class is",
    ),
}
"""Name -> loss, in the order of the notes."""
