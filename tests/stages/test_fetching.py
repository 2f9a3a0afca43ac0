"""Models that MLflow names: fetched from real stores, known by their digest."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.stages import registered
from tests.tracking.stores import Server, free_port
from unet_pipeline import cli, tracking
from unet_pipeline.errors import ResourceError, UserError
from unet_pipeline.tracking import fetch_model


@pytest.fixture
def client(project: Path) -> MlflowClient:
    return registered.client_of(project)


@pytest.fixture
def model_file(session_run: Path) -> Path:
    return session_run / "best.safetensors"


@pytest.fixture
def named(client: MlflowClient, project: Path, model_file: Path) -> tuple[str, str]:
    """(run id, model id) of a run whose model is version 1 of `cells`, and its champion."""
    run_id = registered.add_run(client, "first", root=project)
    model_id = registered.log_model(client, run_id, model_file)
    registered.register(client, "cells", run_id, model_id, "champion")
    return run_id, model_id


def files_of_store(project: Path) -> list[Path]:
    return [path for path in (project / "files").rglob("best.safetensors") if path.is_file()]


def test_every_name_of_a_model_gives_its_file(named: tuple[str, str], model_file: Path) -> None:
    run_id, model_id = named
    names = ["models:/cells@champion", "models:/cells/1", f"models:/{model_id}",
             f"runs:/{run_id}", f"runs:/{run_id}/model"]  # fmt: skip
    fetched = [fetch_model(name) for name in names]
    assert {model.path.read_bytes() for model in fetched} == {model_file.read_bytes()}
    assert {model.sha256 for model in fetched} == {registered.sha256(model_file)}
    assert {model.run.run_id for model in fetched if model.run} == {run_id}
    assert fetched[0].path.parent.name == fetched[0].sha256


def test_the_file_of_a_run_of_an_earlier_version_is_fetched(
    client: MlflowClient, project: Path, model_file: Path
) -> None:
    run_id = registered.add_run(client, "old", root=project)
    registered.log_old_model(client, run_id, model_file)
    assert fetch_model(f"runs:/{run_id}").path.read_bytes() == model_file.read_bytes()
    assert len(files_of_store(project)) == 1, "copied from the store, not moved"


def test_a_model_in_the_cache_is_not_downloaded_again(
    named: tuple[str, str], project: Path
) -> None:
    first = fetch_model("models:/cells@champion")
    shutil.rmtree(project / "files")
    assert fetch_model("models:/cells@champion") == first


def test_a_damaged_file_in_the_cache_is_fetched_again(
    named: tuple[str, str], model_file: Path
) -> None:
    path = fetch_model("models:/cells@champion").path
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    assert fetch_model("models:/cells@champion").path.read_bytes() == model_file.read_bytes()


def test_a_damaged_file_in_the_store_is_refused(
    client: MlflowClient, project: Path, model_file: Path
) -> None:
    run_id = registered.add_run(client, "first", root=project)
    registered.log_model(client, run_id, model_file, digest="0" * 64)
    with pytest.raises(UserError, match=r"damaged: sha256 .*, recorded was 000000"):
        fetch_model(f"runs:/{run_id}")


def test_an_alias_that_has_moved_is_seen(
    named: tuple[str, str], client: MlflowClient, session_run: Path, model_file: Path
) -> None:
    assert fetch_model("models:/cells@champion").path.read_bytes() == model_file.read_bytes()
    run_id = registered.add_run(client, "second")
    other = session_run / "last.safetensors"
    model_id = registered.log_model(client, run_id, other)
    registered.register(client, "cells", run_id, model_id, "champion")
    assert fetch_model("models:/cells@champion").path.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("models:/cell@champion", "no registered model 'cell': did you mean 'cells'?"),
        ("models:/cells@champio", "no alias 'champio': did you mean 'champion'?"),
        ("models:/cells@best", "no alias 'best': its aliases are champion"),
        ("models:/cells/7", "no version '7': its versions are 1"),
        ("models:/cells", "name an alias or a version of it: its aliases are @champion"),
        ("models:/m-0", "no model 'm-0'"),
        ("runs:/first", "no run 'first', but one of that name: runs:/"),
        ("runs:/nothing", r"no run 'nothing': its latest runs are [0-9a-f]{32} \(first\)"),
        ("runs:/x/weights", "a model of MLflow is written models:/NAME@ALIAS"),
    ],
)
def test_what_the_store_does_not_know_is_told_with_what_it_does(
    named: tuple[str, str], name: str, told: str
) -> None:
    with pytest.raises(UserError, match=told.replace("?", r"\?")) as raised:
        fetch_model(name)
    assert raised.value.exit_code == 2


def test_a_run_without_a_model_is_told(client: MlflowClient, project: Path) -> None:
    run_id = registered.add_run(client, "empty", root=project)
    with pytest.raises(UserError, match=r"holds no best\.safetensors"):
        fetch_model(f"runs:/{run_id}")


def test_where_there_is_no_store_none_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.png").write_bytes(b"")
    arguments = ["predict", "x.png", "--model", "models:/cells@champion", "--output", "masks"]
    assert cli.run(arguments) == 2
    assert "there is no MLflow store" in capsys.readouterr().err
    assert cli.run(["promote", "0" * 32, "--alias", "champion"]) == 2
    assert cli.run(["rerun", "0" * 32]) == 2
    assert not (tmp_path / "mlflow.db").exists()


def test_a_server_that_does_not_answer_is_one_line_and_code_5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    assert cli.run(["evaluate", "--model", "models:/cells@champion"]) == 5
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: MLflow at http://127.0.0.1:")
    assert "\n" not in said


def test_several_that_fetch_at_once_all_get_the_whole_file(
    named: tuple[str, str], model_file: Path
) -> None:
    barrier = threading.Barrier(4)

    def fetch(_: int) -> bytes:
        barrier.wait()
        return fetch_model("models:/cells@champion").path.read_bytes()

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(fetch, range(4))) == {model_file.read_bytes()}
    cache = fetch_model("models:/cells@champion").path.parents[1]
    assert len(list(cache.iterdir())) == 1, "nothing is left of the downloads"


def test_predict_takes_a_name_as_it_takes_a_path(
    named: tuple[str, str], scenes: Path, session_run: Path, tmp_path: Path
) -> None:
    image = next((scenes / "test" / "images").glob("*.png"))
    for model, output in ((str(session_run), "by_path"), ("models:/cells@champion", "by_name")):
        arguments = ["predict", str(image), "--model", model, "--output", output]
        assert cli.run([*arguments, "--device", "cpu"]) == 0
    masks = [next(Path(output).rglob("*.png")).read_bytes() for output in ("by_path", "by_name")]
    assert masks[0] == masks[1]


@pytest.fixture
def sent(run_folder: Path, project: Path) -> str:
    """The id of a finished run whose folder is runs/digits/tiny."""
    shutil.move(run_folder, project / "runs" / "digits" / "tiny")
    tracking.sync(Path("runs/digits/tiny"), f"sqlite:///{project}/mlflow.db")
    return str(json.loads(Path("runs/digits/tiny/run.json").read_text())["run_id"])


def evaluate(model: str, *more: str) -> None:
    arguments = ["evaluate", "--model", model, "--device", "cpu", "--num-pictures", "0", *more]
    assert cli.run(arguments) == 0


def test_evaluate_by_name_adds_to_the_run_folder_that_is_here(
    sent: str, client: MlflowClient
) -> None:
    before = client.get_run(sent).info
    evaluate(f"runs:/{sent}")
    run = client.get_run(sent)
    assert "test/mean_iou" in run.data.metrics
    assert (run.info.status, run.info.end_time) == (before.status, before.end_time)
    assert Path("runs/digits/tiny/evaluation/digits-test/metrics.json").is_file()


def test_evaluate_by_name_adds_to_a_run_whose_folder_is_elsewhere(
    sent: str, client: MlflowClient, scenes: Path
) -> None:
    shutil.rmtree("runs")
    before = client.get_run(sent).info
    evaluate(f"runs:/{sent}", "--data", str(scenes))
    run = client.get_run(sent)
    assert "test/mean_iou" in run.data.metrics
    assert (run.info.status, run.info.end_time) == (before.status, before.end_time)
    assert len(client.search_runs([run.info.experiment_id])) == 1
    report = Path("runs", f"tiny-{sent[:8]}", "evaluation", "digits-test", "metrics.json")
    assert report.is_file()
    evaluate(f"runs:/{sent}", "--data", str(scenes))
    assert len(client.get_metric_history(sent, "test/mean_iou")) == 2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, store_with_tables: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(store_with_tables, folder / "mlflow.db")
    server = Server(folder)
    server.start()
    yield server
    server.kill()


def test_over_http_a_model_is_promoted_fetched_and_its_loss_of_contact_told(
    server: Server, monkeypatch: pytest.MonkeyPatch, model_file: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    client = MlflowClient(server.uri)
    run_id = registered.add_run(client, "remote")
    registered.log_model(client, run_id, model_file, score=0.5)
    old = registered.add_run(client, "old", score=0.6)
    registered.log_old_model(client, old, model_file)
    assert cli.run(["promote", run_id, "--alias", "champion"]) == 0
    assert fetch_model("models:/cells@champion").path.read_bytes() == model_file.read_bytes()
    assert cli.run(["promote", old, "--alias", "champion"]) == 0
    fetched = fetch_model("models:/cells@champion")
    assert fetched.run is not None
    assert fetched.run.run_id == old
    server.kill()
    with pytest.raises(ResourceError, match=r"MLflow at http://127\.0\.0\.1"):
        fetch_model("models:/cells@champion")
