"""prepare: a folder of images and masks -> a checked, split, described dataset."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unet_pipeline.config import PrepareConfig
from unet_pipeline.datasets.manifest import Manifest
from unet_pipeline.datasets.samples import remove_scenes, write_scenes
from unet_pipeline.errors import UserError
from unet_pipeline.files import folder_lock, make_writable_folder
from unet_pipeline.stages.assembly import index_data

logger = logging.getLogger(__name__)

SAMPLE_NAME = "digits"


@dataclass(frozen=True)
class PreparedDataset:
    """What `prepare` has made: the folder and the manifest in it."""

    folder: Path
    manifest: Manifest

    def summary(self) -> dict[str, Any]:
        """The facts of the dataset, JSON-able."""
        return {"folder": str(self.folder), **self.manifest.facts.model_dump(mode="json")}


def prepare(config: PrepareConfig) -> PreparedDataset:
    """Index, check and split the data.

    Without `data.path` the embedded sample scenes are written first. The source is only read:
    samples.csv refers to its files by relative paths.
    Raises `DatasetError` where training on the data would be wrong, `UserError` where the output
    folder holds another dataset already.
    """
    source = Path(config.data.path) if config.data.path else None
    name = source.resolve().name if source else SAMPLE_NAME
    output = Path(config.output or f"data/{name}")
    if source is not None and config.output:
        name = output.resolve().name  # a source is often called `train`, which says nothing
    if source is not None and not source.is_dir():
        what = "is a file, not a folder" if source.exists() else "does not exist"
        raise UserError(f"{source} {what}: give the folder of images and masks")
    if source is not None and output.resolve().is_relative_to(source.resolve()):
        raise UserError(f"--output {output} lies in the source, which is only read: choose another")
    if source is not None and "num_scenes" in config.model_fields_set:
        raise UserError("--num-scenes is for the sample data, which is made without a SOURCE")
    _refuse_prepared(output)
    make_writable_folder(output)
    with folder_lock(output), contextlib.ExitStack() as undo:
        _refuse_prepared(output)  # another process may have been faster
        if source is None:
            logger.info("drawing %d scenes of handwritten digits", config.num_scenes)
            write_scenes(output, num_scenes=config.num_scenes, seed=config.data.split_seed)
            undo.callback(remove_scenes, output)
            source = output
        manifest = index_data(config.data, source)
        facts = manifest.facts.model_copy(update={"name": name})
        manifest = replace(manifest, facts=facts)
        manifest.save(output)
        for split in ("train", "val"):
            if not manifest.facts.num_samples[split]:
                logger.warning("%s has no %s samples: it cannot be trained on yet", output, split)
        undo.pop_all()  # from here on, what was drawn stays
    return PreparedDataset(output, manifest)


def _refuse_prepared(output: Path) -> None:
    if Manifest.is_in(output):
        raise UserError(f"{output} holds a prepared dataset: choose another --output or remove it")
