"""The parts of a training: what excludes what, memory of processes, states from elsewhere."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unet_pipeline import cli
from unet_pipeline.config import TrainConfig, load_config
from unet_pipeline.datasets.manifest import Manifest
from unet_pipeline.distributed import World
from unet_pipeline.errors import UserError
from unet_pipeline.stages import building
from unet_pipeline.stages.assembly import complete_config
from unet_pipeline.stages.building import Parts, build_parts, try_parts
from unet_pipeline.stages.session import restore_parts, save_session

SMALL: dict[str, Any] = {
    "model.base_channels": 8,
    "model.depth": 2,
    "training.image_size": 32,
    "training.batch_size": 2,
    "runtime.device": "cpu",
    "runtime.workers": 0,
}


def settings(scenes: Path, **changes: Any) -> tuple[TrainConfig, Manifest]:
    manifest = Manifest.load(scenes)
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    config = load_config(overrides=SMALL | {"data.path": str(scenes)} | changes)
    return complete_config(config, manifest)[0], manifest


@pytest.mark.parametrize("attempt", [build_parts, try_parts])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__norm": "group"}, "has no effect: this unet has no batch normalisation"),
        ({"training__micro_batch": 1}, "micro_batch and runtime.sync_batchnorm exclude each other"),
        ({}, "is for GPUs"),
    ],
)
def test_shared_statistics_are_refused_where_they_cannot_be(
    attempt: Any, changes: dict[str, Any], message: str, scenes: Path
) -> None:
    norm = {"model__norm": "batch"}
    config, manifest = settings(scenes, runtime__sync_batchnorm=True, **norm | changes)
    with pytest.raises(UserError, match=message):
        attempt(config, manifest)


def test_memory_for_images_is_shared_by_the_processes_of_a_machine(
    scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "free_memory", lambda: 10**9)
    config, manifest = settings(scenes, training__cache_fraction=0.5)
    world = World(rank=0, size=16, local_size=4)
    assert building._build_cache(config, manifest, world, None).byte_limit == 125_000_000


def test_networks_are_joined_without_a_warning_and_share_no_buffers_at_a_pass(
    scenes: Path, tmp_path: Path
) -> None:
    """Warnings are errors here; under torchrun each process would print them at each start."""
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        config, manifest = settings(scenes, model__norm="batch")
        segmenter = building.build_segmenter(config, manifest.facts)
        joined = building._joined(segmenter, World(size=2))
        assert isinstance(joined, torch.nn.parallel.DistributedDataParallel)
        assert not joined.will_sync_module_buffers()
    finally:
        torch.distributed.destroy_process_group()


@pytest.fixture
def parts(scenes: Path) -> Parts:
    config, manifest = settings(scenes, runtime__amp="off")
    return build_parts(config, manifest)


def test_saving_a_run_of_the_cpu_does_not_start_cuda(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start() -> None:
        raise AssertionError("CUDA is started")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", start)
    save_session(SimpleNamespace(parts=parts, is_main=False))  # type: ignore[arg-type]


def test_a_run_without_a_scaler_goes_on_with_one(parts: Parts) -> None:
    state = {
        "network": parts.segmenter.network.state_dict(),
        "average": parts.average and parts.average.state(),
        "optimizer": parts.optimizer.state_dict(),
        "schedule": parts.schedule.state_dict(),
        "scaler": parts.scaler.state_dict(),
        "rng": [torch.get_rng_state()],
        "cuda_rng": [[]],
        "num_threads": torch.get_num_threads(),
    }
    parts.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)  # as float16 asks for
    restore_parts(parts, state)
    assert parts.scaler.get_scale() == 8.0
    state["scaler"] = torch.amp.GradScaler("cpu", init_scale=4.0).state_dict()
    restore_parts(parts, state)
    assert parts.scaler.get_scale() == 4.0


def test_the_check_of_settings_knows_that_too(
    scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--data", str(scenes), "--dry-run", "--device", "cpu"]
    assert cli.run([*arguments, "--set", "runtime.sync_batchnorm=true"]) == 2
    assert "runtime.sync_batchnorm" in capsys.readouterr().err
