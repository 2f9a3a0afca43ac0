"""What a training tells: MLflow, of what it is and of what came of it; and the user."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pydantic_core

from unet_pipeline import tracking
from unet_pipeline.catalogue import complete, lookup
from unet_pipeline.config import PLANNED, DataSettings, TrainConfig, load_config
from unet_pipeline.datasets.findings import agree, counted, name_five
from unet_pipeline.datasets.manifest import Manifest
from unet_pipeline.files import write_atomic
from unet_pipeline.inference import OVERLAP
from unet_pipeline.models import complete_options
from unet_pipeline.runtime import choose_device, describe_machine
from unet_pipeline.stages.assembly import COMPONENTS
from unet_pipeline.stages.session import Session, panel_samples
from unet_pipeline.tracking.environment import ENVIRONMENT_NAME, environment

logger = logging.getLogger(__name__)

LEADERBOARD = (
    "metrics.best/mean_iou",
    "metrics.test/mean_iou",
    "params.model.name",
    "params.training.loss",
    "params.training.image_size",
)

HEADLINE = (
    "recipe",
    "data.name",
    "data.num_train",
    "data.fold",
    "model.name",
    "model.base_channels",
    "model.depth",
    "model.stem",
    "model.norm",
    "training.loss",
    "training.epochs",
    "training.max_steps",
    "training.budget_seconds",
    "training.image_size",
    "training.batch_size",
    "optimizer.name",
    "optimizer.lr",
    "transforms.name",
    "runtime.seed",
)
"""Settings that every run shows in MLflow, where they are set."""


def start_tracking(
    config: TrainConfig,
    manifest: Manifest,
    folder: Path,
    experiment: str,
    *,
    params: dict[str, Any] | None = None,
    parent: tracking.Run | None = None,
    tags: Mapping[str, str] | None = None,
) -> tracking.Run:
    """A new MLflow run that knows the settings, the data and the machine.

    params: those to show, where they are not the settings of a training. tags: more of them.
    """
    facts = manifest.facts
    machine = describe_machine(choose_device(config.runtime.device))
    track = tracking.start(
        folder,
        experiment=experiment,
        run_name=folder.name,
        params=headline(config, manifest) if params is None else params,
        tags={
            **{f"unet.{name}": value for name, value in machine.items()},
            "unet.dataset": facts.name,
            "unet.fingerprint": facts.fingerprint,
            **(tags or {}),
        },
        leaderboard=LEADERBOARD,
        pictures=tuple(
            f"{g}/{key}" for g in ("final", "progress") for key in panel_samples(manifest)
        ),
        parent=parent,
        uri=config.output.tracking_uri,
        send=config.output.tracking != "off",
        required=config.output.tracking == "required",
    )
    profile = facts.model_dump(mode="json", exclude={"classes", "fingerprint"})
    for split in ("train", "val"):
        name = f"{facts.name}-{split}"
        track.log_dataset(
            name, split, facts.fingerprint, profile, source=Path(config.data.path or "")
        )
    if (folder / ENVIRONMENT_NAME).is_file():
        track.log_artifact(folder / ENVIRONMENT_NAME)
    track.watch_machine()
    return track


def write_environment(folder: Path) -> None:
    """Keep what the run computes with: a later `unet rerun` says what differs."""
    write_atomic(folder / ENVIRONMENT_NAME, json.dumps(environment(), indent=2) + "\n")


def headline(config: TrainConfig, manifest: Manifest) -> dict[str, Any]:
    """The settings as MLflow's params: those of `HEADLINE`, and what is not as usual.

    MLflow writes all params above every picture of a comparison: with all 45 settings the pictures
    were out of sight. config.yaml has the rest.
    """
    shown = {"fold", "images", "masks", "ignore_values", "class_names", "values", "other"}
    hidden = {"output": True, "data": set(DataSettings.model_fields) - shown}
    settings = _flat(config.model_dump(mode="json", exclude=hidden))  # type: ignore[arg-type]
    settings |= {"data.name": manifest.facts.name, "data.num_train": len(manifest.split("train"))}
    usual = _usual(config)
    planned = {f"{section}.{key}" for section, keys in PLANNED.items() for key in keys}
    others = {
        name: value
        for name, value in settings.items()
        if name not in HEADLINE and name not in planned and value != usual.get(name)
    }
    wanted = {name: settings.get(name) for name in HEADLINE} | others
    return {name: value for name, value in wanted.items() if value not in (None, [])}


def _usual(config: TrainConfig) -> dict[str, Any]:
    """The settings, by dotted name, of a run of this recipe for which nothing was asked."""
    recipe: TrainConfig = load_config(
        overrides={"recipe": config.recipe, "inference.overlap": OVERLAP}
    )
    tree: dict[str, Any] = recipe.model_dump(mode="json")
    of_model = complete_options(config.model.name, {})
    for section, options in (("model", of_model), *_options_of(config)):
        given, own = tree[section], type(getattr(config, section)).model_fields
        if given["name"] != getattr(config, section).name:  # options of another component
            given = {name: value for name, value in given.items() if name in own}
        tree[section] = options | given
    return _flat(tree)


def _options_of(config: TrainConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each section that names a component, and the options that this one has by itself."""
    for section, catalogue, given in COMPONENTS:
        name = getattr(config, section).name
        factory: Callable[..., Any] = lookup(catalogue, name, kind=section)
        options = complete(factory, {}, label=f"{section} {name}", given=given)
        yield section, pydantic_core.to_jsonable_python(options)  # as settings are: no tuples


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for section, settings in tree.items()
        for name, value in (
            {f"{section}.{key}": value for key, value in settings.items()}
            if isinstance(settings, dict)
            else {section: settings}
        ).items()
    }


def run_note(session: Session) -> str:
    """The description on the run's page: data, model, result, how to use it."""
    facts, best = session.manifest.facts, session.reached.best
    rows = "\n".join(
        f"| {name.removeprefix('val/')} | {value:.4f} |"
        for name, value in best.items()
        if name.startswith("val/") and name != "val/loss"
    )
    counts = ", ".join(f"{n} {split}" for split, n in facts.num_samples.items())
    return (
        f"**{session.config.model.name}** on **{facts.name}** ({counts}; "
        f"{facts.classes.num_classes} classes): validation mean IoU "
        f"**{best['val/mean_iou']:.4f}**, mean Dice {best['val/mean_dice']:.4f}, epoch "
        f"{best['epoch']:.0f}.\n\n"
        f"```\nunet predict IMAGES --model {session.folder} --output MASKS\n```\n\n"
        f"| validation | |\n|---|---|\n{rows}\n"
    )


def say_what_next(session: Session, skipped: Mapping[str, int]) -> None:
    """The lines a user needs now: the score, and the three commands that follow.

    skipped: how often each sample was that could not be read.
    """
    best, track = session.reached.best, session.track
    folder = shlex.quote(str(session.folder))
    logger.info(
        "best validation: mean IoU %.4f, mean Dice %.4f (epoch %d); %d steps in %.0f s",
        best["val/mean_iou"],
        best["val/mean_dice"],
        best["epoch"],
        session.position.step,
        session.position.elapsed(),
    )
    if skipped:
        logger.warning(
            "%s could not be read and %s skipped, %d times in all: %s; mend or remove them",
            counted(len(skipped), "sample"),
            agree(len(skipped), "were"),
            sum(skipped.values()),
            name_five(list(skipped)),
        )
    logger.info("evaluate: unet evaluate --model %s", folder)
    logger.info("predict:  unet predict IMAGES --model %s --output MASKS", folder)
    track.say_where()
