"""Whatever the store does, a run goes on without waiting, and is whole in the end."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tracking.stores import (
    Bad,
    MlflowClient,
    Server,
    bad_server,
    begin,
    client_of,
    content_of,
    free_port,
    picture,
    points,
    tell,
    warnings_of,
)
from unet_pipeline import tracking
from unet_pipeline.errors import TrackingError
from unet_pipeline.tracking import courier
from unet_pipeline.tracking.courier import PATIENCE_SECONDS
from unet_pipeline.tracking.spool import Spool

STALL = PATIENCE_SECONDS + 1.4  # 4.9 s: no fault may cost more than 5


@pytest.fixture
def bad(server: Server) -> Iterator[Bad]:
    with bad_server(server.uri) as bad:
        yield bad


@pytest.fixture(scope="module")
def whole(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run without a fault leaves."""
    run = begin(tmp_path_factory.mktemp("whole"), "whole", uri=server.uri)
    tell(run, 0, 6)
    assert run.close("FINISHED") == 0
    return content_of(MlflowClient(server.uri), run.run_id or "")


def seconds_of(act: Callable[[], Any]) -> float:
    begun = time.monotonic()
    act()
    return time.monotonic() - begun


def sent_later(run: tracking.Run, uri: str) -> dict[str, Any]:
    """What the store holds once `sync` has been told twice, and everything has been sent twice."""
    tracking.sync(run.folder)
    (run.folder / "tracking.sent").unlink()
    tracking.sync(run.folder)
    assert tracking.sync(run.folder) == {}
    identity = Spool(run.folder).load()
    assert identity is not None
    return content_of(MlflowClient(uri), identity.run_id or "")


