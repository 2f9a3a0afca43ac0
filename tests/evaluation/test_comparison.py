"""Several predictors side by side: table, CSV, bars, pictures."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from unet_pipeline.classes import Classes, default_colors
from unet_pipeline.console import as_text
from unet_pipeline.evaluation import (
    Rung,
    best_rung,
    comparison_csv,
    comparison_markdown,
    comparison_png,
    comparison_table,
    gallery,
)

RUNGS = [
    Rung("majority", 0.4, 0.5, 0, 0.1, 30.0, "runs/d/majority-0001"),
    Rung("otsu", note="otsu parts two classes, and the data has 3"),
    Rung("unet", 0.875, 0.93, 1_942_577, 60.25, 1.5, "runs/d/unet-ce+dice-0002"),
]


def test_the_table_shows_every_figure_and_the_reason_where_there_is_none() -> None:
    text = as_text(comparison_table(RUNGS, title="d: 9 test images"))
    for word in ("d: 9 test images", "0.8750", "0.9300", "1,942,577", "60.2", "1.50", "majority"):
        assert word in text
    assert "otsu parts two" in text


def test_the_markdown_has_the_same_rows() -> None:
    lines = comparison_markdown(RUNGS, title="d: 9 test images").splitlines()
    assert lines[0] == "**d: 9 test images**"
    assert lines[-1] == ("| unet | 0.8750 | 0.9300 | 1,942,577 | 60.2 | 1.50 | unet-ce+dice-0002 |")
    assert lines[-2].startswith("| otsu | - | - | - | - | - | otsu parts")


def test_a_rung_that_failed_after_training_keeps_what_it_has() -> None:
    rung = Rung("unet", parameters=7, training_seconds=3.0, run="runs/d/u", note="no | memory")
    line = comparison_markdown([rung], title="d").splitlines()[-1]
    assert line == "| unet | - | - | 7 | 3.0 | - | no \\| memory |"


def test_the_csv_has_every_digit_and_empty_cells_for_what_does_not_exist() -> None:
    rows = list(csv.DictReader(io.StringIO(comparison_csv(RUNGS).decode())))
    assert [row["name"] for row in rows] == ["majority", "otsu", "unet"]
    assert rows[2]["training_seconds"] == "60.25"
    assert rows[1]["mean_iou"] == ""


def test_the_best_rung_is_that_of_the_highest_iou_and_nan_is_none() -> None:
    best = best_rung(RUNGS)
    assert best is not None
    assert best.name == "unet"
    assert best_rung([RUNGS[1]]) is None


def test_a_summary_is_valid_json() -> None:
    text = json.dumps([rung.summary() for rung in RUNGS], allow_nan=False)
    assert json.loads(text)[1]["mean_iou"] is None


def test_the_bars_are_a_picture() -> None:
    picture = Image.open(io.BytesIO(comparison_png(RUNGS, title="d $x$")))
    assert picture.size[0] > 400
    colors = np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)
    assert (colors == (0, 0x72, 0xB2)).all(axis=1).any()


@pytest.mark.parametrize("sizes", [[(30, 40)], [(30, 40), (90, 20), (1, 1)], [(600, 800)]])
def test_the_gallery_has_a_row_an_image_and_a_column_a_predictor(
    sizes: list[tuple[int, int]],
) -> None:
    classes = Classes(names=("a", "b"), colors=default_colors(2), values=(0, 1))
    rows = []
    for size in sizes:
        image = np.full((*size, 3), 120, np.uint8)
        mask = np.zeros(size, np.uint8)
        mask[: (size[0] + 1) // 2] = 1
        rows.append(("caption", image, {"truth": mask, "unet": np.zeros(size, np.uint8)}))
    sheet = gallery(rows, classes, tile_side=100)
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] >= 3 * min(100, max(s[1] for s in sizes))
    tinted = np.ptp(sheet.astype(int), axis=-1) > 30  # everything but the masks is grey
    columns = np.flatnonzero(tinted.any(axis=0))
    width = (sheet.shape[1] - 10) // 3
    assert 10 + width <= columns.min(), "the image is not tinted"
    assert columns.max() < 10 + 2 * width, "nor is a prediction of background"
