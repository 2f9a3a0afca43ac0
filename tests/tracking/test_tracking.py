"""Tracking against real stores: sqlite files, and servers that are killed on purpose."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tracking.stores import (
    MlflowClient,
    Server,
    begin,
    client_of,
    environment,
    free_port,
    picture,
    points,
    warnings_of,
)
from unet_pipeline import tracking
from unet_pipeline.errors import ResourceError, UserError
from unet_pipeline.tracking import facts, names, places
from unet_pipeline.tracking.spool import Spool

CROWD_CODE = """
import sys
from pathlib import Path
from unet_pipeline import tracking
name = sys.argv[1]
run = tracking.start(Path("runs", name), experiment="crowd", run_name=name, params={}, tags={})
for step in range(20):
    run.log_metrics({"loss": step}, step=step)
run.log_artifact(run.folder / "run.json")
sys.exit(run.close("FINISHED"))
"""


@pytest.fixture(scope="session")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, str, str]]]:
    """A folder where four processes began at once on no database, and how they ended."""
    folder = tmp_path_factory.mktemp("crowd")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CROWD_CODE, f"run-{i}"],
            cwd=folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(4)
    ]
    said = [process.communicate(timeout=120) for process in processes]
    codes = [process.returncode for process in processes]
    return folder, [(code, *texts) for code, texts in zip(codes, said, strict=True)]


@pytest.fixture(scope="session")
def server(crowded: tuple[Path, Any]) -> Iterator[Server]:
    """A bare `mlflow ui`, no store named, in the folder of the crowd."""
    server = Server(crowded[0])
    server.start()
    yield server
    server.kill()


def write(run: tracking.Run, kind: str, **content: Any) -> None:
    """Put a record into the journal that the run itself would never write."""
    spool = Spool(run.folder)
    spool.append(kind, **content)
    spool.close()


# Names


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_every_clean_key_is_one_that_mlflow_takes(key: str) -> None:
    clean = names.clean_key(key)
    from mlflow.utils import validation

    validation._validate_metric_name(clean)
    validation._validate_param(clean, "value")
    validation._validate_tag(clean, "value")
    assert re.fullmatch(r"[a-zA-Z0-9_\-./ ]+", names.clean_key(key, ascii_only=True))


@given(st.lists(st.text("a%#()é/", max_size=4), unique=True, max_size=8))
def test_different_keys_stay_different(keys: list[str]) -> None:
    clean = names.clean_keys(keys)
    assert list(clean) == keys
    assert len(set(clean.values())) == len(keys)


def test_nested_settings_become_flat_params_that_can_be_typed() -> None:
    flat = names.flat_params(
        {"model": {"name": "unet", "options": {"bilinear": False}}, "note": "x" * 900, "w": (1, 2)}
    )
    assert flat["model.name"] == "unet"
    assert flat["model.options.bilinear"] == "false"
    assert flat["w"] == "[1, 2]"
    assert len(flat["note"]) == names.MAX_PARAM
    assert flat["note"].endswith("...")


@pytest.mark.parametrize("name", [" ", "x" * 501, "Default", "two\nlines"])
def test_an_impossible_experiment_is_refused_before_any_work(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="experiment"):
        tracking.start(tmp_path / "run", experiment=name, run_name="r", params={}, tags={})
    assert list(tmp_path.iterdir()) == []


def test_the_option_wins_over_the_environment_and_that_over_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    assert tracking.experiment_name(None, default="cells") == "cells"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "from the shell")
    assert tracking.experiment_name(None, default="cells") == "from the shell"
    assert tracking.experiment_name("mine", default="cells") == "mine"


# Facts


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=Ann", "-c", "user.email=ann@localhost"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_git_tags_tell_commit_branch_and_changes(tmp_path: Path) -> None:
    git(tmp_path, "init", "-b", "topic")
    assert facts.git_tags(tmp_path) == {}
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "first")
    clean = facts.git_tags(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", clean["mlflow.source.git.commit"])
    assert clean["mlflow.source.git.branch"] == "topic"
    assert clean["unet.git_dirty"] == "false"
    (tmp_path / "new, not tracked").touch()
    assert facts.git_tags(tmp_path) == clean
    (tmp_path / "file").write_text("two")
    assert facts.git_tags(tmp_path)["unet.git_dirty"] == "true"


def test_no_git_is_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert facts.git_tags(tmp_path) == {}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert facts.git_tags(tmp_path) == {}


def test_the_command_is_noted_without_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "https://ann:secret@tracking.example:5000"
    monkeypatch.setattr(sys, "argv", ["/usr/bin/unet", "train", "--tracking-uri", uri])
    command = facts.origin_tags("train")["unet.command"]
    assert command == "unet train --tracking-uri https://tracking.example:5000"


def test_the_package_loads_neither_mlflow_nor_torch() -> None:
    code = (
        "import sys, unet_pipeline.tracking as t; t.tracking_uri();"
        "print([m for m in ('mlflow', 'torch', 'sqlalchemy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# Where


def test_runs_go_to_the_working_directory_unless_told_otherwise(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tracking.tracking_uri() == f"sqlite:///{project}/mlflow.db"
    assert tracking.tracking_uri("sqlite:///else.db") == f"sqlite:///{project}/else.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking.tracking_uri() == "http://server:5000"
    assert tracking.tracking_uri("sqlite:////tmp/x.db") == "sqlite:////tmp/x.db"


def test_a_folder_may_have_a_percent_sign_in_its_name(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an address `%41` is an A: MLflow then looked for another folder."""
    folder = project / "n%41"
    folder.mkdir()
    shutil.copy(project / "mlflow.db", folder)
    monkeypatch.chdir(folder)
    run = begin(folder)
    run.log_artifact(run.folder / "run.json")
    assert run.close("FINISHED") == 0
    assert run.ui_command == "mlflow ui"
    stored = MlflowClient(places.local_uri(folder / "mlflow.db")).get_run(run.run_id or "")
    assert stored.info.status == "FINISHED"
    assert places.database_path(places.tracking_uri()) == folder / "mlflow.db"


