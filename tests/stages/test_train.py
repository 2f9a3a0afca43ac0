"""train: what a run leaves behind, what it decides, how it ends, and how it goes on."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from mlflow import MlflowClient
from PIL import Image

import unet_pipeline as up
from tests.stages.conftest import TINY
from unet_pipeline import cli
from unet_pipeline.config import TrainConfig, load_config
from unet_pipeline.stages import loop, train
from unet_pipeline.stages.session import Session
from unet_pipeline.tracking.store import load_mlflow
from unet_pipeline.training import engine
from unet_pipeline.training.checkpoints import load_state


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "history.csv").open() as file:
        return list(csv.DictReader(file))


def same_weights(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(torch.equal(one["network"][k], other["network"][k]) for k in one["network"])


def errors_of(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, lines
    return lines[0]


def test_a_run_folder_holds_all_that_the_run_has_made(session_run: Path) -> None:
    names = {path.name for path in session_run.iterdir()}
    expected = {"config.yaml", "dataset.yaml", "samples.csv", "best.safetensors", "history.csv",
                "last.safetensors", "last.pt", "previous.pt", "log.txt", "samples"}  # fmt: skip
    assert expected <= names
    assert not [name for name in names if name.endswith((".tmp", ".lock"))]
    assert [row["epoch"] for row in rows_of(session_run)] == ["0", "1", "2", "3"]
    assert "mean IoU" in (session_run / "log.txt").read_text()


def test_the_model_file_knows_where_it_comes_from(session_run: Path) -> None:
    card = up.load_model(session_run).card
    facts = yaml.safe_load((session_run / "dataset.yaml").read_text())
    assert card.network == "unet"
    assert card.options["base_channels"] == 4
    assert list(card.classes.names) == facts["classes"]["names"]
    assert card.facts["fingerprint"] == facts["fingerprint"]
    best = max(rows_of(session_run)[1:], key=lambda row: float(row["val/mean_iou"]))
    assert card.facts["val"]["mean_iou"] == pytest.approx(float(best["val/mean_iou"]))
    assert card.facts["epoch"] == int(best["epoch"])


def test_the_saved_config_reproduces_the_run(session_run: Path, tmp_path: Path) -> None:
    config = load_config(session_run / "config.yaml")
    config = load_config(session_run / "config.yaml", {"output.runs_dir": str(tmp_path / "again")})
    again = up.train(config)
    assert same_weights(load_state(again.folder), load_state(session_run))
    assert [row["val/mean_iou"] for row in rows_of(again.folder)] == [
        row["val/mean_iou"] for row in rows_of(session_run)
    ]


def test_another_seed_gives_another_run(session_run: Path, tmp_path: Path) -> None:
    changes = {"output.runs_dir": str(tmp_path), "runtime.seed": 1}
    other = up.train(load_config(session_run / "config.yaml", changes))
    assert not same_weights(load_state(other.folder), load_state(session_run))


def test_the_number_of_workers_changes_nothing(session_run: Path, tmp_path: Path) -> None:
    changes = {"output.runs_dir": str(tmp_path), "runtime.workers": 2}
    other = up.train(load_config(session_run / "config.yaml", changes))
    assert same_weights(load_state(other.folder), load_state(session_run))


def test_a_plain_folder_trains_without_being_written_to(scenes: Path, tmp_path: Path) -> None:
    for name in ("images", "masks"):
        shutil.copytree(scenes / "train" / name, tmp_path / "plain" / name)
    before = sorted((tmp_path / "plain").rglob("*"))
    arguments = ["train", "--data", "plain", "--max-steps", "2", "--tracking", "off", *TINY]
    assert cli.run(arguments) == 0
    assert sorted((tmp_path / "plain").rglob("*")) == before
    assert Path("runs/plain/unet-ce+dice-0001/best.safetensors").is_file()


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["train", "--data", str(scenes), "--dry-run", *TINY]) == 0
    out = capsys.readouterr().out
    assert "image_size" in out
    assert "as asked" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "no data"),
        (["--data", "absent"], 2, "absent"),
        (["--data", "SCENES", "--model", "unett"], 2, "did you mean 'unet'"),
        (["--data", "SCENES", "--model", "smp:Unett/resnet18"], 2, "did you mean"),
        (["--data", "SCENES", "--loss", "cee"], 2, "did you mean 'ce'"),
        (["--data", "SCENES", "--optimizer", "adamm"], 2, "did you mean 'adam"),
        (["--data", "SCENES", "--set", "model.widht=3"], 2, "no option 'widht'"),
        (["--data", "SCENES", "--set", "model.in_channels=3"], 2, "comes from the data"),
        (["--data", "SCENES", "--set", "model.depth=deep"], 2, "depth"),
        (["--data", "SCENES", "--set", "transforms.hflip=2"], 2, "hflip"),
        (["--data", "SCENES", "--set", "data.val_fraction=0.5"], 2, "has no effect"),
        (["--data", "SCENES", "--workers", "9999"], 2, "use at most"),
        (["--data", "SCENES", "--run-name", "../x"], 2, "use letters"),
        (["--data", "SCENES", "--device", "cuda:9"], 2, "is not there"),
        (["--data", "SCENES", "--weights", "absent.pth"], 2, "absent.pth"),
        (["--data", "SCENES", "--experiment", " "], 2, "experiment"),
    ],
)
def test_bad_input_is_one_line_and_no_run_is_made(
    arguments: list[str], code: int, message: str, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(scenes) if part == "SCENES" else part for part in arguments]
    assert cli.run(["train", *arguments]) == code
    assert message in errors_of(capsys)
    assert not Path("runs").exists()
    assert not Path("mlflow.db").exists()


def test_a_run_name_that_is_taken_is_refused(
    scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--data", str(scenes), "--max-steps", "1", "--tracking", "off",
                 "--run-name", "mine", *TINY]  # fmt: skip
    assert cli.run(arguments) == 0
    assert cli.run(arguments) == 2
    assert "--resume" in errors_of(capsys)


def test_a_loss_that_is_not_finite_ends_with_code_6_and_keeps_the_good_state(
    scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--data", str(scenes), "--epochs", "3", "--tracking", "off", "--lr",
                 "1e30", "--set", "training.grad_clip=0", "--optimizer", "sgd", *TINY]  # fmt: skip
    assert cli.run(arguments) == 6
    message = errors_of(capsys)
    assert "diverged in epoch" in message
    assert "lower --lr" in message


def test_early_stopping_counts_validations_without_gain(scenes: Path) -> None:
    arguments = ["train", "--data", str(scenes), "--epochs", "30", "--patience", "2", "--lr",
                 "1e-12", "--tracking", "off", *TINY]  # fmt: skip
    assert cli.run(arguments) == 0
    (folder,) = Path("runs/digits").iterdir()
    rows = rows_of(folder)
    assert len(rows) < 30
    scores = [float(row["val/mean_iou"]) for row in rows[1:]]
    assert max(scores) == max(scores[:-2])


def test_a_budget_ends_the_run_with_a_validated_model(
    scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float | None] = []

    def train_steps(*args: Any, learning_rate: Callable[[], float | None], **more: Any) -> None:
        def noted() -> float | None:
            rates.append(learning_rate())
            return rates[-1]

        engine.train_steps(*args, learning_rate=noted, **more)

    monkeypatch.setattr(loop, "train_steps", train_steps)
    arguments = ["train", "--data", str(scenes), "--budget", "8s", "--tracking", "off", *TINY]
    assert cli.run(arguments) == 0
    # What is read and validated before the first step takes nothing from the warm-up
    assert rates[0] is not None
    assert rates[0] < 0.5 * TrainConfig().optimizer.lr
    (folder,) = Path("runs/digits").iterdir()
    last = rows_of(folder)[-1]
    assert int(last["step"]) == load_state(folder)["position"]["step"] > 0
    assert float(last["lr"]) < 0.1 * TrainConfig().optimizer.lr  # the cosine has come down


def test_weights_of_a_run_are_where_the_next_one_starts(session_run: Path, scenes: Path) -> None:
    arguments = ["train", "--data", str(scenes), "--max-steps", "1", "--lr", "1e-12", "--weights",
                 str(session_run), "--tracking", "off", *TINY]  # fmt: skip
    assert cli.run(arguments) == 0
    (folder,) = Path("runs/digits").iterdir()
    first = float(rows_of(folder)[0]["val/mean_iou"])
    best = max(float(row["val/mean_iou"]) for row in rows_of(session_run)[1:])
    assert first == pytest.approx(best)


def test_a_state_that_takes_long_to_save_is_not_saved_after_every_short_epoch(
    scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []

    def slowly(session: Session) -> None:
        time.sleep(1.0)
        saved.append(session.position.step)

    monkeypatch.setattr(loop, "save_session", slowly)
    arguments = ["train", "--data", str(scenes), "--epochs", "6", "--tracking", "off", *TINY]
    assert cli.run(arguments) == 0
    assert saved == [0, 4, 24]  # untrained, after the first epoch of four steps, at the end


def test_max_steps_ends_the_run_at_that_step(scenes: Path) -> None:
    arguments = ["train", "--data", str(scenes), "--max-steps", "5", "--tracking", "off", *TINY]
    assert cli.run(arguments) == 0
    (folder,) = Path("runs/digits").iterdir()
    assert load_state(folder)["position"]["step"] == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_resumes_to_the_same_weights_as_one_never_stopped(
    number: signal.Signals, scenes: Path, tmp_path: Path
) -> None:
    tiny = " ".join(TINY).replace("--batch-size 4", "--batch-size 3")
    tiny = tiny.replace("val_every=1", "val_every=10")
    common = ["--data", str(scenes), "--epochs", "20", "--tracking", "off", *tiny.split()]
    assert cli.run(["train", *common, "--run-name", "whole"]) == 0
    command = [sys.executable, "-m", "unet_pipeline", "train", *common, "--run-name", "stopped"]
    folder = tmp_path / "runs" / "digits" / "stopped"
    # a shell that runs us in the background would have our child ignore Ctrl-C
    restore = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    # the same number of threads as here: sums in another order differ in the last bits
    env = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    with subprocess.Popen(
        command, env=env, stderr=subprocess.PIPE, text=True, preexec_fn=restore
    ) as child:
        for _ in range(1000):  # the first state is that before the first step
            if (folder / "previous.pt").exists():
                break
            time.sleep(0.05)
        child.send_signal(number)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 128 + number, err
    assert f"unet train --resume {Path('runs/digits/stopped')}" in err
    stopped = load_state(folder)["position"]
    assert 0 < stopped["step"] < 100
    assert cli.run(["train", "--resume", str(folder)]) == 0
    whole = tmp_path / "runs" / "digits" / "whole"
    assert same_weights(load_state(whole), load_state(folder))
    assert [row["val/mean_iou"] for row in rows_of(whole)] == [
        row["val/mean_iou"] for row in rows_of(folder)
    ]


def test_resume_without_the_optimizer_would_differ(session_run: Path, run_folder: Path) -> None:
    """The control of the test above: equality is not there by itself."""
    state = load_state(run_folder)
    state["optimizer"]["state"] = {}
    torch.save(state, run_folder / "last.pt")
    assert cli.run(["train", "--resume", str(run_folder), "--epochs", "5"]) == 0
    other = run_folder.parent / "other"
    shutil.copytree(session_run, other)
    assert cli.run(["train", "--resume", str(other), "--epochs", "5"]) == 0
    assert not same_weights(load_state(run_folder), load_state(other))


def test_resume_takes_limits_and_refuses_what_would_be_another_run(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["train", "--resume", str(run_folder), "--epochs", "4"]) == 0
    assert rows_of(run_folder)[-1]["epoch"] == "4"
    assert cli.run(["train", "--resume", str(run_folder), "--lr", "1"]) == 2
    assert "--resume cannot change optimizer.lr" in errors_of(capsys)
    same = ["--model", "unet", "--loss", "ce+dice", "--set", "model.base_channels=4"]
    (run_folder / ".0123.tmp").touch()
    assert cli.run(["train", "--resume", str(run_folder), "--epochs", "4", *same]) == 0
    assert not (run_folder / ".0123.tmp").exists()


def test_resume_refuses_data_that_has_changed(
    scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(scenes, "mine")
    arguments = ["train", "--data", "mine", "--epochs", "1", "--tracking", "off", *TINY]
    assert cli.run(arguments) == 0
    table = Path("mine/samples.csv")
    table.write_text(table.read_text().replace(",val,", ",train,", 1))
    (folder,) = Path("runs/digits").iterdir()
    assert cli.run(["train", "--resume", str(folder), "--epochs", "2"]) == 2
    assert "has changed since" in errors_of(capsys)


def test_resume_takes_what_the_run_has_already_in_any_spelling(run_folder: Path) -> None:
    same = ["--image-size", "64", "--loss", "ce+dice"]
    assert cli.run(["train", "--resume", str(run_folder), "--epochs", "4", *same]) == 0


def test_resume_takes_how_to_treat_files_that_have_become_unreadable(run_folder: Path) -> None:
    assert cli.run(["train", "--resume", str(run_folder), "--epochs", "4", "--strict"]) == 0
    assert load_config(run_folder / "config.yaml").training.strict


def test_a_network_larger_than_memory_is_one_line_in_a_dry_run(
    scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    huge = ["--model", "mlp", "--set", "model.hidden_features=100000000000", "--device", "cpu"]
    assert cli.run(["train", "--data", str(scenes), "--dry-run", *huge]) == 5
    assert "or model" in errors_of(capsys)


def test_a_folder_without_a_run_cannot_be_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["train", "--resume", str(tmp_path)]) == 2
    assert "is no run folder" in errors_of(capsys)


def test_a_run_in_use_cannot_be_resumed(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from unet_pipeline.files import folder_lock

    with folder_lock(run_folder):
        assert cli.run(["train", "--resume", str(run_folder), "--epochs", "4"]) == 7
    assert f"process {os.getpid()}" in errors_of(capsys)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_an_image_damaged_after_prepare_is_named_and_skipped_or_ends_a_strict_run(
    workers: str, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(scenes, "mine")
    victim = sorted(Path("mine/train/images").iterdir())[0]
    victim.write_bytes(victim.read_bytes()[:200])
    arguments = ["train", "--data", "mine", "--epochs", "2", "--tracking", "off", *TINY]
    assert cli.run([*arguments, "--strict"]) == 4
    assert victim.name in errors_of(capsys)
    assert cli.run([*arguments, "--workers", workers]) == 3
    err = capsys.readouterr().err
    assert err.count("it is skipped") == 1
    assert "1 sample could not be read and was skipped, 2 times in all" in " ".join(err.split())
    assert err.count(victim.name) == 2
    assert err.splitlines()[-1].startswith("error: trained without 1 sample that could not be read")


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_of_which_nothing_can_be_read_ends_the_run(
    split: str, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(scenes, "mine")
    for path in Path("mine", split, "images").iterdir():
        path.write_bytes(b"")
    arguments = ["train", "--data", "mine", "--epochs", "1", "--tracking", "off", *TINY]
    assert cli.run(arguments) == 4
    assert "can be read" in errors_of(capsys)


def test_a_run_lands_where_a_bare_mlflow_ui_finds_it(scenes: Path, tmp_path: Path) -> None:
    # Made beforehand: on a busy machine its tables take longer than a training waits for a store,
    # and the model would be written before the run has an id there
    load_mlflow()
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    arguments = ["train", "--data", str(scenes), "--epochs", "2", *TINY]
    assert cli.run(arguments) == 0
    experiment = client.get_experiment_by_name("digits")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "unet-ce+dice-0001"
    assert run.data.params["model.base_channels"] == "4"
    assert run.data.params["optimizer.lr"] == str(TrainConfig().optimizer.lr)
    for key in ("val/mean_iou", "val/loss", "train/loss", "lr", "val/iou/zero", "best/mean_iou"):
        assert key in run.data.metrics, key
    assert len(client.get_metric_history(run.info.run_id, "val/mean_iou")) == 3
    kept = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"weights", "config.yaml", "dataset.yaml", "samples.csv", "history.csv"} <= kept
    (model,) = client.search_logged_models([experiment.experiment_id])
    assert (model.name, model.source_run_id) == ("model", run.info.run_id)
    contexts = {tag.value for entry in run.inputs.dataset_inputs for tag in entry.tags}
    assert contexts == {"train", "val"}
    assert "unet predict" in run.data.tags["mlflow.note.content"]
    folder = tmp_path / "runs" / "digits" / "unet-ce+dice-0001"
    assert up.load_model(folder).card.facts["mlflow_run_id"] == run.info.run_id

    assert cli.run(["evaluate", "--model", str(folder)]) == 0
    after = client.get_run(run.info.run_id)
    assert "test/mean_iou" in after.data.metrics
    assert (after.info.status, after.info.end_time) == ("FINISHED", run.info.end_time)
    written = json.loads((folder / "evaluation" / "digits-test" / "metrics.json").read_text())
    assert after.data.metrics["test/mean_iou"] == pytest.approx(written["mean_iou"], rel=1e-4)


def test_a_run_that_fails_is_failed_in_mlflow(scenes: Path, tmp_path: Path) -> None:
    arguments = ["train", "--data", str(scenes), "--epochs", "3", "--lr", "1e30",
                 "--set", "training.grad_clip=0", "--optimizer", "sgd", *TINY]  # fmt: skip
    assert cli.run(arguments) == 6
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert run.info.status == "FAILED"


def test_the_panel_shows_truth_and_prediction_of_the_same_images(session_run: Path) -> None:
    pictures = sorted((session_run / "samples" / "progress").iterdir())
    assert pictures
    steps = sorted(path.name for path in pictures[0].iterdir())
    assert steps[0] == "000000.png"
    assert len(steps) > 1
    with Image.open(pictures[0] / steps[0]) as picture:
        assert picture.size[0] > picture.size[1]
        assert np.asarray(picture).std() > 0


def test_grey_16_bit_images_train_and_predict(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / "deep" / name).mkdir(parents=True)
    for n in range(8):
        mask = (rng.random((40, 33)) < 0.3).astype(np.uint8) * 200
        image = (mask.astype(np.uint16) * 15 + rng.integers(0, 900, mask.shape)).astype(np.uint16)
        Image.fromarray(image).save(tmp_path / "deep" / "images" / f"{n}.png")
        Image.fromarray(mask).save(tmp_path / "deep" / "masks" / f"{n}.png")
    arguments = ["train", "--data", "deep", "--epochs", "2", "--tracking", "off", *TINY]
    assert cli.run(arguments) == 0
    (folder,) = Path("runs/deep").iterdir()
    card = up.load_model(folder).card
    assert (card.in_channels, card.dtype, card.value_range) == (1, "uint16", (0, 4095))
    assert cli.run(["predict", "deep/images", "--model", str(folder), "--output", "out"]) == 0
    with Image.open("out/0.png") as mask_out:
        assert mask_out.size == (33, 40)
        assert set(np.unique(np.asarray(mask_out))) <= {0, 200}


def test_weights_bring_their_network_where_it_is_left_open(session_run: Path, scenes: Path) -> None:
    arguments = ["train", "--data", str(scenes), "--max-steps", "1", "--weights", str(session_run),
                 "--tracking", "off", "--image-size", "64", "--device", "cpu"]  # fmt: skip
    assert cli.run(arguments) == 0
    (folder,) = Path("runs/digits").iterdir()
    assert up.load_model(folder).card.options["base_channels"] == 4


def test_weights_of_the_well_known_unet_start_a_training(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = up.UNet(in_channels=3, num_classes=2, bilinear=True)
    torch.save(network.state_dict() | {"mask_values": [0, 255]}, "unet.pth")
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        Path("cells", name).mkdir(parents=True)
    for n in range(4):
        image = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(image).save(f"cells/images/{n}.png")
        Image.fromarray(image[..., 0] // 128 * 255).save(f"cells/masks/{n}.png")
    arguments = ["train", "--data", "cells", "--max-steps", "1", "--weights", "unet.pth", "--lr",
                 "1e-9", "--tracking", "off", "--device", "cpu", "--amp", "off"]  # fmt: skip
    assert cli.run(arguments) == 0
    (folder,) = Path("runs/cells").iterdir()
    trained = up.load_model(folder)
    assert trained.card.options["bilinear"] is True
    weight = trained.network.state_dict()["down1.maxpool_conv.1.double_conv.0.weight"]
    torch.testing.assert_close(
        weight, network.state_dict()["down1.maxpool_conv.1.double_conv.0.weight"], atol=1e-6, rtol=0
    )


def test_a_budget_that_ends_before_the_first_step_is_said(
    scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--data", str(scenes), "--budget", "0.01s", "--tracking", "off", *TINY]
    assert cli.run(arguments) == 2
    assert "before the first step" in errors_of(capsys)


def test_a_run_that_was_stopped_before_its_first_step_can_be_resumed(
    scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(session: Any, stop: Any) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return validate(session, stop)

    validate = loop.validate
    arguments = ["train", "--data", str(scenes), "--epochs", "1", "--tracking", "off", *TINY]
    with monkeypatch.context() as patched:
        patched.setattr(loop, "validate", stopped)
        assert cli.run(arguments) == 143
    (folder,) = Path("runs/digits").iterdir()
    assert load_state(folder)["position"]["step"] == 0
    assert cli.run(["train", "--resume", str(folder)]) == 0
    assert load_state(folder)["position"]["step"] > 0


def test_what_is_resumed_without_anything_left_to_train_says_so_and_keeps_its_settings(
    scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["train", "--data", str(scenes), "--tracking", "off", *TINY]
    assert cli.run([*common, "--max-steps", "6", "--run-name", "run"]) == 0
    folder = Path("runs/digits/run")
    settings, history = (folder / "config.yaml").read_bytes(), rows_of(folder)
    capsys.readouterr()
    assert cli.run(["train", "--resume", str(folder), "--max-steps", "3"]) == 0
    err = " ".join(capsys.readouterr().err.split())
    assert "nothing left to train: 6 steps are done, and --max-steps 3 allows no more" in err
    assert (folder / "config.yaml").read_bytes() == settings
    assert rows_of(folder) == history


def test_a_spent_budget_is_named_and_looking_again_costs_none_of_it(
    scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["train", "--data", str(scenes), "--tracking", "off", *TINY]
    assert cli.run([*common, "--budget", "8s", "--run-name", "run"]) == 0
    folder = Path("runs/digits/run")
    seconds = []
    for _ in range(2):
        capsys.readouterr()
        assert cli.run(["train", "--resume", str(folder), "--epochs", "100000"]) == 0
        err = " ".join(capsys.readouterr().err.split())
        assert "and --budget 8s allows no more; give more to go on" in err
        seconds.append(load_state(folder)["position"]["seconds"])
    assert seconds[0] == seconds[1] < 10


def test_a_budget_that_is_over_before_the_first_step_leaves_no_folder(
    scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["train", "--data", str(scenes), "--budget", "2s", *TINY]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "the budget of 2 s ended before the first step" in err
    assert not list(Path("runs").glob("*/*"))
    assert not Path("mlflow.db").exists()


def test_a_signal_while_the_tracking_starts_leaves_a_run_that_can_go_on(
    scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = train.start_tracking

    def interrupted(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return start(*arguments, **options)

    monkeypatch.setattr(train, "start_tracking", interrupted)
    common = ["train", "--data", str(scenes), "--tracking", "off", *TINY]
    assert cli.run([*common, "--max-steps", "2", "--run-name", "run"]) == 130
    assert cli.run(["train", "--resume", "runs/digits/run"]) == 0
    assert load_state(Path("runs/digits/run"))["position"]["step"] == 2


@pytest.mark.parametrize("damaged", [False, True])
def test_a_run_whose_best_model_is_lost_goes_on_and_makes_another(
    damaged: bool, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["train", "--data", str(scenes), "--tracking", "off", *TINY, "--run-name", "run"]
    assert cli.run([*common, "--max-steps", "6"]) == 0
    best = Path("runs/digits/run/best.safetensors")
    if damaged:
        best.write_bytes(best.read_bytes()[:100])
    else:
        best.unlink()
    # The command that began the run, with --resume
    again = ["train", "--resume", "runs/digits/run", "--run-name", "run"]
    assert cli.run([*again, "--max-steps", "7"]) == 0
    assert "the best model from here on" in " ".join(capsys.readouterr().err.split())
    assert up.load_model(best).card.facts["step"] == 7


def test_a_run_whose_settings_were_emptied_is_not_resumed(
    scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--data", str(scenes), "--tracking", "off", *TINY, "--run-name", "run"]
    assert cli.run([*arguments, "--max-steps", "1"]) == 0
    Path("runs/digits/run/config.yaml").write_text("")
    assert cli.run(["train", "--resume", "runs/digits/run"]) == 2
    assert "config.yaml: is damaged" in errors_of(capsys)


def test_an_epoch_that_a_limit_cut_short_is_finished_by_resume(scenes: Path) -> None:
    common = ["train", "--data", str(scenes), "--tracking", "off", *TINY, "--set",
              "schedule.name=constant"]  # fmt: skip
    assert cli.run([*common, "--max-steps", "6", "--run-name", "short"]) == 0
    assert cli.run(["train", "--resume", "runs/digits/short", "--max-steps", "8"]) == 0
    assert cli.run([*common, "--max-steps", "8", "--run-name", "whole"]) == 0
    short, whole = (load_state(Path("runs/digits", name)) for name in ("short", "whole"))
    assert short["position"]["epoch"] == whole["position"]["epoch"] == 2
    rows = rows_of(Path("runs/digits/short"))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    # Nothing of the validation at step 6 stands in the row of step 8
    (other,) = rows_of(Path("runs/digits/whole"))[2:]
    assert {k: v for k, v in rows[2].items() if "time/" not in k and k != "train/loss"} == {
        k: v for k, v in other.items() if "time/" not in k and k != "train/loss"
    }


def test_the_config_of_a_named_run_can_be_run_again(session_run: Path, tmp_path: Path) -> None:
    arguments = ["train", "--config", str(session_run / "config.yaml"), "--output", "again",
                 "--set", "training.epochs=1"]  # fmt: skip
    for _ in range(2):
        assert cli.run(arguments) == 0
    assert len(list(Path("again/digits").iterdir())) == 2


def test_the_log_of_a_run_begins_with_its_plan(session_run: Path) -> None:
    assert "base_channels" in (session_run / "log.txt").read_text()


def test_a_dataset_of_one_image_is_told_by_prepare_and_refused_by_train(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        Path("one", name).mkdir(parents=True)
        Image.fromarray(rng.integers(0, 2, (9, 9), dtype=np.uint8)).save(f"one/{name}/a.png")
    assert cli.run(["prepare", "one"]) == 0
    assert "there are no val samples" in capsys.readouterr().err
    assert cli.run(["train", "--data", "data/one"]) == 4
    assert "add images" in errors_of(capsys)


def test_a_dry_run_tells_its_settings_as_json(
    scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["train", "--data", str(scenes), "--dry-run", "--json", *TINY]) == 0
    assert json.loads(capsys.readouterr().out)["training"]["image_size"] == [64, 64]
