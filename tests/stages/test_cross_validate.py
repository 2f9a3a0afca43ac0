"""cross_validate: a training a fold, nested in one run with the table; and `train --fold i`."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

import unet_pipeline as up
from tests.stages.conftest import TINY
from unet_pipeline import cli
from unet_pipeline.classes import Classes, default_colors
from unet_pipeline.datasets.manifest import (
    DatasetFacts,
    Extent,
    FoldFacts,
    ImageSize,
    Manifest,
    Sample,
    count_splits,
    fingerprint,
)
from unet_pipeline.errors import DivergedError
from unet_pipeline.stages import cross_validate as stage
from unet_pipeline.tracking.store import load_mlflow

load_mlflow()  # quietly, before a test asks MLflow by itself

STEPS = ["--max-steps", "2", *TINY]
SIDE = Extent(min=40, median=40, max=40)


def make_dataset(folder: Path, *, num_folds: int = 3, num_test: int = 2) -> Path:
    """Eight dark discs on bright pages, prepared: the last ones test, the others in turn a fold."""
    samples = []
    y, x = np.mgrid[:40, :40]
    for n in range(8):
        disc = (y - 14 - n) ** 2 + (x - 12 - n) ** 2 < 40 + 9 * n
        noise = np.random.default_rng(n).normal(0, 12, disc.shape)
        image = np.clip(np.where(disc, 60, 190) + noise, 0, 255).astype(np.uint8)
        paths = [folder / kind / f"c{n}.png" for kind in ("images", "masks")]
        for path, pixels in zip(paths, (image, disc.astype(np.uint8)), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        test = n >= 8 - num_test
        fold = None if test or not num_folds else n % num_folds
        split = "test" if test else "val" if fold == 0 else "train"
        samples.append(
            Sample(f"c{n}", *paths, split, f"c{n}", 40, 40, f"{n:032x}", fold)  # type: ignore[arg-type]
        )
    of_train: dict[str, Any] = {
        "value_range": (0.0, 255.0),
        "std": (0.2,),
        "class_pixel_counts": (1400, 200),
        "ignored_pixels": 0,
    }
    facts = DatasetFacts(
        name=folder.name,
        classes=Classes(names=("page", "disc"), colors=default_colors(2), values=(0, 1)),
        in_channels=1,
        dtype="uint8",
        mean=(0.7,),
        **of_train,
        num_samples=count_splits(samples),
        image_size=ImageSize(height=SIDE, width=SIDE),
        fingerprint=fingerprint(samples),
        folds=tuple(FoldFacts(mean=(0.5 + k / 10,), **of_train) for k in range(num_folds)),
    )
    Manifest(folder, facts, tuple(samples)).save(folder)
    return folder


@pytest.fixture(scope="session")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight discs: six in three folds, two in test."""
    return make_dataset(tmp_path_factory.mktemp("data") / "discs")


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "folds.csv").open() as file:
        return list(csv.DictReader(file))


def scored(run: Path, split: str) -> list[str]:
    """The ids of the samples that a run is scored on."""
    arguments = ["evaluate", "--model", str(run), "--split", split, "--output", "scores"]
    assert cli.run([*arguments, "--num-pictures", "0", "--tracking", "off"]) == 0
    with Path("scores/per_image.csv").open() as file:
        return [row["sample_id"] for row in csv.DictReader(file)]


