"""promote: an alias moves to a better score on the same data, and else stays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.stages import registered
from unet_pipeline import cli
from unet_pipeline.errors import ResourceError
from unet_pipeline.tracking import fetch_model, registry


@pytest.fixture
def client(project: Path) -> MlflowClient:
    return registered.client_of(project)


class Runs:
    """Runs with models in the store of a project."""

    def __init__(self, client: MlflowClient, root: Path, file: Path) -> None:
        self.client, self.root, self.file = client, root, file

    def add(self, name: str, score: float | None = None, **more: Any) -> str:
        run_id = registered.add_run(self.client, name, root=self.root, **more)
        self.go_on(run_id, score)
        return run_id

    def go_on(self, run_id: str, score: float | None = None) -> str:
        """The run has another model, as after `unet train --resume`."""
        made, file = self.client.get_run(run_id).outputs, self.file
        if made and made.model_outputs:
            file = self.root / f"{len(made.model_outputs)}.safetensors"
            file.write_bytes(self.file.read_bytes() + file.name.encode())
        return registered.log_model(self.client, run_id, file, score=score)


@pytest.fixture
def runs(client: MlflowClient, project: Path, session_run: Path) -> Runs:
    return Runs(client, project, session_run / "best.safetensors")


def promote(run: str, *more: str) -> int:
    return cli.run(["promote", run, "--alias", "champion", *more])


def champion(client: MlflowClient, name: str = "cells") -> Any:
    return client.get_model_version_by_alias(name, "champion")


def test_the_first_model_with_a_score_becomes_champion(runs: Runs, client: MlflowClient) -> None:
    run_id = runs.add("first", 0.5)
    assert promote(f"runs:/{run_id}") == 0
    version = champion(client)
    assert version.run_id == run_id
    assert version.tags == {
        "unet.model_sha256": registered.sha256(runs.file),
        "unet.fingerprint": registered.FINGERPRINT,
        "unet.run_key": "key-first",
    }
    assert fetch_model("models:/cells@champion").sha256 == registered.sha256(runs.file)


def test_without_a_score_nothing_is_promoted_and_the_command_that_finds_it_is_told(
    runs: Runs, client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = runs.add("first")
    assert promote(run_id) == 3
    assert f"unet evaluate --model runs:/{run_id} --data DATASET" in capsys.readouterr().err
    assert client.search_registered_models() == []


def test_a_better_model_takes_the_alias(
    runs: Runs, client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = runs.add("first", 0.5), runs.add("second", 0.625)
    assert promote(first) == 0
    capsys.readouterr()
    assert promote(second, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["old"]["version"], told["new"]["version"], told["moved"]) == ("1", "2", True)
    assert (told["old"]["test/mean_iou"], told["new"]["test/mean_iou"]) == (0.5, 0.625)
    assert told["difference"] == 0.125
    assert champion(client).run_id == second


@pytest.mark.parametrize("score", [0.5, 0.4])
def test_a_model_that_is_not_better_does_not(
    runs: Runs, client: MlflowClient, capsys: pytest.CaptureFixture[str], score: float
) -> None:
    first, second = runs.add("first", 0.5), runs.add("second", score)
    assert promote(first) == 0
    capsys.readouterr()
    assert promote(second) == 3
    said = capsys.readouterr()
    assert f"test/mean_iou {score} is not better than the 0.5 of version 1" in said.err
    assert "models:/cells@champion is version 1" in said.out
    assert champion(client).run_id == first
    assert len(client.search_model_versions("name = 'cells'")) == 1, "nothing was registered"


def test_scores_on_other_data_are_not_compared(
    runs: Runs, client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = runs.add("first", 0.5), runs.add("second", 0.9, fingerprint="e" * 64)
    assert promote(first) == 0
    assert promote(second) == 3
    assert "is of the dataset eeeeeeeeeeee, and 0.5 of version 1 is of ffffffffffff" in (
        capsys.readouterr().err
    )
    assert champion(client).run_id == first


def test_a_champion_without_a_score_keeps_the_alias(
    runs: Runs, client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = runs.add("first"), runs.add("second", 0.9)
    assert promote(first, "--force") == 0
    assert promote(second) == 3
    assert f"unet evaluate --model runs:/{first}" in capsys.readouterr().err


def test_force_moves_the_alias_and_says_so(
    runs: Runs, client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = runs.add("first", 0.5), runs.add("second", 0.4)
    assert promote(first) == 0
    assert promote(second, "--force") == 0
    assert "--force: promoted although test/mean_iou 0.4 is not better" in capsys.readouterr().err
    assert champion(client).run_id == second


def test_the_champion_is_told_that_it_is_already(
    runs: Runs, client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    first = runs.add("first", 0.5)
    assert [promote(first), promote(first)] == [0, 0]
    assert "models:/cells@champion is version 1 already" in capsys.readouterr().err
    assert len(client.search_model_versions("name = 'cells'")) == 1


@pytest.mark.parametrize("more", [[], ["--force"]])
def test_a_run_that_has_gone_on_and_scores_better_takes_the_alias_from_its_older_model(
    runs: Runs, client: MlflowClient, more: list[str]
) -> None:
    first = runs.add("first", 0.5)
    assert promote(first) == 0
    newest = client.get_logged_model(runs.go_on(first, 0.625))
    assert promote(first, *more) == 0
    assert int(champion(client).version) == 2
    digest = "unet.model_sha256"
    assert champion(client).tags[digest] == newest.tags[digest]
    assert promote(first, *more) == 0, "it has the alias already"
    assert len(client.search_model_versions("name = 'cells'")) == 2


def test_a_model_is_not_promoted_on_the_score_of_an_earlier_one_of_its_run(
    runs: Runs, client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = runs.add("first", 0.5), runs.add("second", 0.9)
    assert promote(first) == 0
    runs.go_on(second)
    assert promote(second) == 3
    assert f"run `unet evaluate --model runs:/{second} --data DATASET`" in capsys.readouterr().err
    assert champion(client).run_id == first


def test_the_champion_has_the_score_of_its_version_and_not_of_what_its_run_made_later(
    runs: Runs, client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = runs.add("first", 0.5), runs.add("second", 0.6)
    assert promote(first) == 0
    runs.go_on(first, 0.9)
    capsys.readouterr()
    assert promote(second, "--json") == 0
    assert json.loads(capsys.readouterr().out)["old"]["test/mean_iou"] == 0.5


def test_a_champion_without_a_score_that_is_not_its_runs_newest_is_named_by_its_version(
    runs: Runs, client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = runs.add("first"), runs.add("second", 0.6)
    assert promote(first, "--force") == 0
    runs.go_on(first, 0.5)
    assert promote(second) == 3
    assert "run `unet evaluate --model models:/cells/1 --data DATASET`" in capsys.readouterr().err


def test_a_version_that_only_notes_its_digest_is_that_model(
    runs: Runs, client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    first = runs.add("first", 0.5)
    client.create_registered_model("cells")
    tags = {"unet.model_sha256": registered.sha256(runs.file)}
    version = client.create_model_version("cells", runs.root.as_uri(), first, tags=tags)
    client.set_registered_model_alias("cells", "champion", version.version)
    assert promote(first) == 0
    assert "is version 1 already" in capsys.readouterr().err
    runs.go_on(first, 0.4)
    assert promote(first) == 3
    assert "0.4 is not better than the 0.5 of version 1" in capsys.readouterr().err


def test_the_name_is_the_one_that_the_model_is_registered_under(
    runs: Runs, client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    first = runs.add("first", 0.5)
    assert promote(first, "--name", "nuclei") == 0
    assert cli.run(["promote", first, "--alias", "steady"]) == 0
    registered_names = [model.name for model in client.search_registered_models()]
    assert registered_names == ["nuclei"]
    assert promote(first, "--name", "other") == 0
    assert promote(first) == 2
    assert "registered as nuclei, other: choose one with --name" in capsys.readouterr().err


def test_a_run_of_an_earlier_version_can_be_promoted(
    client: MlflowClient, project: Path, session_run: Path
) -> None:
    run_id = registered.add_run(client, "old", score=0.5, root=project)
    registered.log_old_model(client, run_id, session_run / "best.safetensors")
    assert promote(run_id) == 0
    assert champion(client).tags["unet.model_sha256"] == registered.sha256(
        session_run / "best.safetensors"
    )
    assert fetch_model("models:/cells@champion").run is not None


@pytest.mark.parametrize(
    "more",
    [["--alias", "latest"], ["--alias", "v2"], ["--name", "a/b"], ["--name", "it's"]],
)
def test_names_that_mlflow_refuses_are_refused_before_anything_changes(
    runs: Runs, client: MlflowClient, more: list[str]
) -> None:
    assert promote(runs.add("first", 0.5), *more) == 2
    assert client.search_registered_models() == []


def test_a_store_that_fails_in_between_leaves_the_alias_where_it_was(
    runs: Runs, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = runs.add("first", 0.5), runs.add("second", 0.6)
    assert promote(first) == 0

    def fail(*_: object) -> None:
        raise ResourceError("MLflow fails")

    with monkeypatch.context() as patched:
        patched.setattr(registry, "point", fail)
        assert promote(second) == 5
    assert champion(client).run_id == first
    assert promote(second) == 0
    assert champion(client).version in (2, "2"), "the version of the first attempt is used"


def test_a_champion_that_changes_meanwhile_is_compared_with(
    runs: Runs, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = runs.add("a", 0.5), runs.add("b", 0.6), runs.add("c", 0.7)
    assert promote(first) == 0
    register = registry.register

    def overtaken(run: Any, name: str, model: Any) -> str:
        monkeypatch.setattr(registry, "register", register)
        assert promote(third) == 0
        return register(run, name, model)

    monkeypatch.setattr(registry, "register", overtaken)
    assert promote(second) == 3
    assert champion(client).run_id == third


def test_a_run_folder_is_promoted_once_it_is_in_mlflow(
    run_folder: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.move(run_folder, project / "runs" / "digits" / "tiny"))
    uri = f"sqlite:///{project}/mlflow.db"
    assert promote(str(folder)) == 2
    assert f"send it with `unet sync {folder}`" in capsys.readouterr().err
    assert cli.run(["sync", str(folder), "--tracking-uri", uri]) == 0
    assert promote(str(folder)) == 3
    assert f"unet evaluate --model {folder}" in capsys.readouterr().err
    assert cli.run(["evaluate", "--model", str(folder), "--device", "cpu"]) == 0
    assert promote(str(folder)) == 0
    assert champion(registered.client_of(project), "digits").tags["unet.run_key"]


def test_a_store_elsewhere_can_be_promoted_in_without_making_one_here(
    runs: Runs,
    client: MlflowClient,
    project: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_id = runs.add("first", 0.5)
    here = tmp_path_factory.mktemp("here")
    monkeypatch.chdir(here)
    assert promote(run_id, "--tracking-uri", f"sqlite:///{project}/mlflow.db") == 0
    assert champion(client).run_id == run_id
    assert not list(here.iterdir())
