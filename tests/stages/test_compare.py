"""compare: the ladder of baselines and the network on one dataset."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

import unet_pipeline as up
from tests.stages.conftest import TINY
from unet_pipeline import cli
from unet_pipeline.stages import measuring
from unet_pipeline.tracking.store import load_mlflow

load_mlflow()  # quietly, before a test asks MLflow by itself

STEPS = ["--max-steps", "3", "--set", "training.num_pixels=16"]


@pytest.fixture(autouse=True)
def _speed_in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass of a second a rung is for those who want to know."""
    monkeypatch.setattr(measuring, "_TIMED_SECONDS", 0.01)


@pytest.fixture(scope="session")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images of a dark disc on a bright page, with masks of two classes."""
    folder = tmp_path_factory.mktemp("plain") / "cells"
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    y, x = np.mgrid[:40, :48]
    for n in range(8):
        disc = (y - 14 - n) ** 2 + (x - 12 - 2 * n) ** 2 < 60
        noise = np.random.default_rng(n).normal(0, 12, disc.shape)
        image = np.clip(np.where(disc, 60, 190) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / "images" / f"c{n}.png")
        Image.fromarray((disc * 255).astype(np.uint8)).save(folder / "masks" / f"c{n}.png")
    return folder


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "comparison.csv").open() as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def test_the_ladder_ends_in_one_table_of_runs_nested_in_mlflow(
    cells: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--data", str(cells), "--baselines", *STEPS, *TINY]
    assert cli.run(arguments) == 0
    table = capsys.readouterr().out
    rows = rows_of(Path("runs/cells/baselines-0001"))
    assert list(rows) == ["majority", "otsu", "mlp", "lenet", "unet"]
    for name, row in rows.items():
        assert name in table
        assert row["note"] == ""
        assert 0 < float(row["mean_iou"]) <= float(row["mean_dice"]) <= 1
        assert float(row["megapixels_per_second"]) > 0
        assert (Path(row["run"]) / "best.safetensors").is_file()
    assert float(rows["otsu"]["mean_iou"]) > 0.95  # dark discs: the sign was found
    assert 0.4 < float(rows["majority"]["mean_iou"]) < 0.5
    assert (rows["majority"]["parameters"], rows["otsu"]["parameters"]) == ("0", "0")
    assert int(rows["mlp"]["parameters"]) == 28 * 28 * 256 + 256 + 256 * 2 + 2
    for picture in ("comparison.png", "predictions.png"):
        with Image.open(Path("runs/cells/baselines-0001") / picture) as opened:
            assert opened.size[0] > 300

    client = MlflowClient(f"sqlite:///{Path.cwd() / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("cells")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    parent = runs.pop("baselines-0001")
    assert len(runs) == 5
    for name, run in runs.items():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id, name
        assert run.info.status == "FINISHED"
        assert "test/mean_iou" in run.data.metrics
    assert "mlflow.parentRunId" not in parent.data.tags
    assert "| unet |" in parent.data.tags["mlflow.note.content"]
    assert parent.data.metrics["ladder/otsu"] == pytest.approx(
        float(rows["otsu"]["mean_iou"]), rel=1e-5
    )
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"comparison.csv", "comparison.md", "comparison.png", "predictions.png"} <= files
    assert {"config.yaml", "dataset.yaml", "log.txt"} <= files

    # a rung predicts and evaluates like any run
    for row in rows.values():
        output = Path("masks") / row["name"]
        predict = ["predict", str(cells / "images"), "--model", row["run"]]
        assert cli.run([*predict, "--output", str(output)]) == 0
        assert len(list(output.glob("*.png"))) == 8
        evaluation = up.evaluate(
            up.load_config(overrides={"model": row["run"], "split": "test"}, kind=up.EvaluateConfig)
        )
        assert evaluation.scores.mean_iou == pytest.approx(float(row["mean_iou"]), abs=1e-12)


def test_more_than_two_classes_leave_otsu_out_and_the_name_of_the_run_can_be_chosen(
    scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--data", str(scenes), "--baselines", "--json", "--run-name", "ladder",
                 "--tracking", "off", "--initializer", "xavier_normal", "--loss", "focal",
                 *STEPS, *TINY]  # fmt: skip
    assert cli.run(arguments) == 0
    summary = json.loads(capsys.readouterr().out)
    assert Path(summary["folder"]) == Path("runs/digits/ladder")
    rungs = {rung["name"]: rung for rung in summary["rungs"]}
    assert rungs["otsu"]["mean_iou"] is None
    assert "two classes" in rungs["otsu"]["note"]
    settings = (Path(rungs["unet"]["run"]) / "config.yaml").read_text()
    assert "xavier_normal" in settings
    assert "loss: focal" in settings


def test_another_network_is_the_top_rung_and_is_not_trained_twice(cells: Path) -> None:
    arguments = ["train", "--data", str(cells), "--baselines", "--model", "mlp", "--tracking",
                 "off", "--set", "model.hidden_features=8", "--device", "cpu", "--image-size",
                 "32", *STEPS]  # fmt: skip
    assert cli.run(arguments) == 0
    rows = rows_of(Path("runs/cells/baselines-0001"))
    assert list(rows) == ["majority", "otsu", "mlp", "lenet"]
    assert int(rows["mlp"]["parameters"]) == 28 * 28 * 8 + 8 + 8 * 2 + 2


def test_a_loss_that_a_rung_cannot_use_is_a_row_with_the_reason(cells: Path) -> None:
    arguments = ["train", "--data", str(cells), "--baselines", "--tracking", "off",
                 "--loss", "border_ce", *STEPS, *TINY]  # fmt: skip
    assert cli.run(arguments) == 0
    rows = rows_of(Path("runs/cells/baselines-0001"))
    assert "border_ce looks at whole masks" in rows["mlp"]["note"]
    assert rows["mlp"]["mean_iou"] == ""
    assert float(rows["unet"]["mean_iou"]) > 0


def test_a_rung_that_fails_is_a_row_and_the_others_go_on(
    cells: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--data", str(cells), "--baselines", "--lr", "1e30", *STEPS, *TINY]
    assert cli.run(arguments) == 6
    rows = rows_of(Path("runs/cells/baselines-0001"))
    assert float(rows["majority"]["mean_iou"]) > 0
    assert "diverged" in rows["mlp"]["note"]
    assert "diverged" in rows["unet"]["note"]
    captured = capsys.readouterr()
    assert "majority" in captured.out
    assert captured.err.count("error: ") == 1
    client = MlflowClient(f"sqlite:///{Path.cwd() / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("cells")
    runs = {run.info.run_name: run.info for run in client.search_runs([experiment.experiment_id])}
    assert runs["baselines-0001"].status == "FAILED"
    assert runs["majority-0002"].status == "FINISHED"


def test_the_ladder_begins_with_the_weights_and_network_of_another_run(
    scenes: Path, session_run: Path
) -> None:
    arguments = ["train", "--data", str(scenes), "--baselines", "--weights", str(session_run),
                 "--tracking", "off", "--device", "cpu", "--image-size", "64", *STEPS]  # fmt: skip
    assert cli.run(arguments) == 0
    rows = rows_of(Path("runs/digits/baselines-0001"))
    assert int(rows["unet"]["parameters"]) == sum(
        p.numel() for p in up.load_model(session_run).network.parameters()
    )


def test_weights_and_initializer_that_contradict_are_found_before_the_first_rung(
    scenes: Path, session_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--data", str(scenes), "--baselines", "--weights", str(session_run),
                 "--initializer", "orthogonal", "--device", "cpu", *STEPS]  # fmt: skip
    assert cli.run(arguments) == 2
    assert "--initializer orthogonal has no effect" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_the_folder_of_the_ladder_says_how_it_was_made(cells: Path) -> None:
    arguments = ["train", "--data", str(cells), "--baselines", "--model", "lenet", "--loss",
                 "focal", "--tracking", "off", "--image-size", "32", "--device", "cpu",
                 *STEPS]  # fmt: skip
    assert cli.run(arguments) == 0
    folder = Path("runs/cells/baselines-0001")
    config = up.load_config(folder / "config.yaml")
    assert (config.training.loss, config.training.max_steps) == ("focal", 3)
    assert (folder / "dataset.yaml").is_file()
    assert "majority" in (folder / "log.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume", "runs/x"], "leave out --resume"),
        (["--dry-run"], "leave out --plan (--dry-run)"),
        (["--loss", "dise"], "did you mean 'dice'"),
        (["--data", "absent"], "absent"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(
    cells: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [] if "--data" in arguments or "--resume" in arguments else ["--data", str(cells)]
    assert cli.run(["train", "--baselines", *data, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", ["majority", "otsu"])
def test_a_rule_cannot_be_trained(
    cells: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["train", "--data", str(cells), "--model", name]) == 2
    assert "nothing to train" in capsys.readouterr().err


def test_an_interruption_keeps_what_the_rung_has(
    cells: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupted(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr("unet_pipeline.stages.compare.prediction_speed", interrupted)
    assert cli.run(["train", "--data", str(cells), "--baselines", *STEPS, *TINY]) == 130
    row = rows_of(Path("runs/cells/baselines-0001"))["majority"]
    assert float(row["mean_iou"]) > 0
    assert row["megapixels_per_second"] == ""
    assert "the table so far, of 1 rungs" in Path("runs/cells/baselines-0001/log.txt").read_text()


def test_sigterm_ends_the_ladder_with_a_run_that_can_go_on(cells: Path) -> None:
    command = [sys.executable, "-m", "unet_pipeline", "train", "--data", str(cells), "--baselines",
               "--epochs", "100000", *TINY]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=Path.cwd())
    try:
        state = Path("runs/cells/mlp-ce+dice-0004/last.pt")
        end = time.monotonic() + 120
        while not state.is_file() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143, err
    assert "--resume" in err
    client = MlflowClient(f"sqlite:///{Path.cwd() / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("cells")
    runs = {run.info.run_name: run.info for run in client.search_runs([experiment.experiment_id])}
    assert runs["baselines-0001"].status == "KILLED"
    assert runs["mlp-ce+dice-0004"].status == "KILLED"
    assert list(rows_of(Path("runs/cells/baselines-0001"))) == ["majority", "otsu"]
