"""A whole training, from the command line: how it is told to MLflow, however it ends."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.stages.conftest import TINY
from tests.tracking.stores import (
    MlflowClient,
    Server,
    bad_server,
    client_of,
    free_port,
    points,
)
from unet_pipeline import cli
from unet_pipeline.stages import loop
from unet_pipeline.tracking import courier
from unet_pipeline.tracking.spool import Spool
from unet_pipeline.training.checkpoints import load_state

FOLDER = Path("runs/digits/run")


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    assert cli.run(["prepare", "--output", str(folder), "--num-scenes", "10"]) == 0
    return folder


def train(scenes: Path, *arguments: str, epochs: int = 3) -> int:
    common = ["train", "--data", str(scenes), "--epochs", str(epochs), "--run-name", "run"]
    return cli.run([*common, *TINY, *arguments])


def after_epoch(number: int, act: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do something when that epoch has been recorded."""
    record = loop._record

    def patched(session: Any, row: dict[str, float]) -> None:
        record(session, row)
        if session.position.epoch_number == number:
            act()

    monkeypatch.setattr(loop, "_record", patched)


def told(folder: Path = FOLDER) -> str:
    """The last word of the run about itself."""
    return str([r for r, _ in Spool(folder).read() if r.get("kind") == "status"][-1]["status"])


def run_id_of(folder: Path = FOLDER) -> str:
    return str(json.loads((folder / "run.json").read_text())["run_id"])


def history() -> dict[int, float]:
    with (FOLDER / "history.csv").open() as file:
        return {int(r["epoch"]): float(r["val/loss"]) for r in csv.DictReader(file)}


def raise_(error: BaseException) -> None:
    raise error


ENDINGS: list[tuple[Callable[[], Any], int, str]] = [
    (lambda: None, 0, "FINISHED"),
    (lambda: raise_(RuntimeError("a bug")), 1, "FAILED"),
    (lambda: raise_(KeyboardInterrupt()), 130, "KILLED"),
    (lambda: os.kill(os.getpid(), signal.SIGINT), 130, "KILLED"),
    (lambda: os.kill(os.getpid(), signal.SIGTERM), 143, "KILLED"),
    (lambda: raise_(typer.Exit(0)), 0, "FINISHED"),
    (lambda: raise_(SystemExit(0)), 0, "FINISHED"),
    (lambda: raise_(SystemExit(3)), 3, "FAILED"),
]


