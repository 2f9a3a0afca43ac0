"""predict and evaluate as commands: outputs, exit codes, one line for what is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import unet_pipeline as up
from tests.stages.conftest import TINY
from unet_pipeline import cli
from unet_pipeline.datasets.images import read_image
from unet_pipeline.datasets.manifest import Manifest


def errors_of(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, lines
    return lines[0]


def test_masks_have_the_size_and_the_values_of_the_training_masks(
    session_run: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = scenes / "test" / "images"
    assert cli.run(["predict", str(source), "--model", str(session_run), "--output", "out"]) == 0
    assert capsys.readouterr().out == "out\n"
    values = set(Manifest.load(scenes).facts.classes.values)
    for path in source.iterdir():
        with Image.open(path) as image, Image.open(Path("out") / path.name) as mask:
            assert mask.size == image.size
            assert set(np.unique(np.asarray(mask))) <= values


def test_predict_on_an_array_is_what_the_command_writes(session_run: Path, scenes: Path) -> None:
    path = sorted((scenes / "test" / "images").iterdir())[0]
    arguments = ["predict", str(path), "--model", str(session_run), "-o", "out", "--amp", "off"]
    assert cli.run(arguments) == 0
    model = up.load_model(session_run)
    mask = up.predict(model, read_image(path))
    with Image.open(Path("out") / path.name) as written:
        np.testing.assert_array_equal(np.asarray(written), mask)


def test_a_bad_file_is_listed_and_the_rest_goes_on(
    session_run: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("in/deep").mkdir(parents=True)
    good = sorted((scenes / "test" / "images").iterdir())[0]
    Path("in/deep/good.png").write_bytes(good.read_bytes())
    Path("in/bad.png").write_bytes(good.read_bytes()[:100])
    assert cli.run(["predict", "in", "--model", str(session_run), "-o", "out"]) == 3
    assert "1 of 2 inputs" in errors_of(capsys)
    assert Path("out/deep/good.png").is_file()
    assert not Path("out/bad.png").exists()
    assert "bad.png" in Path("out/failures.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["predict", "--model", "RUN", "-o", "out"], 2, "no inputs"),
        (["predict", "in", "-o", "out"], 2, "no model"),
        (["predict", "in", "--model", "RUN"], 2, "no output"),
        (["predict", "absent", "--model", "RUN", "-o", "out"], 2, "absent"),
        (["predict", "empty", "--model", "RUN", "-o", "out"], 2, "empty"),
        (["predict", "in", "--model", "absent", "-o", "out"], 2, "absent"),
        (["predict", "in", "--model", "text.pth", "-o", "out"], 2, "text.pth"),
        (["predict", "in", "--model", "RUN", "-o", "text.pth"], 2, "text.pth"),
        (["predict", "in", "--model", "RUN", "-o", "out", "--save", "masks"], 2, "did you mean"),
        (["predict", "in", "--model", "RUN", "-o", "out", "--device", "cuda:7"], 2, "not there"),
        (
            ["predict", "in", "--model", "RUN", "-o", "out", "--threshold", "0.5"],
            2,
            "the model has 11",
        ),
        (["evaluate", "--data", "in"], 2, "no model"),
        (["evaluate", "--model", "absent", "--data", "in"], 2, "absent"),
        (["evaluate", "--model", "RUN", "--data", "absent"], 2, "absent"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    code: int,
    message: str,
    session_run: Path,
    scenes: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("in").mkdir()
    Path("empty").mkdir()
    good = sorted((scenes / "test" / "images").iterdir())[0]
    Path("in/a.png").write_bytes(good.read_bytes())
    Path("text.pth").write_text("no model at all")
    arguments = [str(session_run) if part == "RUN" else part for part in arguments]
    assert cli.run(arguments) == code
    assert message in errors_of(capsys)
    assert not list(Path.cwd().glob("out/*"))


def test_two_inputs_for_one_output_are_refused_before_any_work(
    session_run: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("in").mkdir()
    good = sorted((scenes / "test" / "images").iterdir())[0]
    with Image.open(good) as image:
        image.save("in/a.png")
        image.save("in/a.jpg")
    assert cli.run(["predict", "in", "--model", str(session_run), "-o", "out"]) == 2
    message = errors_of(capsys)
    assert "a.png" in message
    assert "a.jpg" in message
    assert not Path("out").exists()


def test_skip_existing_leaves_what_stands(
    session_run: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(scenes / "test" / "images")
    arguments = ["predict", source, "--model", str(session_run), "-o", "out", "--skip-existing"]
    assert cli.run(arguments) == 0
    capsys.readouterr()
    assert cli.run([*arguments, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["written"] == 0
    assert summary["skipped"] == 3


def test_a_checkpoint_of_the_well_known_unet_predicts(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = up.UNet(in_channels=3, num_classes=2, bilinear=False)
    torch.save(network.state_dict() | {"mask_values": [0, 255]}, tmp_path / "unet.pth")
    Path("in").mkdir()
    image = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    Image.fromarray(image).save("in/a.png")
    assert cli.run(["predict", "in", "--model", "unet.pth", "-o", "out", "--amp", "off"]) == 0
    network.eval()
    with torch.no_grad():
        expected = network(torch.from_numpy(image).permute(2, 0, 1)[None] / 255).argmax(1)[0]
    with Image.open("out/a.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask), expected.numpy() * 255)


def test_evaluate_scores_what_training_scored(session_run: Path, scenes: Path) -> None:
    arguments = ["evaluate", "--model", str(session_run), "--data", str(scenes), "--split", "val",
                 "--amp", "off", "--tracking", "off", "--output", "report"]  # fmt: skip
    assert cli.run(arguments) == 0
    written = json.loads(Path("report/metrics.json").read_text())
    trained = up.load_model(session_run).card.facts["val"]
    assert isinstance(trained, dict)
    assert written["mean_iou"] == trained["mean_iou"]
    assert written["pixel_accuracy"] == trained["pixel_accuracy"]


def test_evaluate_prints_a_table_and_writes_a_report(
    session_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "--model", str(session_run), "--tracking", "off", "-o", "report"]
    assert cli.run(arguments) == 0
    out = capsys.readouterr().out
    assert "background" in out
    assert "mean" in out
    names = {path.name for path in Path("report").iterdir()}
    assert names == {
        "metrics.json", "per_image.csv", "confusion_matrix.png", "pr_curves.png",
        "calibration.png", "pictures",
    }  # fmt: skip
    assert sorted(path.name for path in Path("report/pictures").iterdir())


def test_masks_with_values_that_the_model_does_not_know_are_refused(
    session_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        Path("other", name).mkdir(parents=True)
    for n in range(4):
        image = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(image).save(f"other/images/{n}.png")
        mask = rng.choice(np.array([0, 200], dtype=np.uint8), (20, 20))
        Image.fromarray(mask).save(f"other/masks/{n}.png")
    arguments = ["evaluate", "--model", str(session_run), "--data", "other", "--split", "all",
                 "--tracking", "off", "-o", "report"]  # fmt: skip
    assert cli.run(arguments) == 4
    assert "200" in errors_of(capsys)


def test_predict_is_recorded_only_when_asked(session_run: Path, scenes: Path) -> None:
    source = str(scenes / "test" / "images")
    assert cli.run(["predict", source, "--model", str(session_run), "-o", "out"]) == 0
    assert not Path("mlflow.db").exists()
    assert cli.run(["predict", source, "--model", str(session_run), "-o", "out2", "--track"]) == 0
    assert Path("mlflow.db").exists()


def plain_folder(scenes: Path, *, count: int = 4) -> Path:
    """Images and masks of the test scenes without any split."""
    for name in ("images", "masks"):
        Path("plain", name).mkdir(parents=True)
        for path in sorted((scenes / "val" / name).iterdir())[:count]:
            Path("plain", name, path.name).write_bytes(path.read_bytes())
    return Path("plain")


def test_a_plain_folder_that_the_model_has_not_seen_is_scored_whole(
    session_run: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = plain_folder(scenes, count=1)  # one mask, of few classes: the model knows them all
    arguments = ["evaluate", "--model", str(session_run), "--data", str(folder), "--tracking",
                 "off", "--json", "-o", "report"]  # fmt: skip
    assert cli.run(arguments) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["num_images"] == 1
    assert "scoring 1 of the 1 samples of plain" in captured.err


def test_another_model_file_of_a_run_has_a_report_of_its_own(run_folder: Path) -> None:
    for model in (run_folder, run_folder / "last.safetensors"):
        assert cli.run(["evaluate", "--model", str(model), "--tracking", "off"]) == 0
    names = {path.name for path in (run_folder / "evaluation").iterdir()}
    assert names == {"digits-test", "digits-test-last"}


def test_images_of_another_type_than_the_model_knows_are_refused(
    session_run: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = plain_folder(scenes)
    victim = sorted((folder / "images").iterdir())[0]
    with Image.open(victim) as image:
        deep = np.asarray(image.convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(victim)
    arguments = ["evaluate", "--model", str(session_run), "--data", "plain", "--tracking", "off",
                 "-o", "report"]  # fmt: skip
    assert cli.run(arguments) == 4
    assert "uint16" in errors_of(capsys)


def test_what_is_predicted_is_told_in_a_unit_that_says_something(
    session_run: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad").mkdir()
    Path("bad/a.png").write_text("no image")
    Path("large").mkdir()
    (first, *_) = sorted((scenes / "test" / "images").iterdir())
    with Image.open(first) as image:
        image.resize((400, 400)).save("large/a.png")
    for source, words in (
        ("bad", "0 masks written\n"),
        (str(scenes / "test" / "images"), "images a second)\n"),
        ("large", "1 mask written: 0.2 megapixels in "),
    ):
        cli.run(["predict", source, "--model", str(session_run), "-o", f"out-{Path(source).name}"])
        err = capsys.readouterr().err
        assert words in err
        assert "0.0 megapixels" not in err


def test_classes_of_the_model_that_a_plain_folder_lacks_are_warned_of(
    session_run: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["evaluate", "--model", str(session_run), "--tracking", "off"]
    common += ["--set", "num_pictures=0"]
    for kind in ("images", "masks"):
        Path("two", kind).mkdir(parents=True)
    for path in sorted((scenes / "test" / "images").iterdir()):
        Path("two/images", path.name).write_bytes(path.read_bytes())
        with Image.open(scenes / "test" / "masks" / path.name) as mask:
            pixels = np.asarray(mask)
        values = Manifest.load(scenes).facts.classes.values
        halves = np.where(pixels == values[0], values[0], values[1]).astype(np.uint8)
        Image.fromarray(halves).save(Path("two/masks", path.name))
    assert cli.run([*common, "--data", "two"]) == 0
    (line,) = [s for s in capsys.readouterr().err.splitlines() if "the model knows" in s]
    assert line.startswith("warning: the model knows 11 classes, and the masks of two hold 2 of")
    assert cli.run(common) == 0
    assert "the model knows" not in capsys.readouterr().err


def test_scores_on_data_that_has_changed_since_are_told_by_their_name(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copytree(scenes, tmp_path / "scenes"))
    arguments = ["train", "--data", str(data), "--max-steps", "1", "--run-name", "run", *TINY]
    assert cli.run(arguments) == 0
    run = "runs/digits/run"
    capsys.readouterr()
    assert cli.run(["evaluate", "--model", run]) == 0
    assert "has learned from" not in capsys.readouterr().err
    table = data / "samples.csv"
    lines = table.read_text().splitlines()
    place = next(n for n, line in enumerate(lines) if ",train," in line)
    table.write_text("\n".join(lines[:place] + lines[place + 1 :]) + "\n")
    assert cli.run(["evaluate", "--model", run]) == 0
    err = " ".join(capsys.readouterr().err.split())
    assert "learned from, or has changed since: its scores are test-digits/" in err
