from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from unet_pipeline.datasets.formats import coco, cvat, labelme, yolo
from unet_pipeline.datasets.formats.contract import Found, list_tree
from unet_pipeline.datasets.formats.faults import Faults, Kind, fault_findings, ring_of

GOOD = [2, 2, 9, 2, 9, 9]


def picture(root: Path) -> None:
    (root / "images").mkdir()
    Image.new("RGB", (20, 10)).save(root / "images/a.png")


def read_coco(root: Path, ring: list[float]) -> Found:
    content: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 10}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 1, "segmentation": [corners]}
            for n, corners in enumerate((GOOD, ring))
        ],
    }
    (root / "x.json").write_text(json.dumps(content))
    return coco.read(list_tree(root), None, None)


def read_cvat(root: Path, ring: list[float]) -> Found:
    shapes = "".join(
        f'<polygon label="cat" points="{";".join(f"{x},{y}" for x, y in pairs(corners))}"/>'
        for corners in (GOOD, ring)
    )
    text = f'<annotations><image name="a.png" width="20" height="10">{shapes}</image></annotations>'
    (root / "x.xml").write_text(text)
    return cvat.read(list_tree(root), None, None)


def read_labelme(root: Path, ring: list[float]) -> Found:
    shapes = [
        {"label": "cat", "points": pairs(corners), "shape_type": "polygon"}
        for corners in (GOOD, ring)
    ]
    content = {"shapes": shapes, "imagePath": "a.png", "imageWidth": 20, "imageHeight": 10}
    (root / "images/a.json").write_text(json.dumps(content))
    return labelme.read(list_tree(root), None, None)


def read_yolo(root: Path, ring: list[float]) -> Found:
    (root / "data.yaml").write_text("names: [cat]\ntrain: images\n")
    lines = [
        f"0 {' '.join(f'{x / 20} {y / 10}' for x, y in pairs(corners))}" for corners in (GOOD, ring)
    ]
    (root / "images/a.txt").write_text("\n".join(lines))
    return yolo.read(list_tree(root), None, None)


def pairs(ring: list[float]) -> list[list[float]]:
    return [ring[i : i + 2] for i in range(0, len(ring), 2)]


@pytest.mark.parametrize("read", [read_coco, read_cvat, read_labelme, read_yolo])
@pytest.mark.parametrize(
    ("ring", "reason"),
    [
        ([1, 1], "1 corner, where 3 are needed"),
        ([1, 1, float("nan"), 5, 5, 5], "finite"),
    ],
)
def test_a_polygon_that_cannot_be_drawn_has_one_code_in_all_formats(
    read: Any, ring: list[float], reason: str, tmp_path: Path
) -> None:
    picture(tmp_path)
    (finding,) = read(tmp_path, ring).findings
    assert (finding.code, finding.severity, finding.count) == ("broken-shapes", "warning", 1)
    assert finding.message == "1 shape that cannot be drawn, left out"
    assert reason in finding.examples[0]
    assert finding.remedy


@pytest.mark.parametrize("read", [read_coco, read_cvat, read_labelme, read_yolo])
@pytest.mark.parametrize(
    ("ring", "reason"),
    [
        ([30, 1, 35, 1, 35, 5], "lies outside the picture of 20x10 pixels"),
        ([5, 1, 70000.0, 1, 5, 5], "the corner (70000, 1) lies far outside the picture"),
        ([5, 1, 1e9, 1, 5, 5], "far outside"),
        ([5, 1, 1e308, 1, 5, -1e308], "far outside"),
    ],
)
def test_a_polygon_of_another_place_is_not_drawn_in_any_format(
    read: Any, ring: list[float], reason: str, tmp_path: Path
) -> None:
    picture(tmp_path)
    found = read(tmp_path, ring)
    (finding,) = found.findings
    assert (finding.code, finding.severity, finding.count) == ("broken-shapes", "warning", 1)
    assert reason in finding.examples[0]
    assert found.pairs[0].mask.pixels().sum() == 36  # GOOD alone


@pytest.mark.parametrize("read", [read_coco, read_cvat, read_labelme, read_yolo])
def test_a_polygon_that_reaches_beyond_is_cut_and_told_in_all_formats(
    read: Any, tmp_path: Path
) -> None:
    picture(tmp_path)
    found = read(tmp_path, [15, 0, 40, 0, 40, 9, 15, 9])
    (finding,) = found.findings
    assert (finding.code, finding.severity, finding.count) == ("outside-image", "warning", 1)
    assert finding.message == "1 shape reaching beyond the picture, cut at its edge"
    assert "(40, 0)" in finding.examples[0]
    assert found.pairs[0].mask.pixels()[:, 15:].all()


@pytest.mark.parametrize("read", [read_coco, read_cvat, read_labelme, read_yolo])
def test_a_polygon_a_pixel_outside_is_cut_without_a_word(read: Any, tmp_path: Path) -> None:
    picture(tmp_path)
    assert read(tmp_path, [15, -1, 21, -1, 21, 11, 15, 11]).findings == ()


def test_a_good_ring_is_kept_as_it_is() -> None:
    assert ring_of([1, 2, 3.5, 4, 5, 6]) == (1, 2, 3.5, 4, 5, 6)
    assert ring_of([1, 2, 3, 4], least=2) == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("coordinates", "reason"),
    [
        ([], "0 corners, where 3 are needed"),
        ([1, 2, 3, 4], "2 corners, where 3 are needed"),
        ([1, 2, 3, 4, 5], "5 coordinates, an odd number"),
        ([1, 2, 3, 4, 5, float("inf")], "no finite numbers"),
        ([1, 2, 3, 4, 5, "6"], "no finite numbers"),
        ([1, 2, 3, 4, 5, 10**400], "no finite numbers"),
        (None, "no finite numbers"),
    ],
)
def test_a_bad_ring_says_what_is_wrong(coordinates: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ring_of(coordinates)


def test_findings_come_in_the_order_of_their_kinds_and_weigh_more_where_all_is_lost() -> None:
    faults: Faults = defaultdict(list)
    faults["broken-shapes"] += [f"x{n}" for n in range(7)]
    faults["line-width"] += ["y"]
    kinds = {
        "line-width": Kind("line", "seen", severity="note"),
        "unknown-images": Kind("thing", "absent"),
        "broken-shapes": Kind("shape", "lost", "mend it"),
    }
    one, other = fault_findings(faults, kinds, all_lost=False)
    assert one.sentence() == "1 line seen (y)"
    assert other.sentence() == "7 shapes lost (x0, x1, x2, x3, x4 and 2 more); mend it"
    assert [f.severity for f in (one, other)] == ["note", "warning"]
    lost = fault_findings(faults, kinds, all_lost=True)
    assert [f.severity for f in lost] == ["note", "error"]
