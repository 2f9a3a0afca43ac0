"""Progress bars: seen on a terminal with rate and ETA, silent elsewhere, log lines above them."""

from __future__ import annotations

import logging
import os
import pty
import subprocess
import sys

import pytest

from unet_pipeline.console import log_to_stderr
from unet_pipeline.progress import progress_bar

PROGRAM = """
import time
from unet_pipeline.console import log_to_stderr, logger
from unet_pipeline.progress import progress_bar
log_to_stderr()
with progress_bar("training", total=1, unit="images") as bar:
    for step in range(1, 9):
        time.sleep(0.15)
        bar.move_to(step / 10, count=10 * step, note="loss 0.5")
    logger.info("a line [of] text")
    time.sleep(0.2)
"""


def test_a_terminal_shows_rate_note_and_time_left() -> None:
    leader, follower = pty.openpty()
    env = os.environ | {"COLUMNS": "140", "TERM": "xterm"}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stderr=follower, env=env) as process:
        os.close(follower)
        shown = b""
        while True:
            try:
                part = os.read(leader, 4096)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            shown += part
    os.close(leader)
    assert process.returncode == 0
    text = shown.decode()
    assert "training" in text
    assert "images/s" in text
    assert "loss 0.5" in text
    assert "80%" in text
    assert "a line [of] text" in text
    assert "0:00:00" in text


def test_elsewhere_a_bar_is_silent_and_lines_are_plain(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr()
    with progress_bar("training", total=2, unit="images") as bar:
        bar.move_to(1, count=1)
        logging.getLogger("unet_pipeline.any").warning("seen [this]")
    assert capsys.readouterr().err.strip() == "warning: seen [this]"
