"""Counts of predicted probabilities -> how well they rank, and how far they can be believed.

A probability is rounded to one of 4096 levels, 0, 1/4095, ..., 1, and counted: memory is classes x
levels, whatever the number of pixels, and counts add over images and processes. Figures that follow
are those of the rounded probabilities: exact but for 1/8190, half the distance of two levels.

    average precision of a class = sum over thresholds n of (R_n - R_{n-1}) P_n

with precision P_n and recall R_n of "its probability is at least the n-th threshold" over all
counted pixels, from the highest threshold down: `average_precision_score` of scikit-learn, the
area under the precision-recall curve drawn in steps.

    ECE   = sum over 15 bins m of |B_m| / N * |accuracy(B_m) - confidence(B_m)|
    Brier = 1/N * sum over pixels and classes of (p_k - y_k)^2

ECE is the expected calibration error of Guo et al. 2017 ("On calibration of modern neural
networks", equation 3): pixels are put into bins of equal width, (m-1)/15 < p <= m/15, by their
confidence p, the probability of the predicted class. The Brier score (Brier 1950) is that of all
classes, from 0 to 2. Pixels that are void count in none of them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Figures = npt.NDArray[np.float64]

NUM_LEVELS = 4096
"""Levels of a probability; 4095 intervals are 15 times 273, so the bins of the ECE fit exactly."""

NUM_BINS = 15

_LEVELS = np.linspace(0, 1, NUM_LEVELS)


@dataclass(frozen=True)
class ProbabilityCounts:
    """How often each level of probability was given, int64.

    positives: (K, 4096), the probability of class k at pixels of class k.
    negatives: (K, 4096), the probability of class k at pixels of other classes.
    right, wrong: (4096,), the largest probability of pixels whose prediction is right, or wrong.
    """

    positives: Counts
    negatives: Counts
    right: Counts
    wrong: Counts

    def __add__(self, other: ProbabilityCounts) -> ProbabilityCounts:
        """The counts of both."""
        return ProbabilityCounts(
            self.positives + other.positives,
            self.negatives + other.negatives,
            self.right + other.right,
            self.wrong + other.wrong,
        )

    @property
    def num_pixels(self) -> int:
        """Counted pixels: all but the ignored ones."""
        return int(self.right.sum() + self.wrong.sum())


@dataclass(frozen=True)
class Reliability:
    """What pixels of like confidence have in common, (15,) each: NaN where a bin is empty."""

    pixels: Counts
    confidence: Figures
    accuracy: Figures

    @property
    def ece(self) -> float:
        """The expected calibration error; NaN without pixels."""
        filled = self.pixels > 0
        if not filled.any():
            return float("nan")
        gaps = np.abs(self.accuracy - self.confidence)[filled]
        return float((gaps * self.pixels[filled]).sum() / self.pixels.sum())


@dataclass(frozen=True)
class CurveScores:
    """The figures that need probabilities.

    average_precision: by class, (K,), NaN where the truth does not hold the class.
    mean_average_precision: their mean over the classes that the truth holds.
    """

    counts: ProbabilityCounts
    average_precision: Figures
    mean_average_precision: float
    ece: float
    brier: float

    def figures(self) -> dict[str, float]:
        """The three figures of a whole split, for tracking."""
        return {
            "mean_average_precision": self.mean_average_precision,
            "ece": self.ece,
            "brier": self.brier,
        }


def summarize_curves(counts: ProbabilityCounts) -> CurveScores:
    """The figures of a split, from the counts of all of its pixels; NaN where there are none."""
    by_class = average_precision(counts)
    known = by_class[~np.isnan(by_class)]
    return CurveScores(
        counts=counts,
        average_precision=by_class,
        mean_average_precision=float(known.mean()) if len(known) else float("nan"),
        ece=reliability(counts).ece,
        brier=brier(counts),
    )


def precision_recall(counts: ProbabilityCounts, k: int) -> tuple[Figures, Figures]:
    """Precision and recall of class `k`, from the highest threshold that occurs down to the lowest.

    Empty where the truth does not hold the class: there is no recall then.
    """
    positives, negatives = counts.positives[k, ::-1], counts.negatives[k, ::-1]
    occurs = positives + negatives > 0
    hits = positives[occurs].cumsum()
    if not len(hits) or hits[-1] == 0:
        return np.empty(0), np.empty(0)
    return hits / (hits + negatives[occurs].cumsum()), hits / hits[-1]


def average_precision(counts: ProbabilityCounts) -> Figures:
    """The average precision of each class, (K,); NaN where the truth does not hold the class."""
    result = np.full(len(counts.positives), np.nan)
    for k in range(len(result)):
        precision, recall = precision_recall(counts, k)
        if len(recall):
            result[k] = (np.diff(recall, prepend=0.0) * precision).sum()
    return result


def reliability(counts: ProbabilityCounts) -> Reliability:
    """How often predictions of like confidence are right, in 15 bins of equal width."""
    bins = np.maximum(-(-np.arange(NUM_LEVELS) * NUM_BINS // (NUM_LEVELS - 1)) - 1, 0)
    total = counts.right + counts.wrong
    sums = functools.partial(np.bincount, bins, minlength=NUM_BINS)
    pixels = np.rint(sums(weights=total)).astype(np.int64)  # float64 holds 2**53 pixels exactly
    filled = pixels > 0
    divided = [
        np.divide(weights, pixels, out=np.full(NUM_BINS, np.nan), where=filled)
        for weights in (sums(weights=total * _LEVELS), sums(weights=counts.right))
    ]
    return Reliability(pixels, confidence=divided[0], accuracy=divided[1])


def brier(counts: ProbabilityCounts) -> float:
    """The Brier score over all classes, from 0 (certain and right) to 2; NaN without pixels."""
    if not counts.num_pixels:
        return float("nan")
    missed, given = (1 - _LEVELS) ** 2, _LEVELS**2
    return float((counts.positives @ missed + counts.negatives @ given).sum() / counts.num_pixels)


def add_counts(shares: Sequence[ProbabilityCounts]) -> ProbabilityCounts:
    """The counts of all shares, of which there is at least one."""
    return functools.reduce(ProbabilityCounts.__add__, shares)
