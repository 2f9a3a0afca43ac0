"""The model of a run in MLflow: logged, registered, loaded elsewhere, served over HTTP."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from unet_pipeline import cli, tracking
from unet_pipeline.datasets.encoders import encode_png
from unet_pipeline.errors import UserError
from unet_pipeline.tracking import model_sender, store
from unet_pipeline.tracking.lookup import SHA256
from unet_pipeline.tracking.model_folder import FOLDER, requirements, write_model_folder
from unet_pipeline.tracking.model_sender import file_digest
from unet_pipeline.tracking.spool import MARKS

store.load_mlflow()

import mlflow.pyfunc  # noqa: E402, its import is quiet only as the package does it
from mlflow import MlflowClient  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402

TINY = ["--set", "model.base_channels=8", "--set", "model.depth=2", "--set", "model.norm=group",
        "--image-size", "32", "--batch-size", "4", "--max-steps", "2",
        "--set", "training.val_every=1"]  # fmt: skip
NAME = "cells"


@dataclass(frozen=True)
class Project:
    """A directory with one training in it, whose model was registered as `NAME`."""

    root: Path

    @property
    def run(self) -> Path:
        return self.root / "runs" / "digits" / "first"

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    @property
    def run_id(self) -> str:
        return str(json.loads((self.run / "run.json").read_text())["run_id"])

    @property
    def images(self) -> list[Path]:
        return sorted((self.root / "images").iterdir())

    def command(self, *arguments: str) -> None:
        """Run `unet` there."""
        with pytest.MonkeyPatch.context() as patched:
            patched.chdir(self.root)
            assert cli.run([*arguments, "--device", "cpu"]) == 0


def environment(**more: str) -> dict[str, str]:
    """What a new process sees: this package, and no settings of the tester's own."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    # One thread, as in the tests: with two, rounding makes other masks of a hardly trained model
    env["OMP_NUM_THREADS"] = "1"
    telemetry = {"MLFLOW_DISABLE_TELEMETRY": "true", "UNET_CACHE_DIR": os.environ["UNET_CACHE_DIR"]}
    return env | {"PYTHONPATH": str(Path(tracking.__file__).parents[2])} | telemetry | more


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("project")
    made = Project(root)
    scenes = root / "data"
    assert cli.run(["prepare", "--output", str(scenes), "--num-scenes", "12"]) == 0
    rng = np.random.default_rng(0)
    (root / "images").mkdir()
    shutil.copy(next((scenes / "val" / "images").iterdir()), root / "images" / "0 scene.png")
    (root / "images" / "1 grey.png").write_bytes(encode_png(rng.integers(0, 255, (40, 60), "u1")))
    exif = PIL.Image.Exif()
    exif[0x0112] = 8
    picture = PIL.Image.fromarray(rng.integers(0, 255, (30, 50, 3), "u1"))
    picture.save(root / "images" / "2 on its side.jpg", exif=exif)
    with pytest.MonkeyPatch.context() as patched:
        for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
            if name not in store._ENVIRONMENT:
                patched.delenv(name)
        made.command("train", "--data", "data", "--run-name", "first", "--register", NAME, *TINY)
        made.command("predict", "images", "--model", "runs/digits/first", "--output", "masks")
    return made


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run in a folder that is not the project's: what MLflow finds by default is not ours."""
    monkeypatch.chdir(tmp_path)


def test_the_masks_below_tell_models_apart(project: Project) -> None:
    masks = [np.asarray(PIL.Image.open(path)) for path in (project.root / "masks").glob("*.png")]
    assert len(masks) == len(project.images) == 3
    assert len({mask.tobytes() for mask in masks}) == 3
    assert max(len(np.unique(mask)) for mask in masks) > 1


def mask_of(project: Project, image: Path) -> bytes:
    """What `unet predict` has written for the image."""
    return (project.root / "masks" / image.name).with_suffix(".png").read_bytes()


# ---- what MLflow holds


def test_a_training_ends_with_the_version_that_it_has_registered(project: Project) -> None:
    assert f"model: models:/{NAME}/1\n" in (project.run / "log.txt").read_text()
    version = project.client.get_model_version(NAME, "1")
    assert (version.run_id, version.status) == (project.run_id, "READY")
    assert version.tags[SHA256] == file_digest(project.run / "best.safetensors")
    (output,) = project.client.get_run(project.run_id).outputs.model_outputs
    assert version.source == f"models:/{output.model_id}", "its page links the model's by this"
    identity = json.loads((project.run / "run.json").read_text())
    assert version.tags["unet.run_key"] == identity["key"]
    run = project.client.get_run(project.run_id)
    assert version.tags["unet.fingerprint"] == run.data.tags["unet.fingerprint"]
    best = run.data.metrics["best/mean_iou"]
    assert version.description == f"unet on digits, validation mean IoU {best:.4f}; run first."


