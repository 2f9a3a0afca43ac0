"""A training in progress: its state on disk, and what it shows: models, pictures, MLflow, words."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch

from unet_pipeline import tracking
from unet_pipeline.config import TrainConfig, dump_config
from unet_pipeline.datasets.loaders import read_sample
from unet_pipeline.datasets.manifest import Manifest, Sample
from unet_pipeline.distributed import broadcast_object, gather_objects
from unet_pipeline.errors import DatasetError
from unet_pipeline.evaluation import pair
from unet_pipeline.evaluation.augmentation_grid import augmentation_grid
from unet_pipeline.inference import predict_image
from unet_pipeline.models import Segmenter, save_model
from unet_pipeline.stages.assembly import decided
from unet_pipeline.stages.building import Parts
from unet_pipeline.training import run_folder as runs
from unet_pipeline.training.checkpoints import load_state, save_state
from unet_pipeline.training.position import Limits, Position

logger = logging.getLogger(__name__)

NUM_PANELS = 4
CLOSING_SECONDS = 2.5  # of a budget: for the models, files and lines with which a run ends
Watch = Callable[[float, float], bool]


@dataclass
class Reached:
    """What a run has reached; saved with its state.

    history: one row an epoch. best: the scores of the best one. since_best: validations since.
    validated_step: the step that was validated last. num_val: how many images are, of those of the
    split; None before the first time.
    panels: pictures of the panel made so far. seconds_to_end: what the last validation and saving
    are expected to take, of the budget. seconds_to_begin: what went by before the first step.
    divergences: how often the run went back after a loss that was not finite. lr_factor: what the
    learning rate is multiplied by since.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)
    since_best: int = 0
    validated_step: int = -1
    num_val: int | None = None
    panels: int = 0
    seconds_to_begin: float = 0.0
    seconds_to_end: float = CLOSING_SECONDS
    divergences: int = 0
    lr_factor: float = 1.0


@dataclass
class Session:
    """One run in progress: where it stands and all that it works with."""

    config: TrainConfig
    manifest: Manifest
    folder: Path
    parts: Parts
    position: Position
    reached: Reached
    tracked: tracking.Run | None
    """None in all processes but the main one, which tells of the run and writes its files."""
    watch: Watch | None = None
    """Told (progress, mean IoU) after each validation; True gives the run up."""
    given_up: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.parts.world.is_main

    @property
    def track(self) -> tracking.Run:
        """The run in MLflow, for the main process."""
        assert self.tracked is not None
        return self.tracked

    @property
    def evaluated(self) -> Segmenter:
        """The model that is scored and saved: that of the averaged weights, where they are."""
        average = self.parts.average
        return self.parts.segmenter if average is None else cast(Segmenter, average.model)


def progress(session: Session) -> float:
    """The fraction of the run that is done, in [0, 1], of whichever limit is nearest.

    Of a budget, what goes by before the first step and after the last does not count: the warm-up
    would be over before the first, the learning rate not down at the last.
    """
    training, reached = session.config.training, session.reached
    budget = training.budget_seconds
    if budget is not None:
        budget = max(budget - reached.seconds_to_end, 0.05 * budget) - reached.seconds_to_begin
        if budget <= 0:
            return 1.0
    return Limits(training.epochs, training.max_steps, budget).progress(**_done(session))


def limits_reached(session: Session) -> str:
    """The options whose limits allow no more, as on the command line."""
    training, reached = session.config.training, session.reached
    done = _done(session)
    done["seconds"] += reached.seconds_to_begin + reached.seconds_to_end
    limits = Limits(training.epochs, training.max_steps, training.budget_seconds)
    return " and ".join(limits.reached(**done))


def _done(session: Session) -> dict[str, Any]:
    """How far a run is, in what limits count."""
    position = session.position
    return {
        "epochs": position.epoch + position.batch / len(session.parts.loader),
        "steps": position.step,
        "seconds": position.elapsed() - session.reached.seconds_to_begin,
    }


def save_session(session: Session) -> None:
    """Save all that `resume` needs. All processes call it together, the main one writes."""
    parts = session.parts
    generators = gather_objects(torch.get_rng_state())
    of_devices = gather_objects(torch.cuda.get_rng_state_all() if _on_cuda(parts) else [])
    if not session.is_main:
        return
    save_state(
        session.folder,
        {
            "network": parts.segmenter.network.state_dict(),
            "average": None if parts.average is None else parts.average.state(),
            "optimizer": parts.optimizer.state_dict(),
            "schedule": parts.schedule.state_dict(),
            "scaler": parts.scaler.state_dict(),
            "rng": generators,
            "cuda_rng": of_devices,
            "position": session.position.state(),
            "reached": asdict(session.reached),
            "fingerprint": session.manifest.facts.fingerprint,
            "num_threads": torch.get_num_threads(),
        },
    )