def test_the_command_to_look_is_the_shortest_that_works(project: Path) -> None:
    here = f"sqlite:///{project}/mlflow.db"
    assert places.ui_command(here) == "mlflow ui"
    assert (
        places.ui_command("sqlite:////e/m.db") == "mlflow ui --backend-store-uri sqlite:////e/m.db"
    )
    assert places.ui_command("http://server:5000") is None
    legacy = project / "mlruns" / "0"
    legacy.mkdir(parents=True)
    (legacy / "meta.yaml").touch()
    assert places.ui_command(here) == f"mlflow ui --backend-store-uri {here}"


# What


def test_a_run_is_whole_in_the_store_of_the_working_directory(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = begin(
        project,
        params={"model": {"name": "unet"}, "empty": "", **{f"p{i}": i for i in range(120)}},
        tags={"data": "cells v2", "long": "x" * 9000},
        leaderboard=("metrics.test/mean_iou", "params.model.name"),
    )
    run.log_metrics({"train/loss": np.float32(0.7), "val/iou/cell (50%)": 0.123456789}, step=1)
    run.log_metrics({"train/loss": 0.5, "pixels": 1234567891}, step=2)
    run.log_image("progress/00_a b", picture(7), step=0)
    (run.folder / "config.yaml").write_text("lr: 0.001\n")
    run.log_artifact(run.folder / "config.yaml")
    outside = project / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "deep" / "file #1%20?.txt").write_text("text")
    run.log_artifact(outside, "plots")
    run.log_dataset(
        "cells", "train", "ab" * 32, {"n": np.int64(3), "x": float("nan")}, source=outside
    )
    run.log_note("| a | b |")
    assert run.close("FINISHED") == 0
    assert run.close("FAILED") == 0

    client = client_of(project)
    stored = client.get_run(run.run_id or "")
    assert stored.info.status == "FINISHED"
    assert stored.info.run_name == run.run_name == "unet-1"
    assert stored.info.end_time >= stored.info.start_time
    assert stored.data.params["model.name"] == "unet"
    assert stored.data.params["empty"] == ""
    assert len(stored.data.params) == 122
    assert points(client, stored.info.run_id, "train/loss") == [(1, 0.7), (2, 0.5)]
    assert stored.data.metrics["val/iou/cell _50__"] == 0.123457
    assert stored.data.metrics["pixels"] == 1234567891
    tags = stored.data.tags
    assert tags["mlflow.source.name"] == "unet train"
    assert tags["mlflow.note.content"] == "| a | b |"
    assert tags["data"] == "cells v2"
    assert len(tags["long"]) == names.MAX_TAG
    for tag in ("unet.version", "unet.torch", "unet.mlflow", "unet.python", "unet.host"):
        assert tags[tag] not in ("", "not installed")
    files = {file.path for file in client.list_artifacts(stored.info.run_id)}
    assert files == {"config.yaml", "images", "plots"}
    deep = client.list_artifacts(stored.info.run_id, "plots/outside/deep")
    assert [file.path for file in deep] == ["plots/outside/deep/file _1_20_.txt"]
    dataset = stored.inputs.dataset_inputs[0]
    assert (dataset.dataset.name, dataset.dataset.digest) == ("cells", "ab" * 18)
    assert json.loads(dataset.dataset.profile) == {"n": 3, "x": None}
    assert [(tag.key, tag.value) for tag in dataset.tags] == [("mlflow.data.context", "train")]
    assert warnings_of(caplog) == []

    experiment = client.get_experiment(stored.info.experiment_id)
    assert experiment.name == "cells"
    assert experiment.artifact_location == (project / "mlruns" / "cells").as_uri()
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert run.ui_command == "mlflow ui"
    assert (run.url or "").startswith("http://127.0.0.1:5000/#/experiments/")


def test_data_is_described_as_tensors(project: Path) -> None:
    run = begin(project)
    run.log_dataset("cells", "train", "abc", {"in_channels": 4, "dtype": "uint16"})
    run.close("FINISHED")
    (used,) = client_of(project).get_run(run.run_id or "").inputs.dataset_inputs
    schema = json.loads(used.dataset.schema)["mlflow_tensorspec"]
    (image,), (mask,) = (json.loads(schema[part]) for part in ("features", "targets"))
    assert image["tensor-spec"] == {"dtype": "uint16", "shape": [-1, -1, -1, 4]}
    assert mask["tensor-spec"] == {"dtype": "uint8", "shape": [-1, -1, -1]}