@pytest.mark.parametrize("fault", ["silent", "error"])
def test_a_fault_from_the_beginning_stalls_nothing_and_loses_nothing(
    fault: str, project: Path, bad: Bad, whole: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bad.mode = fault
    begun = time.monotonic()
    run = begin(project, fault, uri=bad.uri)
    stalls = {"start": time.monotonic() - begun}
    stalls["longest word"] = tell(run, 0, 6)
    stalls["close"] = seconds_of(lambda: run.close("FINISHED"))
    assert max(stalls.values()) < STALL, stalls
    assert f"unet sync {run.folder}" in warnings_of(caplog)[-1]
    assert len(warnings_of(caplog)) <= 2
    bad.recover()
    assert sent_later(run, bad.behind) == whole


@pytest.mark.parametrize("fault", ["deaf", "sick"])
def test_a_fault_in_the_middle_stalls_nothing_and_loses_nothing(
    fault: str, project: Path, bad: Bad, whole: Any
) -> None:
    run = begin(project, f"middle-{fault}", uri=bad.uri)
    stalls = {"first words": tell(run, 0, 2)}
    bad.mode = fault
    stalls["longest word"] = tell(run, 2, 6)
    stalls["close"] = seconds_of(lambda: run.close("FINISHED"))
    assert max(stalls.values()) < STALL, stalls
    bad.recover()
    assert sent_later(run, bad.behind) == whole


def test_a_slow_server_is_waited_for(project: Path, bad: Bad) -> None:
    bad.mode, bad.seconds = "slow", 0.3
    run = begin(project, "slow", uri=bad.uri)
    tell(run, 0, 2)
    pending = -1

    def close() -> None:
        nonlocal pending
        pending = run.close("FINISHED", grace=1.0)  # a picture alone takes five answers

    seconds = seconds_of(close)
    assert pending == 0, seconds
    assert seconds > 1.0
    assert content_of(MlflowClient(bad.behind), run.run_id or "")["status"] == "FINISHED"


def test_an_evaluation_waits_once_for_a_server_that_is_silent(project: Path, bad: Bad) -> None:
    run = begin(project, "evaluated", uri=bad.uri)
    assert run.close("FINISHED") == 0
    bad.mode = "silent"

    def evaluate() -> None:
        added = tracking.attach(run.folder)
        added.log_metrics({"test/mean_iou": 0.5}, step=0)
        assert added.close("FINISHED") > 0

    seconds = seconds_of(evaluate)
    assert seconds < STALL, seconds
    bad.mode = "well"
    assert tracking.sync(run.folder)["metrics"] == 1


@pytest.mark.parametrize(("mode", "arrives"), [("slow", True), ("deaf", True), ("silent", False)])
def test_a_long_upload_has_its_time_as_long_as_the_server_is_well(
    mode: str, arrives: bool, project: Path, bad: Bad
) -> None:
    """deaf: it answers /health, and lets go of the upload after a while."""
    run = begin(project, f"upload-{mode}", uri=bad.uri)
    with (run.folder / "model.bin").open("wb") as file:
        file.truncate(12_000_000)
    pass_on = bad.pass_on

    def hold(method: str, path: str, *rest: Any) -> Any:
        if method == "PUT":
            bad.mode = mode
            bad.seconds = 0.1
            time.sleep(0 if mode == "slow" else 5.5 if arrives else 12)
            bad.mode = "well"
        return pass_on(method, path, *rest)

    bad.pass_on = hold  # type: ignore[method-assign]
    run.log_artifact(run.folder / "model.bin")
    pending = 0

    def close() -> None:
        nonlocal pending
        pending = run.close("FINISHED")

    seconds = seconds_of(close)
    assert (pending == 0) == arrives, seconds
    assert arrives or seconds < STALL, seconds


def test_a_server_that_comes_back_gets_what_it_has_missed_by_itself(
    project: Path, bad: Bad, whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unet_pipeline.tracking.courier._BACK_OFF_SECONDS", (0.2, 0.4))
    bad.mode = "error"
    run = begin(project, "back", uri=bad.uri)
    tell(run, 0, 3)
    bad.mode = "well"
    deadline = time.monotonic() + 20
    while run.run_id is None or not points(MlflowClient(bad.behind), run.run_id, "loss"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    tell(run, 3, 6)
    assert run.close("FINISHED") == 0
    assert content_of(MlflowClient(bad.behind), run.run_id) == whole


# A database


@contextlib.contextmanager
def locked(project: Path) -> Iterator[None]:
    """The database held by somebody else, longer than anyone waits."""
    with contextlib.closing(sqlite3.connect(project / "mlflow.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.rollback()


@pytest.mark.parametrize("moment", ["beginning", "middle"])
def test_a_locked_database_stalls_nothing_and_loses_nothing(
    moment: str, project: Path, whole: Any
) -> None:
    stalls = {}
    with contextlib.ExitStack() as held:
        if moment == "beginning":
            held.enter_context(locked(project))
        begun = time.monotonic()
        run = begin(project, "whole")
        stalls["start"] = time.monotonic() - begun
        stalls["longest word"] = tell(run, 0, 3)
        if moment == "middle":
            held.enter_context(locked(project))
        stalls["longest word later"] = tell(run, 3, 6)
        stalls["close"] = seconds_of(lambda: run.close("FINISHED"))
    assert max(stalls.values()) < STALL, stalls
    assert sent_later(run, f"sqlite:///{project}/mlflow.db") == whole


def test_the_making_of_a_database_is_waited_for(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes seconds, which is longer than a store may be silent here."""
    (project / "mlflow.db").unlink()
    monkeypatch.setattr("unet_pipeline.tracking.courier.PATIENCE_SECONDS", 0.1)
    run = begin(project)
    assert run.run_id is None
    assert run.close("FINISHED", grace=2.0) == 0
    assert client_of(project).get_run(run.run_id or "").info.status == "FINISHED"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own of 3 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a disk cannot be mounted here, which takes the rights of root")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path) -> Path:
    filler = place / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        for size in (65536, 512, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass
    assert os.statvfs(place).f_bavail == 0
    return filler


def test_a_full_disk_of_the_store_stalls_nothing_and_loses_nothing(
    project: Path, small_disk: Path, whole: Any, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.move(project / "mlflow.db", small_disk)
    uri = f"sqlite:///{small_disk}/mlflow.db"
    run = begin(project, "whole", uri=uri)
    tell(run, 0, 2)
    filler = fill(small_disk)
    stalls = {"longest word": tell(run, 2, 6)}
    stalls["close"] = seconds_of(lambda: run.close("FINISHED"))
    assert max(stalls.values()) < STALL, stalls
    assert any("the disk of its database is full" in text for text in warnings_of(caplog))
    filler.unlink()
    assert sent_later(run, uri) == whole


def test_a_full_disk_of_the_run_folder_is_one_warning(
    project: Path, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tracking.start(
        small_disk / "run", experiment="cells", run_name="full", params={}, tags={}
    )
    filler = fill(small_disk)
    run.log_epoch({"loss": 1}, epoch=1)
    run.log_image("a", picture(), step=0)
    filler.unlink()
    run.log_epoch({"loss": 2}, epoch=2)
    assert run.close("FINISHED") == 0
    assert len([text for text in warnings_of(caplog) if "cannot keep" in text]) == 1
    assert (2, 2.0) in points(client_of(project), run.run_id or "", "loss")


def test_an_experiment_that_is_deleted_meanwhile_is_restored(project: Path, whole: Any) -> None:
    run = begin(project, "whole")
    tell(run, 0, 3)
    client = client_of(project)
    client.delete_experiment(client.get_experiment_by_name("cells").experiment_id)
    tell(run, 3, 6)
    run.close("FINISHED")
    assert sent_later(run, f"sqlite:///{project}/mlflow.db") == whole
    assert client.get_experiment_by_name("cells").lifecycle_stage == "active"


# Required


@pytest.mark.parametrize("fault", ["refused", "silent", "deaf", "sick"])
def test_a_run_that_is_required_to_be_in_mlflow_does_not_begin_without_it(
    fault: str, project: Path, bad: Bad
) -> None:
    bad.mode = fault
    uri = f"http://127.0.0.1:{free_port()}" if fault == "refused" else bad.uri
    begun = time.monotonic()
    with pytest.raises(TrackingError, match="--tracking on"):
        begin(project, uri=uri, required=True)
    seconds = time.monotonic() - begun
    assert seconds < STALL, seconds
    assert not (project / "runs").exists()


def test_a_slow_store_is_no_reason_not_to_begin(project: Path, bad: Bad) -> None:
    bad.mode, bad.seconds = "slow", 0.5
    run = begin(project, "required-slow", uri=bad.uri, required=True)
    assert run.run_id is not None
    bad.mode = "well"
    assert run.close("FINISHED") == 0
    run.raise_for_failure()


@pytest.mark.parametrize("fault", ["error", "deaf"])
def test_a_required_store_that_fails_in_the_middle_is_told_at_no_cost(
    fault: str, project: Path, bad: Bad, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unet_pipeline.tracking.courier._LOST_SECONDS", 2.0)
    monkeypatch.setattr("unet_pipeline.tracking.courier._EVERY_SECONDS", 0.1)
    monkeypatch.setattr("unet_pipeline.tracking.courier._SHARE", 1.0)
    run = begin(project, f"required-{fault}", uri=bad.uri, required=True)
    assert run.failure is None
    bad.mode = fault
    run.log_epoch({"loss": 1}, epoch=1)
    deadline = time.monotonic() + 10
    while run.failure is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    begun = time.perf_counter()
    for _ in range(10_000):
        assert run.failure
    assert (time.perf_counter() - begun) / 10_000 < 1e-4
    bad.mode = "well"  # which comes too late: whoever has asked knows of it
    with pytest.raises(TrackingError, match="sync"):
        run.raise_for_failure()
    run.close("FAILED")


@pytest.mark.parametrize(
    ("seconds", "pause"), [(0.0, 2.0), (0.01, 2.0), (0.05, 5.0), (0.2, 20.0), (9.0, 30.0)]
)
def test_sending_takes_a_hundredth_of_a_processor_at_most(seconds: float, pause: float) -> None:
    assert courier._pause_after(seconds) == pytest.approx(pause)