def test_a_run_has_one_model_ready_linked_and_scored_on_its_data(project: Project) -> None:
    run = project.client.get_run(project.run_id)
    (output,) = run.outputs.model_outputs
    model = project.client.get_logged_model(output.model_id)
    assert (model.name, str(model.status)) == ("model", "READY")
    assert model.source_run_id == project.run_id
    assert model.params["model.base_channels"] == run.data.params["model.base_channels"] == "8"
    data = {d.dataset.name: d.dataset for d in run.inputs.dataset_inputs}["digits-val"]
    best = {key: value for key, value in run.data.metrics.items() if key.startswith("best/")}
    assert {"best/mean_iou", "best/mean_dice", "best/epoch"} <= set(best)
    assert {metric.key: metric.value for metric in model.metrics} == best
    assert {(m.dataset_name, m.dataset_digest) for m in model.metrics} == {(data.name, data.digest)}
    for key in best:  # said once, not once for the run and once for the model
        assert len(project.client.get_metric_history(project.run_id, key)) == 1
    found = project.client.search_logged_models(
        [model.experiment_id],
        filter_string="metrics.`best/mean_iou` >= 0",
        datasets=[{"dataset_name": "digits-val"}],
    )
    assert [other.model_id for other in found] == [model.model_id]


def test_the_weights_are_uploaded_once_and_those_of_the_end_beside_them(project: Project) -> None:
    uploaded = sorted(
        path.relative_to(project.root / "mlruns").parts[-2:]
        for path in (project.root / "mlruns").rglob("*.safetensors")
    )
    assert uploaded == [("artifacts", "best.safetensors"), ("weights", "last.safetensors")]


def test_the_folder_of_a_model_holds_no_pickle_no_place_and_costs_no_space(
    project: Project,
) -> None:
    folder = project.run / FOLDER
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"MLmodel", "model_code.py", "artifacts/best.safetensors", "requirements.txt"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pth", ".pickle"))]
    link = folder / "artifacts" / "best.safetensors"
    assert link.samefile(project.run / "best.safetensors")
    assert sum(path.stat().st_size for path in folder.rglob("*") if path != link) < 30_000
    text = (folder / "MLmodel").read_text()
    assert str(project.root) not in text
    assert str(Path(tracking.__file__).parent) not in text
    reqs = (folder / "requirements.txt").read_text().split("\n")
    assert f"mlflow=={mlflow.__version__}" in reqs
    assert all("+" not in line for line in reqs)


def test_models_of_segmentation_models_pytorch_need_that_package() -> None:
    assert not any(line.startswith("segmentation-models") for line in requirements("unet"))
    assert any(line.startswith("segmentation-models") for line in requirements("smp:FPN/resnet18"))


# ---- sent again


def everything(project: Project) -> list[Any]:
    """All that may not be there twice."""
    client = project.client
    run = client.get_run(project.run_id)
    models = client.search_logged_models([run.info.experiment_id])
    return [
        [(m.model_id, str(m.status), len(m.metrics)) for m in models],
        [output.model_id for output in run.outputs.model_outputs],
        [(v.name, v.version) for v in client.search_model_versions()],
        [len(client.get_metric_history(project.run_id, key)) for key in run.data.metrics],
    ]


def test_a_model_that_is_sent_again_is_there_once(project: Project) -> None:
    before = everything(project)
    (project.run / MARKS).unlink()
    counts = tracking.sync(project.run)
    assert (counts["models"], counts["registered"], counts["missing"]) == (1, 0, 0)
    assert everything(project) == before
    assert tracking.sync(project.run) == {}


