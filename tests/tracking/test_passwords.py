"""A server that asks for user and password, in front of a real one."""

from __future__ import annotations

import base64
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.tracking.stores import MlflowClient, Server, begin, warnings_of

SECRET = "Basic " + base64.b64encode(b"ann:s3cret").decode()


@pytest.fixture
def guarded(server: Server) -> Iterator[str]:
    """The address of a gate that hands on what comes with the right password."""

    class Gate(BaseHTTPRequestHandler):
        def hand_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Authorization") != SECRET:
                self.answer(401, b"who are you?")
                return
            headers = {"Content-Type": self.headers.get("Content-Type", "application/json")}
            request = urllib.request.Request(
                server.uri + self.path, body or None, headers, method=self.command
            )
            try:
                with urllib.request.urlopen(request) as answer:
                    self.answer(answer.status, answer.read())
            except urllib.error.HTTPError as error:
                self.answer(error.code, error.read())

        def answer(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    for verb in ("GET", "POST", "PUT", "PATCH"):
        setattr(Gate, f"do_{verb}", Gate.hand_on)
    gate = ThreadingHTTPServer(("127.0.0.1", 0), Gate)
    thread = threading.Thread(target=gate.serve_forever)
    thread.start()
    yield f"127.0.0.1:{gate.server_port}"
    gate.shutdown()
    thread.join()
    gate.server_close()


@pytest.mark.parametrize("where", ["environment", "address"])
def test_a_server_with_a_password_is_spoken_to_and_the_password_kept_nowhere(
    where: str, project: Path, server: Server, guarded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"http://ann:s3cret@{guarded}" if where == "address" else f"http://{guarded}"
    if where == "environment":
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "s3cret")
    run = begin(project, f"by-{where}", uri=uri)
    run.log_metrics({"val/iou": 0.5}, step=1)
    run.log_artifact(run.folder / "run.json")
    assert run.close("FINISHED") == 0
    client = MlflowClient(server.uri)
    stored = client.get_run(run.run_id or "")
    assert (stored.info.status, stored.data.metrics) == ("FINISHED", {"val/iou": 0.5})
    assert [file.path for file in client.list_artifacts(run.run_id or "")] == ["run.json"]
    for file in run.folder.rglob("*"):
        assert not file.is_file() or b"s3cret" not in file.read_bytes(), file


def test_a_wrong_password_is_one_warning(
    project: Path, guarded: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = begin(project, "refused", uri=f"http://{guarded}")
    assert run.close("FINISHED") > 0
    assert sum("401" in text for text in warnings_of(caplog)) == 1