def restore_parts(parts: Parts, state: dict[str, Any]) -> None:
    """Put the parts back to where `save_session` saw them."""
    parts.segmenter.network.load_state_dict(state["network"])
    if parts.average is not None:
        parts.average.restore(state["average"])
    parts.optimizer.load_state_dict(state["optimizer"])
    parts.schedule.load_state_dict(state["schedule"])
    if state["scaler"]:  # it is empty where the run began without float16
        parts.scaler.load_state_dict(state["scaler"])
    rank = parts.world.rank % len(state["rng"])  # there may be more processes than there were
    torch.set_rng_state(state["rng"][rank])
    of_devices = state["cuda_rng"][rank]
    if _on_cuda(parts) and len(of_devices) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(of_devices)
    if state["num_threads"] != torch.get_num_threads():
        logger.warning(
            "the run began with %d threads and continues with %d: results may differ in the last "
            "digits",
            state["num_threads"],
            torch.get_num_threads(),
        )


def _on_cuda(parts: Parts) -> bool:
    """Whether the network computes there: to ask for its generators would start CUDA."""
    return next(parts.segmenter.parameters()).device.type == "cuda"


def go_back(session: Session) -> None:
    """Return to the state on disk, from which the learning rate is half of what it was.

    The clock goes on, and that the run diverged once more is saved.
    """
    former = session.reached
    state = broadcast_object(load_state(session.folder) if session.is_main else {})
    restore_parts(session.parts, state)
    session.position.go_back_to(state["position"])
    session.reached = replace(
        Reached(**state["reached"]),
        divergences=former.divergences + 1,
        lr_factor=former.lr_factor / 2,
    )
    save_session(session)


def write_model(session: Session, path: Path, row: dict[str, float]) -> None:
    """Write the network as it is now as a model file that says where it comes from."""
    config = dump_config(session.config)
    facts: dict[str, Any] = {
        "run": session.folder.name,
        "experiment": session.track.experiment,
        "mlflow_run_id": session.track.run_id,
        "epoch": row["epoch"],
        "step": row["step"],
        "image_size": list(_sides(session.config)),
        "val": {
            name.removeprefix("val/"): value
            for name, value in row.items()
            if name.startswith("val/") and math.isfinite(value)
        },
        "dataset": session.manifest.facts.name,
        "fingerprint": session.manifest.facts.fingerprint,
        "config_sha256": hashlib.sha256(config.encode()).hexdigest(),
    }
    save_model(path, session.evaluated, facts=facts)


def _sides(config: TrainConfig) -> tuple[int, int]:
    size = decided(config.training.image_size)
    return (size, size) if isinstance(size, int) else size


def panel_samples(manifest: Manifest) -> dict[str, Sample]:
    """The few validation samples that are pictured, by the key of their pictures."""
    samples = manifest.split("val")
    spread = sorted({round(n * (len(samples) - 1) / (NUM_PANELS - 1)) for n in range(NUM_PANELS)})
    return {
        f"{number:02d}_{runs.slug(samples[place].sample_id)[-60:]}": samples[place]
        for number, place in enumerate(spread)
        if samples
    }


def log_panel(session: Session, segmenter: Segmenter, *, group: str, step: int) -> None:
    """Picture the same few validation images, truth left and prediction right."""
    facts = session.manifest.facts
    for key, sample in panel_samples(session.manifest).items():
        try:
            decoded = read_sample(
                sample,
                classes=facts.classes,
                in_channels=facts.in_channels,
                cache=session.parts.cache,
            )
        except DatasetError:  # which is said, or the end, when it is validated on
            continue
        prediction, _ = predict_image(
            segmenter,
            decoded.image,
            window=decided(session.config.inference.window),
            overlap=decided(session.config.inference.overlap),
            autocast_dtype=session.parts.autocast_dtype,
        )
        picture = pair(decoded.image, decoded.mask, prediction, facts.classes)
        session.track.log_image(f"{group}/{key}", picture, step=step)


def log_augmentation(session: Session) -> None:
    """Picture some training samples, and beside each what the first epochs make of it."""
    loader, facts = session.parts.loader, session.manifest.facts
    samples = loader.samples[:: max(1, len(loader.samples) // NUM_PANELS)][:NUM_PANELS]
    rows = {}
    for sample in samples:
        with contextlib.suppress(DatasetError):  # which is said, or the end, when it is trained on
            decoded = read_sample(
                sample,
                classes=facts.classes,
                in_channels=facts.in_channels,
                cache=session.parts.cache,
            )
            variants = (loader.varied(sample, decoded, epoch) for epoch in range(4))
            rows[sample.sample_id] = [decoded, *variants]
    picture = augmentation_grid(list(rows.values()), facts.classes, labels=list(rows))
    session.track.log_image("augmentation", picture, step=0)
