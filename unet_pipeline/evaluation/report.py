"""A folder that shows how good the predictions are: numbers, a plot, the best and the worst."""

from __future__ import annotations

import io
import json
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from unet_pipeline.classes import Classes
from unet_pipeline.evaluation.curve_pictures import calibration_png, pr_curves_png
from unet_pipeline.evaluation.curves import CurveScores
from unet_pipeline.evaluation.metrics import Counts, Scores, image_means, summarize
from unet_pipeline.evaluation.pictures import panel
from unet_pipeline.evaluation.tables import per_image_csv
from unet_pipeline.files import make_writable_folder, write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Sample = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]

# Up to so many classes a cell of the confusion matrix has room for its numbers.
_MAX_LABELLED = 20


def write_report(
    folder: Path,
    *,
    sample_ids: Sequence[str],
    matrices: Counts,
    classes: Classes,
    curves: CurveScores | None = None,
    picture: Callable[[str], Sample] | None = None,
    num_pictures: int,
) -> Scores:
    """The scores of a split, after writing them to `folder`, every file whole or not at all.

    metrics.json          all figures and the confusion counts; a figure that is none is null
    per_image.csv         one row an image
    confusion_matrix.png  counts, and shares of each true class
    pr_curves.png         precision over recall, a line a class
    calibration.png       how often pixels of like confidence are right
    pictures/             `panel`s of the images with the best and the worst mean IoU

    sample_ids, matrices: the n images and their confusion counts, (n, K, K).
    curves: what probabilities tell; without it there are no curves.
    picture: gives (image, truth, prediction) of a sample; without it there are no pictures.
    num_pictures: how many of the best and of the worst at most; no image is among both.
    """
    make_writable_folder(folder)
    scores = summarize(matrices)
    text = json.dumps(scores_json(scores, classes, curves), indent=2, allow_nan=False)
    write_atomic(folder / "metrics.json", text + "\n")
    write_atomic(folder / "per_image.csv", per_image_csv(sample_ids, matrices, classes))
    write_atomic(folder / "confusion_matrix.png", confusion_png(scores.matrix, classes))
    drawings = {"pr_curves.png": b"", "calibration.png": b""}
    if curves is not None:
        drawings["pr_curves.png"] = pr_curves_png(curves, classes, matrix=scores.matrix)
        drawings["calibration.png"] = calibration_png(curves)
    for name, data in drawings.items():
        if data:
            write_atomic(folder / name, data)
        else:  # of an earlier report: they would be taken for new
            (folder / name).unlink(missing_ok=True)
    if picture is not None:
        _write_pictures(folder / "pictures", sample_ids, matrices, classes, picture, num_pictures)
    return scores


def scores_json(
    scores: Scores, classes: Classes, curves: CurveScores | None = None
) -> dict[str, Any]:
    """The scores as a tree for JSON: means, then each class, then the confusion counts."""
    true, predicted = scores.matrix.sum(axis=1), scores.matrix.sum(axis=0)
    by_class = [
        {
            "name": name,
            "iou": _number(scores.classes.iou[k]),
            "dice": _number(scores.classes.dice[k]),
            "precision": _number(scores.classes.precision[k]),
            "recall": _number(scores.classes.recall[k]),
            "pixels": int(true[k]),
            "predicted_pixels": int(predicted[k]),
        }
        for k, name in enumerate(classes.names)
    ]
    means: dict[str, float | None] = {}
    if curves is not None:
        means = {name: _number(value) for name, value in curves.figures().items()}
        for row, value in zip(by_class, curves.average_precision, strict=True):
            row["average_precision"] = _number(value)
    return {
        "mean_iou": _number(scores.mean_iou),
        "mean_dice": _number(scores.mean_dice),
        "num_classes_averaged": scores.num_classes_averaged,
        "pixel_accuracy": _number(scores.pixel_accuracy),
        "mean_iou_per_image": _number(scores.mean_iou_per_image),
        "mean_dice_per_image": _number(scores.mean_dice_per_image),
        "num_images": scores.num_images,
        "num_pixels": scores.num_pixels,
        **means,
        "classes": by_class,
        "confusion_matrix": scores.matrix.tolist(),
    }