def test_a_model_that_was_half_uploaded_is_completed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store dies after the first file of another copy of the run; later it is well."""
    copy = shutil.copytree(project.run, project.root / "runs" / "digits" / "copy")
    identity = json.loads((copy / "run.json").read_text())
    fresh = {"key": "another", "run_id": None, "run_name": "copy"}
    (copy / "run.json").write_text(json.dumps(identity | fresh))
    journal = (copy / "tracking.jsonl").read_text().replace(identity["key"], "another")
    (copy / "tracking.jsonl").write_text(journal.replace(f'"register": "{NAME}"', '"register": ""'))
    (copy / MARKS).unlink()

    def die(*_: Any, **__: Any) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "finalize_logged_model", die)
        with pytest.raises(UserError, match="the disk is full"):
            tracking.sync(copy)
    run_id = json.loads((copy / "run.json").read_text())["run_id"]
    (half,) = models_of(project, run_id)
    assert str(half.status) == "PENDING"
    assert tracking.sync(copy)["models"] == 1
    (whole,) = models_of(project, run_id)
    assert (whole.model_id, str(whole.status)) == (half.model_id, "READY")
    assert len(project.client.get_run(run_id).outputs.model_outputs) == 1
    loaded = mlflow.pyfunc.load_model(whole.artifact_location)
    assert loaded.metadata.model_id == whole.model_id
    assert loaded.metadata.run_id == run_id


def models_of(project: Project, run_id: str) -> list[Any]:
    run = project.client.get_run(run_id)
    models = project.client.search_logged_models([run.info.experiment_id])
    return [model for model in models if model.source_run_id == run_id]


def test_weights_that_were_replaced_meanwhile_are_left_out(
    project: Project, tmp_path: Path
) -> None:
    record = {"path": "best.safetensors", "sha256": "of what was there before"}
    (tmp_path / "best.safetensors").write_bytes(b"better")
    connection = store.Connection(project.client, "0", project.run_id)
    counts = model_sender.send_models(connection, tmp_path, [record, record | {"path": "gone"}])
    assert counts == {"missing": 2}


def test_another_model_takes_the_place_of_the_folder(tmp_path: Path) -> None:
    weights = tmp_path / "best.safetensors"
    for content in (b"one", b"two", b"two"):
        (tmp_path / "new").write_bytes(content)
        (tmp_path / "new").replace(weights)
        folder = write_model_folder(
            tmp_path, weights, sha256=str(file_digest(weights)), example=b"x", network="unet"
        )
        assert (folder / "artifacts" / "best.safetensors").read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.safetensors", FOLDER]


def test_a_run_kept_out_of_mlflow_registers_when_it_is_synced(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = ["--run-name", "later", "--tracking", "off", "--register", "second"]
    project.command("train", "--data", "data", *arguments, *TINY)
    folder = project.run.with_name("later")
    assert "models:/" not in (folder / "log.txt").read_text()
    assert not (folder / FOLDER).exists(), "no time is spent where nothing is sent"
    with caplog.at_level("INFO", "unet_pipeline"):
        assert tracking.sync(folder)["registered"] == 1
    assert "model: models:/second/1" in caplog.messages
    version = project.client.get_model_version("second", "1")
    (model,) = models_of(project, version.run_id)
    assert (version.status, version.source) == ("READY", model.artifact_location)
    assert not Path("mlflow.db").exists(), "MLflow would look the model up where we are"


# ---- refused before any work


@pytest.mark.parametrize("name", ["a/b", "a:1", "a@b", " ", "it's"])
def test_a_name_that_no_registered_model_can_have_is_refused(
    name: str, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(project.root / "data")
    assert cli.run(["train", "--data", data, "--plan", "--register", name]) == 2
    assert "--register" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--baselines"], ["--fold", "all"]])
def test_register_takes_one_training(
    option: list[str], project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(project.root / "data")
    assert cli.run(["train", "--data", data, "--register", "x", *option]) == 2
    assert "--register takes one training" in capsys.readouterr().err


# ---- loaded elsewhere

ELSEWHERE = """
import base64, faulthandler, json, sys
faulthandler.dump_traceback_later(240, exit=True)  # what hangs says where
from pathlib import Path
import numpy as np, pandas, PIL.Image, io
import mlflow.pyfunc
assert not Path("runs").exists()
for uri in sys.argv[2:]:
    model = mlflow.pyfunc.load_model(uri, model_config={"device": "cpu"})
    for path in sorted(Path(sys.argv[1], "images").iterdir()):
        mask = Path(sys.argv[1], "masks", path.stem + ".png").read_bytes()
        encoded = base64.b64encode(path.read_bytes()).decode()
        assert base64.b64decode(model.predict(encoded)) == mask
        assert base64.b64decode(model.predict([encoded])[0]) == mask
        for form in (str(path), path, path.read_bytes()):
            assert model.predict(form, params={"output": "mask"}) == mask
            assert model.predict(form).dtype == np.uint8
        (answer,) = model.predict(pandas.DataFrame({"image": [encoded]}))
        assert base64.b64decode(answer) == mask
        values = np.asarray(PIL.Image.open(io.BytesIO(mask)))
        assert np.array_equal(model.predict(str(path), params={"output": "values"}), values)
        if path.suffix == ".png":
            pixels = np.asarray(PIL.Image.open(path))
            assert np.array_equal(model.predict(pixels, params={"output": "values"}), values)
            assert model.predict(np.stack([pixels, pixels])).shape == (2, *pixels.shape[:2])
    print(model.metadata.signature.inputs, model.input_example)
