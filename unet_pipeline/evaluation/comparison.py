"""Several predictors on one dataset, side by side: a table, bars, and their masks in pictures."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from rich.table import Table
from rich.text import Text

from unet_pipeline.classes import Classes
from unet_pipeline.evaluation.pictures import Picture, fit, font, overlay, shorten, visible
from unet_pipeline.evaluation.tables import csv_bytes

_MARGIN, _LINE, _INK = 10, 22, (60, 60, 60)


@dataclass(frozen=True)
class Rung:
    """What came of one predictor.

    parameters: numbers that were trained. training_seconds: wall clock, validation included.
    megapixels_per_second: of prediction, decoding left out. run: its run folder.
    note: why there are no figures, where there are none; they are NaN then.
    """

    name: str
    mean_iou: float = math.nan
    mean_dice: float = math.nan
    parameters: int = 0
    training_seconds: float = math.nan
    megapixels_per_second: float = math.nan
    run: str = ""
    note: str = ""

    def summary(self) -> dict[str, Any]:
        """JSON-able: a figure that does not exist is null."""
        values = asdict(self).items()
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values}


_COLUMNS = ("mean IoU", "mean Dice", "parameters", "training s", "MP/s predicted")


def comparison_table(rungs: Sequence[Rung], *, title: str) -> Table:
    """A rich table, one row a rung; the best mean IoU is bold."""
    table = Table(title=Text(title))
    table.add_column("model", no_wrap=True)
    for column in _COLUMNS:
        table.add_column(column, justify="right")
    table.add_column("run", overflow="fold")
    notes = [f"{rung.name}: {rung.note}" for rung in rungs if rung.note]
    table.caption = Text("\n".join(notes), justify="left") if notes else None
    best = best_rung(rungs)
    for rung in rungs:
        style = "bold" if rung is best else ""
        table.add_row(Text(rung.name), *_cells(rung), Text(Path(rung.run).name), style=style)
    return table


def comparison_markdown(rungs: Sequence[Rung], *, title: str) -> str:
    """The same table for a note in MLflow, or a log."""
    lines = [f"**{title}**", "", "| model | " + " | ".join(_COLUMNS) + " | run |"]
    lines.append("|---|" + "---:|" * len(_COLUMNS) + "---|")
    for rung in rungs:
        last = _last(rung).replace("|", "\\|")
        lines.append(f"| {rung.name} | {' | '.join(_cells(rung))} | {last} |")
    return "\n".join(lines) + "\n"


def comparison_csv(rungs: Sequence[Rung]) -> bytes:
    """The same table for spreadsheets, every digit of it."""
    rows = [list(asdict(rung).values()) for rung in rungs]
    return csv_bytes(list(asdict(Rung("")).keys()), rows)


def best_rung(rungs: Sequence[Rung]) -> Rung | None:
    """The rung of the highest mean IoU; None where none has any."""
    scored = [rung for rung in rungs if not math.isnan(rung.mean_iou)]
    return max(scored, key=lambda rung: rung.mean_iou, default=None)


def comparison_png(rungs: Sequence[Rung], *, title: str) -> bytes:
    """A PNG file: bars of mean IoU and mean Dice, one pair a rung."""
    # The canvas is used directly: pyplot keeps global state and may look for a display
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scored = [rung for rung in rungs if not math.isnan(rung.mean_iou)][::-1]
    figure = Figure(figsize=(7.2, 1.1 + 0.62 * len(scored)), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(scored))
    series = {"mean IoU": [r.mean_iou for r in scored], "mean Dice": [r.mean_dice for r in scored]}
    for offset, color, (label, values) in zip(
        (0.19, -0.19), ("#0072b2", "#9ecae1"), series.items(), strict=True
    ):
        bars = axes.barh(places + offset, values, 0.36, color=color, label=label)
        axes.bar_label(bars, fmt="%.3f", padding=3, fontsize=9)
    axes.set_yticks(places, [rung.name for rung in scored], parse_math=False)
    axes.set_xlim(0, 1.08)
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=2, frameon=False, fontsize=9)
    target = io.BytesIO()
    FigureCanvasAgg(figure).print_png(target)  # type: ignore[no-untyped-call]
    return target.getvalue()


def gallery(
    rows: Sequence[tuple[str, npt.NDArray[Any], dict[str, npt.NDArray[Any]]]],
    classes: Classes,
    *,
    tile_side: int = 280,
) -> Picture:
    """Images, and what each predictor made of them: RGB (H, W, 3), uint8, one row an image.

    rows: (caption, image (H, W, C), {title: class indices (H, W)}), the same titles in each row.
    tile_side: the longer side of each picture comes as near to this as crisp scaling allows.
    """
    tiles = [
        [fit(visible(image), tile_side)]
        + [fit(overlay(image, mask, classes), tile_side) for mask in masks.values()]
        for _, image, masks in rows
    ]
    column = max(picture.width for row in tiles for picture in row) + _MARGIN
    heights = [row[0].height + _LINE + _MARGIN for row in tiles]
    size = (column * len(tiles[0]) + _MARGIN, _LINE + sum(heights))
    sheet = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for number, title in enumerate(["image", *rows[0][2]]):
        text = shorten(title, font(13, bold=True), column - _MARGIN)
        draw.text((_MARGIN + number * column, 3), text, fill=_INK, font=font(13, bold=True))
    top = _LINE
    for (caption, _, _), pictures, height in zip(rows, tiles, heights, strict=True):
        for number, picture in enumerate(pictures):
            sheet.paste(picture, (_MARGIN + number * column, top))
        text = shorten(caption, font(12), size[0] - 2 * _MARGIN)
        draw.text((_MARGIN, top + pictures[0].height + 3), text, fill=_INK, font=font(12))
        top += height
    return np.array(sheet)


def _last(rung: Rung) -> str:
    return rung.note or Path(rung.run).name


def _cells(rung: Rung) -> list[str]:
    def figure(value: float, digits: int) -> str:
        return "-" if math.isnan(value) else f"{value:,.{digits}f}"

    return [
        figure(rung.mean_iou, 4),
        figure(rung.mean_dice, 4),
        f"{rung.parameters:,}" if rung.run else "-",
        figure(rung.training_seconds, 1),
        figure(rung.megapixels_per_second, 2),
    ]
