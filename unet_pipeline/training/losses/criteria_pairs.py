"""The losses of pairs, triplets and sequences: those of the fifteen that cannot score a mask.

As in `criteria`, x is the input, y the target, and a mean over nothing is NaN.
"""

from __future__ import annotations

from typing import Literal

import torch  # noqa: F401  the examples need it
import torch.nn.functional as F
from torch import Tensor

from unet_pipeline.training.losses import criteria_checks as check
from unet_pipeline.training.losses.contract import require

Reduction = Literal["mean", "sum", "none"]


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
    check.same_shape("margin_ranking", first=first, second=second, target=target)
    check.signs("margin_ranking", target)
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
    check.same_shape("hinge_embedding", distances=distances, target=target)
    check.signs("hinge_embedding", target)
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
    check.vector_pairs("cosine_embedding", first, second, target)
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
    check.same_shape("triplet_margin", anchor=anchor, positive=positive, negative=negative)
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
    check.sequences("ctc", log_probs, target, input_lengths, target_lengths, blank)
    return F.ctc_loss(
        log_probs,
        target,
        input_lengths,
        target_lengths,
        blank=blank,
        reduction=reduction,
        zero_infinity=zero_infinity,
    )
