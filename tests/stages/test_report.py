"""report.html: one file that shows what was found, and says nothing it was told to run."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.stages import sources
from tests.stages.conftest import TINY
from unet_pipeline import cli


class Page(HTMLParser):
    """The headings, pictures, attributes and text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.sections: dict[str, int] = {}  # heading of level 3 -> pictures under it
        self.text = ""
        self._in_heading = False
        self.source = path.read_text()
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "h3":
            self._heading, self._in_heading = "", True
        if tag == "img" and self.sections:
            self.sections[list(self.sections)[-1]] += 1

    def handle_endtag(self, tag: str) -> None:
        if tag == "h3":
            self._in_heading = False
            self.sections[self._heading] = 0

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"
        if self._in_heading:
            self._heading += data


def report_of(folder: str) -> Page:
    return Page(Path(folder) / "report.html")


def test_the_report_refers_to_nothing_outside() -> None:
    sources.prepare(sources.coco(Path("cells")), "-o", "out")
    page = report_of("out")
    assert not re.search(r"https?:|//\w", re.sub(r"base64,[^\"]*", "", page.source))
    places = [value for name, value in page.attributes if name in ("src", "href", "srcset")]
    assert places
    assert all(value.startswith("data:image/jpeg;base64,") for value in places)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "url(" not in page.source


def test_the_report_shows_findings_and_pictures_of_every_class() -> None:
    source = sources.plain(Path("cells"))
    flat = np.full((sources.HEIGHT, sources.WIDTH, 3), 7, dtype=np.uint8)
    sources.save(source / "images" / "s03.png", flat)
    sources.prepare(source, "-o", "out", "--class-names", "background,cell,debris")
    page = report_of("out")
    assert "flat-images" in page.text
    assert "s03" in page.text
    for name in ("cell", "debris"):
        assert page.sections[name] >= 1
    counts = sources.expected_pixels()
    rows = re.sub(r"\s+", " ", page.text)
    for number, name in enumerate(counts):
        assert f"{number} {counts[name]:,} 8 {name}" in rows


def test_nearly_equal_pictures_are_shown_side_by_side() -> None:
    source = Path("cells")
    for n in range(6):
        rng = np.random.default_rng(max(n, 1))  # 0 and 1 are alike, all others differ
        coarse = rng.integers(0, 200, (8, 8, 3), dtype=np.uint8)
        image = np.kron(coarse, np.ones((8, 8, 1), dtype=np.uint8)) + np.uint8(6 * (n == 0))
        mask = np.where(np.arange(64) < 20 + n, 0, 255) * np.ones((64, 1))
        sources.save(source / "images" / f"{n}.png", image)
        sources.save(source / "masks" / f"{n}.png", mask.astype(np.uint8))
    sources.prepare(source, "-o", "out")
    page = report_of("out")
    assert "near-duplicates" in page.text
    assert "Nearly equal pictures" in page.text
    (pair,) = page.source.split('<div class="pair">')[1:]
    captions = re.findall(r"<figcaption>(\w+) \(\w+\)</figcaption>", pair)
    assert captions == ["0", "1"]


def test_numbers_of_objects_are_one_row(capsys: pytest.CaptureFixture[str]) -> None:
    source, pixels = Path("cells"), 0
    for n in range(8):
        numbers = np.zeros((64, 64), np.uint16)
        for k in range(20 + 5 * n):
            numbers[k // 8 * 8 : k // 8 * 8 + 2 + k % 5, k % 8 * 8 : k % 8 * 8 + 6] = k + 1
        pixels += int((numbers > 0).sum())
        rng = np.random.default_rng(n)
        image = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        sources.save(source / "images" / f"{n}.png", image)
        sources.save(source / "masks" / f"{n}.png", numbers)
    sources.prepare(source, "-o", "out")
    rows = re.sub(r"\s+", " ", report_of("out").text)
    total = 8 * 64 * 64
    assert f" 0 {total - pixels:,} 8 background " in rows
    assert f" 1 to 55 (object numbers) {pixels:,} 8 foreground " in rows
    assert " 2 " not in rows[rows.index("Mask values") : rows.index("Objects in the")]
    assert cli.run(["prepare", "cells", "--check"]) == 0
    out = capsys.readouterr().out
    assert "56 mask values" in out
    assert "1 to 55 (object numbers)" in out
    assert " more" not in out


HOSTILE = ('<script>alert("x")</script>', "</style><img src=http://x.y/z>", "{{ 7 * 7 }}")


def test_hostile_class_names_are_text() -> None:
    source = sources.coco(Path("cells"), categories={"cell": 1, "debris": 2})
    annotations = source / "annotations.json"
    text = annotations.read_text()
    for plain, hostile in (("cell", HOSTILE[0]), ("debris", HOSTILE[1])):
        escaped = hostile.replace('"', '\\"')
        text = text.replace(f'"{plain}"', f'"{escaped}"')
    annotations.write_text(text)
    sources.prepare(source, "-o", "out")
    page = report_of("out")
    assert "script" not in page.tags
    assert not [value for name, value in page.attributes if name == "src" and "x.y" in value]
    assert HOSTILE[0] in page.sections
    assert HOSTILE[1] in page.sections


def test_hostile_names_of_data_and_files_are_text() -> None:
    source = sources.plain(Path("cells"))
    for kind in ("images", "masks"):
        for n, name in ((0, "<b onload=x>"), (1, "{{ 7 * 7 }}")):
            (source / kind / f"{sources.name(n)}.png").rename(source / kind / f"{name}.png")
    sources.prepare(source, "-o", "<i>out")
    page = report_of("<i>out")
    assert "onload" not in {name for name, _ in page.attributes}
    assert "<i>out" in page.text
    assert "i" not in page.tags


def without_debris_in_train(root: Path) -> Path:
    """Debris is in one image alone, which does not train."""
    sources.plain(root)
    for n in range(8):
        split = "test" if n in (0, 1) else "val" if n == 2 else "train"
        mask = sources.mask_of(n)
        if n:
            mask[mask == 2] = 0
        for kind, pixels in (("images", sources.image_of(n)), ("masks", mask)):
            (root / kind / f"{sources.name(n)}.png").unlink()
            sources.save(root / split / kind / f"{sources.name(n)}.png", pixels)
    for kind in ("images", "masks"):
        (root / kind).rmdir()
    return root


def test_a_class_that_never_trains_is_mentioned_by_prepare_train_and_the_report(
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = without_debris_in_train(Path("cells"))
    (source / "classes.txt").write_text("background\ncell\ndebris\n")
    sources.prepare(source, "-o", "out")
    prepared = capsys.readouterr().err
    assert cli.run(["train", "--data", str(source), "--dry-run", *TINY]) == 0
    trained = capsys.readouterr().err
    for words in (prepared, trained):
        (line,) = [text for text in words.splitlines() if "debris" in text and "train" in text]
        assert line.startswith("warning: ")
    assert "classes-absent-from-train" in report_of("out").text


def test_a_declared_class_that_never_occurs_is_mentioned(
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = sources.plain(Path("cells"))
    (source / "classes.txt").write_text("0 background\n1 cell\n2 debris\n3 ghost\n")
    sources.prepare(source, "-o", "out")
    assert "ghost" in capsys.readouterr().err
    page = report_of("out")
    assert "absent-classes" in page.text
    assert "ghost" in page.text
    assert page.sections.get("ghost", 0) == 0