def test_every_fold_is_a_run_and_the_table_ends_in_mean_and_spread(
    discs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["train", "--data", str(discs), "--fold", "all", *STEPS]) == 0
    table, err = capsys.readouterr()
    *_, compare, this = err.strip().splitlines()
    assert compare == "compare:  mlflow ui"
    assert this.startswith("this table: http://127.0.0.1:5000/#/experiments/")
    folder = Path("runs/discs/folds-0001")
    *folds, mean, sd = rows_of(folder)
    assert [row["fold"] for row in folds] == ["0", "1", "2"]
    assert (mean["fold"], sd["fold"]) == ("mean", "sd")
    for name in ("mean_iou", "mean_dice", "test_mean_iou", "test_mean_dice"):
        values = [float(row[name]) for row in folds]
        assert float(mean[name]) == pytest.approx(np.mean(values))
        assert float(sd[name]) == pytest.approx(np.std(values, ddof=1))
    last = [line for line in table.splitlines() if "mean ± sd" in line]
    assert f"{float(mean['mean_iou']):.4f} ± {float(sd['mean_iou']):.4f}" in last[0]
    assert "mean ± sd" in (folder / "folds.md").read_text()
    for number, row in enumerate(folds):
        run = Path(row["run"])
        assert up.load_config(run / "config.yaml").data.fold == number
        assert scored(run, "val") == [f"c{number}", f"c{number + 3}"]
        assert scored(run, "test") == ["c6", "c7"]
        card = up.load_model(run).card
        assert card.mean == pytest.approx((0.5 + number / 10,))
    again = up.evaluate(
        up.load_config(
            overrides={"model": folds[1]["run"], "split": "val", "tracking": "off"},
            kind=up.EvaluateConfig,
        )
    )
    assert again.scores.mean_iou == pytest.approx(float(folds[1]["mean_iou"]), abs=1e-12)

    client = MlflowClient(f"sqlite:///{Path.cwd() / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("discs")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    parent = runs.pop("folds-0001")
    assert set(runs) == {Path(row["run"]).name for row in folds}
    for run in runs.values():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert "test/mean_iou" in run.data.metrics
    assert sorted(run.data.params["data.fold"] for run in runs.values()) == ["0", "1", "2"]
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["cv/mean_iou"] == pytest.approx(float(mean["mean_iou"]), rel=1e-5)
    spread = parent.data.metrics["cv/mean_iou_sd"]
    assert spread == pytest.approx(float(sd["mean_iou"]), rel=1e-4)
    assert spread > 0.001
    assert "mean ± sd" in parent.data.tags["mlflow.note.content"]
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"folds.csv", "folds.md", "config.yaml", "samples.csv", "log.txt"} <= files


def test_without_a_test_split_the_table_is_of_the_folds_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_dataset(tmp_path / "discs", num_folds=2, num_test=0)
    arguments = ["train", "--data", str(data), "--fold", "all", "--json", "--tracking", "off",
                 "--run-name", "cv", *STEPS]  # fmt: skip
    assert cli.run(arguments) == 0
    summary = json.loads(capsys.readouterr().out)
    assert Path(summary["folder"]) == Path("runs/discs/cv")
    assert [row["test_mean_iou"] for row in summary["folds"]] == [None, None]
    assert set(summary["mean"]) == {"mean_iou", "mean_dice"}
    assert "test" not in (tmp_path / "runs/discs/cv/folds.md").read_text()


def test_all_folds_have_the_settings_of_the_first(discs: Path) -> None:
    arguments = ["train", "--data", str(discs), "--fold", "all", "--tracking", "off", "--device",
                 "cpu", "--max-steps", "1", "--set", "model.base_channels=4"]  # fmt: skip
    assert cli.run(arguments) == 0
    folder = Path("runs/discs/folds-0001")
    shared = up.load_config(folder / "config.yaml")
    assert shared.data.fold is None
    assert shared.training.batch_size is not None
    for row in rows_of(folder)[:3]:
        config = up.load_config(Path(row["run"]) / "config.yaml")
        assert (config.model, config.training) == (shared.model, shared.training)
    assert up.load_config(folder / "config.yaml").output.run_name is None
    assert Manifest.load(folder).samples == Manifest.load(discs).samples


