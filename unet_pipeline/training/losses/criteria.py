"""The fifteen losses of the learning notes, as torch has them: for values, vectors and sequences.

Each is a function of torch.nn.functional with its formula beside it, and with errors for what torch
takes silently. x is the input, y the target, i counts elements or samples, K is the number of
classes. `reduction` is "mean", "sum" or "none" (each loss by itself); a mean over nothing is NaN,
as in torch. What trains a network on masks has its form for that in `LOSSES`; `CRITERIA` says which
and, of the others, why they cannot.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from unet_pipeline.errors import UserError
from unet_pipeline.training.losses.class_weights import weights_as_tensor
from unet_pipeline.training.losses.contract import require

Reduction = Literal["mean", "sum", "none"]


# ---- values against values


def bce(probabilities: Tensor, target: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Binary cross-entropy of probabilities: how surprised they are by the truth.

        l_i = -(y_i log x_i + (1 - y_i) log(1 - x_i))

    Input: probabilities in [0, 1], such as sigmoid(logits), of any shape. Target: the same shape,
    in [0, 1]: 0, 1 or a probability. The logarithms are cut at -100: a certain error costs 100.
    reduction: "mean" divides by the number of elements.
    Raises `UserError` for numbers outside [0, 1] (NaN is), and for unequal shapes.

    >>> bce(torch.tensor([0.5, 0.25]), torch.tensor([1.0, 1.0]))  # (log 2 + log 4) / 2
    tensor(1.0397)
    """
    _same_shape("bce", probabilities=probabilities, target=target)
    advice = "use numbers in [0, 1]"
    _refuse(_outside(probabilities, 0, 1), probabilities, f"bce: {{}} is no probability: {advice}")
    _refuse(_outside(target, 0, 1), target, f"bce: the target holds {{}}: {advice}")
    return F.binary_cross_entropy(probabilities, target.to(probabilities), reduction=reduction)


