"""What is wrong whatever the data is, refused before it is read; what one process of many says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stages.conftest import TINY
from unet_pipeline import cli


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "vgg"], "unknown model 'vgg'"),
        (["--model", "smp:Foo/bar"], "unknown architecture in 'smp:Foo/bar'"),
        (["--model", "otsu"], "has nothing to train"),
        (["--set", "model.depht=2"], "has no option 'depht'"),
        (["--loss", "ce +"], "cannot read the loss 'ce +'"),
        (["--loss", "focal(gamma=nan)"], "gamma = nan, which is no number"),
        (["--run-name", "../../evil"], "run name '../../evil'"),
        (["--optimizer", "adamm"], "did you mean 'adam"),
        (["--set", "transforms.name=lite"], "unknown transforms 'lite'"),
        (["--set", "schedule.warmup_fraction=.nan"], "warmup_fraction = nan, which is no number"),
    ],
)
@pytest.mark.parametrize("way", [["--plan"], []])
def test_a_name_that_is_none_is_refused_before_the_data_is_looked_at(
    way: list[str], options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("absent").mkdir()  # which no data is found in
    (Path("absent") / "dataset.yaml").touch()  # nor read
    (Path("absent") / "samples.csv").touch()
    assert cli.run(["train", "--data", "absent", *options, *way]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not Path("runs").exists()


def test_of_several_processes_only_the_main_one_prints_the_plan(
    scenes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for rank in ("0", "1"):
        for name, value in (("WORLD_SIZE", "2"), ("RANK", rank), ("LOCAL_RANK", rank)):
            monkeypatch.setenv(name, value)
        assert cli.run(["train", "--data", str(scenes), "--plan", *TINY]) == 0
        captured = capsys.readouterr()
        said.append(captured.out + captured.err)
    assert "batch_size" in said[0]
    assert said[1] == ""
