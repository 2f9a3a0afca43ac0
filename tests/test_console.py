"""The log of a run: beside its lines on stderr, and never the reason why a run ends."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from unet_pipeline.console import log_to_file
from unet_pipeline.ending import exit_code_of
from unet_pipeline.errors import ResourceError

FULL = Path("/dev/full")
"""A disk without a free byte."""

logger = logging.getLogger("unet_pipeline.tests")
needs_full_disk = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


def test_lines_and_the_error_that_ends_a_run_are_in_its_log(tmp_path: Path) -> None:
    def fail() -> int:
        with log_to_file(tmp_path / "log.txt"):
            logger.info("begun")
            raise ResourceError("seen this")

    assert exit_code_of(fail) == 5
    text = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "INFO begun" in text
    assert "ERROR ended by ResourceError('seen this')" in text
    assert "Traceback" in text


@needs_full_disk
def test_a_log_on_a_full_disk_is_one_warning_and_the_error_of_the_run_stays(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> int:
        with log_to_file(FULL):
            for number in range(3):
                logger.info("line %d", number)
            raise ResourceError("cannot write last.pt: no space left")

    assert exit_code_of(fail) == 5
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line for line in lines if not line.startswith("line ")] == [
        "warning: cannot write /dev/full: no space left on the device; the log is not complete",
        "error: cannot write last.pt: no space left",
    ]
    assert [line for line in lines if line.startswith("line ")] == ["line 0", "line 1", "line 2"]


@needs_full_disk
def test_a_log_on_a_full_disk_does_not_end_a_run_that_goes_well(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def work() -> int:
        with log_to_file(FULL):
            logger.info("line")
        return 0

    assert exit_code_of(work) == 0
    assert capsys.readouterr().err.count("the log is not complete") == 1


def test_a_log_that_cannot_be_opened_is_one_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> int:
        with log_to_file(tmp_path):  # a folder
            logger.info("line")
            logger.info("line")
        return 0

    assert exit_code_of(work) == 0
    err = capsys.readouterr().err
    assert err.count("\n") == 3
    assert f"cannot write {tmp_path}: {os.strerror(21)}; the log is not complete" in err
