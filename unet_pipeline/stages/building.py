"""From decided settings to the parts of a training: network, loss, optimizer, loader."""

from __future__ import annotations

import inspect
import logging
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from unet_pipeline.config import TrainConfig
from unet_pipeline.datasets import loaders
from unet_pipeline.datasets.manifest import DatasetFacts, Manifest
from unet_pipeline.datasets.points import PointSampler
from unet_pipeline.datasets.transforms import Transform, build_transform
from unet_pipeline.distributed import ALONE, World
from unet_pipeline.errors import ResourceError, UserError
from unet_pipeline.inference import OVERLAP
from unet_pipeline.inference.sliding_window import check_window
from unet_pipeline.models import (
    ModelCard,
    Segmenter,
    build_network,
    load_weights,
)
from unet_pipeline.models.initializers import initialize
from unet_pipeline.models.smp import SmpNetwork, encoder_parameters, freeze_encoder
from unet_pipeline.progress import progress_bar
from unet_pipeline.runtime import (
    choose_device,
    free_memory,
    place,
    seed_everything,
)
from unet_pipeline.stages.assembly import decided, decoded_bytes, given_or, precision_of
from unet_pipeline.training.ema import WeightAverage
from unet_pipeline.training.losses import NEED_MAPS, LossSum, parse_loss
from unet_pipeline.training.losses.deep import deep_loss
from unet_pipeline.training.memory import samples_at_once
from unet_pipeline.training.optimizers import build_optimizer, check_optimizer
from unet_pipeline.training.schedules import Schedule, build_schedule

logger = logging.getLogger(__name__)


@dataclass
class Parts:
    """Everything a training is made of."""

    world: World
    segmenter: Segmenter
    trained: nn.Module
    """`segmenter`, or what joins it to those of the other processes."""
    average: WeightAverage | None
    loss: Callable[[Any, torch.Tensor], torch.Tensor]
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    loader: loaders.TrainLoader
    cache: loaders.DecodedCache
    autocast_dtype: torch.dtype | None
    at_once: int | None
    """Samples that cross the network together, where memory does not hold all of a batch."""

    def close(self) -> None:
        """End the processes that load, and remove what they have left on the disk."""
        self.loader.close()
        self.cache.close()


def build_parts(
    config: TrainConfig,
    manifest: Manifest,
    world: World = ALONE,
    *,
    scratch: Path | None = None,
) -> Parts:
    """The parts that a completed `config` asks for; the network's weights follow from its seed.

    world: the processes that train together, of which each builds its own.
    scratch: the folder, the same for all of them, for decoded images that do not fit into memory;
        without one these are decoded again in every epoch. `Parts.close` removes it.
    """
    device = choose_device(config.runtime.device)
    autocast_dtype = precision_of(config, device)
    loss = build_loss(config, manifest.facts)
    seed_everything(config.runtime.seed)
    segmenter = place(
        _with_shared_statistics(build_segmenter(config, manifest.facts), config),
        device,
        decided(config.runtime.memory_format),
    )
    at_once = _at_once(config, manifest, segmenter, world)
    decay = config.training.ema_decay
    average = WeightAverage(segmenter, decay) if decay else None
    if config.runtime.compile:  # in place, so that the names of a state dict stay
        # Where no compiler is found, torch says so and computes as without
        torch._dynamo.config.suppress_errors = True
        segmenter.network.compile()
    cache = _build_cache(config, manifest, world, scratch)
    return Parts(
        world=world,
        segmenter=segmenter,
        trained=_joined(segmenter, world),
        average=average,
        loss=deep_loss(loss),
        optimizer=build_optimizer(**_of_optimizer(config, segmenter)),
        schedule=build_schedule(config.schedule.name, config.schedule.options),
        scaler=torch.amp.GradScaler(device.type, enabled=autocast_dtype == torch.float16),
        loader=_build_loader(config, manifest, cache, world, pin_memory=device.type == "cuda"),
        cache=cache,
        autocast_dtype=autocast_dtype,
        at_once=at_once,
    )


