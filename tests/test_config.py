"""Settings: where they come from, what is refused, and that they survive being written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pydantic
import pytest

from unet_pipeline.config import (
    EvaluateConfig,
    PredictConfig,
    PrepareConfig,
    TrainConfig,
    dump_config,
    load_config,
)
from unet_pipeline.errors import UserError
from unet_pipeline.settings_files import describe_setting, parse_assignments, setting_names
from unet_pipeline.spelling import parse_duration

KINDS = PrepareConfig, TrainConfig, EvaluateConfig, PredictConfig
CONFIGS = Path(__file__).parent.parent / "configs"


def test_an_override_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("training: {epochs: 7, batch_size: 3}\noptimizer: {lr: 1e-2}\n")
    config = load_config(file, {"training.epochs": 9})
    assert (config.training.epochs, config.training.batch_size) == (9, 3)
    assert config.optimizer.lr == 1e-2  # YAML reads 1e-2 as a string
    assert config.training.grad_clip == TrainConfig().training.grad_clip


def test_a_run_without_any_limit_takes_fifty_epochs() -> None:
    assert load_config().training.epochs == 50
    assert load_config(overrides={"training.max_steps": 3}).training.epochs is None
    assert load_config(overrides={"training.budget_seconds": "3m"}).training.epochs is None


@pytest.mark.parametrize("kind", KINDS)
def test_dumped_settings_load_to_the_same_object(kind: type[Any], tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    overrides = {"data.ignore_values": ["255"]} if kind is not PredictConfig else {"save": ["mask"]}
    config = load_config(None, overrides, kind=kind)
    file.write_text(dump_config(config))
    assert load_config(file, kind=kind) == config


def test_options_of_a_component_pass_through() -> None:
    config = load_config(overrides={"model.base_channels": 16})
    assert config.model.options == {"base_channels": 16}


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


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("3m", 180), ("1h30m", 5400), ("1.5m", 90)]
)
def test_durations_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["epochs", "=3", ""])
def test_an_assignment_without_a_key_and_a_value_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"section\.key=value"):
        parse_assignments([text])


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_says_what_it_is(kind: type[pydantic.BaseModel]) -> None:
    for name in setting_names(kind):
        text, _ = describe_setting(kind, name)
        assert len(text) > 10, name


def test_the_json_schema_for_editors_is_fresh() -> None:
    written = json.loads((CONFIGS / "schema.json").read_text())
    assert written == TrainConfig.model_json_schema(), "run scripts/write_schema.py"


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_config_loads_and_its_header_says_what_to_expect(file: Path) -> None:
    load_config(file)
    header = file.read_text().split("\n\n")[0]
    for word in ("unet train", "hardware:", "time:", "score:"):
        assert word in header, word
