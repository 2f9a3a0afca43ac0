"""Runs that were killed without a word do not stay RUNNING for ever."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.tracking.stores import begin, client_of, environment
from unet_pipeline import tracking
from unet_pipeline.files import LOCK_NAME, folder_lock
from unet_pipeline.tracking import senders, stale, store
from unet_pipeline.tracking.spool import Record, Spool

KILLED_CODE = """
import os, signal, sys, time
from pathlib import Path
from unet_pipeline import tracking
from unet_pipeline.files import folder_lock
folder = Path("runs/cells", sys.argv[1])
folder.mkdir(parents=True)
with folder_lock(folder):
    run = tracking.start(folder, experiment="cells", run_name=folder.name, params={}, tags={})
    while run.run_id is None:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def status_of(project: Path, folder: Path) -> str:
    identity = Spool(folder).load()
    assert identity is not None
    return str(client_of(project).get_run(identity.run_id or "").info.status)


def last_status(folder: Path) -> dict[str, object]:
    return [r for r, _ in Spool(folder).read() if r.get("kind") == "status"][-1]


@pytest.fixture
def killed(project: Path) -> Path:
    """The folder of a run that was killed, which MLflow shows as running."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED_CODE, "killed"], env=environment(), check=False
    )
    assert done.returncode == -signal.SIGKILL
    folder = project / "runs/cells/killed"
    assert (folder / LOCK_NAME).exists()
    assert status_of(project, folder) == "RUNNING"
    return folder


def next_run(project: Path, *, until: Path) -> None:
    """Begin another run, and give its thread the time that a training would."""
    folder = project / "runs/cells/next"
    folder.mkdir()
    with folder_lock(folder):
        run = begin(project, "next")
        deadline = time.monotonic() + 10
        while (until / LOCK_NAME).exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        run.close("FINISHED")


def test_the_next_run_marks_one_that_was_killed(project: Path, killed: Path) -> None:
    heard = max(record["t"] for record, _ in Spool(killed).read())
    next_run(project, until=killed)
    assert status_of(project, killed) == "KILLED"
    assert last_status(killed)["t"] == heard
    assert status_of(project, project / "runs/cells/next") == "FINISHED"


def test_a_run_that_is_killed_is_adopted_by_resume(project: Path, killed: Path) -> None:
    run = tracking.resume(killed)
    assert run.close("FINISHED") == 0
    assert status_of(project, killed) == "FINISHED"
    experiment = client_of(project).get_experiment_by_name("cells")
    assert len(client_of(project).search_runs([experiment.experiment_id])) == 1


def test_an_end_that_was_said_but_not_sent_is_sent_by_the_next_run(
    project: Path, killed: Path
) -> None:
    closing = Spool(killed)  # a second Ctrl-C ended it here
    closing.append("status", status="FAILED")
    closing.close()
    (killed / LOCK_NAME).touch()

    def fail(folder: Path) -> None:
        raise RuntimeError("no store")

    own = project / "runs/cells/own"
    own.mkdir()
    with folder_lock(own):
        assert stale.mark_stale(own, fail) == []
    assert (killed / LOCK_NAME).exists()
    next_run(project, until=killed)
    assert status_of(project, killed) == "FAILED"
    with folder_lock(own):
        (killed / LOCK_NAME).touch()
        assert stale.mark_stale(own, fail) == []  # the store has it: nothing is asked


def test_a_killed_run_of_many_slow_files_delays_neither_beginning_nor_end(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = begin(project, "killed")
    assert killed.close("FINISHED") == 0
    spool = Spool(killed.folder)
    for number in range(60):
        file = killed.folder / f"{number}.txt"
        file.write_text("some")
        spool.append("artifact", path=file.name, folder="files")
    spool.append("status", status="RUNNING", host=os.uname().nodename, pid=1)
    spool.close()
    (killed.folder / LOCK_NAME).touch()
    fast = senders.SENDERS["artifact"]
    sent: list[Path] = []

    def slow(connection: store.Connection, folder: Path, records: Sequence[Record]) -> Counter[str]:
        sent.append(folder)
        time.sleep(0.1)
        return fast(connection, folder, records)

    monkeypatch.setitem(senders.SENDERS, "artifact", slow)
    (project / "runs/cells/next").mkdir()
    with folder_lock(project / "runs/cells/next"):
        begun = time.monotonic()
        run = begin(project, "next", required=True)
        while not sent:
            assert time.monotonic() < begun + 10
            time.sleep(0.01)
        assert time.monotonic() - begun < 3.0
        begun = time.monotonic()
        assert run.close("FINISHED", grace=1.0) == 0
        assert time.monotonic() - begun < 2.0
    assert 0 < len(sent) < 30
    assert status_of(project, killed.folder) == "KILLED"


def of(folder: Path, **status: object) -> Path:
    """A run folder whose journal ends as a killed run's does."""
    folder.mkdir(parents=True)
    (folder / LOCK_NAME).write_text("process 1")
    record = {"t": 5, "kind": "status", "status": "RUNNING", "host": os.uname().nodename, "pid": 1}
    (folder / "tracking.jsonl").write_text(json.dumps(record | status) + "\n")
    return folder


def test_only_a_dead_run_of_this_machine_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, dead = of(tmp_path / "own"), of(tmp_path / "dead")
    far = of(tmp_path / "far", host="another")
    ended = of(tmp_path / "ended", status="FINISHED")
    held = of(tmp_path / "held")
    sent: list[Path] = []
    with folder_lock(own), folder_lock(held):
        assert stale.mark_stale(own, sent.append) == [dead] == sent
        assert last_status(held)["status"] == "RUNNING"
    assert last_status(dead)["status"] == "KILLED"
    assert last_status(ended)["status"] == "FINISHED"
    assert last_status(far)["status"] == "RUNNING"
    assert (far / LOCK_NAME).read_text() == "process 1"
    # Where locks do not work, a process that lives is left alone
    monkeypatch.setattr(stale, "_locks_work", lambda own: False)
    living = of(tmp_path / "living", pid=os.getpid())
    assert stale.mark_stale(own, sent.append) == []
    assert last_status(living)["status"] == "RUNNING"


def test_a_thousand_run_folders_cost_the_next_run_nothing(tmp_path: Path) -> None:
    for number in range(1000):
        (of(tmp_path / f"run-{number:04}", status="FINISHED") / LOCK_NAME).unlink()
    own = of(tmp_path / "own")
    begun = time.perf_counter()
    assert stale.mark_stale(own, lambda folder: None) == []
    seconds = time.perf_counter() - begun
    assert seconds < 0.5, seconds