def test_the_saved_view_ranks_by_its_first_metric(project: Path) -> None:
    run = begin(project, leaderboard=("params.model.name", "metrics.test/mean_iou"))
    run.close("FINISHED")
    experiment = client_of(project).get_experiment_by_name("cells")
    view = json.loads(experiment.tags["mlflow.sharedViewState.unet"])
    state = json.loads(zlib.decompress(base64.b64decode(view["state"].removeprefix("deflate;"))))
    assert state["orderByKey"] == "metrics.`test/mean_iou`"
    assert state["orderByAsc"] is False
    assert state["selectedColumns"] == ["params.`model.name`", "metrics.`test/mean_iou`"]
    assert "viewStateShareKey=unet" in (run.leaderboard_url or "")
    assert "compareRunCharts" not in state


def test_the_saved_view_shows_pictures_without_params(project: Path) -> None:
    """With them, of which MLflow writes all above each picture, pictures are out of sight."""
    pictures = ("final/00_a", "progress/00_a", "progress/01_b")
    run = begin(project, leaderboard=("metrics.test/mean_iou",), pictures=pictures)
    run.close("FINISHED")
    experiment = client_of(project).get_experiment_by_name("cells")
    view = json.loads(experiment.tags["mlflow.sharedViewState.unet"])
    state = json.loads(zlib.decompress(base64.b64decode(view["state"].removeprefix("deflate;"))))
    names = {section["uuid"]: section["name"] for section in state["compareRunSections"]}
    assert list(names.values()) == ["final", "progress"]
    shown = [(names[c["metricSectionId"]], *c["imageKeys"]) for c in state["compareRunCharts"]]
    assert shown == [(key.split("/")[0], key) for key in pictures]
    assert {c["showRunParams"] for c in state["compareRunCharts"]} == {False}
    pages = Path(sys.modules["mlflow"].__path__[0], "server", "js", "build", "static", "js")
    text = "".join(file.read_text() for file in pages.glob("*.js"))
    for name in ("showRunParams", "compareRunCharts", "metricSectionId", "imageKeys"):
        assert name in text, f"the installed pages no longer know {name}"


def test_images_are_named_as_the_installed_mlflow_names_them(project: Path) -> None:
    run = begin(project)
    run.log_image("progress/00_a", picture(9, (600, 3)), step=3)
    run.close("FINISHED")
    client = client_of(project)
    run_id = run.run_id or ""
    ours = sorted(file.path for file in client.list_artifacts(run_id, "images"))
    client.log_image(run_id, picture(), key="progress/00_a", step=3)
    theirs = sorted({file.path for file in client.list_artifacts(run_id, "images")} - {*ours})
    shapes = [
        [re.sub(r"\d{13}", "T", re.sub(r"[0-9a-f]{8}-[0-9a-f\-]{27}", "U", path)) for path in paths]
        for paths in (ours, theirs)
    ]
    assert shapes[0] == shapes[1]
    assert client.get_run(run_id).data.tags["mlflow.loggedImages"].lower() == "true"
    small = client.download_artifacts(run_id, next(p for p in ours if "compressed" in p))
    with PIL.Image.open(small) as image:
        assert image.size == (1, 256)
    with PIL.Image.open(run.folder / "samples" / "progress" / "00_a" / "000003.png") as image:
        assert np.array_equal(np.asarray(image), picture(9, (600, 3)))


def table_of(client: MlflowClient, run_id: str, name: str) -> Any:
    return json.loads(Path(client.download_artifacts(run_id, name)).read_text())


def test_tables_are_those_of_the_installed_mlflow(project: Path) -> None:
    import mlflow

    columns = ("case", "mean IoU", "overlay")
    rows = [("a/é", 0.5, picture(1)), ("b", float("nan"), picture(2, (300, 40)))]
    run = begin(project)
    run.log_table("cases", columns, rows)
    run.close("FINISHED")
    theirs = begin(project, "unet-2")
    theirs.close("FINISHED")
    client = client_of(project)
    cells = {name: [row[i] for row in rows] for i, name in enumerate(columns)}
    cells["overlay"] = [mlflow.Image(cell) for cell in cells["overlay"]]  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas deprecates what MLflow still uses
        client.log_table(theirs.run_id or "", cells, "cases.json")
    found, tags, files = [], [], []
    for run_id in (run.run_id or "", theirs.run_id or ""):
        text = json.dumps(table_of(client, run_id, "cases.json"))
        found.append(json.loads(re.sub(r"[0-9a-f]{8}-[0-9a-f\-]{27}", "U", text)))
        tags.append(json.loads(client.get_run(run_id).data.tags["mlflow.loggedArtifacts"]))
        images = client.list_artifacts(run_id, "table_images/cases")
        files.append(sorted(Path(file.path).suffix for file in images))
    assert found[0] == found[1]
    assert tags[0] == tags[1]
    assert files[0] == files[1] == [".png", ".png", ".webp", ".webp"]
    cell = table_of(client, run.run_id or "", "cases.json")["data"][1][2]
    for name, side in (("filepath", 300), ("compressed_filepath", 256)):
        with PIL.Image.open(client.download_artifacts(run.run_id or "", cell[name])) as image:
            assert image.height == side


