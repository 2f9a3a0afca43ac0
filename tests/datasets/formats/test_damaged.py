"""Annotation files that no format recognises any more: they are named, not passed over."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from unet_pipeline.datasets.findings import Finding
from unet_pipeline.datasets.formats.catalogue import find_pairs
from unet_pipeline.errors import DatasetError

WHOLE = json.dumps(
    {
        "images": [{"id": 1, "file_name": "a.png", "height": 4, "width": 6}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 3, 0, 3, 3]]}
        ],
        "categories": [{"id": 1, "name": "cell"}],
    }
)
TABLE = "image,mask,split\nimages/a.png,masks/a.png,train\nimages/b.png,masks/b.png,val\n"


def pictures(root: Path, *, masks: bool = False) -> Path:
    for role in ("images", *(["masks"] if masks else [])):
        for name in "ab":
            (root / role).mkdir(exist_ok=True)
            Image.new("L", (6, 4)).save(root / role / f"{name}.png")
    return root


def the_fault(source: Path, **options: str) -> Finding:
    found = find_pairs(source, **options)
    (finding,) = [f for f in found.findings if f.severity == "error"]
    assert finding.code == "unreadable-annotations"
    return finding


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (WHOLE[:-30], "annotations.json: is no valid JSON (line 1"),
        ("", "annotations.json: is empty"),
        ("NaN", "annotations.json: holds nan, no annotations"),
        ("[]", "annotations.json: holds a list, no annotations"),
        (
            WHOLE.replace("categories", "classes"),
            'annotations.json: has no list "categories", which COCO files have',
        ),
    ],
)
@pytest.mark.parametrize("options", [{}, {"format_name": "coco"}])
def test_a_damaged_json_file_beside_bare_images_is_named_with_its_fault(
    tmp_path: Path, content: str, reason: str, options: dict[str, str]
) -> None:
    (pictures(tmp_path) / "annotations.json").write_text(content)
    (example,) = the_fault(tmp_path, **options).examples
    assert example.startswith(reason)
    with pytest.raises(DatasetError, match=r"annotations\.json: "):
        find_pairs(tmp_path / "annotations.json")


def test_coco_in_the_encoding_of_windows_is_read(tmp_path: Path) -> None:
    (pictures(tmp_path) / "annotations.json").write_text(WHOLE, encoding="utf-16")
    found = find_pairs(tmp_path)
    assert found.sentence.startswith("format coco")
    assert [pair.sample_id for pair in found.pairs] == ["a"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        ("hello", "is no valid XML"),
        ("<image/>", "begins with <image>"),
    ],
)
def test_a_damaged_xml_file_is_named_with_its_fault(
    tmp_path: Path, content: str, reason: str
) -> None:
    (pictures(tmp_path) / "annotations.xml").write_text(content)
    (example,) = the_fault(tmp_path).examples
    assert example.startswith(f"annotations.xml: {reason}")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text + "\0", "is no text in utf-8"),
        (lambda text: text.replace("images/a", '"images/a'), "a quote is not closed"),
        (lambda text: text.split("\n")[0] + "\n", "has a header but no rows"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"format_name": "table"}])
def test_a_damaged_table_is_an_error_though_its_folders_could_be_read_without(
    tmp_path: Path, change: Callable[[str], str], reason: str, options: dict[str, str]
) -> None:
    (pictures(tmp_path, masks=True) / "list.csv").write_text(change(TABLE))
    finding = the_fault(tmp_path, **options)
    assert finding.examples[0].startswith(f"list.csv: {reason}")
    assert "--format plain" in finding.remedy or options
    plain = find_pairs(tmp_path, format_name="plain")
    assert not [f for f in plain.findings if f.severity == "error"]
    (tmp_path / "list.csv").write_text(TABLE)
    assert [pair.split for pair in find_pairs(tmp_path).pairs] == ["train", "val"]


def test_a_damaged_json_file_beside_masks_is_an_error_and_other_lists_are_none(
    tmp_path: Path,
) -> None:
    pictures(tmp_path, masks=True)
    (tmp_path / "labels.json").write_text('{"0": "ground", "1": "cell"}')
    (tmp_path / "class_labels.csv").write_text("image ID, class label\n1, 2\n")
    (tmp_path / "notes.json").write_text("{")
    assert not [f for f in find_pairs(tmp_path).findings if f.severity == "error"]
    (tmp_path / "instances_train.json").write_text(WHOLE[:-30])
    assert the_fault(tmp_path).examples[0].startswith("instances_train.json: is no valid JSON")


def test_a_row_with_a_quoted_line_break_is_no_open_quote(tmp_path: Path) -> None:
    pictures(tmp_path, masks=True)
    rows = 'image,mask,note\nimages/a.png,masks/a.png,"two\nlines"\nimages/b.png,masks/b.png,\n'
    (tmp_path / "list.csv").write_text(rows)
    assert len(find_pairs(tmp_path).pairs) == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("names: [a, b", "data.yaml: is no valid YAML"),
        ("", "data.yaml: is empty"),
        ("hello", "data.yaml: names neither classes nor images"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"format_name": "yolo"}])
def test_a_damaged_yaml_file_of_yolo_is_an_error(
    tmp_path: Path, content: str, reason: str, options: dict[str, str]
) -> None:
    pictures(tmp_path)
    (tmp_path / "labels").mkdir()
    for name in "ab":
        (tmp_path / "labels" / f"{name}.txt").write_text("0 0.1 0.1 0.9 0.1 0.9 0.9\n")
    (tmp_path / "data.yaml").write_text(content)
    assert the_fault(tmp_path, **options).examples[0].startswith(reason)