def _at_once(
    config: TrainConfig, manifest: Manifest, segmenter: Segmenter, world: World
) -> int | None:
    """As many samples as the memory of a CPU holds, which does not refuse but kills.

    None where it holds all. Raises `ResourceError` where it does not hold a single one.
    """
    device = choose_device(config.runtime.device)
    if device.type != "cpu" or config.training.num_pixels:
        return None
    batch: int = min(decided(config.training.batch_size), len(manifest.split("train")))
    share = config.training.micro_batch or math.ceil(batch / world.size)
    height, width = decided(config.training.image_size)
    available = free_memory() // world.local_size
    possible = samples_at_once(
        segmenter.network,
        in_channels=manifest.facts.in_channels,
        num_classes=manifest.facts.classes.num_classes,
        image_size=(height, width),
        batch_size=share,
        autocast_dtype=precision_of(config, device),
        available=available,
    )
    if not possible:
        raise ResourceError(
            f"a step on one crop of {height}x{width} pixels takes more than the "
            f"{available / 1e9:.1f} GB of memory that are free: use a smaller --image-size or model"
        )
    return possible if possible < share else None


def _of_optimizer(config: TrainConfig, segmenter: Segmenter) -> dict[str, Any]:
    """The arguments of `build_optimizer`."""
    return {
        "name": config.optimizer.name,
        "options": config.optimizer.options,
        "parameters": segmenter.named_parameters(),
        "lr": config.optimizer.lr,
        "encoder": encoder_parameters(segmenter.network) or (),
        "encoder_lr_factor": config.optimizer.encoder_lr_factor,
    }


def _with_shared_statistics(segmenter: Segmenter, config: TrainConfig) -> Segmenter:
    """Batch normalisation over the batch of all processes, where that is asked for."""
    if not config.runtime.sync_batchnorm:
        return segmenter
    if not any(isinstance(part, _BatchNorm) for part in segmenter.modules()):
        raise UserError(
            f"runtime.sync_batchnorm has no effect: this {config.model.name} has no batch "
            "normalisation; leave it out"
        )
    if config.training.micro_batch:  # of which processes may need unequal numbers for a batch
        raise UserError(
            "training.micro_batch and runtime.sync_batchnorm exclude each other: statistics of all "
            "processes need whole batches; leave one out, or take --set model.norm=group"
        )
    if choose_device(config.runtime.device).type != "cuda":
        raise UserError(
            "runtime.sync_batchnorm is for GPUs: leave it out, or take --set model.norm=group, "
            "which needs no statistics of other processes"
        )
    segmenter.network = nn.SyncBatchNorm.convert_sync_batchnorm(  # type: ignore[no-untyped-call]
        segmenter.network
    )
    return segmenter


def _joined(segmenter: Segmenter, world: World) -> nn.Module:
    if world.size == 1:
        return segmenter
    join = nn.parallel.DistributedDataParallel
    # Not at each pass, of which processes may need unequal numbers, but before a validation
    newer, older = "forward_sync_buffers", "broadcast_buffers"  # of the older one torch 2.15 warns
    name = newer if newer in inspect.signature(join).parameters else older
    without_buffers: dict[str, Any] = {name: False}
    return join(
        segmenter,
        # An encoder of smp may have layers that a decoder does not use
        find_unused_parameters=isinstance(segmenter.network, SmpNetwork),
        **without_buffers,
    )


def try_parts(config: TrainConfig, manifest: Manifest) -> None:
    """Raise what `build_parts` would; keep nothing.

    The optimizer is checked and not made: for one, torch loads its compiler, two seconds of a dry
    run. Images are left out.
    """
    build_loss(config, manifest.facts)
    seed_everything(config.runtime.seed)
    segmenter = _with_shared_statistics(build_segmenter(config, manifest.facts), config)
    place(segmenter, choose_device(config.runtime.device))
    _at_once(config, manifest, segmenter, ALONE)
    check_optimizer(**_of_optimizer(config, segmenter))
    build_schedule(config.schedule.name, config.schedule.options)
    precision_of(config, choose_device(config.runtime.device))
    _build_transform(config, manifest.facts)


def without_pretrained(config: TrainConfig) -> TrainConfig:
    """`config` for a run whose weights come from its own state: nothing else is fetched or read."""
    tree = config.model_dump()
    tree["model"]["weights"] = None
    tree["initializer"] = {}
    if "encoder_weights" in tree["model"]:
        tree["model"]["encoder_weights"] = None
    return TrainConfig.model_validate(tree)