"""


def test_pyfunc_loads_the_model_in_a_folder_of_its_own_without_pickle(
    project: Project, tmp_path: Path
) -> None:
    uris = [f"runs:/{project.run_id}/model", f"models:/{NAME}/1", str(project.run / FOLDER)]
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(project.root), *uris],
        cwd=tmp_path,
        env=environment(
            MLFLOW_TRACKING_URI=project.uri, MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false"
        ),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert "WARN" not in done.stderr
    assert done.stdout.count("[Any (required)] ['iVBOR") == 3


@pytest.fixture(scope="module")
def model(project: Project) -> mlflow.pyfunc.PyFuncModel:
    return mlflow.pyfunc.load_model(str(project.run / FOLDER))


def test_bad_input_is_an_error_that_names_the_image_and_stays_short(
    model: mlflow.pyfunc.PyFuncModel,
) -> None:
    good = np.zeros((9, 9), np.uint8)
    with pytest.raises(MlflowException, match=r"^image 1: holds float64 pixels") as raised:
        model.predict([good, good.astype(float)])
    assert raised.value.get_http_status_code() == 400
    raised.value.message = "Failed to predict data [all of it]"
    assert "image 1" in raised.value.serialize_as_json()
    with pytest.raises(MlflowException, match="unknown output 'colour'"):
        model.predict(good, params={"output": "colour"})
    with pytest.raises(MlflowException, match="two classes"):
        model.predict(good, params={"threshold": 0.5})


def test_files_are_opened_by_name_only_where_the_owner_of_the_process_asks(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(project.images[0])

    def load(paths: str) -> mlflow.pyfunc.PyFuncModel:
        folder = str(project.run / FOLDER)
        return mlflow.pyfunc.load_model(folder, model_config={"paths": paths})

    with pytest.raises(MlflowException, match="not opened here"):
        load("never").predict(path)
    with pytest.raises(MlflowException, match="use auto, always or never"):
        load("sometimes")
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
    with pytest.raises(MlflowException, match="not opened here"):
        load("auto").predict([path])
    assert isinstance(load("always").predict([path], params={"output": "mask"})[0], str)


# ---- served


@pytest.fixture(scope="module")
def address(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `mlflow models serve` for the champion."""
    project.client.set_registered_model_alias(NAME, "champion", "1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    folder = tmp_path_factory.mktemp("elsewhere")
    command = ["models", "serve", "-m", f"models:/{NAME}@champion", "--env-manager", "local"]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command, "--host", "127.0.0.1", "-p", port],
            cwd=folder,
            # it starts uvicorn by name
            env=environment(MLFLOW_TRACKING_URI=project.uri)
            | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping"),
            ):
                break
            assert process.poll() is None, (folder / "server.log").read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def post(address: str, body: Any) -> tuple[int, Any]:
    """Status and JSON of the answer."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_the_scoring_server_answers_base64_with_the_mask_that_predict_writes(
    project: Project, address: str
) -> None:
    encoded = [base64.b64encode(image.read_bytes()).decode() for image in project.images]
    masks = [base64.b64encode(mask_of(project, image)).decode() for image in project.images]
    assert post(address, {"inputs": encoded}) == (200, {"predictions": masks})
    assert post(address, {"inputs": encoded[0]}) == (200, {"predictions": masks[0]})
    status, answer = post(address, {"inputs": encoded[1:2], "params": {"output": "indices"}})
    assert status == 200
    assert np.array(answer["predictions"]).shape == (1, 40, 60)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"inputs": ["/etc/passwd"]}, "image 0: '/etc/passwd' is not base64"),
        ({"inputs": [base64.b64encode(b"no image" * 9).decode()]}, "image 0: is none of"),
        ({"inputs": ["iVBOR" * 100_000]}, "image 0: "),
        ({"inputs": [[[0, 300]]]}, "not of the type uint8"),
        ({"inputs": None}, "the image: is of type NoneType"),
        ({"inputs": [], "params": {"output": "jpeg"}}, "unknown output 'jpeg'"),
        ({"inputs": [], "params": {"output": 3}}, "output"),
        ({"pictures": []}, "'inputs' key"),
    ],
)
def test_the_scoring_server_refuses_bad_input_with_400(
    body: Any, expected: str, address: str
) -> None:
    status, answer = post(address, body)
    assert status == 400
    assert expected in answer["message"]
    assert len(json.dumps(answer)) < 1000
