"""sweep: trials nested in one run with the table; pruning, the budget, several processes."""

from __future__ import annotations

import csv
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from PIL import Image

import unet_pipeline as up
from tests.stages.conftest import TINY
from unet_pipeline import cli, tracking
from unet_pipeline.config import TrainConfig
from unet_pipeline.errors import DivergedError, ResourceError
from unet_pipeline.stages import sharing, study
from unet_pipeline.stages import sweep as stage
from unet_pipeline.stages import train as training
from unet_pipeline.stages.search_space import Span
from unet_pipeline.stages.trained import InterruptedRunError, TrainedRun
from unet_pipeline.tracking.store import load_mlflow
from unet_pipeline.training.checkpoints import load_state

load_mlflow()  # quietly, before a test asks MLflow by itself

STEPS = ["--max-steps", "2", *TINY]
FOLDER = Path("runs/digits/sweep-0001")


def rows_of(folder: Path = FOLDER) -> list[dict[str, str]]:
    with (folder / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


def sweep(scenes: Path, *arguments: str) -> int:
    return cli.run(["sweep", "--data", str(scenes), *STEPS, *arguments])


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


class Trainings:
    """Stands for `train`: notes what it is asked for, and gives `outcome` a word in it."""

    def __init__(self) -> None:
        self.configs: list[TrainConfig] = []
        self.outcome: Callable[[TrainConfig, Any], float | TrainedRun] = lambda config, watch: 0.5

    def __call__(self, config: TrainConfig, *, watch: Any, **_: Any) -> TrainedRun:
        self.configs.append(config)
        folder = Path(config.output.runs_dir, str(config.output.experiment))
        folder /= str(config.output.run_name)
        folder.mkdir()
        (folder / "history.csv").write_text("epoch,step\n1,3\n2,6\n")
        result = self.outcome(config, watch)
        if isinstance(result, TrainedRun):
            return result
        return TrainedRun(folder, {"val/mean_iou": result}, 6, 1.5, None)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    """No trial is trained; the rest is real, but for MLflow."""
    fake = Trainings()
    monkeypatch.setattr(stage, "train", fake)
    return fake


OFF = ["--tracking", "off"]


# ---- a whole sweep


def test_a_sweep_is_a_table_of_nested_runs_best_first(
    scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = ["--param", "loss=ce,dice", "--param", "lr=1e-3:0.3:log", "--trials", "4"]
    assert sweep(scenes, *space, "--max-steps", "8", "--image-size", "32") == 0
    table = capsys.readouterr().out
    rows = rows_of()
    scores = [float(row["mean_iou"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    assert sorted(row["trial"] for row in rows) == ["0", "1", "2", "3"]
    best = rows[0]["run"]
    assert table.splitlines()[-1] == f"unet train --config {best}/config.yaml --max-steps 32"
    for row in rows:
        config = up.load_config(Path(row["run"]) / "config.yaml")
        assert config.training.loss == row["training.loss"]
        assert config.optimizer.lr == float(row["optimizer.lr"])
        assert 1e-3 <= config.optimizer.lr <= 0.3
        short = f"{row['training.loss']}-lr{float(row['optimizer.lr']):.3g}"
        assert Path(row["run"]).name == f"sweep-0001-{int(row['trial']):03d}-{short}"
        assert up.load_model(row["run"]).card.classes.num_classes == 11
    for name in ("importance.png", "history.png"):
        with Image.open(FOLDER / name) as picture:
            assert picture.width > 500

    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    experiment = client.get_experiment_by_name("digits")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    parent = runs.pop("sweep-0001")
    assert set(runs) == {Path(row["run"]).name for row in rows}
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert {run.info.status for run in (*runs.values(), parent)} == {"FINISHED"}
    assert parent.data.params["optimizer.lr"] == "0.001:0.3:log"
    assert parent.data.params["training.loss"] == "ce,dice"
    assert parent.data.params["sweep.trials"] == "4"
    assert parent.data.metrics["sweep/best_mean_iou"] == pytest.approx(scores[0], rel=1e-4)
    assert "| 1 | " in parent.data.tags["mlflow.note.content"]
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"sweep.csv", "sweep.md", "importance.png", "history.png"} <= files
    of_best = runs[Path(best).name].data
    assert of_best.params["training.loss"] == rows[0]["training.loss"]


def test_a_sweep_of_all_combinations_tries_each_once(
    scenes: Path, trainings: Trainings, capsys: pytest.CaptureFixture[str]
) -> None:
    space = ["--param", "loss=ce,dice", "--param", "model.bilinear=true,false", "--json"]
    assert sweep(scenes, *OFF, *space) == 0
    tried = {(c.training.loss, c.model.options["bilinear"]) for c in trainings.configs}
    assert len(trainings.configs) == len(tried) == 4
    summary = json.loads(capsys.readouterr().out)
    assert [row["mean_iou"] for row in summary["trials"]] == [0.5] * 4
    assert summary["trials"][0]["epochs"] == 2
    assert summary["command"].startswith("unet train --config runs/digits/sweep-0001-")


def test_the_values_follow_from_the_seed(scenes: Path, trainings: Trainings) -> None:
    space = ["--param", "lr=1e-4:1e-2:log", "--trials", "6"]
    for seed in "7", "7", "8":
        assert sweep(scenes, *OFF, *space, "--seed", seed) == 0
    rates = [config.optimizer.lr for config in trainings.configs]
    assert rates[:6] == rates[6:12]
    assert not set(rates[:6]) & set(rates[12:])
    assert len(set(rates[:6])) == 6


def test_what_is_left_open_is_decided_once_for_all_trials(
    scenes: Path, trainings: Trainings
) -> None:
    assert cli.run(["sweep", "--data", str(scenes), *OFF, "--param", "lr=1e-4,1e-3",
                    "--device", "cpu", "--epochs", "2"]) == 0  # fmt: skip
    first, second = trainings.configs
    assert first.training.batch_size is not None
    assert first.training.batch_size == second.training.batch_size
    assert first.model.options["base_channels"] == second.model.options["base_channels"]
    assert first.training.epochs == 2


def test_a_trial_that_fails_is_a_row_and_the_others_go_on(
    scenes: Path, trainings: Trainings, capsys: pytest.CaptureFixture[str]
) -> None:
    def outcome(config: TrainConfig, watch: Any) -> float:
        if config.training.loss == "dice":
            raise DivergedError("the loss was not finite 4 times")
        if config.training.loss == "focal":
            raise ResourceError("out of memory: use a smaller --batch-size")
        return 0.7 if config.training.loss == "ce" else float("nan")

    trainings.outcome = outcome
    assert sweep(scenes, *OFF, "--param", "loss=ce,dice,focal,lovasz") == 0
    rows = {row["training.loss"]: row for row in rows_of()}
    assert {loss: row["state"] for loss, row in rows.items()} == {
        "ce": "finished", "dice": "failed", "focal": "failed", "lovasz": "failed",
    }  # fmt: skip
    assert rows["dice"]["note"] == "the loss was not finite 4 times"
    assert rows["lovasz"]["note"] == "no validation gave a mean IoU"
    assert rows_of()[0]["training.loss"] == "ce"
    assert "out of memory" in capsys.readouterr().out


def test_where_every_trial_fails_the_sweep_ends_with_the_code_of_the_first(
    scenes: Path, trainings: Trainings
) -> None:
    def outcome(config: TrainConfig, watch: Any) -> float:
        raise DivergedError("not finite")

    trainings.outcome = outcome
    assert sweep(scenes, *OFF, "--param", "loss=ce,dice") == 6


# ---- the command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--param", "los=ce,dice"], "unknown setting 'los': did you mean 'loss'"),
        (["--param", "loss=ce,dicee"], "did you mean 'dice'"),
        (["--param", "lr=1e-3:1e-2", "--lr", "1e-3"], "optimizer.lr is swept and set"),
        (
            ["--param", "model.depth=2,3", "--set", "model.depth=2"],
            "model.depth is swept and set",
        ),
        ([], "a sweep needs something to try"),
        (["--param", "lr=1:2", "--trials", "0"], "trials = 0"),
        (["--param", "lr=1:2", "--budget", "soon"], "a duration looks like"),
        (["--param", "lr=1:2", "--register", "cells"], "--register takes one training"),
        (["--join", "nowhere"], "nowhere is no folder of a sweep"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(
    arguments: list[str], message: str, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [] if "--join" in arguments else ["--data", str(scenes)]
    assert cli.run(["sweep", *given, *arguments]) == 2
    assert message in error_of(capsys)
    assert not Path("runs").exists()


def test_the_help_has_the_options_of_train_and_says_that_test_is_not_touched(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.run(["sweep", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for option in ("--param", "--trials", "--budget", "--join", "--loss", "--epochs", "--set"):
        assert option in text
    for option in ("--resume", "--baselines", "--dry-run"):
        assert option not in text
    assert "The test split is not touched" in text


# ---- pruning


def test_a_run_that_its_watcher_gives_up_ends_as_killed_and_stays_loadable(scenes: Path) -> None:
    told: list[tuple[float, float]] = []

    def watch(progress: float, score: float) -> bool:
        told.append((progress, score))
        return progress > 0.4

    overrides = {"data.path": str(scenes), "training.max_steps": 40, "training.val_every": 1,
                 "training.image_size": 32, "training.batch_size": 4, "model.base_channels": 4,
                 "model.depth": 2, "runtime.device": "cpu", "runtime.amp": "off"}  # fmt: skip
    run = up.train(up.load_config(overrides=overrides), watch=watch)
    assert run.pruned
    assert 16 < run.steps < 30
    assert [progress > 0.4 for progress, _ in told] == [False] * (len(told) - 1) + [True]
    assert max(score for _, score in told) == run.best["val/mean_iou"]
    assert up.load_model(run.folder).card.classes.num_classes == 11
    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    identity = json.loads((run.folder / "run.json").read_text())
    record = client.get_run(identity["run_id"])
    assert record.info.status == "KILLED"
    assert record.data.tags["unet.pruned"] == "true"


def test_a_hopeless_value_is_pruned_and_a_good_one_is_not(
    scenes: Path, trainings: Trainings
) -> None:
    ends: dict[float, float] = {}

    def outcome(config: TrainConfig, watch: Any) -> TrainedRun | float:
        rate, score = config.optimizer.lr, 0.0
        for step in range(1, 21):
            score = (0.02 if rate < 1e-6 else 0.9 * (0.5 + rate)) * step / 20
            ends[rate] = step / 20
            if watch(step / 20, score):
                folder = Path("runs/digits", str(config.output.run_name))
                return TrainedRun(folder, {"val/mean_iou": score}, 6, 1.0, None, pruned=True)
        return score

    trainings.outcome = outcome
    good = "0.1,0.11,0.12,0.13,0.14,0.15"
    arguments = [*OFF, "--param", f"lr={good},1e-9"]
    assert sweep(scenes, *arguments) == 0
    order = [config.optimizer.lr for config in trainings.configs]
    assert order.index(1e-9) >= study.FINISHED_BEFORE_PRUNING
    (last,) = (row for row in rows_of() if row["optimizer.lr"] == "1e-09")
    assert last["state"] == "pruned"
    assert ends[1e-9] == pytest.approx(study.WARM_UP / study.GRID)
    assert max(ends.values()) == 1
    ends.clear()
    trainings.configs.clear()
    assert sweep(scenes, *arguments, "--no-prune") == 0
    assert set(ends.values()) == {1.0}


# ---- the budget


def test_the_time_is_divided_over_the_trials_that_remain() -> None:
    assert sharing.trial_seconds(3600, left=19, running=1) == 180
    assert sharing.trial_seconds(3600, left=0, running=1) == 3600
    assert sharing.trial_seconds(3600, left=18, running=2) == 360  # ten rounds of two
    assert sharing.trial_seconds(3600, left=3, running=2) == 1200
    # twenty trials of three seconds would be none: six of ten are
    assert sharing.trial_seconds(60, left=19, running=1) == 10
    assert sharing.trial_seconds(4, left=19, running=1) == 4


def test_a_budget_is_used_up_and_what_a_short_trial_saves_goes_to_the_others(
    scenes: Path, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1_000_000.0]
    monkeypatch.setattr(study, "now", lambda: clock[0])
    shares: list[float] = []

    def outcome(config: TrainConfig, watch: Any) -> float:
        share = config.training.budget_seconds
        assert share is not None
        assert config.training.epochs is None
        shares.append(share)
        clock[0] += share / 4 if len(shares) == 2 else share  # the second one is pruned, say
        return 0.5

    trainings.outcome = outcome
    space = ["--param", "lr=1e-4:1e-2:log", "--trials", "5", "--budget", "100m"]
    assert cli.run(["sweep", "--data", str(scenes), *OFF, *TINY, *space]) == 0
    assert len(shares) == 5
    assert shares[:2] == pytest.approx([1200, 1200], rel=0.02)
    assert shares[2:] == pytest.approx([1500] * 3, rel=0.02)
    assert 0.95 * 6000 < clock[0] - 1_000_000 <= 6000


@pytest.mark.parametrize(
    ("space", "budget", "share"),
    [
        (["loss=ce,dice,focal"], "1h", 1200),  # not a twentieth: there are three
        (["lr=1e-4:1e-2:log"], "1h", 180),
        (["lr=1e-4:1e-2:log"], "60s", 10),  # there will be a few, as twenty would be too short
    ],
)
def test_trials_are_planned_for_the_time_that_they_get(
    scenes: Path,
    trainings: Trainings,
    monkeypatch: pytest.MonkeyPatch,
    space: list[str],
    budget: str,
    share: float,
) -> None:
    real, planned = stage.complete_shared, []

    def complete_shared(config: TrainConfig, manifest: Any) -> TrainConfig:
        planned.append(config.training.budget_seconds)
        return real(config, manifest)

    def outcome(config: TrainConfig, watch: Any) -> float:
        raise InterruptedRunError("one is enough", 130)

    monkeypatch.setattr(stage, "complete_shared", complete_shared)
    trainings.outcome = outcome
    given = ["--data", str(scenes), *OFF, *TINY, "--param", *space, "--budget", budget]
    assert cli.run(["sweep", *given]) == 130
    assert planned == [share]
    assert trainings.configs[0].training.budget_seconds == pytest.approx(share, rel=0.2)


def test_a_short_budget_makes_one_trial_at_least(
    scenes: Path, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1_000_000.0]
    monkeypatch.setattr(study, "now", lambda: clock[0])

    def outcome(config: TrainConfig, watch: Any) -> float:
        clock[0] += config.training.budget_seconds or 0
        return 0.5

    trainings.outcome = outcome
    space = ["--param", "lr=1e-4:1e-2:log", "--budget", "5s"]
    assert cli.run(["sweep", "--data", str(scenes), *OFF, *TINY, *space]) == 0
    assert len(trainings.configs) == 1


def test_trials_with_a_limit_of_their_own_get_no_share_but_end_with_the_budget(
    scenes: Path, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1_000_000.0]
    monkeypatch.setattr(study, "now", lambda: clock[0])

    def outcome(config: TrainConfig, watch: Any) -> float:
        clock[0] += 40
        return 0.5

    trainings.outcome = outcome
    space = ["--param", "lr=1e-4:1e-2:log", "--budget", "100s"]
    assert sweep(scenes, *OFF, *space) == 0
    budgets = [config.training.budget_seconds or 0 for config in trainings.configs]
    assert budgets == pytest.approx([96, 56, 16], abs=3)
    assert {config.training.max_steps for config in trainings.configs} == {2}


# ---- interruptions, several processes


def test_a_signal_ends_a_sweep_that_join_goes_on_with(
    scenes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = study.Study.watcher

    def watcher(self: study.Study, trial: study.Trial) -> Any:
        watch = real(self, trial)

        def asked_to_end(progress: float, score: float) -> bool:
            if trial.number == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return watch(progress, score)

        return asked_to_end

    monkeypatch.setattr(study.Study, "watcher", watcher)
    assert sweep(scenes, "--param", "lr=1e-4:1e-2:log", "--trials", "3") == 143
    assert f"unet sweep --join {FOLDER}" in error_of(capsys)
    states = {row["trial"]: (row["state"], row["note"]) for row in rows_of()}
    assert states == {"0": ("finished", ""), "1": ("failed", "interrupted")}
    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    parent = json.loads((FOLDER / "run.json").read_text())["run_id"]
    assert client.get_run(parent).info.status == "KILLED"

    assert cli.run(["sweep", "--join", str(FOLDER)]) == 0
    rows = {row["trial"]: row for row in rows_of()}
    assert {number: row["state"] for number, row in rows.items()} == {
        "0": "finished", "1": "failed", "2": "finished", "3": "finished",
    }  # fmt: skip
    assert (
        rows["2"]["optimizer.lr"] == rows["1"]["optimizer.lr"]
    )  # what was interrupted comes first
    assert client.get_run(parent).info.status == "FINISHED"
    assert cli.run(["sweep", "--join", str(FOLDER)]) == 0
    assert len(rows_of()) == 4


def test_a_ctrl_c_after_a_trial_keeps_its_row(scenes: Path, trainings: Trainings) -> None:
    def outcome(config: TrainConfig, watch: Any) -> TrainedRun:
        folder = Path("runs/digits", str(config.output.run_name))
        return TrainedRun(folder, {"val/mean_iou": 0.4}, 6, 1.0, None, stop_code=130)

    trainings.outcome = outcome
    assert sweep(scenes, *OFF, "--param", "loss=ce,dice") == 130
    assert [row["state"] for row in rows_of()] == ["finished"]


def test_a_signal_between_trials_is_not_lost(
    scenes: Path, trainings: Trainings, capsys: pytest.CaptureFixture[str]
) -> None:
    def outcome(config: TrainConfig, watch: Any) -> float:
        os.kill(os.getpid(), signal.SIGINT)
        return 0.5

    trainings.outcome = outcome
    assert sweep(scenes, *OFF, "--param", "loss=ce,dice") == 130
    assert "unet sweep --join" in error_of(capsys)
    assert len(rows_of()) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_a_trial_is_built_ends_it_before_its_first_step(
    number: signal.Signals,
    code: int,
    scenes: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = training.build_parts

    def build_parts(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), number)
        return real(*arguments, **options)

    monkeypatch.setattr(training, "build_parts", build_parts)
    assert sweep(scenes, *OFF, "--param", "lr=1e-3,1e-2") == code
    (row,) = rows_of()
    assert (row["state"], row["note"]) == ("failed", "interrupted")
    (folder,) = FOLDER.parent.glob("sweep-0001-000-*")
    assert load_state(folder)["position"]["step"] == 0
    assert f"unet sweep --join {FOLDER}" in error_of(capsys)


def test_an_interrupted_training_is_no_failure_of_the_sweep(
    scenes: Path, trainings: Trainings
) -> None:
    def outcome(config: TrainConfig, watch: Any) -> float:
        raise InterruptedRunError("stopped after step 1", 130)

    trainings.outcome = outcome
    assert sweep(scenes, *OFF, "--param", "loss=ce,dice") == 130
    trainings.outcome = lambda config, watch: 0.5
    assert cli.run(["sweep", "--join", str(FOLDER)]) == 0
    assert [row["state"] for row in rows_of()] == ["finished", "finished", "failed"]


def test_join_refuses_settings_and_data_of_another_sweep(
    scenes: Path, trainings: Trainings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(scenes, *OFF, "--param", "loss=ce,dice") == 0
    assert cli.run(["sweep", "--join", str(FOLDER), "--lr", "0.1"]) == 2
    assert "--join takes the settings of its sweep: leave out optimizer.lr" in error_of(capsys)
    kept = (FOLDER / "sweep.yaml").read_text()
    (FOLDER / "sweep.yaml").write_text(kept.replace("fingerprint: ", "fingerprint: 0"))
    assert cli.run(["sweep", "--join", str(FOLDER)]) == 2
    assert "has changed since" in error_of(capsys)


SERVER, WITH_SECRET = "https://mlflow.example:5000", "https://ann:secret@mlflow.example:5000"


@pytest.mark.parametrize("by_option", [True, False])
def test_join_sends_where_the_sweep_began_and_no_password_is_kept_for_it(
    scenes: Path, trainings: Trainings, monkeypatch: pytest.MonkeyPatch, by_option: bool
) -> None:
    def outcome(config: TrainConfig, watch: Any) -> float:
        raise InterruptedRunError("stopped after step 1", 130)

    trainings.outcome = outcome
    if not by_option:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", WITH_SECRET)
    option = ["--tracking-uri", WITH_SECRET] if by_option else []
    assert sweep(scenes, *OFF, *option, "--param", "loss=ce,dice") == 130
    assert "secret" not in (FOLDER / "sweep.yaml").read_text()
    for environment, where in (("", SERVER), (WITH_SECRET, WITH_SECRET), ("http://b", SERVER)):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", environment)
        assert cli.run(["sweep", "--join", str(FOLDER)]) == 130
        assert tracking.tracking_uri(trainings.configs[-1].output.tracking_uri) == where


def start(name: str, *arguments: str) -> subprocess.Popen[bytes]:
    """`unet sweep` as a process of its own, its words in the file `name`."""
    with Path(name).open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "unet_pipeline", "sweep", *arguments],
            env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=file, stderr=file,
        )  # fmt: skip


def wait_for(there: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + 120
    while not there():
        assert process.poll() is None
        assert time.monotonic() < ends
        time.sleep(0.05)


@pytest.mark.slow
def test_two_processes_share_the_trials_and_a_killed_one_loses_none(scenes: Path) -> None:
    long = ["--max-steps", "100000"]
    space = ["--param", "lr=1e-4:1e-2:log", "--trials", "2"]
    lost = start("lost.log", "--data", str(scenes), *TINY, *space, *long, *OFF)
    wait_for(lambda: bool(list(Path("runs/digits").glob("sweep-0001-000-*/log.txt"))), lost)
    lost.kill()
    lost.wait()
    settings = FOLDER / "sweep.yaml"
    settings.write_text(settings.read_text().replace("max_steps: 100000", "max_steps: 2"))

    database = study.open_study(FOLDER, (), seed=0, prune=False)
    database.note("total", 5)
    names = ["one.log", "other.log"]
    processes = [start(name, "--join", str(FOLDER)) for name in names]
    codes = [process.wait(timeout=200) for process in processes]
    assert codes == [0, 0], [Path(name).read_text() for name in names]
    rows = {row["trial"]: row for row in rows_of()}
    assert [rows[str(n)]["state"] for n in range(6)] == ["failed", *["finished"] * 5]
    assert rows["0"]["note"] == "its process has ended without a word"
    assert rows["0"]["optimizer.lr"] in {rows["1"]["optimizer.lr"], rows["2"]["optimizer.lr"]}
    makers = {tuple(trial.user_attrs["process"]) for trial in database.trials()}
    assert len(makers) == 3
    assert len({row["optimizer.lr"] for row in rows.values()}) == 5


def test_a_trial_that_is_not_heard_of_is_given_up_and_made_again_once(tmp_path: Path) -> None:
    space: tuple[Any, ...] = (Span("optimizer.lr", 0.1, 0.9),)
    shared = study.create_study(tmp_path, space, total=2, seed=0, prune=True)
    gone = [platform.node(), 2**22 + 1, 0.0]
    values = []
    for _ in range(2):  # the process is lost with the trial, and again with the one that repeats it
        trial = shared.ask()
        assert trial is not None
        values.append(trial.params)
        trial.set_user_attr("process", gone)
    third = shared.ask()
    assert third is not None
    assert [trial.state.name for trial in shared.trials()] == ["FAIL", "FAIL", "RUNNING"]
    assert values[0] == values[1]
    assert third.params != values[0]
    assert shared.num_left() == 0
    assert shared.ask() is None
