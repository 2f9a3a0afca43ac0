"""`unet relink`: real stores whose folder is moved."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from unet_pipeline import cli, tracking
from unet_pipeline.errors import ResourceError, UserError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a run that has an artifact, a registered model and a logged one."""
    folder = tmp_path_factory.mktemp("at first") / "my project"
    folder.mkdir()
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    run = tracking.start(
        folder / "runs" / "r", experiment="cells", run_name="r", params={}, tags={}, uri=uri
    )
    run.log_artifact(folder / "runs" / "r" / "run.json", "files")
    assert run.close("FINISHED") == 0
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    client.create_registered_model("m")
    source = f"{client.get_run(str(run.run_id)).info.artifact_uri}/files"
    client.create_model_version("m", source, run_id=run.run_id)
    model = client.create_logged_model("1", name="model", source_run_id=run.run_id)
    client.log_model_artifacts(model.model_id, str(folder / "runs" / "r"))
    return folder


@pytest.fixture
def moved(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project whose former place, which its database names, is gone."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_TRACKING")]:
        monkeypatch.delenv(name)
    gone, here = made.parent / "gone" / "my project", tmp_path / "elsewhere + new"
    shutil.copytree(made, here)
    with sqlite3.connect(here / "mlflow.db") as database:
        for table, column in (
            ("experiments", "artifact_location"),
            ("runs", "artifact_uri"),
            ("logged_models", "artifact_location"),
            ("model_versions", "source"),
            ("model_versions", "storage_location"),
            ("tags", "value"),
        ):
            for old, new in ((made.as_uri(), gone.as_uri()), (str(made), str(gone))):
                database.execute(
                    f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (old, new)
                )
    database.close()
    file = here / "runs" / "r" / "run.json"
    file.write_text(file.read_text().replace(str(made), str(gone)))
    monkeypatch.chdir(here)
    return here


def test_files_of_a_moved_project_are_found_again(
    moved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{moved / 'mlflow.db'}")
    (run,) = client.search_runs(["1"])
    assert client.list_artifacts(run.info.run_id) == []  # the trouble
    assert cli.run(["relink"]) == 0
    assert f"gone/my project -> {moved}: " in capsys.readouterr().out
    (run,) = client.search_runs(["1"])
    (file,) = client.list_artifacts(run.info.run_id, "files")
    assert file.path == "files/run.json"
    (version,) = client.search_model_versions("name = 'm'")
    assert version.source == f"{run.info.artifact_uri}/files"
    assert client.get_model_version_download_uri("m", "1").startswith(moved.as_uri())
    (model,) = client.search_logged_models(["1"])
    assert model.artifact_location.startswith(moved.as_uri())
    experiment = client.get_experiment("1")
    assert experiment.artifact_location == (moved / "mlruns" / "cells").as_uri()
    assert run.data.tags["unet.run_dir"] == str(moved / "runs" / "r")
    identity = json.loads((moved / "runs" / "r" / "run.json").read_text())
    assert identity["tracking_uri"] == f"sqlite:///{moved / 'mlflow.db'}"
    later = tracking.attach(moved / "runs" / "r")  # the run goes on where it was
    later.log_metrics({"test/mean_iou": 0.5}, step=0)
    assert later.close("FINISHED") == 0
    assert client.get_run(run.info.run_id).data.metrics == {"test/mean_iou": 0.5}


def test_doing_it_again_changes_nothing(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["relink"]) == 0
    before = (moved / "mlflow.db").read_bytes()
    capsys.readouterr()
    assert cli.run(["relink"]) == 0
    assert capsys.readouterr().out == "nothing to mend: all files are where the database says\n"
    assert (moved / "mlflow.db").read_bytes() == before


def test_a_folder_of_a_similar_name_is_left_alone(moved: Path) -> None:
    with sqlite3.connect("mlflow.db") as database:
        (text,) = database.execute("SELECT artifact_uri FROM runs").fetchone()
        other = text.partition("my%20project")[0] + "my%20project2/mlruns/other"
        database.execute(
            "INSERT INTO experiments (name, artifact_location, lifecycle_stage) VALUES (?, ?, ?)",
            ("other", other, "active"),
        )
    database.close()
    tracking.relink(f"sqlite:///{moved / 'mlflow.db'}")
    with sqlite3.connect("mlflow.db") as database:
        query = "SELECT artifact_location FROM experiments WHERE name = 'other'"
        assert database.execute(query).fetchone() == (other,)
    database.close()


def test_a_copy_is_told_where_it_came_from(made: Path, tmp_path: Path) -> None:
    """The files of the original are still there, so nothing looks wrong by itself."""
    here = Path(shutil.copytree(made, tmp_path / "copy"))
    uri = f"sqlite:///{here / 'mlflow.db'}"
    assert tracking.relink(uri).former == ()
    with pytest.raises(UserError, match="names no file in /nowhere: it names "):
        tracking.relink(uri, former=Path("/nowhere"))
    done = tracking.relink(uri, former=made)
    assert done.former == (str(made),)
    assert done.num_places >= 4


def test_a_project_that_moves_below_its_former_place(made: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    here = Path(shutil.copytree(made, tmp_path / "copy"))
    uri = f"sqlite:///{here / 'mlflow.db'}"
    tracking.relink(uri, former=made)
    below = here / "old"
    below.mkdir()
    for name in ("mlflow.db", "mlruns", "runs"):
        shutil.move(here / name, below)
    uri = f"sqlite:///{below / 'mlflow.db'}"
    run = tracking.start(
        below / "runs" / "new", experiment="new", run_name="new", params={}, tags={}, uri=uri
    )
    assert run.close("FINISHED") == 0
    for former in (None, here, here):
        tracking.relink(uri, former=former)
        client = MlflowClient(uri)
        for experiment in ("cells", "new"):
            place = client.get_experiment_by_name(experiment).artifact_location
            assert place == (below / "mlruns" / experiment).as_uri()
        tags = client.get_run(str(run.run_id)).data.tags
        assert tags["unet.run_dir"] == str(below / "runs" / "new")


def test_places_that_are_nowhere_are_told(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("mlruns")
    assert cli.run(["relink"]) == 0
    assert "3 places do not exist and were left as they are, such as " in capsys.readouterr().out


def test_a_locked_database_and_what_is_none_are_one_line(
    moved: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unet_pipeline.tracking.relinking._LOCK_SECONDS", 0.1)
    other = sqlite3.connect("mlflow.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(ResourceError, match="database is locked; end the trainings"):
        tracking.relink(f"sqlite:///{moved / 'mlflow.db'}")
    other.close()
    assert cli.run(["relink", "--tracking-uri", "sqlite:///absent.db"]) == 2
    assert cli.run(["relink", "--tracking-uri", "http://127.0.0.1:1"]) == 2
    assert "a server knows" in capsys.readouterr().err
    assert not Path("absent.db").exists()
