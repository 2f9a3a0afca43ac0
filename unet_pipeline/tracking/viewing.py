"""The pages of MLflow over a store, served with little memory."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from unet_pipeline.errors import ResourceError, UserError
from unet_pipeline.tracking import places, store
from unet_pipeline.tracking.names import without_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient

_HOST = "127.0.0.1"
_PORTS = range(5000, 5050)
_START_SECONDS = 60.0
_END_SECONDS = 5.0

# One worker and no runner of jobs: 3 processes, with MLflow's own settings 15 in 4 times the memory
_WORKERS = 1
_ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclass(frozen=True)
class Pages:
    """Pages that are being served: their address, and the process of our own that does it."""

    address: str
    process: subprocess.Popen[bytes] | None

    def wait(self) -> None:
        """Return when they are served no longer; at once where somebody else serves them."""
        if self.process is not None:
            self.process.wait()


@contextlib.contextmanager
def served(uri: str, *, port: int | None = None) -> Iterator[Pages]:
    """Serve the pages of the store at `uri` on this machine, as long as the block lasts.

    port: None takes 5000, or the next that is free. A store that is a server shows its own pages.
    Raises `UserError` where there is no store and for a port that is taken, `ResourceError` where
    no pages come.
    """
    if places.is_server(uri):
        yield Pages(without_credentials(uri).rstrip("/"), None)
        return
    if places.is_local(uri) and not places.database_path(uri).is_file():
        raise UserError(
            f"no runs here: there is no {places.database_path(uri)}; train first, go to the folder "
            "in which you trained, or give --tracking-uri"
        )
    chosen = _free_port(port)
    _client(uri)  # its words for what is wrong are clearer than those of the server
    address = f"http://{_HOST}:{chosen}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--host", _HOST, "--port", str(chosen), "--workers", str(_WORKERS)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            env=_ENVIRONMENT | os.environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for us, who end all of its processes
        )
        try:
            _await(address, process, log)
            yield Pages(address, process)
        finally:
            _end(process)


def boards(uri: str, address: str) -> list[tuple[str, str]]:
    """(name, link of the saved view) of each experiment that has runs, the latest first.

    address: of the pages. Raises `ResourceError` where the store cannot be read.
    """
    client = _client(uri)
    found = client.search_experiments(order_by=["last_update_time DESC"])
    return [
        (experiment.name, places.page(address, experiment.experiment_id))
        for experiment in found
        if client.search_runs([experiment.experiment_id], max_results=1)
    ]


def _client(uri: str) -> MlflowClient:
    """A client of the store; `ResourceError` in one line where it cannot be opened."""
    try:
        with store.quiet():
            return store.open_client(uri)
    except Exception as error:
        reason = store.describe(error, uri)
        raise ResourceError(f"MLflow at {without_credentials(uri)} fails: {reason}") from error


def _free_port(port: int | None) -> int:
    for candidate in _PORTS if port is None else (port,):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((_HOST, candidate))
                return candidate
    if port is not None:
        raise UserError(f"port {port} is taken: give another --port, or leave it out")
    raise UserError(f"the ports {_PORTS[0]} to {_PORTS[-1]} are taken: give a free one as --port")


def _await(address: str, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    """Return when the pages are there."""
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=3):
            return
        time.sleep(0.1)
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    said = without_credentials(lines[-1].strip()) if lines else "it said nothing"
    what = "ended" if process.poll() is not None else f"did not answer in {_START_SECONDS:.0f} s"
    raise ResourceError(f"the server of MLflow's pages {what}: {said}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and the processes it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