@pytest.mark.parametrize(("act", "code", "status"), ENDINGS)
def test_every_ending_is_told_to_mlflow_as_it_was(
    act: Callable[[], Any],
    code: int,
    status: str,
    scenes: Path,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    after_epoch(1, act, monkeypatch)
    try:
        ended = train(scenes, epochs=2)
    except SystemExit as error:
        ended = int(error.code or 0)
    assert (ended, told()) == (code, status)
    stored = client_of(project).get_run(run_id_of())
    assert stored.info.status == status
    # whatever ended it after its first epoch, the leaderboard can rank it
    assert stored.data.metrics["best/mean_iou"] == stored.data.metrics["val/mean_iou"]


def test_a_training_goes_on_while_its_server_is_killed_and_comes_back(
    scenes: Path, project: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill_and_wait() -> None:
        server.kill()
        time.sleep(2.5)  # the thread has been at it

    after_epoch(2, kill_and_wait, monkeypatch)
    after_epoch(4, server.start, monkeypatch)
    assert train(scenes, "--tracking-uri", server.uri, epochs=6) == 0
    client = MlflowClient(server.uri)
    said = points(client, run_id_of(), "val/loss")
    assert dict(said) == {n: float(f"{value:.6g}") for n, value in history().items()}
    assert len(said) == 7
    stored = client.get_run(run_id_of())
    assert stored.info.status == "FINISHED"
    (output,) = stored.outputs.model_outputs
    files = client.list_logged_model_artifacts(output.model_id, "artifacts")
    assert [file.path for file in files] == ["artifacts/best.safetensors"]


def test_a_training_ends_well_without_its_server_and_is_sent_later(
    scenes: Path,
    project: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    after_epoch(1, server.kill, monkeypatch)
    assert train(scenes, "--tracking-uri", server.uri) == 0
    assert f"unet sync {FOLDER}" in " ".join(capsys.readouterr().err.split())
    server.start()
    for _ in range(2):
        assert cli.run(["sync", str(FOLDER)]) == 0
    assert "nothing to send" in capsys.readouterr().out
    client = MlflowClient(server.uri)
    assert len(points(client, run_id_of(), "val/loss")) == 4
    assert client.get_run(run_id_of()).info.status == "FINISHED"


def test_a_setting_that_changes_on_resume_is_told_in_a_tag(scenes: Path, project: Path) -> None:
    assert train(scenes, epochs=2) == 0
    assert cli.run(["train", "--resume", str(FOLDER), "--epochs", "4"]) == 0
    stored = client_of(project).get_run(run_id_of())
    assert stored.data.params["training.epochs"] == "2"
    conflicts = json.loads(stored.data.tags["unet.param_conflicts"])
    assert conflicts == {"training.epochs": ["2", "4"]}
    for key in ("train/loss", "val/loss", "time/epoch_seconds"):
        steps = [step for step, _ in points(client_of(project), run_id_of(), key)]
        assert steps == [*range(0 if key == "val/loss" else 1, 5)]


# Required


def test_a_training_that_is_required_to_be_in_mlflow_does_not_begin_without_it(
    scenes: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    for several in ([], ["--baselines"]):
        code = train(scenes, "--tracking", "required", "--tracking-uri", uri, *several)
        assert code == 5
        (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error")]
        assert "refused" in line
        assert "--tracking on" in line
        assert not any(Path("runs").glob("*/*"))


def test_a_training_that_loses_a_required_server_ends_and_resumes(
    scenes: Path,
    project: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(courier, "_EVERY_SECONDS", 0.1)
    monkeypatch.setattr(courier, "_SHARE", 1.0)
    with bad_server(server.uri) as bad:
        with monkeypatch.context() as patched:

            def lose() -> None:
                bad.mode = "error"
                time.sleep(1.0)

            after_epoch(2, lose, patched)
            required = ["--tracking", "required", "--tracking-uri", bad.uri]
            assert train(scenes, *required, epochs=50) == 5
        err = " ".join(capsys.readouterr().err.split())
        assert f"unet train --resume {FOLDER}" in err
        assert "Traceback" not in err
        assert load_state(FOLDER)["position"]["epoch"] == 2
        assert told() == "FAILED"
        assert cli.run(["train", "--resume", str(FOLDER), "--epochs", "4"]) == 5  # not yet
        assert load_state(FOLDER)["position"]["epoch"] == 2
        bad.recover()
        assert cli.run(["train", "--resume", str(FOLDER), "--epochs", "4"]) == 0
    client = MlflowClient(server.uri)
    assert client.get_run(run_id_of()).info.status == "FINISHED"
    assert [step for step, _ in points(client, run_id_of(), "val/loss")] == [*range(5)]


def test_a_run_of_runs_that_loses_a_required_server_begins_no_other(
    scenes: Path, project: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier, "_EVERY_SECONDS", 0.1)
    monkeypatch.setattr(courier, "_SHARE", 1.0)
    with bad_server(server.uri) as bad:

        def lose() -> None:
            bad.mode = "error"
            time.sleep(1.0)

        after_epoch(1, lose, monkeypatch)
        required = ["--tracking", "required", "--tracking-uri", bad.uri]
        assert train(scenes, *required, "--baselines") == 5
    below = {path.name.rsplit("-", 1)[0].split("-")[0] for path in Path("runs/digits").iterdir()}
    assert below == {"run", "majority", "mlp"}  # otsu is for two classes
    assert told() == "FAILED"
