"""Scores as tables: for the terminal with rich, for spreadsheets as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from unet_pipeline.classes import Classes
from unet_pipeline.evaluation.metrics import Counts, Scores, class_scores, image_means


def score_table(scores: Scores, classes: Classes, *, title: str = "") -> Table:
    """A rich table of the scores by class, with lines for the means.

    The caption names classes that have no figure: those that occur neither in the truth nor in the
    prediction, and those that are never predicted.
    """
    table = Table(title=Text(title) if title else None, caption=_absences(scores, classes) or None)
    table.add_column("class")
    for name in ("IoU", "Dice", "precision", "recall", "pixels"):
        table.add_column(name, justify="right")
    pixels, of = scores.matrix.sum(axis=1), scores.classes
    by_class = (of.iou, of.dice, of.precision, of.recall)
    for k, name in enumerate(classes.names):
        figures = (_figure(values[k]) for values in by_class)
        table.add_row(Text(name), *figures, f"{pixels[k]:,}")
    table.add_section()
    averaged = f"mean of {scores.num_classes_averaged} of {classes.num_classes} classes"
    means = (_figure(scores.mean_iou), _figure(scores.mean_dice))
    table.add_row(averaged, *means, "", "", f"{scores.num_pixels:,}", style="bold")
    per_image = (_figure(scores.mean_iou_per_image), _figure(scores.mean_dice_per_image))
    table.add_row(f"mean over {scores.num_images} images", *per_image, "", "", "")
    table.add_row("pixel accuracy", _figure(scores.pixel_accuracy), "", "", "", "")
    return table


def per_image_csv(sample_ids: Sequence[str], matrices: Counts, classes: Classes) -> bytes:
    """A CSV file, one row an image: pixels, mean IoU and Dice, then pixels and IoU by class.

    sample_ids: n names. matrices: (n, K, K). `pixels` are the counted ones, `pixels/<class>` those
    whose truth is the class. A figure that does not exist is an empty cell.
    """
    header = ["sample_id", "pixels", "correct_pixels", "mean_iou", "mean_dice"]
    header += [f"pixels/{name}" for name in classes.names]
    header += [f"iou/{name}" for name in classes.names]
    mean_iou, mean_dice = image_means(matrices)
    iou = class_scores(matrices).iou
    rows = [
        [
            sample_id,
            int(matrix.sum()),
            int(np.trace(matrix)),
            float(mean_iou[n]),
            float(mean_dice[n]),
            *(int(count) for count in matrix.sum(axis=1)),
            *(float(value) for value in iou[n]),
        ]
        for n, (sample_id, matrix) in enumerate(zip(sample_ids, matrices, strict=True))
    ]
    return csv_bytes(header, rows)


def csv_bytes(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """A CSV file in UTF-8 that is well-formed whatever the names of files hold.

    NaN and None are empty cells. Text that a spreadsheet would run as a formula (it begins with
    = + - @) gets an apostrophe before it; bytes that are no UTF-8 are written as \\udcxx.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in (header, *rows):
        writer.writerow([_cell(value) for value in row])
    return text.getvalue().encode("utf-8", "backslashreplace")


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return value


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _absences(scores: Scores, classes: Classes) -> Text:
    true, predicted = scores.matrix.sum(axis=1), scores.matrix.sum(axis=0)
    absent = [n for k, n in enumerate(classes.names) if not true[k] and not predicted[k]]
    unseen = [n for k, n in enumerate(classes.names) if true[k] and not predicted[k]]
    lines = []
    if absent:
        lines.append(f"in neither truth nor prediction, so in no mean: {_listed(absent)}")
    if unseen:
        lines.append(f"never predicted: {_listed(unseen)}")
    return Text("\n".join(lines))


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def headline_figures(scores: Scores, classes: Classes) -> dict[str, float]:
    """The figures worth a curve each: the means, and the IoU of each class up to 20 classes.

    More keys would make MLflow's page of charts slow; metrics.json has all of them.
    """
    kept = ("mean_", "pixel_accuracy") + (("iou/",) if classes.num_classes <= 20 else ())
    figures = scores.figures(classes.names)
    return {name: value for name, value in figures.items() if name.startswith(kept)}
