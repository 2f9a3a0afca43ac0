"""rerun: the same training again, from a run folder or from MLflow, and what differs."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.stages import registered
from unet_pipeline import cli, tracking
from unet_pipeline.config import TrainConfig, load_config
from unet_pipeline.datasets.manifest import Manifest
from unet_pipeline.models import load_model
from unet_pipeline.stages.opening import open_data
from unet_pipeline.stages.rerun import best_row

Rerun = Callable[..., dict[str, Any]]


@pytest.fixture
def rerun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Rerun:
    """`unet rerun` without MLflow, below the test's own folder; what it prints as JSON."""

    def run(which: Path | str, *more: str) -> dict[str, Any]:
        capsys.readouterr()
        assert (
            cli.run(["rerun", str(which), "--output", str(tmp_path / "again"), "--json", *more])
            == 0
        )
        told: dict[str, Any] = json.loads(capsys.readouterr().out)
        return told

    return run


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "samples.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(folder: Path, rows: list[dict[str, str]]) -> None:
    with (folder / "samples.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def splits_of(folder: Path) -> dict[str, str]:
    return {row["sample_id"]: row["split"] for row in rows_of(folder)}


def change_settings(run: Path, **training: Any) -> None:
    tree = yaml.safe_load((run / "config.yaml").read_text())
    tree["training"] |= training
    (run / "config.yaml").write_text(yaml.safe_dump(tree))


def test_a_rerun_on_a_cpu_gives_the_same_scores_and_weights(run_folder: Path, rerun: Rerun) -> None:
    told = rerun(run_folder, "--run-name", "second")
    assert told["identical"]
    new = Path(told["folder"])
    assert new.name == "second"
    assert new.parent.name == "digits"
    assert told["scores"]["val/mean_iou"]["difference"] == 0
    weights = [load_model(folder).state_dict() for folder in (run_folder, new)]
    assert all(bool((weights[0][name] == tensor).all()) for name, tensor in weights[1].items())
    assert told["differences"]["packages"] == {}
    environment = json.loads((new / "environment.json").read_text())
    assert environment["packages"]["torch"]
    assert environment["python"]


def test_the_table_shows_both_runs(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["rerun", str(run_folder), "--output", str(tmp_path), "--run-name", "b"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[0].split() == ["best", "validation", "copy", "b", "difference"]
    assert "equal to the last digit; the new run:" in said.out
    assert said.err.index("data: as it was") < said.err.index("epoch   1"), "before the training"


def test_another_result_is_told_as_such(run_folder: Path, rerun: Rerun) -> None:
    history = (run_folder / "history.csv").read_text().splitlines()
    with (run_folder / "history.csv").open(newline="") as file:
        best = best_row(list(csv.DictReader(file)))
    better = str(float(best["val/mean_iou"]) + 2**-20)
    text = "\n".join(history).replace(best["val/mean_iou"], better)
    (run_folder / "history.csv").write_text(text + "\n")
    told = rerun(run_folder)
    assert not told["identical"]
    assert told["scores"]["val/mean_iou"]["difference"] == pytest.approx(-(2**-20), rel=1e-6)


def test_the_steps_of_a_budget_are_repeated_and_not_its_clock(
    run_folder: Path, rerun: Rerun
) -> None:
    steps = int(best_last_step(run_folder))
    change_settings(run_folder, budget_seconds=3600.0, epochs=None, max_steps=None)
    told = rerun(run_folder)
    assert told["steps"] == steps
    config = load_config(Path(told["folder"]) / "config.yaml", kind=TrainConfig)
    assert (config.training.budget_seconds, config.training.max_steps) == (None, steps)
    assert told["identical"], "the learning rate follows the steps as it followed the epochs"


def best_last_step(run: Path) -> str:
    with (run / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))[-1]["step"]


def test_differences_of_packages_code_and_machine_are_told_before_the_training(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = json.loads((run_folder / "environment.json").read_text())
    environment["packages"] |= {"torch": "0.1", "gone": "3"}
    environment["python"] = "2.7"
    (run_folder / "environment.json").write_text(json.dumps(environment))
    journal = run_folder / "tracking.jsonl"
    tags = {"mlflow.source.git.commit": "abc", "unet.device": "cuda:7"}
    with journal.open("a") as file:
        file.write(json.dumps({"t": 0, "kind": "tags", "values": tags}) + "\n")
    arguments = ["rerun", str(run_folder), "--output", str(tmp_path / "again"), "--json"]
    assert cli.run(arguments) == 0
    said = capsys.readouterr()
    told = json.loads(said.out)["differences"]
    assert told["packages"]["torch"][0] == "0.1"
    assert told["packages"]["gone"] == ["3", "absent"]
    assert told["packages"]["python"][0] == "2.7"
    assert told["code"]["commit"][0] == "abc"
    assert told["machine"]["device"] == ["cuda:7", "cpu"]
    assert said.err.index("torch 0.1 ->") < said.err.index("epoch   1")


@pytest.fixture
def changed(scenes: Path, run_folder: Path, tmp_path: Path) -> Path:
    """A copy of the data in which one sample moved to another split, one has gone, one is new."""
    data = Path(shutil.copytree(scenes, tmp_path / "moved"))
    rows = rows_of(data)
    train = [row for row in rows if row["split"] == "train"]
    train[0]["split"] = "val"
    rows.remove(train[1])
    rows.append(train[2] | {"sample_id": "new", "content": "0" * 32})
    write_rows(data, rows)
    return data


def test_on_changed_data_the_own_samples_and_splits_are_used(
    changed: Path, scenes: Path, run_folder: Path, rerun: Rerun
) -> None:
    told = rerun(run_folder, "--data", str(changed))
    data = told["differences"]["data"]
    assert (data["new"], data["gone"], data["edited"], data["moved"]) == (1, 1, 0, 1)
    new = Path(told["folder"])
    assert splits_of(new) == splits_of(run_folder)
    assert data["fingerprint"] == Manifest.load(scenes).facts.fingerprint
    assert told["identical"]
    config = load_config(new / "config.yaml", kind=TrainConfig)
    again = open_data(config.data, splits=("train", "val"))
    assert again.facts.fingerprint == data["fingerprint"], "so that it can be resumed and evaluated"


def test_edited_samples_are_counted_and_change_the_fingerprint(
    scenes: Path, run_folder: Path, tmp_path: Path, rerun: Rerun
) -> None:
    data = Path(shutil.copytree(scenes, tmp_path / "edited"))
    rows = rows_of(data)
    rows[0]["content"] = "0" * 32
    write_rows(data, rows)
    told = rerun(run_folder, "--data", str(data))["differences"]["data"]
    assert told["edited"] == 1
    assert told["fingerprint"] != told["former_fingerprint"]


def test_files_that_are_gone_are_named(
    changed: Path, scenes: Path, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    present = {row["sample_id"] for row in rows_of(changed)}
    rows = rows_of(run_folder)
    gone = next(row for row in rows if row["sample_id"] not in present)
    gone["image"] = str(run_folder / "lost.png")
    write_rows(run_folder, rows)
    assert cli.run(["rerun", str(run_folder), "--data", str(changed)]) == 4
    told = capsys.readouterr().err
    assert "1 file of the run's samples is not there any more: " in told
    assert "/lost.png; put them back" in told


def test_a_dataset_whose_table_is_gone_is_found_by_the_table_of_the_run(
    scenes: Path, run_folder: Path, rerun: Rerun
) -> None:
    tree = yaml.safe_load((run_folder / "config.yaml").read_text())
    tree["data"]["path"] = "/nowhere/at/all"
    (run_folder / "config.yaml").write_text(yaml.safe_dump(tree))
    rows = rows_of(run_folder)
    for row in rows:  # the copy of the run lies elsewhere than the run did
        for role in ("image", "mask"):
            row[role] = str(next(scenes.rglob(f"{role}s/{Path(row[role]).name}")))
    write_rows(run_folder, rows)
    assert rerun(run_folder)["identical"]


def test_a_run_of_which_only_mlflow_knows_is_run_again(
    run_folder: Path, project: Path, rerun: Rerun
) -> None:
    uri = f"sqlite:///{project}/mlflow.db"
    tracking.sync(run_folder, uri)
    run_id = json.loads((run_folder / "run.json").read_text())["run_id"]
    shutil.rmtree(run_folder)
    told = rerun(f"runs:/{run_id}")
    assert told["identical"]
    assert told["rerun_of"] == "tiny"


def test_the_new_run_is_tagged_with_the_old_and_keeps_its_environment_in_mlflow(
    run_folder: Path, project: Path, rerun: Rerun
) -> None:
    uri = f"sqlite:///{project}/mlflow.db"
    tracking.sync(run_folder, uri)
    former = json.loads((run_folder / "run.json").read_text())["run_id"]
    tree = yaml.safe_load((run_folder / "config.yaml").read_text())
    tree["output"]["tracking"] = "on"
    (run_folder / "config.yaml").write_text(yaml.safe_dump(tree))
    told = rerun(run_folder, "--tracking-uri", uri)
    client = registered.client_of(project)
    new = json.loads((Path(told["folder"]) / "run.json").read_text())["run_id"]
    assert client.get_run(new).data.tags["unet.rerun_of"] == former
    assert "environment.json" in {info.path for info in client.list_artifacts(new)}
    assert client.get_run(new).info.experiment_id == client.get_run(former).info.experiment_id


def test_what_is_no_training_cannot_be_run_again(
    scenes: Path, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["rerun", str(scenes)]) == 2
    assert "cannot be run again: it has no config.yaml" in capsys.readouterr().err
    (run_folder / "history.csv").unlink()
    assert cli.run(["rerun", str(run_folder)]) == 2
    assert "it is no training, or was made of several" in capsys.readouterr().err
