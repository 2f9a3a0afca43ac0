"""A CPU does not refuse memory, it kills: batches are parted before the first step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.stages.conftest import TINY
from unet_pipeline import cli
from unet_pipeline.models import load_model
from unet_pipeline.stages import building
from unet_pipeline.training import memory

NORM = ["--set", "model.norm=group", "--set", "model.base_channels=8"]


def trained(scenes: Path, name: str, *arguments: str) -> int:
    common = ["train", "--data", str(scenes), "--max-steps", "3", "--tracking", "off"]
    return cli.run([*common, "--run-name", name, *TINY[2:], *NORM, *arguments])


def test_a_batch_that_memory_does_not_hold_goes_through_in_parts_with_the_same_gradient(
    scenes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained(scenes, "whole") == 0
    assert "does not hold" not in capsys.readouterr().err
    monkeypatch.setattr(memory, "_PLENTY", 1e9)
    monkeypatch.setattr(building, "free_memory", lambda: 6_000_000)
    assert trained(scenes, "parts") == 0
    assert "memory does not hold a batch at once" in " ".join(capsys.readouterr().err.split())
    whole, parts = (
        load_model(f"runs/digits/{name}/last.safetensors") for name in ("whole", "parts")
    )
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("plan", [[], ["--plan"]])
def test_a_crop_that_does_not_fit_by_itself_is_refused_before_anything_is_made(
    scenes: Path,
    plan: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(memory, "_PLENTY", 1e9)
    monkeypatch.setattr(building, "free_memory", lambda: 100_000)
    assert trained(scenes, "none", *plan) == 5
    err = " ".join(capsys.readouterr().err.split())
    assert "one crop of 64x64 pixels takes more than the 0.0 GB of memory that are free" in err
    assert not Path("runs/digits").exists()
