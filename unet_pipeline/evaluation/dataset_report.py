"""One self-contained HTML page about a dataset: findings, classes, sizes, pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from unet_pipeline.evaluation.pictures import Color, Picture

_PLOT_WIDTH, _PLOT_HEIGHT, _PLOT_MARGIN = 560, 320, 46
_MOST_POINTS = 2000  # of the scatter; more are thinned out evenly


@dataclass(frozen=True)
class Exhibit:
    """One picture with the line under it."""

    caption: str
    picture: Picture


@dataclass(frozen=True)
class DatasetPage:
    """What the page shows; every text is escaped.

    facts: rows of name and value. findings: rows with severity, code, message, examples, remedy.
    classes: name and colour of each class. pixels: split -> pixels of each class.
    values: rows of the mask values: value, pixels, masks, what it is taken for.
    channels: rows of channel statistics under `channel_columns`. objects: rows a class.
    sizes: split -> (width, height) of its images.
    gallery: class name -> pictures that hold it. look_alikes: pairs of nearly equal pictures.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    findings: Sequence[Mapping[str, Any]]
    classes: Sequence[tuple[str, Color]]
    pixels: Mapping[str, Sequence[int]]
    values: Sequence[Sequence[Any]]
    channel_columns: Sequence[str]
    channels: Sequence[Sequence[str]]
    objects: Sequence[Sequence[Any]]
    sizes: Mapping[str, Sequence[tuple[int, int]]]
    gallery: Mapping[str, Sequence[Exhibit]]
    look_alikes: Sequence[tuple[Exhibit, Exhibit]]


def dataset_report(page: DatasetPage) -> str:
    """The page as HTML text; it refers to no other file and no address."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["jpeg"] = _as_jpeg
    environment.filters["thousands"] = lambda number: f"{number:,}"
    source = resources.files(__package__).joinpath("dataset_report.html").read_text("utf-8")
    return environment.from_string(source).render(
        page=page, bars=_bars(page), scatter=_scatter(page.sizes), plot=_PLOT
    )


_PLOT = {"width": _PLOT_WIDTH, "height": _PLOT_HEIGHT, "margin": _PLOT_MARGIN}
_SPLIT_COLORS = {"train": "#0072b2", "val": "#d55e00", "test": "#009e73"}


def _as_jpeg(picture: Picture) -> str:
    """A picture as the text of a data address."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(file, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _bars(page: DatasetPage) -> list[dict[str, Any]]:
    """One row a class: its share of the pixels of each split, for bars on a root scale.

    On a linear scale a class of 0.1 % has no visible bar; the root shows it with 3 % of the width.
    """
    totals = {split: sum(counts) or 1 for split, counts in page.pixels.items()}
    return [
        {
            "name": name,
            "color": "#{:02x}{:02x}{:02x}".format(*color),
            "shares": [
                {
                    "split": split,
                    "share": counts[k] / totals[split],
                    "width": 100 * (counts[k] / totals[split]) ** 0.5,
                    "pixels": counts[k],
                    "color": _SPLIT_COLORS.get(split, "#777777"),
                }
                for split, counts in page.pixels.items()
            ],
        }
        for k, (name, color) in enumerate(page.classes)
    ]


def _scatter(sizes: Mapping[str, Sequence[tuple[int, int]]]) -> dict[str, Any]:
    """Places of the points of width against height, and the ticks of both axes."""
    points = [(split, w, h) for split, some in sizes.items() for w, h in some]
    far = max((max(w, h) for _, w, h in points), default=1)
    step = _round_step(far)
    far = step * -(-far // step)
    counts: dict[tuple[str, int, int], int] = {}
    for point in points:
        counts[point] = counts.get(point, 0) + 1
    shown = list(counts.items())[:: 1 + len(counts) // _MOST_POINTS]
    inner_width, inner_height = _PLOT_WIDTH - 2 * _PLOT_MARGIN, _PLOT_HEIGHT - 2 * _PLOT_MARGIN
    return {
        "points": [
            {
                "x": round(_PLOT_MARGIN + inner_width * w / far, 1),
                "y": round(_PLOT_HEIGHT - _PLOT_MARGIN - inner_height * h / far, 1),
                "radius": round(min(3 + count**0.5, 14), 1),
                "color": _SPLIT_COLORS.get(split, "#777777"),
                "title": f"{w} x {h}: {count} in {split}",
            }
            for (split, w, h), count in shown
        ],
        "x_ticks": [
            (round(_PLOT_MARGIN + inner_width * t / far, 1), t) for t in range(0, far + 1, step)
        ],
        "y_ticks": [
            (round(_PLOT_HEIGHT - _PLOT_MARGIN - inner_height * t / far, 1), t)
            for t in range(0, far + 1, step)
        ],
        "colors": {split: _SPLIT_COLORS.get(split, "#777777") for split in sizes},
    }


def _round_step(far: int) -> int:
    """A step of 1, 2 or 5 times a power of ten that divides `far` into at most six."""
    power = 1
    while True:
        for factor in (1, 2, 5):
            if far <= 6 * factor * power:
                return factor * power
        power *= 10
