"""From settings to decisions: the data opened, and what was left open decided, with reasons."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from unet_pipeline.catalogue import complete, lookup
from unet_pipeline.config import PLANNED, TrainConfig, TrainingSettings, TransformSettings
from unet_pipeline.datasets.manifest import DatasetFacts, Manifest
from unet_pipeline.datasets.transforms import TRANSFORMS
from unet_pipeline.distributed import world_of_environment
from unet_pipeline.errors import UserError
from unet_pipeline.inference import OVERLAP
from unet_pipeline.models import (
    PATCH_NETWORKS,
    RULES,
    build_network,
    complete_options,
    load_model,
)
from unet_pipeline.models.initializers import INITIALIZERS
from unet_pipeline.runtime import (
    choose_device,
    choose_precision,
    free_memory,
    is_out_of_memory,
    num_cores,
    place,
)
from unet_pipeline.training.losses import parse_loss
from unet_pipeline.training.memory import samples_at_once
from unet_pipeline.training.optimizers import OPTIMIZERS
from unet_pipeline.training.plan import Plan, make_plan
from unet_pipeline.training.run_folder import check_run_name
from unet_pipeline.training.schedules import SCHEDULES
from unet_pipeline.training.situation import Asked, Layout, Measure, Situation, Size
from unet_pipeline.training.trial import seconds_per_step

logger = logging.getLogger(__name__)

SMALLER = "use a smaller --batch-size, --image-size or model"
LEAST_BUDGET_TO_MEASURE = 60.0  # seconds: a few steps take a few of them
TRIAL_PIXELS = 2**20  # of a batch whose steps are timed

COMPONENTS: tuple[tuple[str, Mapping[str, Any], tuple[str, ...]], ...] = (
    ("initializer", INITIALIZERS, ()),
    ("optimizer", OPTIMIZERS, ()),
    ("schedule", SCHEDULES, ()),
    ("transforms", TRANSFORMS, ("image_size", "value_range")),
)
"""Sections that name an entry of a catalogue, and what the data gives to it."""


def check_names(config: TrainConfig) -> None:
    """Raise `UserError` for names and options that no data can make right, before it is read."""
    model, training = config.model, config.training
    if config.output.run_name is not None:
        check_run_name(config.output.run_name)
    _refuse_rules(model.name)
    if model.weights is None:  # else they say what is left open
        complete_options(model.name, model.options)
    if training.loss is not None:
        parse_loss(training.loss, class_pixel_counts=(1, 1))  # any, as there are none yet
    for section, catalogue, given in COMPONENTS:
        settings = getattr(config, section)
        name = _transforms(settings) if isinstance(settings, TransformSettings) else settings.name
        if name is not None:
            factory: Callable[..., Any] = lookup(catalogue, name, kind=section)
            complete(factory, settings.options, label=f"{section} {name}", given=given)


def _refuse_rules(model: str) -> None:
    if model in RULES:
        raise UserError(
            f"model {model} has nothing to train: `unet train --baselines` scores it beside the "
            "networks"
        )


def complete_config(config: TrainConfig, manifest: Manifest) -> tuple[TrainConfig, Plan]:
    """`config` with every setting decided, so that it reproduces the run; and the reasons.

    Raises `UserError` for names and options that no catalogue knows.
    """
    _refuse_rules(config.model.name)
    config = as_the_weights(config)
    complete_options(config.model.name, config.model.options)  # before anything is made of them
    most = 4 * num_cores()
    if (config.runtime.workers or 0) > most:
        raise UserError(
            f"{config.runtime.workers} workers on {num_cores()} cores would be in each other's "
            f"way: use at most {most} --workers"
        )
    plan = make_plan(_asked(config), _situation(config, manifest))
    tree = config.model_dump()
    tree["data"]["path"] = str(Path(decided(config.data.path)).resolve())
    if config.model.weights:
        tree["model"]["weights"] = str(Path(config.model.weights).resolve())
    tree["training"]["loss"] = plan.loss
    tree["transforms"]["name"] = plan.transforms
    for section, names in PLANNED.items():
        tree[section] |= {name: vars(plan)[name] for name in names if name in vars(plan)}
    tree["runtime"]["amp"] = "on" if plan.amp else "off"
    tree["inference"]["overlap"] = given_or(config.inference.overlap, OVERLAP)
    tree["model"] |= complete_options(config.model.name, plan.model_options)
    # Of a resumed run, which has weights of its own, the settings are complete already
    if config.optimizer.freeze_encoder and not config.model.weights:
        _refuse_random_encoder(tree["model"])
    for section, catalogue, given in COMPONENTS:
        name = tree[section]["name"]
        options = getattr(config, section).options
        factory: Callable[..., Any] = lookup(catalogue, name, kind=section)
        tree[section] |= complete(factory, options, label=f"{section} {name}", given=given)
    tree["transforms"]["class_balance"] = plan.class_balance
    return TrainConfig.model_validate(tree), plan


def _refuse_random_encoder(model: dict[str, Any]) -> None:
    """Raise `UserError` where the encoder that shall be frozen has no weights from elsewhere."""
    if "encoder_weights" in model and model["encoder_weights"] is None:
        raise UserError(
            "optimizer.freeze_encoder would keep random weights: take pretrained ones, with "
            "--set model.encoder_weights=imagenet or --weights FILE, or do not freeze"
        )


def _asked(config: TrainConfig) -> Asked:
    """What `config` leaves to nobody."""
    training, runtime = config.training, config.runtime
    return Asked(
        model=config.model.name,
        model_options=config.model.options,
        by_patches=config.model.name in PATCH_NETWORKS,
        sync_batchnorm=runtime.sync_batchnorm,
        loss=training.loss,
        transforms=_transforms(config.transforms),
        class_balance=config.transforms.options.get("class_balance"),
        image_size=training.image_size,
        batch_size=training.batch_size,
        val_every=training.val_every,
        num_pixels=training.num_pixels,
        balance=training.balance,
        window=config.inference.window,
        workers=runtime.workers,
        memory_format=runtime.memory_format,
        compile=runtime.compile,
        amp=None if runtime.amp == "auto" else runtime.amp == "on",
    )


def _transforms(settings: TransformSettings) -> str | None:
    """The augmentation that was asked for, by its name or by options of the usual one."""
    return settings.name or ("light" if settings.options.keys() - {"class_balance"} else None)


def _situation(config: TrainConfig, manifest: Manifest) -> Situation:
    """The data, the machine and the time of a training."""
    training, facts, world = config.training, manifest.facts, world_of_environment()
    device = choose_device(config.runtime.device)
    autocast = precision_of(config, device)
    sizes = {
        split: [(sample.height, sample.width) for sample in manifest.split(split)]
        for split in ("train", "val")
    }
    return Situation(
        train_sizes=sizes["train"],
        val_sizes=sizes["val"],
        device_type=device.type,
        num_cores=num_cores(),
        cached=decoded_bytes(manifest) < training.cache_fraction / world.local_size * free_memory(),
        num_steps=lambda batch: _num_steps(training, len(sizes["train"]), batch),
        class_pixels=facts.class_pixel_counts,
        budget_seconds=training.budget_seconds,
        object_area=_object_area(facts),
        image_spread=facts.image_spread,
        num_processes=world.size,
        local_processes=world.local_size,
        autocast=None if autocast is None else str(autocast).removeprefix("torch."),
        measure=_measure(config, facts, num_train=len(sizes["train"])),
    )


def decoded_bytes(manifest: Manifest) -> int:
    """What all images and masks that a training reads take as arrays."""
    facts = manifest.facts
    samples = (*manifest.split("train"), *manifest.split("val"))
    pixel_bytes = 1 + facts.in_channels * int(getattr(torch, facts.dtype).itemsize)
    return pixel_bytes * sum(sample.height * sample.width for sample in samples)


def _num_steps(training: TrainingSettings, num_train: int, batch: int) -> float | None:
    """The steps that epochs and max_steps allow; None where they do not limit."""
    limits = [training.max_steps] if training.max_steps is not None else []
    if training.epochs is not None:
        limits.append(training.epochs * math.ceil(num_train / batch))
    return min(limits, default=None)


def _object_area(facts: DatasetFacts) -> float | None:
    """Mean pixels of an object, of the class whose objects are the smallest; None if unknown."""
    counts = dict(zip(facts.classes.names, facts.class_pixel_counts, strict=True))
    areas = [
        counts[name] / sizes.num_objects
        for name, sizes in facts.objects.items()
        if sizes.num_objects and counts.get(name)
    ]
    return min(areas, default=None)


def _measure(config: TrainConfig, facts: DatasetFacts, *, num_train: int) -> Measure | None:
    """How long a step takes on this machine; None where finding out would eat up the budget.

    Of a batch that is large, or that memory does not hold at once, as long as its parts together.
    """
    budget = config.training.budget_seconds
    if budget is not None and budget < LEAST_BUDGET_TO_MEASURE:
        return None
    device = choose_device(config.runtime.device)

    def measure(options: dict[str, Any], size: Size, batch: int, layout: Layout) -> float:
        if "encoder_weights" in options:  # random ones take as long, and nothing is fetched
            options = options | {"encoder_weights": None}
        network = build_network(
            config.model.name,
            options,
            in_channels=facts.in_channels,
            num_classes=facts.classes.num_classes,
        )
        world = world_of_environment()
        share = math.ceil(min(batch, num_train) / world.size)
        step: dict[str, Any] = {
            "in_channels": facts.in_channels,
            "num_classes": facts.classes.num_classes,
            "image_size": size,
            "autocast_dtype": precision_of(config, device),
        }
        part = share
        if device.type == "cpu":  # which would be killed for want of memory
            available = free_memory() // world.local_size
            part = samples_at_once(network, batch_size=share, available=available, **step)
        if not part:
            return math.inf
        # More would take minutes, and a step's time goes with its pixels
        part = min(part, max(1, TRIAL_PIXELS // (size[0] * size[1])))
        try:
            placed = place(network, device, layout)
            return seconds_per_step(placed, batch_size=part, **step) * share / part
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return math.inf

    return measure


def as_the_weights(config: TrainConfig) -> TrainConfig:
    """`config` with the network of the weights it starts from, where it leaves the network open."""
    if config.model.weights is None:
        return config
    try:
        card = load_model(config.model.weights).card
    except UserError:  # weights of an encoder alone, or none: `load_weights` knows, and says
        return config
    if "name" in config.model.model_fields_set and config.model.name != card.network:
        return config
    model = card.options | config.model.model_dump() | {"name": card.network}
    return TrainConfig.model_validate(config.model_dump() | {"model": model})


def format_plan(config: TrainConfig, manifest: Manifest, plan: Plan) -> str:
    """The decided settings as lines of text, each with its reason."""
    counts = ", ".join(f"{n} {split}" for split, n in manifest.facts.num_samples.items())
    classes = manifest.facts.classes
    device = choose_device(config.runtime.device)
    rows: list[tuple[str, Any, str]] = [
        ("data", manifest.facts.name, counts),
        ("classes", classes.num_classes, ", ".join(classes.names)),
        ("model", config.model.name, f"{config.optimizer.name}, lr {config.optimizer.lr:g}"),
        ("device", device, f"{num_cores()} cores" if device.type == "cpu" else "the accelerator"),
    ]
    rows += [(name, plan.values[name], reason) for name, reason in plan.reasons.items()]
    return "\n".join(f"{name:14} {value!s:16} {reason:.90}" for name, value, reason in rows)


def precision_of(config: TrainConfig, device: torch.device) -> torch.dtype | None:
    """What the network of `config` computes in on `device`; None is float32."""
    if config.model.name in PATCH_NETWORKS and device.type == "cpu":
        if config.runtime.amp == "on":
            raise UserError(
                f"--amp on has no effect: {config.model.name} computes in float32 on a CPU; "
                "leave it out"
            )
        return None
    return choose_precision(config.runtime.amp, device)


def decided(value: Any) -> Any:
    """A setting that `complete_config` has decided."""
    assert value is not None
    return value


def given_or(value: Any, default: Any) -> Any:
    """A setting, or what a part takes where it is not given."""
    return default if value is None else value