def best_and_worst(matrices: Counts, *, count: int) -> tuple[list[int], list[int]]:
    """Which images have the best and the worst mean IoU: indices, the extreme first.

    At most `count` of each and none twice; images without a counted pixel have no rank.
    """
    mean_iou, _ = image_means(matrices)
    ranked = [int(n) for n in np.argsort(mean_iou, kind="stable") if not math.isnan(mean_iou[n])]
    num_worst, num_best = min(count, (len(ranked) + 1) // 2), min(count, len(ranked) // 2)
    return ranked[::-1][:num_best], ranked[:num_worst]


def confusion_png(matrix: Counts, classes: Classes) -> bytes:
    """A PNG file of the confusion matrix: colours show the share of each true class (row).

    Up to 20 classes every cell that is not 0 also says its share and its count of pixels. A class
    that never occurs in the truth has a grey row.
    """
    # The canvas is used directly: pyplot keeps global state and may look for a display
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(matrix)
    side = min(max(3.2, 0.66 * count), 14.0)
    figure = Figure(figsize=(side + 2.6, side + 1.6), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.ma.masked_where(
        np.broadcast_to(totals == 0, matrix.shape), matrix / np.maximum(totals, 1)
    )
    axes.set_facecolor("0.88")
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(drawn, ax=axes, label="share of the true class", shrink=0.8)
    _write_numbers(axes, matrix, shares)
    _write_names(axes, classes)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    target = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # names in scripts that DejaVu lacks
        FigureCanvasAgg(figure).print_png(target)  # type: ignore[no-untyped-call]
    return target.getvalue()


def _write_numbers(axes: Axes, matrix: Counts, shares: npt.NDArray[np.float64]) -> None:
    """Share and count in every cell that is not 0, where there is room."""
    if len(matrix) > _MAX_LABELLED:
        return
    for row, column in np.argwhere(matrix > 0):
        share = shares[row, column]
        percent = f"{share:.1%}" if share >= 0.0005 else "<0.1%"
        text = f"{percent}\n{_compact(int(matrix[row, column]))}"
        style: dict[str, Any] = {"ha": "center", "va": "center", "size": _font_size(len(matrix))}
        axes.text(column, row, text, color="white" if share > 0.55 else "0.15", **style)


def _write_names(axes: Axes, classes: Classes) -> None:
    every = 1 + (classes.num_classes - 1) // 64  # names of all of 255 classes would overlap
    labels = [name if len(name) <= 20 else name[:18] + "..." for name in classes.names[::every]]
    ticks = range(0, classes.num_classes, every)
    style: dict[str, Any] = {"size": _font_size(classes.num_classes), "parse_math": False}
    axes.set_xticks(ticks, labels, rotation=45, ha="right", rotation_mode="anchor", **style)
    axes.set_yticks(ticks, labels, **style)


def _font_size(count: int) -> int:
    return 9 if count <= 12 else 7


def _write_pictures(
    folder: Path,
    sample_ids: Sequence[str],
    matrices: Counts,
    classes: Classes,
    picture: Callable[[str], Sample],
    count: int,
) -> None:
    make_writable_folder(folder)
    mean_iou, mean_dice = image_means(matrices)
    best, worst = best_and_worst(matrices, count=count)
    written = set()
    for kind, chosen in (("best", best), ("worst", worst)):
        for rank, n in enumerate(chosen, start=1):
            caption = f"{sample_ids[n]}   mean IoU {mean_iou[n]:.3f}   mean Dice {mean_dice[n]:.3f}"
            sheet = panel(*picture(sample_ids[n]), classes, caption=caption)
            path = folder / f"{kind}_{rank:02d}.png"
            write_atomic(path, _png(sheet))
            written.add(path)
    for kind in ("best", "worst"):  # of an earlier, larger report: they would be taken for new
        for stale in set(folder.glob(f"{kind}_[0-9][0-9].png")) - written:
            stale.unlink()


def _png(picture: npt.NDArray[np.uint8]) -> bytes:
    target = io.BytesIO()
    Image.fromarray(picture).save(target, format="PNG")
    return target.getvalue()


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _compact(count: int) -> str:
    """A count in at most five characters.

    >>> [_compact(count) for count in (9999, 12_345, 999_999, 4_560_000, 2 * 10**11)]
    ['9999', '12.3k', '1.0M', '4.6M', '200G']
    """
    if count < 10_000:
        return str(count)
    power = min((len(str(count)) - 1) // 3, 4)
    value = count / 1000**power
    if value >= 999.5 and power < 4:  # it would be rounded to 1000 of its unit
        value, power = value / 1000, power + 1
    return (f"{value:.1f}" if value < 99.95 else f"{value:.0f}") + " kMGT"[power]
