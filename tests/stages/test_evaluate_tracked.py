"""What evaluate adds to the MLflow run that made the model."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.stages.conftest import TINY
from unet_pipeline import cli
from unet_pipeline.evaluation import cases
from unet_pipeline.tracking import sync
from unet_pipeline.training import run_folder as runs

MAX_KEYS = 40


@pytest.fixture(scope="session")
def trained(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run and the store that knows it."""
    folder = tmp_path_factory.mktemp("tracked")
    store = f"sqlite:///{folder}/mlflow.db"
    arguments = ["train", "--data", str(scenes), "--max-steps", "2", "--run-name", "tiny",
                 "--output", str(folder / "runs"), "--tracking-uri", store, *TINY]  # fmt: skip
    assert cli.run(arguments) == 0
    return folder


@pytest.fixture
def tracked(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run for a test to use up, with a copy of its store beside it."""
    folder = Path(shutil.copytree(trained, tmp_path / "project"))
    run = folder / "runs" / "digits" / "tiny"
    identity = json.loads((run / "run.json").read_text())
    identity["tracking_uri"] = f"sqlite:///{folder}/mlflow.db"
    (run / "run.json").write_text(json.dumps(identity))
    return run


def stored(run: Path) -> tuple[Any, Any]:
    """(client, run as the store has it)."""
    from mlflow import MlflowClient

    identity = json.loads((run / "run.json").read_text())
    client = MlflowClient(identity["tracking_uri"])
    return client, client.get_run(identity["run_id"])


def fetched(client: Any, run: Any, path: str) -> str:
    return str(client.download_artifacts(run.info.run_id, path))


def evaluate(run: Path, *arguments: str) -> None:
    assert cli.run(["evaluate", "--model", str(run), "--amp", "off", *arguments]) == 0


def test_the_run_keeps_its_status_and_its_times(tracked: Path) -> None:
    _, before = stored(tracked)
    evaluate(tracked)
    _, after = stored(tracked)
    assert after.data.metrics["test/mean_iou"] > 0
    for name in ("status", "start_time", "end_time", "run_name"):
        assert getattr(after.info, name) == getattr(before.info, name)


def test_the_figures_are_grouped_and_few(tracked: Path) -> None:
    evaluate(tracked)
    _, run = stored(tracked)
    keys = {key for key in run.data.metrics if key.startswith("test/")}
    assert len(keys) <= MAX_KEYS
    assert {"test/mean_iou", "test/mean_average_precision", "test/ece", "test/brier"} <= keys
    groups = {key.rpartition("/")[0] for key in keys}
    assert groups == {"test", "test/iou"}


def test_the_figures_belong_to_the_data_and_to_the_model_of_the_run(tracked: Path) -> None:
    client, run = stored(tracked)
    weights = (tracked / runs.BEST_NAME).read_bytes()
    mark = hashlib.sha256(weights).hexdigest()
    model = client.create_logged_model(
        run.info.experiment_id, name="model", source_run_id=run.info.run_id,
        tags={"unet.model_sha256": mark},
    )  # fmt: skip
    client.finalize_logged_model(model.model_id, "READY")
    evaluate(tracked)
    evaluate(tracked)  # nothing twice
    _, run = stored(tracked)
    inputs = {(d.dataset.name, d.tags[0].value): d.dataset for d in run.inputs.dataset_inputs}
    dataset = inputs["digits-test", "test"]
    assert len(dataset.digest) == 36
    assert json.loads(dataset.profile)["name"] == "digits"
    metrics = {m.key: m for m in client.get_logged_model(model.model_id).metrics}
    found = metrics["test/mean_iou"]
    assert (found.dataset_name, found.dataset_digest) == ("digits-test", dataset.digest)
    assert found.value == run.data.metrics["test/mean_iou"]
    assert {key for key in run.data.metrics if key.startswith("test/")} <= metrics.keys()


def test_another_model_file_is_not_taken_for_the_logged_model(tracked: Path) -> None:
    client, run = stored(tracked)
    model = client.create_logged_model(
        run.info.experiment_id, name="model", source_run_id=run.info.run_id,
        tags={"unet.model_sha256": "of other weights"},
    )  # fmt: skip
    evaluate(tracked)
    assert "test/mean_iou" in stored(tracked)[1].data.metrics
    assert not client.get_logged_model(model.model_id).metrics


def test_the_table_of_cases_is_the_same_file_in_every_run_and_again(tracked: Path) -> None:
    evaluate(tracked)
    evaluate(tracked)
    client, run = stored(tracked)
    table = json.loads(Path(fetched(client, run, "cases-test.json")).read_text())
    assert table["columns"] == list(cases.CASE_COLUMNS)
    names = [row[0] for row in table["data"]]
    assert names == sorted(names)
    assert len(names) == 3
    for row in table["data"]:
        with Image.open(fetched(client, run, row[1]["filepath"])) as picture:
            assert picture.size == (512, 512)
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [
        {"path": "cases-test.json", "type": "table"}
    ]


def test_evaluate_ends_with_the_command_and_the_link_to_look(
    tracked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(tracked)
    lines = capsys.readouterr().err.splitlines()
    _, run = stored(tracked)
    assert lines[-2].startswith("compare:  mlflow ui --backend-store-uri sqlite:///")
    assert lines[-1].startswith("this run: http://127.0.0.1:5000/#/experiments/")
    assert run.info.run_id in lines[-1]


def test_what_an_outage_left_is_sent_later(tracked: Path) -> None:
    identity = json.loads((tracked / "run.json").read_text())
    with socket.socket() as closed:  # bound, but nobody listens
        closed.bind(("127.0.0.1", 0))
        away = identity | {"tracking_uri": f"http://127.0.0.1:{closed.getsockname()[1]}"}
        (tracked / "run.json").write_text(json.dumps(away))
        evaluate(tracked)
    (tracked / "run.json").write_text(json.dumps(identity))
    counts = sync(tracked)
    assert counts["tables"] == 1
    client, run = stored(tracked)
    assert run.data.metrics["test/ece"] >= 0
    assert "cases-test.json" in {file.path for file in client.list_artifacts(run.info.run_id)}


def test_without_curves_no_probability_is_looked_at(
    session_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--tracking", "off", "-o", "report"]
    evaluate(session_run, *arguments)
    assert Path("report/pr_curves.png").is_file()
    with monkeypatch.context() as patched:
        patched.setattr("unet_pipeline.inference.scoring.ProbabilityTally", None)
        evaluate(session_run, *arguments, "--curves", "off")
    written = json.loads(Path("report/metrics.json").read_text())
    assert "ece" not in written
    assert not Path("report/pr_curves.png").exists()  # of the first report


def test_data_that_the_model_has_not_seen_is_an_input_by_its_content(
    tracked: Path, scenes: Path
) -> None:
    digests = []
    for count in (1, 2, 2):
        for name in ("images", "masks"):
            Path("plain", name).mkdir(parents=True, exist_ok=True)
            for path in sorted((scenes / "val" / name).iterdir())[:count]:
                Path("plain", name, path.name).write_bytes(path.read_bytes())
        evaluate(tracked, "--data", "plain")
        _, run = stored(tracked)
        found = [d.dataset.digest for d in run.inputs.dataset_inputs if "plain" in d.dataset.name]
        digests.append(set(found))
    assert len(digests[0]) == 1
    assert len(digests[1]) == 2
    assert digests[2] == digests[1]
    assert "test-plain/ece" in run.data.metrics
