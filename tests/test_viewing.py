"""`unet ui`: a real server over a real store, ended with all of its processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from unet_pipeline import cli, tracking

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _no_settings_of_the_tester(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)


def test_without_a_store_no_server_and_no_empty_database_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["ui"]) == 2
    assert "no runs here" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mlflow.db").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.run(["ui", "--port", str(port)]) == 2
    assert f"port {port} is taken" in capsys.readouterr().err


def test_what_is_no_database_ends_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mlflow.db").write_text("no database at all, and longer than a header of one is" * 9)
    assert cli.run(["ui"]) == 5
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "mlflow.db fails: " in line
    assert "not a database" in line


def test_a_server_shows_its_own_pages(capsys: pytest.CaptureFixture[str]) -> None:
    with tracking.served("https://me:secret@example.org/mlflow/") as pages:
        pages.wait()
    assert (pages.address, pages.process) == ("https://example.org/mlflow", None)


def test_the_pages_of_a_store_answer_until_ctrl_c_and_nothing_stays_behind(tmp_path: Path) -> None:
    run = tracking.start(
        tmp_path / "runs" / "r", experiment="cells", run_name="r", params={}, tags={}
    )
    assert run.close("FINISHED") == 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "unet_pipeline", "ui", "--port", str(port)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        link = process.stdout.readline()  # not before the pages answer
        board = f"http://127.0.0.1:{port}/#/experiments/1/runs?workflowType=machine_learning"
        assert link.startswith(f"cells: {board}&viewStateShareKey=unet")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, err
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return
        time.sleep(0.1)
    raise AssertionError("the server outlives its command")