def test_a_fold_that_fails_is_a_row_and_the_others_go_on(
    discs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = stage.train_below

    def failing(parent: Any, config: Any, manifest: Manifest) -> Any:
        if config.data.fold == 1:
            raise DivergedError("the loss is | not finite")
        return real(parent, config, manifest)

    monkeypatch.setattr(stage, "train_below", failing)
    assert cli.run(["train", "--data", str(discs), "--fold", "all", *STEPS]) == 6
    captured = capsys.readouterr()
    assert "fold 1: the loss is | not finite" in captured.out
    assert captured.err.count("error: ") == 1
    first, second, third, mean, _ = rows_of(Path("runs/discs/folds-0001"))
    assert (second["mean_iou"], second["note"]) == ("", "the loss is | not finite")
    both = (float(first["mean_iou"]) + float(third["mean_iou"])) / 2
    assert float(mean["mean_iou"]) == pytest.approx(both)
    client = MlflowClient(f"sqlite:///{Path.cwd() / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("discs")
    runs = {run.info.run_name: run.info for run in client.search_runs([experiment.experiment_id])}
    assert runs["folds-0001"].status == "FAILED"


def test_an_interruption_keeps_the_folds_that_are_done(
    discs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = stage.train_below

    def interrupted(parent: Any, config: Any, manifest: Manifest) -> Any:
        if config.data.fold == 1:
            raise KeyboardInterrupt
        return real(parent, config, manifest)

    monkeypatch.setattr(stage, "train_below", interrupted)
    assert cli.run(["train", "--data", str(discs), "--fold", "all", *STEPS]) == 130
    folder = Path("runs/discs/folds-0001")
    first, mean, sd = rows_of(folder)
    assert float(first["test_mean_iou"]) > 0
    assert mean["mean_iou"] == first["mean_iou"]
    assert sd["mean_iou"] == ""
    assert "the table so far, of 1 folds" in (folder / "log.txt").read_text()
    client = MlflowClient(f"sqlite:///{Path.cwd() / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("discs")
    runs = {run.info.run_name: run.info for run in client.search_runs([experiment.experiment_id])}
    assert runs["folds-0001"].status == "KILLED"


def test_one_fold_is_trained_scored_and_resumed_by_its_number(
    discs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--data", str(discs), "--fold", "2", "--tracking", "off"]
    assert cli.run([*arguments, "--run-name", "third", *STEPS]) == 0
    run = Path("runs/discs/third")
    assert scored(run, "val") == ["c2", "c5"]
    # named again, the data is the same, and so is the fold
    again = ["evaluate", "--model", str(run), "--data", str(discs), "--split", "val"]
    assert cli.run([*again, "--tracking", "off", "--output", "scores2"]) == 0
    with Path("scores2/per_image.csv").open() as file:
        assert [row["sample_id"] for row in csv.DictReader(file)] == ["c2", "c5"]
    assert cli.run(["train", "--resume", str(run), "--max-steps", "3"]) == 0
    capsys.readouterr()
    assert cli.run(["train", "--resume", str(run), "--fold", "1"]) == 2
    assert "--resume cannot change data.fold from 2 to 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fold", "3"], "has the folds 0 to 2"),
        (["--fold", "-1"], "data.fold = '-1': input should be greater than or equal to 0"),
        (["--fold", "some"], "data.fold = 'some': input should be a valid integer"),
        (["--fold", "all", "--dry-run"], "leave out --plan (--dry-run), or name one fold"),
        (["--fold", "all", "--resume", "runs/x"], "leave out --resume, or name one fold"),
        (["--fold", "all", "--baselines"], "--baselines takes one fold"),
        (["--fold", "all", "--set", "data.fold=1"], "leave out data.fold = 1"),
        (["--fold", "all", "--loss", "dise"], "did you mean 'dice'"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(
    discs: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [] if "--resume" in arguments else ["--data", str(discs)]
    assert cli.run(["train", *data, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.parametrize("fold", ["0", "all"])
def test_data_without_folds_says_how_to_make_them(
    tmp_path: Path, fold: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = make_dataset(tmp_path / "prepared", num_folds=0)
    assert cli.run(["train", "--data", str(prepared), "--fold", fold]) == 2
    assert "has no folds: make them with `unet prepare" in capsys.readouterr().err
    plain = make_dataset(tmp_path / "plain")
    for name in ("samples.csv", "dataset.yaml"):
        (plain / name).unlink()
    assert cli.run(["train", "--data", str(plain), "--fold", fold]) == 2
    assert f"{plain} is no prepared dataset, so it has no folds" in capsys.readouterr().err


def test_a_fold_that_somebody_has_emptied_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_dataset(tmp_path / "discs")
    table = data / "samples.csv"
    table.write_text(table.read_text().replace(",c2,2,", ",c2,1,").replace(",c5,2,", ",c5,1,"))
    assert cli.run(["train", "--data", str(data), "--fold", "all", *STEPS]) == 4
    assert "has no samples in fold 2" in capsys.readouterr().err


def test_the_spread_is_that_of_a_sample() -> None:
    spread = stage.spread_of([0.5, math.nan, 0.7, 0.9])
    assert (spread.mean, spread.sd) == (pytest.approx(0.7), pytest.approx(0.2))
    assert str(spread) == "0.7000 ± 0.2000"
    assert str(stage.spread_of([0.5])) == "0.5000 ± -"
    assert str(stage.spread_of([math.nan])) == "-"
