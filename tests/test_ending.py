"""How a command ends: exit codes, and one line about what went wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from unet_pipeline.ending import exit_code_of
from unet_pipeline.errors import (
    DatasetError,
    DivergedError,
    OutputInUseError,
    RejectedInputsError,
    ResourceError,
    UserError,
)


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def code_after(error: BaseException) -> int:
    """The exit code of a command that raises `error`."""

    def fail() -> int:
        raise error

    return exit_code_of(fail)


@pytest.mark.parametrize("code", [0, 2])
def test_what_a_command_returns_is_its_exit_code(
    code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(lambda: code) == code
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("seen this; do that"), 2),
        (RejectedInputsError("seen this; do that"), 3),
        (DatasetError("seen this; do that"), 4),
        (ResourceError("seen this; do that"), 5),
        (DivergedError("seen this; do that"), 6),
        (OutputInUseError("seen this; do that"), 7),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_kind_of_error_has_its_exit_code(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code_after(error) == code
    assert error_of(capsys) in (
        "error: seen this; do that",
        "error: interrupted; files that are written are whole, and stay",
    )


@pytest.mark.parametrize("error", [ZeroDivisionError(), OSError("odd")])
def test_a_bug_is_told_as_a_bug_with_its_traceback(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code_after(error) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "this is a bug" in err


def test_a_full_disk_anywhere_is_a_matter_of_resources(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_after(OSError(28, "No space left on device", "some/file")) == 5
    assert "some/file: no space left" in error_of(capsys)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_with_its_code_after_cleaning_up(number: int, code: int) -> None:
    cleaned = []

    def wait() -> int:
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        finally:
            cleaned.append(True)
        return 0

    former = signal.getsignal(number)
    with pytest.raises(SystemExit) as caught:
        exit_code_of(wait)
    assert caught.value.code == code
    assert cleaned
    assert signal.getsignal(number) == former


_LEAVING = """
import atexit, concurrent.futures, threading, time
from unet_pipeline.ending import leave
class Aborts:
    def __del__(self):
        print("destroyed")
kept = Aborts()
atexit.register(print, "cleaned up")
print("said", end=" ")
threading.Thread(target=lambda: (time.sleep(0.3), print("worked", end=" "))).start()
pool = concurrent.futures.ThreadPoolExecutor(1)  # its thread waits until it is told to end
pool.submit(print, end="")
leave(3)
"""


def test_a_process_ends_after_its_threads_and_before_libraries_are_torn_down() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LEAVING], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 3
    assert done.stdout == "said worked cleaned up\n"


def test_a_name_that_is_too_long_is_one_short_line(capsys: pytest.CaptureFixture[str]) -> None:
    name = "x" * 300
    assert exit_code_of(lambda: os.open(name, os.O_RDONLY)) == 2
    line = error_of(capsys)
    assert line.endswith("...: the name is too long; choose a shorter one")
    assert len(line) < 150
