"""Whether the store makes progress: a beat for each request and each statement that it is sent.

A step of ours, such as a picture, is many requests, and the first opening of a database hundreds of
statements: only what happens within a step tells a slow store from one that is stuck.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Iterator
from typing import Any


class Pulse:
    """When something last went on."""

    def __init__(self) -> None:
        self.at = time.monotonic()

    def beat(self) -> None:
        """Something goes on now."""
        self.at = time.monotonic()


class _Felt(threading.local):
    pulse: Pulse | None = None


_felt = _Felt()


@contextlib.contextmanager
def felt_by(pulse: Pulse) -> Iterator[None]:
    """Let what MLflow does in this thread meanwhile be beats of `pulse`."""
    former, _felt.pulse = _felt.pulse, pulse
    try:
        yield
    finally:
        _felt.pulse = former


def beat() -> None:
    """A beat of the pulse that feels this thread, if one does."""
    if _felt.pulse is not None:
        _felt.pulse.beat()


@functools.cache
def listen() -> None:
    """Hear of MLflow's requests and of its statements to a database; once, after its import."""
    import sqlalchemy
    from mlflow.tracking.request_header import registry
    from mlflow.tracking.request_header.abstract_request_header_provider import (
        RequestHeaderProvider,
    )

    class Listener(RequestHeaderProvider):
        """Is asked before each request whether it has headers to add, and never has."""

        def in_context(self) -> bool:
            beat()
            return False

        def request_headers(self) -> dict[str, str]:
            return {}

    registry._request_header_provider_registry.register(Listener)  # type: ignore[no-untyped-call]

    def on_statement(*_: Any) -> None:
        beat()

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "before_cursor_execute", on_statement)
    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "after_cursor_execute", on_statement)
    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "commit", on_statement)
