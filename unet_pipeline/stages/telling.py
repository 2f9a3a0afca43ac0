"""What a training tells: MLflow, of what it is and of what came of it; and the user."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unet_pipeline import tracking
from unet_pipeline.config import DataSettings, TrainConfig
from unet_pipeline.datasets.findings import agree, counted, name_five
from unet_pipeline.datasets.manifest import Manifest
from unet_pipeline.files import write_atomic
from unet_pipeline.runtime import choose_device, describe_machine
from unet_pipeline.stages.session import Session
from unet_pipeline.tracking.environment import ENVIRONMENT_NAME, environment

logger = logging.getLogger(__name__)

LEADERBOARD = (
    "metrics.best/mean_iou",
    "metrics.test/mean_iou",
    "params.model.name",
    "params.training.loss",
    "params.training.image_size",
)


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
    """The settings as MLflow's params, without what is not set and where things lie.

    MLflow writes all params above every picture of a comparison: config.yaml has the rest.
    """
    shown = {"fold", "images", "masks", "ignore_values", "class_names", "values", "other"}
    hidden = {"recipe": True, "output": True, "data": set(DataSettings.model_fields) - shown}
    tree = config.model_dump(mode="json", exclude=hidden)  # type: ignore[arg-type]
    tree["data"] |= {"name": manifest.facts.name, "num_train": len(manifest.split("train"))}
    return {"recipe": config.recipe} | {
        f"{section}.{key}": value
        for section, settings in tree.items()
        for key, value in settings.items()
        if value not in (None, [])
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
        f"{facts.classes.num_classes} classes), best validation "
        f"at epoch {best['epoch']:.0f}.\n\n"
        f"| validation | |\n|---|---|\n{rows}\n\n"
        f"```\nunet predict IMAGES --model {session.folder} --output MASKS\n```\n"
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
    if track.ui_command:
        logger.info("compare:  %s", track.ui_command)
    if track.url:
        logger.info("this run: %s", track.url)