def build_loss(config: TrainConfig, facts: DatasetFacts) -> LossSum:
    """The loss that `config` asks for; `UserError` for one that the data or the network refuses."""
    loss = parse_loss(
        decided(config.training.loss),
        num_classes=facts.classes.num_classes,
        class_pixel_counts=facts.class_pixel_counts,
    )
    of_maps = [term.name for term in loss.terms if term.entry in NEED_MAPS]
    if of_maps and config.training.num_pixels:
        raise UserError(
            f"loss {of_maps[0]} looks at whole masks, and {config.model.name} learns from single "
            "pixels: choose another loss, or --set training.num_pixels=0"
        )
    return loss


def build_segmenter(config: TrainConfig, facts: DatasetFacts) -> Segmenter:
    """The network that `config` asks for, its weights drawn or read, and what it knows of its data.

    Raises `UserError` for options and weights that do not fit.
    """
    network = build_network(
        config.model.name,
        config.model.options,
        in_channels=facts.in_channels,
        num_classes=facts.classes.num_classes,
    )
    _fill(network, config)
    if config.optimizer.freeze_encoder:
        freeze_encoder(network)
    card = model_card(
        facts,
        network=config.model.name,
        options=config.model.options,
        window=decided(config.inference.window),
    )
    segmenter = Segmenter(network, card)
    overlap = given_or(config.inference.overlap, OVERLAP)
    check_window(card.window, overlap, least=segmenter.least_window)
    return segmenter


def model_card(
    facts: DatasetFacts, *, network: str, options: dict[str, Any], window: int
) -> ModelCard:
    """The card of a model of data with these `facts`."""
    return ModelCard(
        network=network,
        options=options,
        window=window,
        classes=facts.classes,
        in_channels=facts.in_channels,
        dtype=facts.dtype,
        value_range=facts.value_range,
        mean=facts.mean,
        std=facts.std,
    )


def _fill(network: nn.Module, config: TrainConfig) -> None:
    """Draw the weights as the settings say, then read those that come from a file."""
    initializer, weights = config.initializer, config.model.weights
    if initializer.name != "default":
        # what was fetched for an encoder stays
        fresh = network.fresh_parts() if isinstance(network, SmpNetwork) else network
        count = initialize(fresh, initializer.name, initializer.options)
        logger.info("initializer %s: %d layers", initializer.name, count)
    if weights:
        loaded = load_weights(network, Path(weights))
        if initializer.name != "default" and not loaded.encoder_only:
            raise UserError(
                f"--initializer {initializer.name} has no effect: all weights come from {weights}; "
                "leave one of the two out"
            )
        logger.info("weights from %s: %s", weights, loaded)


def _build_cache(
    config: TrainConfig, manifest: Manifest, world: World, scratch: Path | None
) -> loaders.DecodedCache:
    limit = int(config.training.cache_fraction / world.local_size * free_memory())
    if scratch is None or decoded_bytes(manifest) < limit:
        return loaders.DecodedCache(limit)
    there = next(parent for parent in scratch.absolute().parents if parent.exists())
    disk_limit = int(config.training.disk_fraction * shutil.disk_usage(there).free)
    return loaders.DecodedCache(limit, folder=scratch, disk_limit=disk_limit)


def _build_loader(
    config: TrainConfig,
    manifest: Manifest,
    cache: loaders.DecodedCache,
    world: World,
    *,
    pin_memory: bool,
) -> loaders.TrainLoader:
    facts, samples = manifest.facts, manifest.split("train")
    transform = _build_transform(config, facts)
    num_pixels, balance = config.training.num_pixels, config.training.balance
    sampler = PointSampler(num_pixels, decided(balance)) if num_pixels else None
    if config.runtime.workers:  # filled before they start, it is shared by all of them
        with progress_bar("decoding", total=len(samples), unit="images") as bar:
            loaders.fill_cache(
                cache,
                samples,
                classes=facts.classes,
                in_channels=facts.in_channels,
                on_progress=lambda done: bar.move_to(done, count=done),
            )
    return loaders.train_loader(
        samples,
        classes=facts.classes,
        in_channels=facts.in_channels,
        transform=transform,
        batch_size=decided(config.training.batch_size),
        seed=config.runtime.seed,
        num_workers=decided(config.runtime.workers),
        cache=cache,
        point_sampler=sampler,
        pin_memory=pin_memory,
        rank=world.rank,
        world_size=world.size,
        strict=config.training.strict,
    )


def _build_transform(config: TrainConfig, facts: DatasetFacts) -> Transform:
    return build_transform(
        decided(config.transforms.name),
        config.transforms.options,
        image_size=decided(config.training.image_size),
        value_range=facts.value_range,
    )
