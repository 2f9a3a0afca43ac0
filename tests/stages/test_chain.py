"""unet run: four steps in one go, nested in MLflow, each done once while nothing changes."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from unet_pipeline import cli, tracking
from unet_pipeline.chain_config import ChainConfig
from unet_pipeline.config import load_config
from unet_pipeline.errors import ResourceError
from unet_pipeline.stages import chain as stage
from unet_pipeline.stages import dataset_step
from unet_pipeline.stages.trained import InterruptedRunError
from unet_pipeline.tracking.store import load_mlflow

load_mlflow()  # quietly, before a test asks MLflow by itself

TINY = ["--set", "model.base_channels=4", "--set", "model.depth=2", "--image-size", "32",
        "--batch-size", "4", "--device", "cpu", "--amp", "off", "--max-steps", "2"]  # fmt: skip
ALL = ["prepare", "train", "evaluate", "predict"]


def write_discs(folder: Path, *, num: int = 12, first: int = 0) -> Path:
    """Dark discs on bright pages, and their masks."""
    y, x = np.mgrid[:32, :32]
    for n in range(first, first + num):
        disc = (y - 12 - n % 5) ** 2 + (x - 10 - n % 12) ** 2 < 30 + 9 * n
        noise = np.random.default_rng(n).normal(0, 12, disc.shape)
        image = np.clip(np.where(disc, 60, 190) + noise, 0, 255).astype(np.uint8)
        for kind, pixels in (("images", image), ("masks", disc.astype(np.uint8))):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / kind / f"c{n}.png")
    return folder


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory in which all four steps are done, without MLflow."""
    folder = tmp_path_factory.mktemp("once")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        write_discs(Path("discs"))
        arguments = ["run", "discs", "--predict", "discs/images", "--tracking", "off", *TINY]
        assert cli.run(arguments) == 0
    return folder


