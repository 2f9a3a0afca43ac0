"""Recipes: what a name stands for, and what wins over it."""

from __future__ import annotations

from pathlib import Path

import pytest

from unet_pipeline import cli
from unet_pipeline.config import TrainConfig, dump_config, load_config
from unet_pipeline.errors import UserError
from unet_pipeline.recipes import RECIPES, about


def test_the_default_recipe_is_the_defaults() -> None:
    assert load_config() == load_config(overrides={"recipe": "modern"}) == TrainConfig()


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_says_what_it_is_and_is_a_valid_config(name: str) -> None:
    assert len(about(name)) > 40
    assert load_config(overrides={"recipe": name}).recipe == name


def test_classic_is_what_the_well_known_repository_does() -> None:
    config = load_config(overrides={"recipe": "classic"})
    assert (config.optimizer.name, config.optimizer.lr) == ("rmsprop", 1e-5)
    assert config.optimizer.options["momentum"] == 0.999
    assert config.training.batch_size == 1
    assert config.schedule.name == "plateau"
    assert config.training.ema_decay == 0
    assert config.runtime.amp == "off"  # float32 is what it computes in by default
    assert "float32" in about("classic")
    assert "five times an epoch" in about("classic")


def test_paper_clips_no_gradient() -> None:
    assert load_config(overrides={"recipe": "paper"}).training.grad_clip == 0


def test_a_file_wins_over_the_recipe_and_an_override_over_both(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("recipe: classic\noptimizer: {lr: 0.5}\ntraining: {batch_size: 3}\n")
    config = load_config(path, {"training.batch_size": 7})
    assert config.optimizer.name == "rmsprop"
    assert config.optimizer.lr == 0.5
    assert config.optimizer.options["momentum"] == 0.999
    assert config.training.batch_size == 7
    assert load_config(path, {"recipe": "modern"}).optimizer.name == "adamw"


def test_another_component_does_not_inherit_the_options_of_the_recipes_own() -> None:
    config = load_config(overrides={"recipe": "classic", "optimizer.name": "adamw"})
    assert config.optimizer.options == {}
    assert config.optimizer.lr == TrainConfig().optimizer.lr
    assert config.training.batch_size == 1


def test_a_saved_config_is_read_back_whatever_its_recipe_says(tmp_path: Path) -> None:
    config = load_config(overrides={"recipe": "paper", "model.dropout": 0.1})
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert load_config(path) == config


def test_an_unknown_recipe_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'classic'"):
        load_config(overrides={"recipe": "clasic"})


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["list", "recipes"]) == 0
    out = capsys.readouterr().out
    assert "classic" in out
    assert "RMSprop" in out