def l1(values: Tensor, target: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Absolute errors: l_i = |x_i - y_i|.

    Input: values of any shape. Target: the same shape. Where they are equal, the gradient is 0.
    reduction: "mean" divides by the number of elements.
    Raises `UserError` for unequal shapes.

    >>> l1(torch.tensor([1.0, 2.0, 5.0]), torch.tensor([1.0, 4.0, 1.0]))  # (0 + 2 + 4) / 3
    tensor(2.)
    """
    _same_shape("l1", values=values, target=target)
    return F.l1_loss(values, target, reduction=reduction)


def mse(values: Tensor, target: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Squared errors: l_i = (x_i - y_i)^2.

    Input: values of any shape. Target: the same shape.
    reduction: "mean" divides by the number of elements.
    Raises `UserError` for unequal shapes.

    >>> mse(torch.tensor([1.0, 2.0, 5.0]), torch.tensor([1.0, 4.0, 1.0]))  # (0 + 4 + 16) / 3
    tensor(6.6667)
    """
    _same_shape("mse", values=values, target=target)
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
    _same_shape("smooth_l1", values=values, target=target)
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
    _same_shape("poisson_nll", rates=rates, target=target)
    _refuse(
        _outside(target, 0), target, "poisson_nll: the target holds {}: use counts of 0 or more"
    )
    if not log_input:
        advice = "use rates of 0 or more, or log_input=True for their logarithms"
        _refuse(_outside(rates, 0), rates, f"poisson_nll: the rates hold {{}}: {advice}")
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
    _same_shape("kl_div", log_probs=log_probs, target=target)
    _log_probabilities("kl_div", log_probs)
    if log_target:
        _log_probabilities("kl_div with log_target", target)
    else:
        advice = "use probabilities, or log_target=True for their logarithms"
        _refuse(_outside(target, 0, 1.001), target, f"kl_div: the target holds {{}}: {advice}")
    if reduction == "mean":  # torch warns that a later version of it will mean "batchmean"
        return F.kl_div(log_probs, target, log_target=log_target, reduction="none").mean()
    return F.kl_div(log_probs, target, log_target=log_target, reduction=reduction)


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
    _classes("cross_entropy", logits, target, ignore_index)
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
    _matrix("multi_margin", logits)
    _classes("multi_margin", logits, target)
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
    _matrix("multilabel_margin", logits)
    _same_shape("multilabel_margin", logits=logits, target=target)
    _indices("multilabel_margin", target, -1, logits.shape[1] - 1, "the classes and -1 for the end")
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
    _same_shape("soft_margin", logits=logits, target=target)
    _signs("soft_margin", target)
    truth = ((target + 1) / 2).to(logits)
    return F.binary_cross_entropy_with_logits(logits, truth, reduction=reduction)


# ---- pairs and triplets


def margin_ranking(
    first: Tensor,
    second: Tensor,
    target: Tensor,
    *,
    margin: float = 0.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """How far pairs of scores are from the order that the target asks for.

        l_i = max(0, -y_i (a_i - b_i) + margin)

    Input: pairs of scores a and b, two tensors of one shape, any. Target: the same shape, +1 where
    a should be the larger, -1 where b should.
    reduction: "mean" divides by the number of pairs.
    Raises `UserError` for targets other than +1 and -1, and for unequal shapes.

    >>> a, b = torch.tensor([1.0, 1.0]), torch.tensor([3.0, 3.0])
    >>> margin_ranking(a, b, torch.tensor([1.0, -1.0]))  # (2 + 0) / 2
    tensor(1.)
    """
    _same_shape("margin_ranking", first=first, second=second, target=target)
    _signs("margin_ranking", target)
    return F.margin_ranking_loss(first, second, target, margin=margin, reduction=reduction)


def hinge_embedding(
    distances: Tensor, target: Tensor, *, margin: float = 1.0, reduction: Reduction = "mean"
) -> Tensor:
    """Distances of what is alike, and what the others lack to the margin.

        l_i = x_i  where y_i = 1,   max(0, margin - x_i)  where y_i = -1

    Input: distances of pairs, of any shape; negative ones are taken as they are. Target: +1 for
    pairs alike, -1 for pairs apart, the same shape.
    reduction: "mean" divides by the number of elements.
    Raises `UserError` for targets other than +1 and -1, and for unequal shapes.

    >>> hinge_embedding(torch.tensor([0.5, 0.25]), torch.tensor([1.0, -1.0]))  # (0.5 + 0.75) / 2
    tensor(0.6250)
    """
    _same_shape("hinge_embedding", distances=distances, target=target)
    _signs("hinge_embedding", target)
    return F.hinge_embedding_loss(distances, target, margin=margin, reduction=reduction)


def cosine_embedding(
    first: Tensor,
    second: Tensor,
    target: Tensor,
    *,
    margin: float = 0.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """How far the angles between pairs of vectors are from what the target asks for.

        l_i = 1 - cos(a_i, b_i)  where y_i = 1,   max(0, cos(a_i, b_i) - margin)  where y_i = -1

    Input: pairs of vectors a and b, two tensors (N, D), or (D) for one pair. Target: (N), or a
    scalar: +1 for pairs alike, -1 for pairs apart. A vector of zeros has the cosine 0 to any other.
    margin: from -1 to 1.
    reduction: "mean" divides by N.
    Raises `UserError` for targets other than +1 and -1, other shapes, and other margins.

    >>> a, b = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[3.0, 4.0], [3.0, 4.0]])
    >>> cosine_embedding(a, b, torch.tensor([1, -1]), reduction="none")  # cos = 3/5
    tensor([0.4000, 0.6000])
    """
    require(-1 <= margin <= 1, f"cosine_embedding: margin = {margin}: use -1 up to 1")
    _same_shape("cosine_embedding", first=first, second=second)
    require(
        first.ndim in (1, 2) and target.shape == first.shape[:-1],
        f"cosine_embedding: vectors {_shape(first)} and target {_shape(target)}: "
        "use (N, D) and (N), or (D) and a scalar",
    )
    _signs("cosine_embedding", target)
    return F.cosine_embedding_loss(first, second, target, margin=margin, reduction=reduction)


def triplet_margin(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    """How far each anchor is from being nearer to its like, by the margin, than to its unlike.

        l_i = max(0, d(a_i, b_i) - d(a_i, c_i) + margin),   d(u, v) = ||u - v + eps||_p

    Input: triplets of vectors, anchor a, positive b and negative c, three tensors (N, D), or (D)
    for one triplet; there is no target. Balntas et al. 2016, "Learning local feature descriptors
    with triplets and shallow convolutional neural networks".
    eps: added to each component, it keeps the gradient finite where two vectors are equal.
    swap: take d(b_i, c_i) for d(a_i, c_i) where it is smaller.
    reduction: "mean" divides by N.
    Raises `UserError` for unequal shapes, and for a margin or p that is not positive.

    >>> a, b, c = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]).split(1)
    >>> triplet_margin(a, b, c)  # 5 - 1 + 1
    tensor(5.0000)
    """
    require(margin > 0, f"triplet_margin: margin = {margin}: use a positive number")
    require(p > 0, f"triplet_margin: p = {p}: use a positive number")
    _same_shape("triplet_margin", anchor=anchor, positive=positive, negative=negative)
    return F.triplet_margin_loss(
        anchor, positive, negative, margin=margin, p=p, eps=eps, swap=swap, reduction=reduction
    )


# ---- sequences


def ctc(
    log_probs: Tensor,
    target: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    *,
    blank: int = 0,
    zero_infinity: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    """Minus the log-probability of label sequences whose timing is unknown.

        l_n = -log sum_a prod_t p_n(t, a_t)

    over the alignments a of length T_n that become the target when repeats are merged, then blanks
    dropped. Graves et al. 2006, "Connectionist Temporal Classification".
    Input: sequences of log-probabilities, (T, N, C), the blank among the C classes. They must come
    from log_softmax: torch's gradient is right only once it has passed through that. Target:
    labels, (N, S) padded, or (sum of target_lengths) in one row. Lengths: (N) each, integers.
    zero_infinity: 0, in place of inf, where an input is too short for its target. A target of
    length L with R repeats in a row needs L + R steps.
    reduction: "mean" divides each loss by its target's length, at least 1, then the sum by N.
    Raises `UserError` for other shapes and lengths, for labels that are the blank or no class, and
    for log-probabilities above 0 (logits or probabilities, by mistake; 0.001 is left for rounding).

    >>> log_probs = torch.full((2, 1, 2), 0.5).log()  # two steps, the blank and one label
    >>> ctc(log_probs, torch.tensor([[1]]), torch.tensor([2]), torch.tensor([1]))  # -log 3/4
    tensor(0.2877)
    """
    _sequences(log_probs, target, input_lengths, target_lengths, blank)
    return F.ctc_loss(
        log_probs,
        target,
        input_lengths,
        target_lengths,
        blank=blank,
        reduction=reduction,
        zero_infinity=zero_infinity,
    )


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
        margin_ranking,
        "pairs",
        None,
        "it orders pairs of scores, and a mask holds class indices, which have no order",
    ),
    "multilabel_margin": Criterion(multilabel_margin, "logits", "multilabel_margin"),
    "soft_margin": Criterion(soft_margin, "logits", "soft_margin"),
    "multi_margin": Criterion(multi_margin, "logits", "multi_margin"),
    "triplet_margin": Criterion(
        triplet_margin,
        "triplets",
        None,
        "it compares triplets of embeddings, and a mask holds class indices",
    ),
    "hinge_embedding": Criterion(
        hinge_embedding,
        "distances",
        None,
        "it takes distances of pairs, alike or not, and a mask holds class indices",
    ),
    "cosine_embedding": Criterion(
        cosine_embedding,
        "pairs",
        None,
        "it compares pairs of embeddings, alike or not, and a mask holds class indices",
    ),
    "ctc": Criterion(
        ctc,
        "sequences",
        None,
        "it aligns label sequences of unknown timing, and a mask says where each class is",
    ),
}
"""Name -> loss, in the order of the notes."""


# ---- checks


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _outside(values: Tensor, low: float, high: float = math.inf) -> Tensor:
    """Where values are not in [low, high]; NaN is not."""
    return ~((values >= low) & (values <= high))


def _refuse(bad: Tensor, values: Tensor, message: str) -> None:
    """Raise where anything is bad: the message, the first such value in the place of its {}."""
    if bad.any():
        raise UserError(message.format(f"{values[bad].flatten()[0].item():g}"))


def _same_shape(name: str, **tensors: Tensor) -> None:
    """torch broadcasts most of these, with a warning at best: (N, 1) by (N) is an (N, N) loss."""
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        seen = ", ".join(f"{key} {_shape(tensor)}" for key, tensor in tensors.items())
        raise UserError(f"{name}: unequal shapes {seen}: reshape to one shape")


def _matrix(name: str, logits: Tensor) -> None:
    require(logits.ndim == 2, f"{name}: the logits have shape {_shape(logits)}: use (N, K)")


def _signs(name: str, target: Tensor) -> None:
    bad = (target != 1) & (target != -1)
    _refuse(bad, target, f"{name}: the target holds {{}}: use +1 and -1 only")


def _log_probabilities(name: str, log_probs: Tensor) -> None:
    advice = "give log-probabilities, such as log_softmax of logits"
    _refuse(log_probs > 1e-3, log_probs, f"{name}: {{}} is no log-probability: {advice}")


def _indices(name: str, target: Tensor, low: int, high: int, what: str) -> None:
    require(
        not target.is_floating_point(),
        f"{name}: the target is {str(target.dtype).removeprefix('torch.')}: "
        "use class indices, integers",
    )
    advice = f"use {low} to {high}, {what}"
    _refuse(_outside(target, low, high), target, f"{name}: the target holds {{}}: {advice}")


def _classes(name: str, logits: Tensor, target: Tensor, ignore_index: int | None = None) -> None:
    """Check (N, K, ...) logits against (N, ...) class indices."""
    require(
        logits.ndim >= 2 and target.shape == logits.shape[:1] + logits.shape[2:],
        f"{name}: logits {_shape(logits)} and target {_shape(target)}: "
        "use (N, K, ...) and (N, ...), class indices",
    )
    if ignore_index is not None:
        target = target[target != ignore_index]
    _indices(name, target, 0, logits.shape[1] - 1, "the classes of the logits")


def _sequences(
    log_probs: Tensor, target: Tensor, input_lengths: Tensor, target_lengths: Tensor, blank: int
) -> None:
    require(log_probs.ndim == 3, f"ctc: log_probs have shape {_shape(log_probs)}: use (T, N, C)")
    num_steps, num_samples, num_classes = log_probs.shape
    require(0 <= blank < num_classes, f"ctc: blank = {blank}: use 0 to {num_classes - 1}")
    _log_probabilities("ctc", log_probs)
    padded = target.ndim == 2
    longest = target.shape[1] if padded else target.numel()
    for kind, lengths, most in (
        ("input", input_lengths, num_steps),
        ("target", target_lengths, longest),
    ):
        require(
            lengths.shape == (num_samples,),
            f"ctc: {kind}_lengths has shape {_shape(lengths)}: use ({num_samples},), one a sample",
        )
        advice = f"use 0 to {most}, what there is"
        _refuse(_outside(lengths, 0, most), lengths, f"ctc: {kind}_lengths holds {{}}: {advice}")
    total = int(target_lengths.sum())
    require(
        target.shape == ((num_samples, longest) if padded else (total,)),
        f"ctc: the target has shape {_shape(target)}: use ({num_samples}, S), or ({total},), "
        "the sum of target_lengths",
    )
    if padded:
        positions = torch.arange(longest, device=target.device)
        target = target[positions < target_lengths.to(target.device).unsqueeze(1)]
    _indices("ctc", target, 0, num_classes - 1, "the classes of log_probs")
    _refuse(target == blank, target, "ctc: the target holds {}, the blank: use the other classes")
