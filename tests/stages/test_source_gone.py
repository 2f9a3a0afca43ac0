"""The folder of the data goes away in mid-training: the run ends at once, and goes on later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.stages import sources
from tests.stages.conftest import TINY
from unet_pipeline import cli
from unet_pipeline.stages import loop
from unet_pipeline.stages.session import Session
from unet_pipeline.training.checkpoints import load_state

RUN = Path("runs/cells/run")
WITHOUT_CACHE = ["--set", "training.cache_fraction=0", "--set", "training.disk_fraction=0"]


@pytest.mark.parametrize(
    ("part", "before"), [("", "_train_epoch"), ("images", "_train_epoch"), ("masks", "validate")]
)
def test_a_folder_that_is_gone_ends_the_run_in_one_line_and_it_can_be_resumed(
    part: str, before: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = sources.plain(Path("cells"), range(12))
    folder, action, calls = source / part, getattr(loop, before), []

    def lose(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            folder.rename("elsewhere")
        return action(*arguments)

    monkeypatch.setattr(loop, before, lose)
    common = ["--data", str(source), "--epochs", "3", "--workers", "0", "--tracking", "off"]
    command = ["train", *common, "--run-name", "run", *WITHOUT_CACHE, *TINY]
    assert cli.run(command) == 4
    err = capsys.readouterr().err
    (line,) = [s for s in err.splitlines() if s.startswith("error: ")]
    assert "is gone, and with it the data: bring it back" in line
    assert "it is skipped" not in err
    monkeypatch.setattr(loop, before, action)
    Path("elsewhere").rename(folder)
    assert cli.run(["train", "--resume", str(RUN)]) == 0
    assert "nothing left to train" not in capsys.readouterr().err
    position = load_state(RUN)["position"]
    assert (position["epoch"], position["batch"]) == (3, 0)


def test_a_file_that_is_gone_alone_is_skipped_as_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = sources.plain(Path("cells"), range(12))
    save = loop.save_session

    def save_and_lose(session: Session) -> None:
        session.manifest.split("train")[0].image.unlink(missing_ok=True)
        save(session)

    monkeypatch.setattr(loop, "save_session", save_and_lose)
    common = ["--data", str(source), "--epochs", "1", "--workers", "0", "--tracking", "off"]
    assert cli.run(["train", *common, "--run-name", "run", *WITHOUT_CACHE, *TINY]) == 3
    assert capsys.readouterr().err.count("it is skipped") == 1
