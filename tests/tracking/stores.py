"""Stores for the tests of tracking: real ones, and one that stands in the way and misbehaves."""

from __future__ import annotations

import contextlib
import http.server
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unet_pipeline import tracking
from unet_pipeline.tracking import store

store.load_mlflow()

from mlflow import MlflowClient  # noqa: E402, its import is quiet only as the package does it

LIGHT_SERVER = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


class Server:
    """A real MLflow server in `folder`, in a process group of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "ui", "--port", str(self.port)]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--workers", "1"],
                cwd=self.folder,
                env=environment() | LIGHT_SERVER,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + 120
        while time.monotonic() < end:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health"):
                return
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            time.sleep(0.1)
        raise AssertionError((self.folder / "server.log").read_text())

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def environment() -> dict[str, str]:
    """What a new process sees: this package, and no settings of the tester's own."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    return env | {"PYTHONPATH": str(Path(tracking.__file__).parents[2])}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def begin(project: Path, name: str = "unet-1", **options: Any) -> tracking.Run:
    arguments: dict[str, Any] = {"experiment": "cells", "params": {"lr": 1e-3}, "tags": {}}
    return tracking.start(project / "runs" / "cells" / name, run_name=name, **(arguments | options))


def client_of(project: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{project}/mlflow.db")


def picture(value: int = 0, size: tuple[int, int] = (24, 40)) -> np.ndarray:
    return np.full((*size, 3), value, dtype=np.uint8)


def points(client: MlflowClient, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, key)]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


class Bad:
    """A server that stands before a good one and passes requests on, or does not.

    mode: `well`; `slow`, where each answer takes `seconds`; `silent`, where none comes, to
    `deaf`, where only /health is answered; `error`, where all are 503, and `sick`, where all but
    /health are 500.
    """

    def __init__(self, uri: str) -> None:
        self.behind = uri
        self.mode = "well"
        self.seconds = 0.0
        self.asked = 0
        self._let_go = threading.Event()
        bad = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                bad.asked += 1
                health = self.path == "/health"
                if bad.mode == "silent" or (bad.mode == "deaf" and not health):
                    bad._let_go.wait(60)
                    self.close_connection = True
                    return
                if bad.mode == "error" or (bad.mode == "sick" and not health):
                    self.reply(503 if bad.mode == "error" else 500, b"{}", {})
                    return
                if bad.mode == "slow":
                    time.sleep(bad.seconds)
                self.reply(*bad.pass_on(self.command, self.path, body, dict(self.headers)))

            def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                with contextlib.suppress(OSError):  # the one who asked has left
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def pass_on(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, bytes, dict[str, str]]:
        """What the good server answers."""
        kept = {k: v for k, v in headers.items() if k.lower() not in ("host", "connection")}
        request = urllib.request.Request(
            self.behind + path, data=body or None, headers=kept, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                content, status, found = answer.read(), answer.status, answer.headers
        except urllib.error.HTTPError as error:
            content, status, found = error.read(), error.code, error.headers
        return status, content, {"Content-Type": found.get("Content-Type") or "text/plain"}

    def recover(self) -> None:
        """Be well, also for those who wait."""
        self.mode = "well"
        self._let_go.set()
        self._let_go = threading.Event()

    def close(self) -> None:
        self.recover()
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def bad_server(uri: str) -> Iterator[Bad]:
    server = Bad(uri)
    try:
        yield server
    finally:
        server.close()


def tell(run: tracking.Run, start: int, end: int) -> float:
    """Say all that a run can say, some epochs of it; the seconds that the longest word took."""
    longest = 0.0
    for epoch in range(start, end):
        words: list[Callable[[], None]] = [
            lambda n=epoch: run.log_epoch({"loss": n / 7, "val/iou": n / 9}, epoch=n),
            lambda n=epoch: run.log_image("progress/00", picture(n), step=n),
            lambda n=epoch: run.set_tags({f"tag{n % 3}": n}),
            lambda n=epoch: run.log_dataset("cells", "train", f"d{n % 2}", {"n": 3}),
        ]
        if epoch % 2:
            (run.folder / f"file{epoch}.txt").write_text(str(epoch))
            words.append(lambda n=epoch: run.log_artifact(run.folder / f"file{n}.txt", "files"))
        for word in words:
            begun = time.monotonic()
            word()
            longest = max(longest, time.monotonic() - begun)
    return longest


def content_of(client: MlflowClient, run_id: str) -> dict[str, Any]:
    """All that a store holds of a run, without what differs from run to run."""
    run = client.get_run(run_id)
    files: list[str] = []
    folders = [""]
    while folders:
        for file in client.list_artifacts(run_id, folders.pop()):
            if file.is_dir:
                folders.append(file.path)
            else:
                files.append(re.sub(r"timestamp\+\d+", "timestamp", file.path))
    own = ("mlflow.", "unet.")
    return {
        "status": run.info.status,
        "params": run.data.params,
        "tags": {k: v for k, v in run.data.tags.items() if not k.startswith(own)},
        "points": {key: sorted(points(client, run_id, key)) for key in run.data.metrics},
        "datasets": sorted(i.dataset.digest for i in run.inputs.dataset_inputs),
        "files": sorted(files),
    }