def test_a_table_that_is_logged_and_sent_again_replaces_itself(project: Path) -> None:
    run = begin(project)
    for values in (picture(1), picture(2)):
        run.log_table("cases of / test", ("case", "overlay"), [("a", values), ("b", values)])
    run.close("FINISHED")
    (run.folder / "tracking.sent").unlink()
    assert tracking.sync(run.folder)["tables"] == 2
    client = client_of(project)
    run_id = run.run_id or ""
    assert len(table_of(client, run_id, "cases of _ test.json")["data"]) == 2
    images = client.list_artifacts(run_id, "table_images/cases of _ test")
    assert len(images) == 4
    png = next(file.path for file in images if file.path.endswith("png"))
    with PIL.Image.open(client.download_artifacts(run_id, png)) as image:
        assert np.asarray(image)[0, 0, 0] == 2
    assert len(json.loads(client.get_run(run_id).data.tags["mlflow.loggedArtifacts"])) == 1


def test_a_table_whose_pictures_have_gone_holds_up_nothing(project: Path) -> None:
    run = begin(project, send=False)
    run.log_table("cases", ("overlay",), [(picture(),)])
    run.log_table("others", ("case",), [("a",)])
    run.close("FINISHED")
    shutil.rmtree(run.folder / "tables" / "table_images")
    counts = tracking.sync(run.folder)
    assert (counts["missing"], counts["tables"]) == (1, 1)


def test_metrics_are_tied_to_data_and_to_the_logged_model(project: Path) -> None:
    run = begin(project)
    run.close("FINISHED")
    check_ties(client_of(project), run)


def check_ties(client: MlflowClient, run: tracking.Run) -> None:
    stored = client.get_run(run.run_id or "")
    model = client.create_logged_model(
        stored.info.experiment_id, name="model", source_run_id=run.run_id,
        tags={"unet.model_sha256": "abc"},
    )  # fmt: skip
    digest = "d" * 64
    for _ in range(2):
        again = tracking.attach(run.folder)
        again.log_dataset("cells-test", "test", digest, {})
        for sha, key in (("abc", "test/iou"), ("of another", "other/iou")):
            again.log_metrics({key: 0.5}, step=0, dataset=("cells-test", digest), model=sha)
        again.log_metrics({"free": 1}, step=0)
        assert again.close("FINISHED") == 0
    metrics = client.get_logged_model(model.model_id).metrics
    found = {(m.key, m.value, m.dataset_name, m.dataset_digest) for m in metrics}
    assert found == {("test/iou", 0.5, "cells-test", digest[:36])}
    names = client.get_run(run.run_id or "").data.metrics
    assert names == {"test/iou": 0.5, "other/iou": 0.5, "free": 1.0}


def test_what_is_not_finite_is_counted_and_not_sent(project: Path) -> None:
    run = begin(project)
    for step in range(3):
        run.log_metrics({"a": float("nan"), "b": float("-inf"), "c": step, "d": None}, step=step)
    run.close("FINISHED")
    stored = client_of(project).get_run(run.run_id or "")
    assert stored.data.metrics == {"c": 2}
    assert json.loads(stored.data.tags["unet.nonfinite"]) == {"a": 3, "b": 3, "d": 3}


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_every_ending_is_told_as_it_was(project: Path, status: Any) -> None:
    run = begin(project)
    run.close(status)
    assert client_of(project).get_run(run.run_id or "").info.status == status