@pytest.fixture
def work(once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same moment again: the folder itself, with what a test adds taken away afterwards."""
    kept = tmp_path / "kept"
    shutil.copytree(once, kept, symlinks=True)
    monkeypatch.chdir(once)
    yield once
    for path in once.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(kept, once, dirs_exist_ok=True, symlinks=True)


def run(capsys: pytest.CaptureFixture[str], *options: str, code: int = 0) -> dict[str, Any]:
    """The result of `unet run discs` with these options; `how` is step -> what became of it."""
    capsys.readouterr()
    arguments = ["run", "discs", "--predict", "discs/images", "--tracking", "off", *TINY, "--json"]
    assert cli.run([*arguments, *options]) == code
    text = capsys.readouterr().out
    result: dict[str, Any] = json.loads(text) if text else {}
    steps = result.get("steps", [])
    return result | {"how": {step["step"]: step["how"] for step in steps}}


def how(*made: str, given: str = "made") -> dict[str, str]:
    return {step: given if step in made else "reused" for step in ALL}


def test_the_steps_leave_a_dataset_a_model_a_report_and_masks(once: Path) -> None:
    assert (once / "data/discs/samples.csv").is_file()
    (model,) = once.glob("runs/discs/unet-*/best.safetensors")
    assert (model.parent / "evaluation/discs-test/metrics.json").is_file()
    assert len(list(once.glob("runs/discs/predict-*/predictions/c*.png"))) == 12
    notes = [json.loads(path.read_text()) for path in once.glob("runs/*/*/step.json")]
    assert sorted(note["step"] for note in notes) == sorted(ALL)
    assert {note["state"] for note in notes} == {"finished"}


def test_without_a_change_every_step_is_reused(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    former = set(work.glob("runs/discs/*"))
    result = run(capsys)
    assert result["how"] == how()
    assert {work / step["folder"] for step in result["steps"]} < former
    assert set(work.glob("runs/discs/*")) - former == {work / result["folder"]}
    for name in ("dataset", "model", "report", "predictions"):
        assert (work / result[name]).exists()
    assert cli.run(["run", "discs", "--tracking", "off", *TINY]) == 0
    table = capsys.readouterr()
    assert "reused" in table.out
    assert f"train: unchanged, reusing {Path(result['model']).parent}" in table.err


def test_a_changed_setting_makes_anew_from_its_step_on(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "--set", "predict.tta=true")["how"] == how("predict")
    assert run(capsys, "--lr", "0.01")["how"] == how("train", "evaluate", "predict")
    assert run(capsys, "--workers", "0")["how"] == how()  # of no consequence
    other = run(capsys, "--set", "data.split_seed=3")
    assert other["how"] == how(*ALL)
    assert other["dataset"] == str(work / "data/discs-2")  # that of before stays for its runs
    assert run(capsys)["how"] == how()
    assert run(capsys, "--set", "evaluate.num_pictures=0")["how"] == how("evaluate")


def test_new_images_are_taken_in_and_trained_on(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_discs(Path("discs"), num=2, first=12)
    result = run(capsys)
    assert result["how"] == how(*ALL)
    assert result["dataset"] == str(work / "data/discs")
    assert sum(result["steps"][0]["figures"].values()) == 14


def test_files_that_were_only_touched_are_read_again_and_train_nothing(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.utime("discs/images/c3.png")
    assert run(capsys)["how"] == how("prepare")
    assert run(capsys)["how"] == how()


def test_a_source_of_links_to_folders_is_seen_as_any_other(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("discs").rename("elsewhere")
    Path("discs").mkdir()
    for name in ("images", "masks"):
        Path("discs", name).symlink_to(work / "elsewhere" / name)
    Path("elsewhere/images/loop").symlink_to(work / "elsewhere/images")
    run(capsys, "--dataset", "data/linked")
    assert run(capsys, "--dataset", "data/linked")["how"] == how()
    write_discs(Path("elsewhere"), num=2, first=12)
    assert run(capsys, "--dataset", "data/linked")["how"]["prepare"] == "made"


def test_edited_splits_stand_and_are_trained_on(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = Path("data/discs/samples.csv")
    text = samples.read_text()
    samples.write_text(text.replace(",train,", ",test,", 1))
    assert samples.read_text() != text
    assert run(capsys)["how"] == how("train", "evaluate", "predict")


@pytest.mark.parametrize(
    ("damage", "made"),
    [
        ("runs/discs/unet-*/best.safetensors", ["train", "evaluate", "predict"]),
        ("runs/discs/unet-*/evaluation/discs-test/metrics.json", ["evaluate"]),
        ("runs/discs/predict-*/predictions/c3.png", ["predict"]),
        ("runs/discs/evaluate-*/step.json", ["evaluate"]),
    ],
)
def test_what_is_damaged_is_made_again(
    work: Path, capsys: pytest.CaptureFixture[str], damage: str, made: list[str]
) -> None:
    (path,) = work.glob(damage)
    path.write_bytes(path.read_bytes()[:-5])
    result = run(capsys)
    if made[0] == "train":  # the same training gives the same bytes: the rest is unchanged
        assert result["how"]["train"] == "made"
    else:
        assert result["how"] == how(*made)


def test_fresh_makes_everything_anew(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--fresh")["how"] == how(*ALL)


def test_a_prepared_dataset_is_taken_as_it_is(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", "data/discs", "--tracking", "off", *TINY, "--json"]
    assert cli.run(arguments) == 0
    steps = json.loads(capsys.readouterr().out)["steps"]
    assert [step["how"] for step in steps] == ["given", "reused", "reused"]
    mask = Path("discs/masks/c3.png")  # where the dataset has it
    Image.fromarray(1 - np.asarray(Image.open(mask))).save(mask)
    for word in ("made", "reused"):
        assert cli.run(arguments) == 0
        steps = json.loads(capsys.readouterr().out)["steps"]
        assert [step["how"] for step in steps] == ["given", word, word]
    assert cli.run([*arguments, "--class-names", "a,b"]) == 2
    assert "data.class_names has no effect on data/discs" in capsys.readouterr().err


def test_a_named_dataset_of_other_settings_is_left_alone(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["run", "discs", "--dataset", "data/discs", "--tile", "16",
                    "--tracking", "off"]) == 2  # fmt: skip
    assert "choose another --dataset" in capsys.readouterr().err


@pytest.mark.parametrize("whole", [False, True])
def test_a_preparation_that_was_killed_claims_only_what_it_has_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    """Killed before or after the dataset was whole; then another one is prepared in its place."""
    write_discs(Path("discs"))
    arguments = ["run", "discs", "--tile", "16", "--dataset", "data/tiles", "--tracking", "off"]

    def killed(*_: Any, **__: Any) -> None:
        raise InterruptedRunError("killed", 137)

    with monkeypatch.context() as patched:
        if whole:
            patched.setattr(tracking.Run, "log_dataset", killed)
        else:
            patched.setattr(dataset_step, "prepare", killed)
        assert cli.run([*arguments, *TINY]) == 137
    assert Path("data/tiles/samples.csv").exists() == whole
    monkeypatch.setattr(stage, "_train", killed)
    if whole:  # its dataset stands, and is no longer in the way
        assert cli.run([*arguments, *TINY]) == 137
        assert len(list(tmp_path.glob("runs/*/prepare-*"))) == 1
        shutil.rmtree("data/tiles")
    assert cli.run(["prepare", "discs", "--output", "data/tiles"]) == 0
    assert cli.run([*arguments, *TINY]) == 2  # it holds a dataset that was prepared otherwise


def test_a_training_that_was_stopped_goes_on(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--max-steps", "40", "--set", "training.val_every=1"]
    arguments = ["run", "discs", "--tracking", "off", *TINY, *options]
    child = subprocess.Popen([sys.executable, "-m", "unet_pipeline", *arguments],
                             stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)  # fmt: skip
    end = time.monotonic() + 100
    former = set(work.glob("runs/discs/unet-*"))
    while time.monotonic() < end and child.poll() is None:
        new = set(work.glob("runs/discs/unet-*/last.pt")) - {f / "last.pt" for f in former}
        if new:
            child.send_signal(signal.SIGKILL)
            break
        time.sleep(0.02)
    assert child.wait() == -signal.SIGKILL
    (unfinished,) = {path.parent for path in new}
    assert json.loads((unfinished / "step.json").read_text())["state"] == "begun"
    result = run(capsys, *options)
    assert result["how"] == how(*ALL[2:]) | {"train": "resumed"}
    assert work / result["steps"][1]["folder"] == unfinished
    assert run(capsys, *options)["how"] == how()


def test_a_step_that_failed_is_tried_again_and_those_before_it_stand(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise ResourceError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(stage, "evaluate", full)
        run(capsys, "--lr", "0.01", code=5)
    notes = [path.read_text() for path in work.glob("runs/discs/evaluate-*/step.json")]
    assert sum('"state": "failed"' in note for note in notes) == 1
    assert last_status(work, "evaluate") == last_status(work, "pipeline") == "FAILED"
    assert run(capsys, "--lr", "0.01")["how"] == how("evaluate", "predict")


def test_a_signal_while_it_trains_ends_the_whole_as_killed_with_its_exit_code(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise InterruptedRunError("stopped after step 1", 143)

    monkeypatch.setattr(stage, "train", stopped)
    run(capsys, "--lr", "0.01", code=143)
    assert last_status(work, "pipeline") == "KILLED"


def last_status(work: Path, stem: str) -> str:
    """Of the newest run of that stem, what its journal says at the end."""
    journal = max(work.glob(f"runs/discs/{stem}-*")) / "tracking.jsonl"
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    return str([record["status"] for record in records if record["kind"] == "status"][-1])


def test_data_with_errors_ends_it_at_the_first_step(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in range(12):
        Path(f"discs/masks/c{n}.png").write_bytes(b"no picture")
    before = set(work.glob("runs/discs/*"))
    run(capsys, code=4)
    made = {path.name.split("-")[0] for path in set(work.glob("runs/discs/*")) - before}
    assert made == {"pipeline", "prepare"}
    assert last_status(work, "prepare") == last_status(work, "pipeline") == "FAILED"


def test_one_fold_of_the_dataset_can_be_held_out(tmp_path: Path) -> None:
    write_discs(Path("discs"))
    settings = ["--set", "prepare.folds=2", "--set", "data.fold=1", "--set", "evaluate.split=val"]
    assert cli.run(["run", "discs", "--tracking", "off", *TINY, *settings]) == 0
    samples = rows(Path("data/discs/samples.csv"))
    (scored,) = tmp_path.glob("runs/discs/unet-*/evaluation/discs-val/per_image.csv")
    held_out = {row["sample_id"] for row in samples if row["fold"] == "1"}
    assert {row["sample_id"] for row in rows(scored)} == held_out


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_rejected_images_are_told_at_the_end_and_every_time(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = work / "new"
    shutil.copytree("discs/images", new)
    (new / "c3.png").write_bytes(b"no picture")
    arguments = ["run", "discs", "--predict", str(new), "--tracking", "off", *TINY]
    for word in ("made", "reused"):
        assert cli.run(arguments) == 3
        output = capsys.readouterr()
        assert "1 of 12 inputs have no mask" in output.err
        assert word in next(line for line in output.out.splitlines() if "predict" in line)


def test_images_to_predict_that_are_not_there_end_it_before_the_first_step(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(work.glob("runs/*/*"))
    assert cli.run(["run", "discs", "--predict", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert set(work.glob("runs/*/*")) == before


def test_settings_that_the_chain_says_itself_are_refused(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["run", "discs", "--set", "predict.output=here"]) == 2
    assert "predict.output has no effect on `unet run`" in capsys.readouterr().err
    assert cli.run(["run", "discs", "--set", "output.register_as=cells"]) == 2
    assert "`unet run` registers nothing" in capsys.readouterr().err


def test_without_test_samples_the_val_split_is_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_discs(Path("discs"))
    settings = ["--set", "data.test_fraction=0", "--set", "prepare.folds=2"]
    assert cli.run(["run", "discs", "--tracking", "off", *TINY, *settings, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["report"].endswith("evaluation/discs-val")
    assert result["predictions"] is None


def test_in_mlflow_the_steps_are_below_one_run_which_knows_what_was_reused(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # the dataset is reused, the rest is made
    arguments = ["run", "discs", *TINY, "--lr", "0.02", "--predict", "discs/images"]
    assert cli.run([*arguments, "--tracking", "required"]) == 0
    client = MlflowClient(f"sqlite:///{work / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("discs")
    records = {r.data.tags["unet.stage"]: r for r in client.search_runs([experiment.experiment_id])}
    assert set(records) == {"run", "train", "evaluate", "predict"}
    parent = records.pop("run")
    assert {r.info.status for r in [parent, *records.values()]} == {"FINISHED"}
    assert {r.data.tags["mlflow.parentRunId"] for r in records.values()} == {parent.info.run_id}
    assert parent.data.tags["unet.reused.prepare"].startswith("prepare-")
    assert parent.data.params["optimizer.lr"] == "0.02"
    assert parent.data.metrics == {}  # the leaderboard shows each result once
    test = records["train"].data.metrics["test/mean_iou"]
    assert records["evaluate"].data.metrics["evaluate/mean_iou"] == test
    assert "test/mean_iou" not in records["evaluate"].data.metrics
    assert "| evaluate | made |" in parent.data.tags["mlflow.note.content"]
    reports = client.list_artifacts(records["evaluate"].info.run_id, "evaluation/discs-test")
    assert "evaluation/discs-test/metrics.json" in [file.path for file in reports]


def test_a_section_of_a_step_takes_its_own_settings() -> None:
    overrides = {"predict.tta": True, "prepare.tile": 64, "model.name": "mlp", "recipe": "classic"}
    config = load_config(overrides=overrides, kind=ChainConfig)
    assert (config.predict.tta, config.prepare.tile, config.model.name) == (True, 64, "mlp")
    assert config.recipe == "classic"
    assert config.optimizer.name == "rmsprop"
