"""Masks with soft edges: told, and snapped to the classes that the user names, in every form."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.stages import sources
from unet_pipeline import cli
from unet_pipeline.datasets.manifest import Manifest

NAMED = ["--values", "0,255"]


def hard(n: int) -> sources.Array:
    """Objects of scene `n` at twice its size, at odd places, so that edges fall between."""
    large = np.zeros((2 * sources.HEIGHT, 2 * sources.WIDTH), np.uint8)
    for box in sources.boxes(n):
        large[2 * box.top + 1 : 2 * box.bottom, 2 * box.left + 1 : 2 * box.right] = 255
        corner = (2 * box.right, 2 * box.bottom)
        cv2.circle(large, corner, 5, 255, -1)
    return large


def soft(n: int) -> sources.Array:
    return cv2.resize(hard(n), (sources.WIDTH, sources.HEIGHT), interpolation=cv2.INTER_AREA)


@pytest.fixture
def cells() -> Path:
    root = sources.plain(Path("cells"))
    for n in range(8):
        sources.save(root / "masks" / f"{sources.name(n)}.png", soft(n))
    return root


def findings(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    capsys.readouterr()
    assert cli.run(["prepare", *arguments, "--check", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["findings"]
    return {f["code"]: f"{f['message']}; {f['remedy']}" for f in found}


def test_soft_edges_are_told_with_the_values_to_name(
    cells: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = findings(capsys, str(cells))["soft-edges"]
    assert "shades of 0, 255" in told
    assert "--values 0,255 gives every pixel the nearest" in told
    assert "soft-edges" not in findings(capsys, str(sources.plain(Path("sharp"))))


def test_named_values_take_the_shades_around_them_in_every_form(
    cells: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = {sources.name(n): (soft(n) > 127.5).astype(np.uint8) for n in range(8)}
    assert "snapped to the nearest class" in findings(capsys, str(cells), *NAMED)["soft-edges"]
    sources.prepare(cells, *NAMED, "-o", "out")
    sources.prepare(cells, "--update", "-o", "out")
    sources.prepare("out", "--fix", "-o", "mended")
    capsys.readouterr()
    sources.prepare(cells, *NAMED, "--fix", "-o", "fixed")
    assert "masks snapped to the nearest class: 8" in capsys.readouterr().err
    for folder in ("out", "mended", "fixed"):
        masks = sources.masks_in(Path(folder))
        assert masks.keys() == expected.keys()
        assert all((masks[name] == mask).all() for name, mask in expected.items())
    assert "soft-edges" in findings(capsys, "out")
    assert "soft-edges" not in findings(capsys, "mended")
    assert not Manifest.load(Path("mended")).facts.classes.snap
    sources.prepare(cells, *NAMED, "--tile", "16", "-o", "tiles")
    assert sources.pixels_by_class(Path("tiles"))["foreground"] > 0


def test_values_that_leave_out_a_class_are_refused_as_before(
    cells: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in range(8):
        mask = soft(n)
        mask[:6, 30:] = 100
        sources.save(cells / "masks" / f"{sources.name(n)}.png", mask)
    error = sources.error_of(capsys, ["prepare", str(cells), *NAMED, "-o", "out"], 4)
    assert "none of the classes of the values given (0, 255)" in error
    assert "shades of 0, 100, 255" in findings(capsys, str(cells))["soft-edges"]
