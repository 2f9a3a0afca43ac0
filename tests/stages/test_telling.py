"""Which settings MLflow is told: few, because it writes all of them above every picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unet_pipeline.config import load_config
from unet_pipeline.datasets.manifest import Manifest
from unet_pipeline.stages.assembly import complete_config
from unet_pipeline.stages.telling import HEADLINE, headline


def shown(scenes: Path, **changes: Any) -> dict[str, Any]:
    manifest = Manifest.load(scenes)
    overrides = {"data.path": str(scenes)} | {k.replace("__", "."): v for k, v in changes.items()}
    config, _ = complete_config(load_config(overrides=overrides), manifest)
    return headline(config, manifest)


@pytest.mark.parametrize("recipe", ["modern", "paper", "classic"])
@pytest.mark.parametrize("model", ["unet", "lenet", "smp:FPN/resnet18"])
def test_a_run_for_which_nothing_was_asked_shows_the_headline_alone(
    scenes: Path, recipe: str, model: str
) -> None:
    params = shown(scenes, recipe=recipe, model__name=model)
    assert set(params) <= set(HEADLINE)
    assert 12 <= len(params) <= 19


def test_what_is_not_as_usual_is_shown_as_well(scenes: Path) -> None:
    asked = {
        "training.ema_decay": 0.5,
        "optimizer.weight_decay": 0.5,
        "transforms.hflip": 0.0,
        "model.bilinear": True,
        "schedule.name": "constant",
    }
    params = shown(scenes, **{name.replace(".", "__"): value for name, value in asked.items()})
    assert {name: params[name] for name in params.keys() - set(HEADLINE)} == asked


def test_what_another_optimizer_has_by_itself_is_not_shown(scenes: Path) -> None:
    assert set(shown(scenes, optimizer__name="sgd")) <= set(HEADLINE)
    assert (
        shown(scenes, optimizer__name="sgd", optimizer__momentum=0.5)["optimizer.momentum"] == 0.5
    )
