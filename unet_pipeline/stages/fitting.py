"""A predictor with nothing to train, fitted to a dataset: a run like that of a network."""

from __future__ import annotations

from pathlib import Path

import torch

from unet_pipeline import tracking
from unet_pipeline.config import TrainConfig, dump_config
from unet_pipeline.datasets.loaders import iterate_samples
from unet_pipeline.datasets.manifest import FACTS_FILE, SAMPLES_FILE, Manifest
from unet_pipeline.evaluation import summarize
from unet_pipeline.files import write_atomic
from unet_pipeline.inference import OVERLAP, score
from unet_pipeline.models import Segmenter, build_network, save_model
from unet_pipeline.progress import progress_bar
from unet_pipeline.runtime import choose_device, place
from unet_pipeline.stages.building import model_card
from unet_pipeline.stages.publishing import log_model
from unet_pipeline.stages.telling import start_tracking
from unet_pipeline.training import run_folder as runs


def fit_rule(
    name: str,
    config: TrainConfig,
    manifest: Manifest,
    *,
    experiment: str,
    parent: tracking.Run,
) -> Path:
    """Fit the rule called `name` to the training split: a run folder with a model like any other.

    Raises `UserError` where the rule does not apply to the data.
    """
    facts = manifest.facts
    network = build_network(
        name, {}, in_channels=facts.in_channels, num_classes=facts.classes.num_classes
    )
    side = max(facts.image_size.height.max, facts.image_size.width.max)  # images go in whole
    card = model_card(facts, network=name, options={}, window=side)
    segmenter = place(Segmenter(network, card), choose_device(config.runtime.device))
    if name == "majority":
        counts = torch.tensor(facts.class_pixel_counts, dtype=torch.float64)
        network.get_buffer("shares").copy_(counts / counts.sum().clamp_min(1))
    else:
        network.get_buffer("sign").fill_(_better_sign(segmenter, manifest))
    folder = runs.create_run_folder(Path(config.output.runs_dir), experiment, None, stem=name)
    track = start_tracking(
        config,
        manifest,
        folder,
        experiment,
        params={"model.name": name, "data.name": facts.name},
        parent=parent,
    )
    status: tracking.Status = "FAILED"
    try:
        # `evaluate` finds the data here; what a training would need is not for a rule
        given = {"model": {"name": name}, "data": config.data.model_dump(exclude_unset=True)}
        given["data"]["path"] = str(Path(str(config.data.path)).resolve())
        write_atomic(folder / runs.CONFIG_NAME, dump_config(TrainConfig.model_validate(given)))
        manifest.save(folder)
        origin = {"run": folder.name, "dataset": facts.name, "fingerprint": facts.fingerprint}
        save_model(folder / runs.BEST_NAME, segmenter, facts=origin)
        log_model(track, folder / runs.BEST_NAME, card, manifest)
        for file in (runs.CONFIG_NAME, FACTS_FILE, SAMPLES_FILE):
            track.log_artifact(folder / file)
        status = "FINISHED"
    finally:
        track.close(status)
    return folder


def _better_sign(segmenter: Segmenter, manifest: Manifest) -> float:
    """Whether class 1 is the brighter side (1) or the darker one (-1): the better training IoU."""
    facts, samples = manifest.facts, manifest.split("train")
    with progress_bar("fitting otsu", total=len(samples), unit="images") as bar:
        result = score(
            segmenter,
            iterate_samples(samples, classes=facts.classes, in_channels=facts.in_channels),
            window=segmenter.card.window,
            overlap=OVERLAP,
            on_progress=lambda done: bar.move_to(done, count=done),
        )
    brighter = summarize(result.matrices).mean_iou
    # the other sign predicts the other class everywhere: the same counts in swapped columns
    darker = summarize(result.matrices[:, :, ::-1]).mean_iou
    return 1.0 if brighter >= darker else -1.0
