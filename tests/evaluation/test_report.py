"""The report folder: JSON, CSV, plots, tables."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from unet_pipeline.classes import Classes
from unet_pipeline.errors import UserError
from unet_pipeline.evaluation.metrics import confusion_matrix, summarize
from unet_pipeline.evaluation.report import (
    best_and_worst,
    confusion_png,
    scores_json,
    write_report,
)
from unet_pipeline.evaluation.tables import csv_bytes, per_image_csv, score_table

CLASSES = Classes(
    names=("background", "cell [b]", "never", "unseen $x^2$"),
    colors=((0, 0, 0), (200, 0, 0), (0, 200, 0), (0, 0, 200)),
    values=(0, 1, 2, 3),
)
# class 2 occurs nowhere, class 3 in the truth only
FIRST = np.array([[50, 10, 0, 0], [5, 30, 0, 0], [0, 0, 0, 0], [2, 3, 0, 0]])
SECOND = np.array([[90, 0, 0, 0], [0, 10, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
STACK = np.stack([FIRST, SECOND, np.zeros((4, 4), dtype=int)])


def rows_of(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode("utf-8"))))


def printed(table) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(table)
    return console.file.getvalue()


def test_the_table_holds_every_class_the_means_and_names_the_absent():
    text = printed(score_table(summarize(STACK), CLASSES, title="split [test]"))

    assert "split [test]" in text
    assert "cell [b]" in text  # not taken for markup
    iou = 40 / (40 + 10 + 5 + 3)
    assert f"{iou:.4f}" in text
    assert "mean of 3 of 4 classes" in text
    assert "mean over 3 images" in text
    assert "200" in text
    assert "in no mean: never" in text
    assert "never predicted: unseen" in text


def test_json_has_null_for_what_does_not_exist_and_exact_counts():
    scores = summarize(STACK)
    tree = json.loads(json.dumps(scores_json(scores, CLASSES), allow_nan=False))

    assert tree["mean_iou"] == scores.mean_iou
    assert tree["num_classes_averaged"] == 3
    assert tree["num_pixels"] == 200
    assert tree["classes"][2] == {
        "name": "never", "iou": None, "dice": None, "precision": None, "recall": None,
        "pixels": 0, "predicted_pixels": 0,
    }  # fmt: skip
    assert tree["classes"][3]["precision"] is None
    assert tree["classes"][3]["recall"] == 0
    assert tree["confusion_matrix"] == STACK.sum(axis=0).tolist()


def test_the_csv_has_a_row_an_image_with_empty_cells_for_what_does_not_exist():
    header, *rows = rows_of(per_image_csv(["a/1", "a/2", "empty"], STACK, CLASSES))

    first = dict(zip(header, rows[0], strict=True))
    assert first["sample_id"] == "a/1"
    assert (first["pixels"], first["correct_pixels"]) == ("100", "80")
    assert first["pixels/cell [b]"] == "35"
    assert float(first["iou/background"]) == 50 / 67
    assert first["iou/never"] == ""
    assert float(first["mean_iou"]) == pytest.approx((50 / 67 + 30 / 48 + 0) / 3)
    assert dict(zip(header, rows[2], strict=True))["mean_iou"] == ""
    assert len(rows) == 3


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+a", "'+a"),
        ("-a", "'-a"),
        ("@a", "'@a"),
        ("\ttab", "'\ttab"),
        ("two\nlines", "two\nlines"),
        ('quo"te, comma', 'quo"te, comma'),
        ("bad\udcff", "bad\\udcff"),
        ("größe", "größe"),
    ],
)
def test_csv_cells_run_no_formula_and_hold_any_name(name, cell):
    data = csv_bytes(["sample_id", "value"], [(name, -0.5)])
    assert rows_of(data)[1] == [cell, "-0.5"]


def test_the_best_and_the_worst_are_extreme_first_and_never_the_same():
    found = [5, 9, 1, 7, 3]
    stack = np.stack([np.array([[10, 10 - n], [0, n]]) for n in found] + [np.zeros((2, 2))])

    best, worst = best_and_worst(stack.astype(np.int64), count=2)
    assert (best, worst) == ([1, 3], [2, 4])
    best, worst = best_and_worst(stack.astype(np.int64), count=10)
    assert (best, worst) == ([1, 3], [2, 4, 0])
    assert best_and_worst(stack[:1].astype(np.int64), count=3) == ([], [0])


@pytest.mark.parametrize("num_classes", [2, 20, 30])
def test_the_confusion_matrix_is_drawn_for_any_number_of_classes(num_classes):
    classes = Classes(
        names=tuple(f"{k} 细胞 $broken" for k in range(num_classes)),
        colors=((1, 2, 3),) * num_classes,
        values=tuple(range(num_classes)),
    )
    matrix = np.diag(np.arange(num_classes) * 10_000)

    picture = Image.open(io.BytesIO(confusion_png(matrix, classes)))

    assert picture.format == "PNG"
    assert 400 < picture.width < 2200
    assert len(np.unique(np.asarray(picture).reshape(-1, 4), axis=0)) > 20


def test_plotting_touches_neither_pyplot_nor_a_display():
    import subprocess
    import sys

    code = (
        "import sys, numpy as np\n"
        "from unet_pipeline.classes import Classes\n"
        "from unet_pipeline.evaluation.report import confusion_png\n"
        "c = Classes(names=('a', 'b'), colors=((0, 0, 0),) * 2, values=(0, 1))\n"
        "confusion_png(np.eye(2, dtype=int), c)\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def samples():
    rng = np.random.default_rng(0)
    truth = {f"s/{n}": rng.integers(0, 4, (20, 30)).astype(np.uint8) for n in range(5)}
    image = {name: (mask * 60)[..., None].astype(np.uint8) for name, mask in truth.items()}
    guess = {
        name: np.where(rng.random(mask.shape) < n / 5, mask, 0).astype(np.uint8)
        for n, (name, mask) in enumerate(truth.items())
    }
    matrices = [confusion_matrix(truth[n], guess[n], num_classes=4) for n in truth]
    return list(truth), np.stack(matrices), lambda name: (image[name], truth[name], guess[name])


def test_a_report_is_written_whole_with_pictures_of_the_best_and_the_worst(tmp_path):
    names, matrices, picture = samples()
    asked = []

    def asked_picture(name):
        asked.append(name)
        return picture(name)

    scores = write_report(
        tmp_path / "deep" / "report",
        sample_ids=names,
        matrices=matrices,
        classes=CLASSES,
        picture=asked_picture,
        num_pictures=2,
    )

    folder = tmp_path / "deep" / "report"
    written = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert written == [
        "confusion_matrix.png", "metrics.json", "per_image.csv", "pictures/best_01.png",
        "pictures/best_02.png", "pictures/worst_01.png", "pictures/worst_02.png",
    ]  # fmt: skip
    assert asked == ["s/4", "s/3", "s/0", "s/1"]
    assert json.loads((folder / "metrics.json").read_text())["mean_iou"] == scores.mean_iou
    with Image.open(folder / "pictures" / "best_01.png") as sheet:
        assert sheet.mode == "RGB"


def test_a_second_report_leaves_no_picture_of_the_first(tmp_path):
    names, matrices, picture = samples()
    kept = tmp_path / "pictures" / "mine.png"
    for count in (2, 1):
        write_report(
            tmp_path, sample_ids=names, matrices=matrices, classes=CLASSES,
            picture=picture, num_pictures=count,
        )  # fmt: skip
        kept.write_bytes(b"")
    left = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert left == ["best_01.png", "mine.png", "worst_01.png"]


def test_a_report_into_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    names, matrices, _ = samples()
    with pytest.raises(UserError, match="a file is in the way"):
        write_report(
            tmp_path / "file", sample_ids=names, matrices=matrices, classes=CLASSES, num_pictures=0
        )
