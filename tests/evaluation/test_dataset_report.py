from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unet_pipeline.evaluation.dataset_report import DatasetPage, Exhibit, dataset_report


def square(level: int) -> np.ndarray:
    return np.full((20, 30, 3), level, np.uint8)


def page(**changes: Any) -> DatasetPage:
    fields: dict[str, Any] = {
        "title": "cells",
        "facts": [("samples", "8 train, 2 val")],
        "findings": [
            {"severity": "warning", "code": "rare-classes", "message": "one class is rare",
             "examples": ["a", "b"], "count": 7, "remedy": "use weights"},
        ],
        "classes": [("background", (0, 0, 0)), ("cell", (200, 30, 10))],
        "pixels": {"train": [9900, 100], "val": [50, 0]},
        "values": [("255/0/0", 1234567, 3, "cell")],
        "channel_columns": ("channel", "mean"),
        "channels": [["0", "127.5"]],
        "objects": [("cell", 12, 3, 40, 99)],
        "sizes": {"train": [(640, 480)] * 7 + [(100, 90)], "val": [(640, 480)] * 2},
        "gallery": {"cell": [Exhibit("first: 3 %", square(40))]},
        "look_alikes": [(Exhibit("left (train)", square(1)), Exhibit("right (val)", square(2)))],
    }  # fmt: skip
    return DatasetPage(**{**fields, **changes})


class Collector(HTMLParser):
    """Text, and the addresses that a page refers to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.addresses, self.tags = "", [], []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href") and value]
        if tag not in ("meta", "img", "circle", "line"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("circle", "line"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_everything_that_is_given_is_on_the_page() -> None:
    seen = Collector(dataset_report(page()))
    assert seen.open == []
    for words in ("cells", "8 train, 2 val", "one class is rare", "rare-classes", "use weights",
                  "1,234,567", "255/0/0", "127.5", "first: 3 %", "right (val)",
                  "1.000 %"):  # fmt: skip
        assert words in seen.text, words


def test_the_page_refers_to_nothing_outside_itself() -> None:
    html = dataset_report(page())
    seen = Collector(html)
    assert len(seen.addresses) == 3
    assert all(address.startswith("data:image/jpeg;base64,") for address in seen.addresses)
    assert not re.search(r"https?://|@import|url\(", html)
    assert "script" not in seen.tags


def test_the_pictures_are_those_given() -> None:
    address = Collector(dataset_report(page())).addresses[0]
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as picture:
        assert picture.size == (30, 20)
        assert abs(int(np.asarray(picture).mean()) - 40) <= 1


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", '"><img src=x>', "{{ 7*7 }}"])
def test_names_of_files_and_classes_are_escaped(hostile: str) -> None:
    finding = {"severity": "error", "code": "x", "message": hostile, "examples": [hostile],
               "count": 1, "remedy": hostile}  # fmt: skip
    html = dataset_report(
        page(
            title=hostile,
            findings=[finding],
            classes=[(hostile, (1, 2, 3)), ("b", (4, 5, 6))],
            gallery={hostile: [Exhibit(hostile, square(1))]},
        )
    )
    seen = Collector(html)
    assert "script" not in seen.tags
    assert seen.text.count(hostile) >= 6
    assert all(address.startswith("data:") for address in seen.addresses)


def test_a_rare_class_has_a_visible_bar_and_an_absent_one_none() -> None:
    html = dataset_report(page(pixels={"train": [999_000, 1000], "val": [10, 0]}))
    assert "width: 3.16%" in html
    assert "width: 0.00%" in html


def test_a_page_without_findings_look_alikes_and_splits_is_whole() -> None:
    html = dataset_report(page(findings=[], look_alikes=[], objects=[], values=[], pixels={},
                               sizes={}, gallery={}))  # fmt: skip
    seen = Collector(html)
    assert seen.open == []
    assert "Nothing to report" in seen.text
    assert "Nearly equal" not in seen.text


def test_points_lie_inside_the_plot_and_say_their_number() -> None:
    html = dataset_report(page())
    places = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', html)
    assert len(places) == 2 + 3  # two splits in the legend, three kinds of size
    assert all(0 <= float(x) <= 560 and 0 <= float(y) <= 320 for x, y in places)
    assert "640 x 480: 7 in train" in html
