"""Settings: their defaults and helps, the schema, and that they survive being written."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
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
from unet_pipeline.datasets.exports import EXPORTS
from unet_pipeline.datasets.transforms import TRANSFORMS
from unet_pipeline.inference import OUTPUTS
from unet_pipeline.settings_files import describe_setting, setting_names
from unet_pipeline.spelling import parse_duration
from unet_pipeline.training import OPTIMIZERS, SCHEDULES

KINDS = PrepareConfig, TrainConfig, EvaluateConfig, PredictConfig
CONFIGS = Path(__file__).parent.parent / "configs"


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
    ("text", "seconds"), [("90", 90), ("90s", 90), ("3m", 180), ("1h30m", 5400), ("1.5m", 90)]
)
def test_durations_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_says_what_it_is(kind: type[pydantic.BaseModel]) -> None:
    for name in setting_names(kind):
        text, _ = describe_setting(kind, name)
        assert len(text) > 10, name


@pytest.mark.parametrize(
    ("kind", "name", "catalogue"),
    [
        (PrepareConfig, "export", EXPORTS),
        (PredictConfig, "save", OUTPUTS),
        (TrainConfig, "optimizer.name", OPTIMIZERS),
        (TrainConfig, "schedule.name", SCHEDULES),
        (TrainConfig, "transforms.name", TRANSFORMS),
    ],
)
def test_a_help_that_lists_names_lists_those_of_the_catalogue(
    kind: type[pydantic.BaseModel], name: str, catalogue: Collection[str]
) -> None:
    text, _ = describe_setting(kind, name)  # "What it is: one, two or three (how to write them)."
    names = re.findall(r"\w+", text.split(":")[1].split("(")[0])
    assert sorted(set(names) - {"or"}) == sorted(catalogue)


def test_the_json_schema_for_editors_is_fresh() -> None:
    written = json.loads((CONFIGS / "schema.json").read_text())
    assert written == TrainConfig.model_json_schema(), "run scripts/write_schema.py"


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_config_loads_and_its_header_says_what_to_expect(file: Path) -> None:
    load_config(file)
    header = file.read_text().split("\n\n")[0]
    for word in ("unet train", "hardware:", "time:", "score:"):
        assert word in header, word


def test_a_password_in_a_store_s_address_is_used_and_not_written_down() -> None:
    config = load_config(overrides={"output.tracking_uri": "http://ann:s3cret@host:5000"})
    assert config.output.tracking_uri == "http://ann:s3cret@host:5000"
    assert TrainConfig.model_validate(config.model_dump()) == config
    assert "s3cret" not in dump_config(config)
    assert "http://host:5000" in dump_config(config)
