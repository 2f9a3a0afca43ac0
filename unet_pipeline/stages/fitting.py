"""A predictor with nothing to train, fitted to a dataset: a run like that of a network."""

from __future__ import annotations

from pathlib import Path

import torch

from unet_pipeline import tracking
from unet_pipeline.config import TrainConfig, dump_config
from unet_pipeline.datasets.loaders import iterate_samples
from unet_pipeline.datasets.manifest import Manifest
from unet_pipeline.evaluation import summarize
from unet_pipeline.files import write_atomic
from unet_pipeline.inference import OVERLAP, score
from unet_pipeline.models import Segmenter, build_network, save_model
from unet_pipeline.stages.assembly import model_card
from unet_pipeline.stages.session import start_tracking
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
    segmenter = Segmenter(network, model_card(facts, network=name, options={}, window=side))
    if name == "majority":
        counts = torch.tensor(facts.class_pixel_counts, dtype=torch.float64)
        network.get_buffer("shares").copy_(counts / counts.sum().clamp_min(1))
    else:
        network.get_buffer("sign").copy_(_better_sign(segmenter, manifest))
    folder = runs.create_run_folder(Path(config.output.runs_dir), experiment, None, stem=name)
    tree = config.model_dump() | {"model": {"name": name}}
    tree["data"]["path"] = str(Path(str(config.data.path)).resolve())
    tree["output"]["run_name"] = None  # a name is given once
    write_atomic(folder / runs.CONFIG_NAME, dump_config(TrainConfig.model_validate(tree)))
    runs.write_history(folder, [{"epoch": 0}])
    manifest.save(folder)
    origin = {"run": folder.name, "dataset": facts.name, "fingerprint": facts.fingerprint}
    save_model(folder / runs.BEST_NAME, segmenter, facts=origin)
    track = start_tracking(
        config,
        manifest,
        folder,
        experiment,
        params={"model.name": name, "data.name": facts.name},
        parent=parent,
    )
    track.log_artifact(folder / runs.BEST_NAME, "model")
    track.close("FINISHED")
    return folder


def _better_sign(segmenter: Segmenter, manifest: Manifest) -> torch.Tensor:
    """Whether class 1 is the brighter side (1) or the darker one (-1): the better training IoU."""
    facts = manifest.facts

    def mean_iou(sign: float) -> float:
        segmenter.network.get_buffer("sign").fill_(sign)
        samples = iterate_samples(
            manifest.split("train"), classes=facts.classes, in_channels=facts.in_channels
        )
        result = score(segmenter, samples, window=segmenter.card.window, overlap=OVERLAP)
        return summarize(result.matrices).mean_iou

    return torch.tensor(max((1.0, -1.0), key=mean_iou))
