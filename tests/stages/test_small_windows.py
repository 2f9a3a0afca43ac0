"""Windows that are too small: refused where they show nothing, told where they show too little."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.stages.conftest import TINY
from unet_pipeline import cli
from unet_pipeline.inference.small_windows import learned_side
from unet_pipeline.models import load_model


@pytest.fixture
def large(scenes: Path) -> Path:
    """Two images of five times the crops that the model was trained on."""
    folder = Path("large")
    folder.mkdir()
    for path in sorted((scenes / "test" / "images").iterdir())[:2]:
        with Image.open(path) as image:
            image.resize((320, 320)).save(folder / path.name)
    return folder


@pytest.mark.parametrize("window", ["1", "3"])
def test_a_window_below_what_the_deepest_level_needs_is_refused_before_any_work(
    window: str,
    session_run: Path,
    scenes: Path,
    large: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    least = load_model(session_run).least_window
    assert least >= 4
    for command in (
        ["predict", str(large), "-m", str(session_run), "-o", "out"],
        ["evaluate", "-m", str(session_run), "--data", str(scenes), "--tracking", "off"],
    ):
        assert cli.run([*command, "--window", window]) == 2
        assert f"at least {least} pixels for this model" in capsys.readouterr().err
    arguments = ["train", "--data", str(scenes), "--plan", *TINY]
    assert cli.run([*arguments, "--set", f"inference.window={window}"]) == 2
    assert f"at least {least} pixels for this model" in capsys.readouterr().err
    assert not list(Path("out").glob("*"))


def test_windows_smaller_than_the_training_crops_are_warned_of_once(
    session_run: Path, large: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert learned_side(load_model(session_run).card) == 64
    command = ["predict", str(large), "-m", str(session_run), "-o", "out"]
    assert cli.run([*command, "--window", "32"]) == 0
    assert capsys.readouterr().err.count("smaller than the crops of 64") == 1
    assert cli.run([*command, "--window", "64"]) == 0
    assert "smaller than the crops" not in capsys.readouterr().err


def test_evaluate_warns_of_small_windows_only_where_images_are_cut(
    session_run: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "-m", str(session_run), "--data", str(scenes), "--tracking", "off"]
    command += ["--set", "num_pictures=0"]
    assert cli.run([*command, "--window", "8"]) == 0
    assert capsys.readouterr().err.count("smaller than the crops of 64") == 1
    assert cli.run([*command, "--window", "128"]) == 0
    assert "smaller than the crops" not in capsys.readouterr().err