def test_a_file_that_has_gone_holds_up_nothing(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = begin(project)
    run.log_artifact(project / "never was")
    assert "never was" in warnings_of(caplog)[0]
    write(run, "artifact", path="gone.txt", folder="")
    (run.folder / "there.txt").touch()
    run.log_artifact(run.folder / "there.txt")
    assert run.close("FINISHED") == 0
    files = client_of(project).list_artifacts(run.run_id or "")
    assert [file.path for file in files] == ["there.txt"]


def test_a_record_that_the_store_refuses_is_left_out_alone(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = begin(project)
    run.log_metrics({"good": 1}, step=0)
    write(run, "metrics", step=0, values={"not % allowed": 1})
    write(run, "metrics", step=0)
    write(run, "of a newer version", x=1)
    run.log_metrics({"good": 2}, step=1)
    assert run.close("FINISHED") == 0
    assert points(client_of(project), run.run_id or "", "good") == [(0, 1), (1, 2)]
    assert len(warnings_of(caplog)) == 1
    assert "refuses" in warnings_of(caplog)[0]
    assert tracking.resume(run.folder).close("FINISHED") == 0


def test_a_line_cut_by_a_crash_costs_only_itself(project: Path) -> None:
    run = begin(project)
    run.log_metrics({"a": 1}, step=0)
    run.close("KILLED")
    with (run.folder / "tracking.jsonl").open("ab") as file:
        file.write(b'{"t": 1, "kind": "metr')
    assert [record["kind"] for record, _ in Spool(run.folder).read()][-1] == "status"
    again = tracking.resume(run.folder)
    again.log_metrics({"a": 2}, step=1)
    assert again.close("FINISHED") == 0
    assert points(client_of(project), run.run_id or "", "a") == [(0, 1), (1, 2)]


def test_a_folder_that_takes_no_records_is_one_warning(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = project / "runs" / "full"
    (folder / "tracking.jsonl").mkdir(parents=True)  # opening it fails, also for root
    run = tracking.start(folder, experiment="cells", run_name="full", params={}, tags={})
    run.log_metrics({"a": 1}, step=0)
    run.close("FINISHED", grace=1)
    kept = [text for text in warnings_of(caplog) if "cannot keep" in text]
    assert len(kept) == 1


# Again: resume, attach, mlflow run


def test_a_resumed_run_is_the_same_run_with_each_point_once(project: Path) -> None:
    run = begin(project)
    for step in range(3):
        run.log_metrics({"loss": 1 / (step + 1), "bad": float("nan")}, step=step)
    run.log_image("progress/00", picture(1), step=2)
    run.close("KILLED")
    again = tracking.resume(run.folder)
    assert again.run_id == run.run_id
    client = client_of(project)
    deadline = time.monotonic() + 5
    while client.get_run(run.run_id or "").info.status != "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for step in range(2, 5):  # epoch 2 had not been saved when the run was killed
        again.log_metrics({"loss": 1 / (step + 1), "bad": float("nan")}, step=step)
    again.log_image("progress/00", picture(2), step=2)
    again.close("FINISHED")
    expected = [(step, float(f"{1 / (step + 1):.6g}")) for step in range(5)]
    assert points(client, run.run_id or "", "loss") == expected
    stored = client.get_run(run.run_id or "")
    assert stored.info.status == "FINISHED"
    assert json.loads(stored.data.tags["unet.nonfinite"]) == {"bad": 6}
    full = [f for f in client.list_artifacts(run.run_id or "", "images") if f.path.endswith("png")]
    assert len(full) == 1
    with PIL.Image.open(client.download_artifacts(run.run_id or "", full[0].path)) as image:
        assert np.asarray(image).max() == 2


def test_an_evaluation_adds_to_a_finished_run_and_leaves_its_status_alone(project: Path) -> None:
    run = begin(project)
    run.close("FAILED")
    client = client_of(project)
    before = client.get_run(run.run_id or "").info
    for value in (0.4, 0.6):
        added = tracking.attach(run.folder)
        added.log_metrics({"test/mean_iou": value}, step=0)
        assert added.close("FINISHED") == 0
    stored = client.get_run(run.run_id or "")
    assert stored.data.metrics == {"test/mean_iou": 0.6}
    assert (stored.info.status, stored.info.end_time) == ("FAILED", before.end_time)


def test_a_run_that_is_kept_out_of_mlflow_is_sent_only_when_asked(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = begin(project, send=False)
    run.log_metrics({"a": 1}, step=0)
    assert run.close("FINISHED") == 0
    added = tracking.attach(run.folder)
    added.log_metrics({"test": 2}, step=0)
    assert added.close("FINISHED") == 0
    assert (added.ui_command, added.url, warnings_of(caplog)) == (None, None, [])
    client = client_of(project)
    assert client.get_experiment_by_name("cells") is None
    tracking.sync(run.folder)
    last = tracking.attach(run.folder)
    last.log_metrics({"test": 3}, step=0)
    last.close("FINISHED")
    stored = client.get_run(last.run_id or "")
    assert (stored.info.status, stored.data.metrics) == ("FINISHED", {"a": 1, "test": 3})


def test_two_that_write_to_one_run_at_once_send_everything_once(project: Path) -> None:
    run = begin(project)
    added = tracking.attach(run.folder)
    for step in range(50):
        run.log_metrics({"loss": step}, step=step)
        added.log_metrics({"test": step}, step=step)
    assert added.close("FINISHED") == 0
    assert client_of(project).get_run(run.run_id or "").info.status == "RUNNING"
    assert run.close("FINISHED") == 0
    client = client_of(project)
    assert len(points(client, run.run_id or "", "loss")) == 50
    assert len(points(client, run.run_id or "", "test")) == 50


def test_a_run_that_was_killed_is_sent_and_resumed_later(project: Path) -> None:
    code = (
        "import os, signal; from pathlib import Path; from unet_pipeline import tracking\n"
        "run = tracking.start(Path('run'), experiment='cells', run_name='a', params={}, tags={})\n"
        "for step in range(20): run.log_metrics({'loss': step}, step=step)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), check=False)
    assert done.returncode == -signal.SIGKILL
    tracking.sync(project / "run")
    client = client_of(project)
    identity = Spool(project / "run").load()
    assert identity is not None
    assert len(points(client, identity.run_id or "", "loss")) == 20
    assert client.get_run(identity.run_id or "").info.status == "RUNNING"
    tracking.resume(project / "run").close("FINISHED")
    assert client.get_run(identity.run_id or "").info.status == "FINISHED"


def test_a_folder_without_its_identity_becomes_a_new_run(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = project / "runs" / "moved" / "unet-7"
    folder.mkdir(parents=True)
    run = tracking.attach(folder)
    run.log_metrics({"test/mean_iou": 0.5}, step=0)
    assert run.close("FINISHED") == 0
    assert run.experiment == "moved"
    assert client_of(project).get_run(run.run_id or "").info.run_name == "unet-7"
    assert "run.json" in warnings_of(caplog)[0]


def test_the_run_that_mlflow_run_has_made_is_adopted(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(project)
    theirs = client.create_run(client.create_experiment("project"), run_name="brave-yak-42")
    run_id = theirs.info.run_id
    for key, value in {"lr": "1e-4", "name": "'my run'", "epochs": "3"}.items():
        client.log_param(run_id, key, value)
    client.set_tag(run_id, "mlflow.source.name", "the project")
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlflow.db")
    run = begin(project, params={"lr": 1e-4, "name": "my run", "epochs": 5, "seed": 1})
    run.close("FINISHED")
    stored = client.get_run(run_id)
    assert run.run_id == run_id
    assert client.get_experiment_by_name("cells") is None
    assert stored.info.run_name == "unet-1"
    assert stored.data.params == {"lr": "1e-4", "name": "'my run'", "epochs": "3", "seed": "1"}
    assert json.loads(stored.data.tags["unet.param_conflicts"]) == {"epochs": ["3", "5"]}
    assert stored.data.tags["mlflow.source.name"] == "the project"
    second = begin(project, "unet-2")
    second.close("FINISHED")
    assert second.run_id != run_id


# The store is not as it should be


def test_deleted_experiments_and_runs_are_restored(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = begin(project)
    first.close("KILLED")
    client = client_of(project)
    client.delete_experiment(client.get_run(first.run_id or "").info.experiment_id)
    second = begin(project, "unet-2")
    second.close("FINISHED")
    again = tracking.resume(first.folder)
    again.close("FINISHED")
    assert client.get_run(second.run_id or "").info.lifecycle_stage == "active"
    assert client.get_run(first.run_id or "").info.status == "FINISHED"
    client.delete_experiment(client.get_run(first.run_id or "").info.experiment_id)
    tracking.sync(first.folder)
    assert client.get_experiment_by_name("cells").lifecycle_stage == "active"
    client.delete_run(first.run_id or "")
    assert tracking.attach(first.folder).close("FINISHED") == 0
    assert client.get_run(first.run_id or "").info.lifecycle_stage == "active"
    assert sum("restored" in text for text in warnings_of(caplog)) == 4


def test_a_run_that_the_store_has_lost_is_made_anew_and_whole(project: Path) -> None:
    run = begin(project)
    run.log_metrics({"a": 1}, step=0)
    run.close("KILLED")
    with contextlib.closing(sqlite3.connect(project / "mlflow.db")) as database:
        for table in ("tags", "params", "metrics", "latest_metrics", "runs"):
            database.execute(f"DELETE FROM {table}")
        database.commit()
    again = tracking.resume(run.folder)
    again.close("FINISHED")
    assert again.run_id != run.run_id
    stored = client_of(project).get_run(again.run_id or "")
    assert stored.data.metrics == {"a": 1}
    assert stored.data.params == {"lr": "0.001"}


def test_an_experiment_whose_files_a_server_keeps_is_not_used_locally(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = client_of(project)
    client.create_experiment("cells", "mlflow-artifacts:/1")
    run = begin(project)
    run.log_artifact(run.folder / "run.json")
    assert run.close("FINISHED") == 0
    stored = client.get_run(run.run_id or "")
    assert client.get_experiment(stored.info.experiment_id).name == "cells-local"
    assert "cells-local" in warnings_of(caplog)[0]


def test_a_locked_database_delays_only_the_sending(project: Path) -> None:
    run = begin(project)
    with contextlib.closing(sqlite3.connect(project / "mlflow.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        begun = time.monotonic()
        run.log_metrics({"a": 1}, step=0)
        assert time.monotonic() - begun < 0.5
        time.sleep(2.5)  # the thread is at it by now
        other.rollback()
    assert run.close("FINISHED") == 0
    assert client_of(project).get_run(run.run_id or "").data.metrics == {"a": 1}


def test_a_database_of_another_mlflow_is_named_with_the_cure(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.closing(sqlite3.connect(project / "mlflow.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = '0584bdc529eb'")
        database.commit()
    run = begin(project)
    assert run.close("FINISHED") > 0
    assert f"mlflow db upgrade sqlite:///{project}/mlflow.db" in warnings_of(caplog)[0]


def test_files_that_cannot_be_stored_do_not_hold_up_the_curves(project: Path) -> None:
    (project / "mlruns").write_text("a file is in the way")
    run = begin(project)
    run.log_artifact(run.folder / "run.json")
    run.log_metrics({"a": 1}, step=0)
    assert run.close("FINISHED", grace=1) == 1
    stored = client_of(project).get_run(run.run_id or "")
    assert (stored.data.metrics, stored.info.status) == ({"a": 1}, "FINISHED")
    (project / "mlruns").unlink()
    assert tracking.sync(run.folder) == {"artifacts": 1}


def test_old_files_of_mlflow_beside_it_do_not_mislead(project: Path) -> None:
    (project / "mlruns" / "0").mkdir(parents=True)
    (project / "mlruns" / "0" / "meta.yaml").write_text("name: Default\n")
    run = begin(project)
    run.log_artifact(run.folder / "run.json")
    assert run.close("FINISHED") == 0
    assert client_of(project).get_run(run.run_id or "").info.status == "FINISHED"


# Several processes, and servers


def test_four_processes_may_begin_at_once_on_no_database(
    crowded: tuple[Path, list[tuple[int, str, str]]],
) -> None:
    folder, endings = crowded
    assert endings == [(0, "", "")] * 4
    client = client_of(folder)
    experiment = client.get_experiment_by_name("crowd")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in runs) == [f"run-{i}" for i in range(4)]
    for run in runs:
        assert run.info.status == "FINISHED"
        assert points(client, run.info.run_id, "loss") == [(step, step) for step in range(20)]
        assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["run.json"]


def test_a_bare_mlflow_ui_shows_the_runs_of_its_directory(server: Server) -> None:
    client = MlflowClient(server.uri)
    runs = client.search_runs([client.get_experiment_by_name("crowd").experiment_id])
    assert sorted(run.info.run_name for run in runs) == [f"run-{i}" for i in range(4)]
    for run in runs:
        assert len(points(client, run.info.run_id, "loss")) == 20
        assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["run.json"]


def test_a_server_that_is_down_at_the_start_costs_one_warning(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri = f"http://ann:secret@127.0.0.1:{free_port()}"
    begun = time.monotonic()
    run = begin(project, uri=uri)
    assert time.monotonic() - begun < 5
    run.log_metrics({"a": 1}, step=0)
    assert (run.url, run.run_id) == (None, None)
    assert run.close("FINISHED") > 0
    assert time.monotonic() - begun < 8
    during, after = warnings_of(caplog)
    assert "refused" in during
    assert "unet sync" in after
    assert "secret" not in during + (run.folder / "run.json").read_text()
    with pytest.raises(ResourceError, match="refused"):
        tracking.sync(run.folder)

    counts = tracking.sync(run.folder, f"sqlite:///{project}/mlflow.db")
    assert counts["metrics"] == 1
    identity = Spool(run.folder).load()
    assert identity is not None
    stored = client_of(project).get_run(identity.run_id or "")
    assert (stored.info.status, stored.data.metrics) == ("FINISHED", {"a": 1})
    assert tracking.sync(run.folder) == {}


def test_a_server_that_never_answers_stalls_nobody(project: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        begun = time.monotonic()
        run = begin(project, uri=f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - begun < 5.5
        begun = time.monotonic()
        run.log_metrics({"a": 1}, step=0)
        run.log_image("a", picture(), step=0)
        assert time.monotonic() - begun < 0.5
        begun = time.monotonic()
        assert run.close("FINISHED", grace=1) > 0
        assert time.monotonic() - begun < 11


def test_a_run_is_whole_on_a_server(project: Path, server: Server) -> None:
    run = begin(project, uri=server.uri, params={"lr": 1e-3, "empty": ""}, tags={"empty": ""})
    assert run.ui_command is None
    assert (run.url or "").startswith(server.uri)
    for step in range(1200):
        run.log_metrics({"loss": step}, step=step)
    run.log_image("progress/00", picture(), step=0)
    (run.folder / "odd #1%20?.txt").write_text("text")
    run.log_artifact(run.folder / "odd #1%20?.txt", "odd")
    run.log_dataset("cells", "train", "abc", {"n": 3})
    run.log_table("cases", ("case", "overlay"), [("a", picture()), ("b", picture())])
    assert run.close("FINISHED") == 0
    client = MlflowClient(server.uri)
    stored = client.get_run(run.run_id or "")
    assert stored.info.status == "FINISHED"
    assert stored.data.params == {"lr": "0.001", "empty": ""}
    assert len(points(client, run.run_id or "", "loss")) == 1200
    assert len(client.list_artifacts(run.run_id or "", "images")) == 2
    odd = client.list_artifacts(run.run_id or "", "odd")
    assert [file.path for file in odd] == ["odd/odd _1_20_.txt"]
    fetched = client.download_artifacts(run.run_id or "", "odd/odd _1_20_.txt")
    assert Path(fetched).read_text() == "text"
    assert len(stored.inputs.dataset_inputs) == 1
    assert len(client.list_artifacts(run.run_id or "", "table_images/cases")) == 4
    assert len(table_of(client, run.run_id or "", "cases.json")["data"]) == 2
    assert not (project / "mlruns").exists()


def test_a_model_is_whole_on_a_server_and_registered_once(project: Path, server: Server) -> None:
    run = begin(project, "with-model", uri=server.uri)
    run.log_dataset("cells-val", "val", "abc", {})
    (run.folder / "best.safetensors").write_bytes(b"weights")
    run.log_model(
        run.folder / "best.safetensors",
        network="unet",
        example=b"an image",
        params={"model": {"depth": 2}},
        tags={"unet.fingerprint": "abc"},
        register="on-a-server",
        description="**best**",
    )
    scores = {"best/mean_iou": 0.5, "best/loss": float("nan")}
    sha256 = tracking.file_digest(run.folder / "best.safetensors")
    run.log_metrics(scores, step=0, dataset=("cells-val", "abc"), model=sha256)
    assert run.close("FINISHED") == 0
    (run.folder / "tracking.sent").unlink()
    tracking.sync(run.folder)

    client = MlflowClient(server.uri)
    stored = client.get_run(run.run_id or "")
    (output,) = stored.outputs.model_outputs
    models = client.search_logged_models([stored.info.experiment_id])
    (model,) = [model for model in models if model.source_run_id == run.run_id]
    assert (model.model_id, str(model.status)) == (output.model_id, "READY")
    assert model.params == {"model.depth": "2"}
    (metric,) = model.metrics
    assert (metric.key, metric.value, metric.dataset_name) == ("best/mean_iou", 0.5, "cells-val")
    assert points(client, run.run_id or "", "best/mean_iou") == [(0, 0.5)]
    files = client.list_logged_model_artifacts(model.model_id)
    assert {"MLmodel", "artifacts", "model_code.py"} <= {file.path for file in files}
    (version,) = client.search_model_versions("name = 'on-a-server'")
    assert (version.run_id, version.description) == (run.run_id, "**best**")


def test_a_server_ties_metrics_to_data_and_to_the_logged_model(
    project: Path, server: Server
) -> None:
    run = begin(project, uri=server.uri)
    run.close("FINISHED")
    check_ties(MlflowClient(server.uri), run)


def test_a_server_killed_in_the_middle_loses_nothing(
    project: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    run = begin(project, "killed", uri=server.uri)
    slowest = 0.0
    for step in range(60):
        if step == 25:
            server.kill()
        begun = time.monotonic()
        run.log_metrics({"loss": step, "val/iou": step / 60}, step=step)
        if step % 20 == 0:
            run.log_image("progress/00", picture(step), step=step)
        slowest = max(slowest, time.monotonic() - begun)
        time.sleep(0.05)
    run.log_artifact(run.folder / "run.json")
    assert slowest < 1
    begun = time.monotonic()
    pending = run.close("FINISHED")
    assert time.monotonic() - begun < 10
    assert pending > 0
    assert sum("fails" in text for text in warnings_of(caplog)) == 1

    server.start()
    (run.folder / "tracking.sent").unlink(missing_ok=True)  # everything once more does no harm
    tracking.sync(run.folder)
    assert tracking.sync(run.folder) == {}
    client = MlflowClient(server.uri)
    stored = client.get_run(run.run_id or "")
    assert stored.info.status == "FINISHED"
    assert points(client, run.run_id or "", "loss") == [(step, step) for step in range(60)]
    assert len(points(client, run.run_id or "", "val/iou")) == 60
    assert len(client.list_artifacts(run.run_id or "", "images")) == 6
    experiment = client.get_experiment_by_name("cells")
    assert len(client.search_runs([experiment.experiment_id], "run_name = 'killed'")) == 1


def test_a_copy_in_another_store_is_made_once(project: Path, empty_store: Path) -> None:
    run = begin(project)
    run.log_metrics({"a": 1}, step=0)
    run.close("FINISHED")
    other = project / "elsewhere"
    other.mkdir()
    shutil.copy(empty_store, other / "mlflow.db")
    counts = tracking.sync(run.folder, f"sqlite:///{other}/mlflow.db")
    assert counts["metrics"] == 1
    assert tracking.sync(run.folder, f"sqlite:///{other}/mlflow.db") == {}
    client = client_of(other)
    experiment = client.get_experiment_by_name("cells")
    copies = client.search_runs([experiment.experiment_id])
    assert [copy.info.status for copy in copies] == ["FINISHED"]
    assert tracking.attach(run.folder).run_id == run.run_id


def test_a_run_that_was_never_sent_moves_only_to_a_store_that_answers(project: Path) -> None:
    run = begin(project, send=False)
    run.close("FINISHED")
    before = Spool(run.folder).load()
    with pytest.raises(ResourceError):
        tracking.sync(run.folder, f"http://127.0.0.1:{free_port()}")
    assert Spool(run.folder).load() == before
    other = f"sqlite:///{project}/other.db"
    shutil.copy(project / "mlflow.db", project / "other.db")
    tracking.sync(run.folder, other)
    moved = Spool(run.folder).load()
    assert moved is not None
    assert moved.tracking_uri == other
    assert moved.run_id is not None


def test_what_is_no_run_folder_cannot_be_sent(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run\.json"):
        tracking.sync(tmp_path)


def test_a_nested_run_finds_its_parent_in_any_store(project: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"experiment": "nest", "params": {}, "tags": {}, "send": False}
    parent = tracking.start(tmp_path / "parent", run_name="parent", **options)
    child = tracking.start(tmp_path / "child", run_name="child", parent=parent, **options)
    child.close("FINISHED")
    parent.close("FINISHED")
    uri = f"sqlite:///{project / 'mlflow.db'}"
    # the child comes first: its parent is not there yet, and is found the next time
    for name in ("child", "parent", "child"):
        tracking.sync(tmp_path / name, uri)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("nest")
    assert experiment is not None
    runs = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    assert runs["child"].data.tags["mlflow.parentRunId"] == runs["parent"].info.run_id
    assert "mlflow.parentRunId" not in runs["parent"].data.tags


def test_a_nested_run_stands_beside_its_parent_in_whatever_experiment(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{project / 'mlflow.db'}"
    client = MlflowClient(uri)
    adopted = client.create_run(client.create_experiment("made by mlflow run"))
    monkeypatch.setenv("MLFLOW_RUN_ID", adopted.info.run_id)
    options: dict[str, Any] = {"experiment": "mine", "params": {}, "tags": {}, "uri": uri}
    parent = tracking.start(tmp_path / "parent", run_name="parent", **options)
    child = tracking.start(tmp_path / "child", run_name="child", parent=parent, **options)
    child.close("FINISHED")
    parent.close("FINISHED")
    (found,) = client.search_runs([adopted.info.experiment_id], "attributes.run_name = 'child'")
    assert found.data.tags["mlflow.parentRunId"] == adopted.info.run_id
