"""Integer confusion counts -> scores: counted exactly, divided once, in float64.

A confusion matrix is int64 (K, K): rows are the true classes, columns the predicted ones. Matrices
add, so the score of a split is the score of the sum over its images, whatever the batches were.

With TP, FP, FN of class k read from row k and column k:

    iou       = TP / (TP + FP + FN)        dice   = 2 TP / (2 TP + FP + FN)
    precision = TP / (TP + FP)             recall = TP / (TP + FN)

A figure whose denominator is 0 does not exist: it is NaN and no mean contains it. In particular a
class that neither the truth nor the prediction holds has no IoU; it does not count as 1, which
would flatter every dataset with rare classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unet_pipeline.errors import UserError

Counts = npt.NDArray[np.int64]
Figures = npt.NDArray[np.float64]

# Pixels counted at a time: the int64 copies that bincount makes stay in the cache and small,
# where 5000 x 5000 pixels in one piece would need 600 MB.
_CHUNK = 1 << 20


@dataclass(frozen=True)
class ClassScores:
    """Scores by class, float64 (..., K), NaN where a figure does not exist."""

    iou: Figures
    dice: Figures
    precision: Figures
    recall: Figures


@dataclass(frozen=True)
class Scores:
    """The scores of a split.

    matrix: (K, K) counts of the whole split.
    classes: scores by class, from the counts of the whole split.
    mean_iou, mean_dice: means of those over the classes that occur in truth or prediction.
    num_classes_averaged: how many classes that are.
    pixel_accuracy: share of the counted pixels that are right.
    mean_iou_per_image, mean_dice_per_image: each image's own mean over the classes that occur in
        it, then the mean over images; small objects weigh more here. Images without a counted
        pixel are left out.
    num_images: images scored, those without a counted pixel included.
    """

    matrix: Counts
    classes: ClassScores
    mean_iou: float
    mean_dice: float
    num_classes_averaged: int
    pixel_accuracy: float
    mean_iou_per_image: float
    mean_dice_per_image: float
    num_images: int

    @property
    def num_pixels(self) -> int:
        """Counted pixels: all but the ignored ones."""
        return int(self.matrix.sum())

    def figures(self, names: Sequence[str]) -> dict[str, float]:
        """All figures as one flat dict for tracking: `mean_iou`, ..., `iou/<class>`, ...

        names: the class names. Every key is always there; a figure that does not exist is NaN.
        """
        flat = {
            "mean_iou": self.mean_iou,
            "mean_dice": self.mean_dice,
            "pixel_accuracy": self.pixel_accuracy,
            "mean_iou_per_image": self.mean_iou_per_image,
            "mean_dice_per_image": self.mean_dice_per_image,
            "num_classes_averaged": float(self.num_classes_averaged),
        }
        for figure in ("iou", "dice", "precision", "recall"):
            values = getattr(self.classes, figure)
            flat |= {f"{figure}/{n}": float(v) for n, v in zip(names, values, strict=True)}
        return flat


def confusion_matrix(
    target: npt.NDArray[Any],
    prediction: npt.NDArray[Any],
    *,
    num_classes: int,
    ignore_index: int = 255,
) -> Counts:
    """How often each true class (row) was predicted as each class (column): int64 (K, K).

    target, prediction: class indices of equal shape, of any integer type.
    Pixels whose target is `ignore_index` count for nothing, whatever is predicted there.
    Raises `UserError` for shapes that differ, values that are no whole numbers, and class indices
    outside 0..K-1.
    """
    if target.shape != prediction.shape:
        raise UserError(
            f"the target has the shape {target.shape}, the prediction {prediction.shape}: "
            "score masks of one size"
        )
    for name, values in (("target", target), ("prediction", prediction)):
        if values.dtype.kind not in "uib":
            raise UserError(
                f"the {name} holds {values.dtype}: class indices are whole numbers; "
                "take the argmax of probabilities first"
            )
    counts = np.zeros(num_classes * num_classes, dtype=np.int64)
    for truth, predicted in _chunks(target.ravel(), prediction.ravel()):
        counted = truth != ignore_index
        rows, columns = truth[counted].astype(np.int64), predicted[counted].astype(np.int64)
        _check_range(rows, num_classes, "target")
        _check_range(columns, num_classes, "prediction")
        counts += np.bincount(rows * num_classes + columns, minlength=num_classes * num_classes)
    return counts.reshape(num_classes, num_classes)


def class_scores(matrices: Counts) -> ClassScores:
    """Scores by class, (..., K), of one confusion matrix or a stack of them (..., K, K)."""
    hits = np.diagonal(matrices, axis1=-2, axis2=-1)
    true = matrices.sum(axis=-1)
    predicted = matrices.sum(axis=-2)
    return ClassScores(
        iou=_divide(hits, true + predicted - hits),
        dice=_divide(2 * hits, true + predicted),
        precision=_divide(hits, predicted),
        recall=_divide(hits, true),
    )


def image_means(matrices: Counts) -> tuple[Figures, Figures]:
    """Mean IoU and mean Dice of every image, (n,) each, over the classes that occur in it.

    matrices: (n, K, K). An image without a counted pixel has none: NaN.
    """
    scores = class_scores(matrices)
    return _mean(scores.iou), _mean(scores.dice)


def summarize(matrices: Counts) -> Scores:
    """The scores of a split from the confusion matrices of its images, int64 (n, K, K).

    Without images, or where every pixel is ignored, all figures are NaN.
    """
    if matrices.ndim != 3 or matrices.shape[1] != matrices.shape[2]:
        raise UserError(
            f"confusion matrices of the shape {matrices.shape}: summarize takes one (K, K) an "
            "image, stacked to (n, K, K)"
        )
    total = matrices.sum(axis=0, dtype=np.int64)
    classes = class_scores(total)
    iou_of_images, dice_of_images = image_means(matrices)
    return Scores(
        matrix=total,
        classes=classes,
        mean_iou=float(_mean(classes.iou)),
        mean_dice=float(_mean(classes.dice)),
        num_classes_averaged=int(np.isfinite(classes.iou).sum()),
        pixel_accuracy=float(_divide(np.trace(total), total.sum())),
        mean_iou_per_image=float(_mean(iou_of_images)),
        mean_dice_per_image=float(_mean(dice_of_images)),
        num_images=len(matrices),
    )


def _chunks(
    target: npt.NDArray[Any], prediction: npt.NDArray[Any]
) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    for start in range(0, target.size, _CHUNK):
        yield target[start : start + _CHUNK], prediction[start : start + _CHUNK]


def _check_range(indices: Counts, num_classes: int, name: str) -> None:
    if indices.size and (indices.min() < 0 or indices.max() >= num_classes):
        strange = indices[(indices < 0) | (indices >= num_classes)][0]
        raise UserError(
            f"the {name} holds the class index {strange}, but there are {num_classes} classes "
            f"(0..{num_classes - 1}): do the masks and the model belong together?"
        )


def _divide(counts: Any, total: Any) -> Any:
    """counts / total in float64, NaN where the total is 0."""
    total = np.asarray(total, dtype=np.float64)
    result = np.full(total.shape, np.nan)
    return np.divide(np.asarray(counts, dtype=np.float64), total, out=result, where=total > 0)


def _mean(values: Figures) -> Any:
    """The mean over the last axis of what exists, NaN where nothing does."""
    exists = np.isfinite(values)
    return _divide(np.where(exists, values, 0.0).sum(axis=-1), exists.sum(axis=-1))
