"""Decoded images that do not fit into memory lie on the disk, and are gone afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.stages.conftest import TINY
from unet_pipeline import cli
from unet_pipeline.datasets import cache as cache_module
from unet_pipeline.datasets.cache import read_image
from unet_pipeline.training.checkpoints import load_state


@pytest.mark.parametrize("workers", ["0", "2"])
def test_images_on_the_disk_train_as_those_in_memory_and_are_decoded_once(
    workers: str, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ["train", "--data", str(scenes), "--epochs", "2", "--tracking", "off",
              "--workers", workers, *TINY]  # fmt: skip
    assert cli.run([*common, "--run-name", "memory"]) == 0
    decoded: list[Path] = []

    def counted(path: Path) -> object:
        decoded.append(path)
        return read_image(path)

    monkeypatch.setattr(cache_module, "read_image", counted)
    nothing = ["--set", "training.cache_fraction=0"]
    assert cli.run([*common, "--run-name", "disk", *nothing]) == 0
    memory, disk = (load_state(Path("runs/digits", n))["network"] for n in ("memory", "disk"))
    assert all(torch.equal(memory[name], disk[name]) for name in memory)
    if workers == "0":
        assert len(decoded) == len(set(decoded)) == 17  # 14 to train, 3 to validate
    assert [path.name for path in Path("runs").iterdir()] == ["digits"]


def test_without_room_on_the_disk_they_are_decoded_again(
    scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Path] = []

    def counted(path: Path) -> object:
        decoded.append(path)
        return read_image(path)

    monkeypatch.setattr(cache_module, "read_image", counted)
    nothing = ["--set", "training.cache_fraction=0", "--set", "training.disk_fraction=0"]
    assert cli.run(["train", "--data", str(scenes), "--epochs", "2", "--tracking", "off",
                    *TINY, *nothing]) == 0  # fmt: skip
    assert len(decoded) > 17
