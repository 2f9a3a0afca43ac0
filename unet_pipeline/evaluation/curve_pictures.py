"""Precision-recall curves and calibration as PNG files."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from unet_pipeline.classes import Classes
from unet_pipeline.evaluation.curves import (
    NUM_BINS,
    CurveScores,
    precision_recall,
    reliability,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Counts = npt.NDArray[np.int64]
Color = tuple[float, float, float]

_MAX_LINES = 20  # more colours than these nobody can tell apart
_LOWEST = 10  # of more classes than that: where the model ranks worst
_DASHES = ("-", "--", ":", "-.")
_GREY = "0.8"
_BLUE, _RED, _PALE_BLUE = "#0072b2", "#d55e00", "#8fc1e3"  # near to Okabe and Ito


def pr_curves_png(curves: CurveScores, classes: Classes, *, matrix: Counts | None = None) -> bytes:
    """A PNG file: precision over recall, a line a class, in steps, so that its area is its AP.

    Of more than 20 classes the 10 with the lowest average precision are named, the others are grey.
    Grey hyperbolas join points of equal Dice. matrix: the confusion counts, of which
    each class gets a dot where the prediction itself, the most probable class, lies.
    """
    # The canvas is used directly: pyplot keeps global state and may look for a display
    from matplotlib.figure import Figure

    by_class = curves.average_precision
    known = [int(k) for k in np.argsort(by_class, kind="stable") if not np.isnan(by_class[k])]
    named = sorted(known) if len(known) <= _MAX_LINES else known[:_LOWEST]
    figure = Figure(figsize=(9.2, 6.2), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    _draw_equal_dice(axes)
    for k in known[len(named) :]:
        axes.plot(*_steps(curves, k), color=_GREY, linewidth=0.9, drawstyle="steps-pre")
    styles = _line_styles([classes.colors[k] for k in named])
    for k, (color, dashes) in zip(named, styles, strict=True):
        label = f"{by_class[k]:.3f}  {_shorten(classes.names[k])}"
        axes.plot(
            *_steps(curves, k), color=color, linestyle=dashes, linewidth=1.6, label=label,
            drawstyle="steps-pre",
        )  # fmt: skip
        if matrix is not None and matrix[:, k].sum():
            hits = matrix[k, k]
            place = (hits / matrix[k].sum(), hits / matrix[:, k].sum())
            axes.scatter(*place, 38, color=color, edgecolors="white", clip_on=False, zorder=3)
    axes.set(xlim=(0, 1), ylim=(0, 1.005), xlabel="recall", ylabel="precision")
    axes.set_title(_pr_title(curves, len(known), matrix is not None), fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    if named:
        heading = "AP, class" if len(named) == len(known) else f"AP, the {_LOWEST} lowest"
        legend = figure.legend(
            loc="outside right upper", frameon=False, fontsize=9, title=heading, alignment="left"
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    return _png(figure)


def calibration_png(curves: CurveScores) -> bytes:
    """A PNG file: the reliability diagram, and below it how often each confidence was given."""
    from matplotlib.figure import Figure

    bins = reliability(curves.counts)
    edges = np.arange(NUM_BINS + 1) / NUM_BINS
    figure = Figure(figsize=(5.6, 6.6), dpi=110, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled = bins.pixels > 0
    lefts, width = edges[:-1][filled], 1 / NUM_BINS
    upper.bar(
        lefts, bins.accuracy[filled], width, align="edge", color=_PALE_BLUE, edgecolor="white",
        linewidth=0.8, label="accuracy",
    )  # fmt: skip
    upper.hlines(
        bins.confidence[filled], lefts, lefts + width, color=_RED, linewidth=2.2,
        label="mean confidence",
    )  # fmt: skip
    upper.plot([0, 1], [0, 1], color="0.35", linestyle="--", linewidth=1)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of pixels that are right")
    upper.set_title(f"ECE {curves.ece:.4f}   Brier {curves.brier:.4f}", fontsize=11, loc="left")
    upper.legend(loc="upper left", frameon=False, fontsize=9)
    _draw_confidences(lower, bins.pixels, curves)
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def _draw_confidences(axes: Axes, pixels: Counts, curves: CurveScores) -> None:
    """The share of pixels in each bin, and means of confidence and accuracy over all of them."""
    total = max(int(pixels.sum()), 1)
    edges = np.arange(NUM_BINS + 1) / NUM_BINS
    axes.bar(edges[:-1], pixels / total, 1 / NUM_BINS, align="edge", color="0.7", edgecolor="white")
    counts = curves.counts
    levels = np.linspace(0, 1, len(counts.right))
    confidence = float((counts.right + counts.wrong) @ levels) / total
    accuracy = counts.right.sum() / total
    axes.axvline(confidence, color=_RED, linewidth=1.4, label=f"mean confidence {confidence:.3f}")
    axes.axvline(accuracy, color=_BLUE, linewidth=1.4, label=f"accuracy {accuracy:.3f}")
    axes.set(ylim=(0, 1), xlabel="confidence: probability of the predicted class", ylabel="pixels")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.legend(loc="upper left", frameon=False, fontsize=9)


def _draw_equal_dice(axes: Axes) -> None:
    for dice in (0.2, 0.4, 0.6, 0.8, 0.9):
        recall = np.linspace(dice / (2 - dice), 1, 100)
        axes.plot(recall, dice * recall / (2 * recall - dice), color="0.9", linewidth=0.8, zorder=0)
        axes.annotate(
            f"Dice {dice}", (1, dice / (2 - dice)), (3, 0), textcoords="offset points",
            ha="left", va="center", size=7, color="0.6", annotation_clip=False,
        )  # fmt: skip


def _steps(curves: CurveScores, k: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Recall and precision of class `k`, from recall 0 on."""
    precision, recall = precision_recall(curves.counts, k)
    return np.concatenate([[0.0], recall]), np.concatenate([precision[:1], precision])


def _line_styles(colors: list[tuple[int, int, int]]) -> list[tuple[Color, str]]:
    """Colours dark enough for white paper, and dashes where an earlier line looks nearly alike."""
    styles: list[tuple[Color, str]] = []
    for color in colors:
        shade = _darkened(color)
        twins = sum(max(abs(a - b) for a, b in zip(shade, s, strict=True)) < 0.2 for s, _ in styles)
        styles.append((shade, _DASHES[twins % len(_DASHES)]))
    return styles


def _darkened(color: tuple[int, int, int]) -> Color:
    """`color` from 0 to 1, darker where it would be pale on white paper."""
    red, green, blue = (value / 255 for value in color)
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    scale = min(1.0, 0.62 / luminance) if luminance else 1.0
    return red * scale, green * scale, blue * scale


def _pr_title(curves: CurveScores, num_known: int, dots: bool) -> str:
    if not num_known:
        return "the truth holds no class"
    absent = len(curves.average_precision) - num_known
    title = f"mean AP {curves.mean_average_precision:.3f} over {num_known} classes"
    title += f" ({absent} not in the truth)" if absent else ""
    return title + ("; dots: the most probable class" if dots else "")


def _shorten(name: str) -> str:
    return name if len(name) <= 20 else name[:18] + "..."


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    target = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # names in scripts that DejaVu lacks
        FigureCanvasAgg(figure).print_png(target)  # type: ignore[no-untyped-call]
    return target.getvalue()
