"""Settings as people write them: what wins over what, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from unet_pipeline.config import TrainConfig, load_config
from unet_pipeline.errors import UserError
from unet_pipeline.settings_files import parse_assignments


def test_an_override_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("training: {epochs: 7, batch_size: 3}\noptimizer: {lr: 1e-2}\n")
    config = load_config(file, {"training.epochs": 9})
    assert (config.training.epochs, config.training.batch_size) == (9, 3)
    assert config.optimizer.lr == 1e-2  # YAML reads 1e-2 as a string
    assert config.training.grad_clip == TrainConfig().training.grad_clip


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"training.epoch": 3}, "unknown setting 'training.epoch': did you mean 'training.epochs'"),
        ({"trainin.epochs": 3}, "unknown setting 'trainin': did you mean 'training'"),
        ({"optimizer.lr": -1}, "optimizer.lr = -1: input should be greater than 0"),
        ({"optimizer.lr": "fast"}, "optimizer.lr = 'fast'"),
        ({"runtime.amp": "yes"}, "runtime.amp = 'yes': input should be 'auto', 'on' or 'off'"),
        ({"training.image_size": "a"}, "training.image_size = 'a'"),
        ({"training.epochs": 0}, "training.epochs = 0"),
        ({"training.budget_seconds": "3x"}, "looks like 90s, 3m or 1h30m"),
        ({"training.budget_seconds": 0}, "training.budget_seconds = 0"),
        ({"inference.overlap": 1.0}, "inference.overlap = 1.0: input should be less than 1"),
        ({"training": 3}, "training = 3"),
    ],
)
def test_a_bad_setting_is_one_line_that_names_it(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(overrides=overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "no settings file"), ("a: [", "cannot read"), ("- 1", "sections with keys")],
)
def test_a_bad_file_is_one_line_that_names_it(
    text: str | None, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "c.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_config(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["epochs", "=3", ""])
def test_an_assignment_without_a_key_and_a_value_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"section\.key=value"):
        parse_assignments([text])


def test_a_setting_that_is_set_twice_is_refused() -> None:
    with pytest.raises(UserError, match=r"optimizer\.lr is set twice by --set; keep one"):
        parse_assignments(["optimizer.lr=1", "model.name=unet", "optimizer.lr=2"])


def test_a_file_name_that_is_no_text_is_refused_before_it_is_written_down() -> None:
    with pytest.raises(UserError, match=r"data\.path = .*: holds bytes that are no UTF-8"):
        load_config(overrides={"data.path": os.fsdecode(b"caf\xe9")})
