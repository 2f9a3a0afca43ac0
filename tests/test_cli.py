"""The command line without its stages: where options go, what is refused, what is printed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from unet_pipeline import cli
from unet_pipeline.config import TrainConfig
from unet_pipeline.errors import UserError


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["train", "--epoch", "3"], "--epochs"),
        (["train", "--epochs", "many"], "'--epochs'"),
        (["train", "--set", "epochs"], "section.key=value"),
        (["train", "--seed", "99999999999999999999"], "runtime.seed"),
        (["train", "--image-size", "64x"], "HEIGHTxWIDTH"),
        (["train", "--set", "foo.bar=1"], "use one of data, inference"),
        (["train", "--set", "training.epoch=3"], "did you mean 'training.epochs'"),
        (["train", "--lr", "-1"], "optimizer.lr = -1.0: input should be greater than 0"),
        (["train", "--amp", "yes"], "'auto', 'on' or 'off'"),
        (["train", "--budget", "soon"], "90s, 3m or 1h30m"),
        (["train", "--config", "absent.yaml"], "no settings file absent.yaml"),
        (["train", "--epochs", "3", "--set", "training.epochs=4"], "is set twice"),
        (["train", "--resume", "x", "--dry-run"], "--resume takes the settings of its run"),
        (["evaluate", "--split", "validation"], "split = 'validation'"),
        (["predict", "x", "--overlap", "1"], "inference.overlap = 1.0"),
        (["prepare", "x", "--class-names", ","], "data.class_names = ',': nothing is listed"),
        (["prepare", "x", "--ignore-values", " , "], "data.ignore_values = ' , ': nothing is"),
        (["prepare", "x", "--values", ",,"], "data.values = ',,': nothing is listed"),
        (["predict", "x", "--save", ","], "save = ',': nothing is listed"),
        (["train", "--image-size", "0x0"], "image_size = '0x0': a size is a number of pixels from"),
        (["train", "--image-size", "0"], "image_size = '0': a size is a number of pixels from 1"),
        (["train", "--set", "training.image_size=[64, 0]"], "[64, 0]: a size is a number of pix"),
        (
            ["prepare", "x", "--val", "nan"],
            "data.val_fraction = nan, which is no number: use one "
            "that is at least 0 and less than 1",
        ),
        (["train", "--lr", "nan"], "optimizer.lr = nan, which is no number: use one that is more"),
        (["train", "--budget", "nan"], "budget_seconds = nan, which is no number: use one that is"),
        (["predict", "x", "--overlap", "nan"], "inference.overlap = nan, which is no number"),
        (["train", "--data", "x", "--fold", "all", "--plan"], "leave out --plan (--dry-run), or"),
        (["train", "--baselines", "--plan"], "--baselines trains anew: leave out --plan"),
        (["train", "--fold", "all", "--resume", "x"], "trains anew: leave out --resume, or"),
        (["train", "--resume", "x", "--plan"], "--plan (--dry-run)"),
        (["train", "--data", "x", "--auto"], "--auto has no effect without --config"),
    ],
)
def test_a_bad_option_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments) == 2
    line = error_of(capsys)
    assert line.startswith("error: ")
    assert message in line


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 2
    assert "prepare" in capsys.readouterr().out


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[TrainConfig]:
    """The settings that reach the train stage, which does nothing here."""
    from unet_pipeline.stages import train as stage

    seen: list[TrainConfig] = []

    class Result:
        folder = Path("runs/x")

        def summary(self) -> dict[str, Any]:
            return {"folder": "runs/x"}

        def raise_for_unreadable(self) -> None:
            """Nothing was."""

    def train(config: TrainConfig, *, started: float) -> Result:
        seen.append(config)
        return Result()

    monkeypatch.setattr(stage, "train", train)
    return seen


def test_auto_leaves_to_the_plan_what_a_file_has_decided(
    trained: list[TrainConfig], tmp_path: Path
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "training: {epochs: 7, batch_size: 16}\nmodel: {base_channels: 64, norm: group}\n"
        "runtime: {amp: 'on', workers: 8, seed: 3}\ntransforms: {name: heavy, blur: 2}\n"
    )
    assert cli.run(["train", "--data", "D", "--config", str(file), "--auto", "-j", "1"]) == 0
    (config,) = trained
    assert (config.training.epochs, config.training.batch_size) == (7, None)
    assert config.model.options == {"norm": "group"}
    assert (config.runtime.amp, config.runtime.workers, config.runtime.seed) == ("auto", 1, 3)
    assert (config.transforms.name, config.transforms.options) == (None, {})


def test_options_reach_the_settings_that_they_name(
    trained: list[TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("training: {epochs: 7, patience: 3}\n")
    arguments = ["train", "--config", str(file), "--data", "D", "--model", "smp:FPN/resnet18",
                 "--loss", "dice", "-e", "2", "--max-steps", "9", "--budget", "3m", "-b", "4",
                 "--lr", "1e-2", "--optimizer", "sgd", "--image-size", "180x240", "--amp", "off",
                 "--device", "cpu", "-j", "1", "--seed", "5", "--experiment", "E", "--run-name",
                 "R", "--output", "O", "--tracking", "off", "--set", "optimizer.momentum=0.5",
                 "--weights", "W", "--tracking-uri", "U", "--compile",
                 "--register", "M"]  # fmt: skip
    assert cli.run(arguments) == 0
    (config,) = trained
    assert config.training.model_dump() == TrainConfig().training.model_dump() | {
        "epochs": 2, "max_steps": 9, "budget_seconds": 180, "batch_size": 4, "loss": "dice",
        "image_size": (180, 240), "patience": 3,
    }  # fmt: skip
    assert (config.data.path, config.model.name, config.model.weights) == (
        "D", "smp:FPN/resnet18", "W",
    )  # fmt: skip
    assert (config.optimizer.name, config.optimizer.lr) == ("sgd", 1e-2)
    assert config.optimizer.options == {"momentum": 0.5}
    assert config.runtime.model_dump() == {
        "device": "cpu", "amp": "off", "workers": 1, "seed": 5,
        "compile": True, "sync_batchnorm": False, "memory_format": None,
    }  # fmt: skip
    assert config.output.model_dump() == {
        "runs_dir": "O", "run_name": "R", "experiment": "E", "tracking": "off", "tracking_uri": "U",
        "register_as": "M",
    }  # fmt: skip
    assert capsys.readouterr().out == "runs/x\n"


def test_empty_values_as_mlflow_projects_send_them_count_as_not_given(
    trained: list[TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "r")
    assert cli.run(["train", "--data", "D", "--loss", "", "--run-name", ""]) == 0
    assert trained[0].training.loss == TrainConfig().training.loss
    assert trained[0].output.run_name is None


@pytest.mark.parametrize(
    "arguments", [["prepare", ""], ["prepare", "cells", "-o", ""], ["train", "--data", ""]]
)
def test_an_empty_value_of_a_shell_variable_is_refused(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    assert cli.run(arguments) == 2
    assert "is empty: give a value, or leave it out" in error_of(capsys)


def test_json_is_the_only_thing_on_stdout(
    trained: list[TrainConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["train", "--data", "D", "--json"]) == 0
    assert capsys.readouterr().out == '{\n  "folder": "runs/x"\n}\n'


def test_zero_is_a_value_like_any_other(trained: list[TrainConfig]) -> None:
    arguments = ["train", "--data", "D", "--workers", "0", "--seed", "0", "--set",
                 "runtime.amp=off", "--set", "data.ignore_values=255", "--set",
                 "output.experiment=2024"]  # fmt: skip
    assert cli.run(arguments) == 0
    (config,) = trained
    assert config.runtime.workers == 0
    assert "seed" in config.runtime.model_fields_set
    assert config.runtime.amp == "off"
    assert config.data.ignore_values == ("255",)
    assert config.output.experiment == "2024"


def test_a_learning_rate_of_zero_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["train", "--data", "D", "--lr", "0"]) == 2
    assert "optimizer.lr = 0.0" in error_of(capsys)


def test_a_flag_of_the_settings_file_can_be_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unet_pipeline.config import PredictConfig
    from unet_pipeline.stages import predict as stage

    seen: list[PredictConfig] = []

    def predict(config: PredictConfig) -> None:
        seen.append(config)
        raise UserError("seen")

    monkeypatch.setattr(stage, "predict_files", predict)
    file = tmp_path / "c.yaml"
    file.write_text("tta: true\nskip_existing: true\n")
    cli.run(["predict", "x", "--config", str(file), "--no-tta"])
    assert (seen[0].tta, seen[0].skip_existing) == (False, True)


def test_help_shows_defaults_that_are_zero(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["train", "--help"]) == 0
    seed = capsys.readouterr().out.split("--seed")[1].split("--experiment")[0]
    assert "[default: 0]" in " ".join(seed.split())


def test_the_help_of_list_names_every_catalogue(capsys: pytest.CaptureFixture[str]) -> None:
    from unet_pipeline.stages.list import KINDS

    assert cli.run(["list", "--help"]) == 0
    text = capsys.readouterr().out
    assert not [kind for kind in KINDS if kind not in text]


def test_ctrl_c_within_a_command_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from unet_pipeline.stages import train as stage

    def train(config: TrainConfig, *, started: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "train", train)
    assert cli.run(["train", "--data", "D"]) == 130
    assert "interrupted" in error_of(capsys)


def test_a_reader_that_leaves_ends_the_command_quietly() -> None:
    command = f"{sys.executable} -m unet_pipeline train --help; echo $? >&2"
    done = subprocess.run(
        ["bash", "-c", f"({command}) | head -1"], capture_output=True, text=True, timeout=60
    )
    assert done.stderr.strip() in ("0", "141")
