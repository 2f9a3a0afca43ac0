"""nnU-Net, 2-D: imagesTr/<case>_0000.png with labelsTr/<case>.png, dataset.json and splits.

Facts of the format: documentation/dataset_format.md of nnU-Net, version 2. Images and labels have
one ending; RGB is one file of three channels, other images have a file for each channel.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unet_pipeline.classes import IGNORE_INDEX
from unet_pipeline.datasets.encoders import encode_png, encode_tiff
from unet_pipeline.datasets.exports.writing import (
    Indices,
    Numbering,
    each_sample,
    file_names,
    read_indices,
    write_file,
)
from unet_pipeline.datasets.images import (
    read_image,
    to_channels,
)
from unet_pipeline.datasets.manifest import DatasetFacts, Manifest, Sample
from unet_pipeline.datasets.scan import Progress
from unet_pipeline.errors import DatasetError
from unet_pipeline.files import write_atomic


def write(manifest: Manifest, folder: Path, on_progress: Progress | None) -> None:
    """Write train and val to imagesTr, test to imagesTs, both with labels.

    Labels are the class indices, the background 0; void is `ignore`, the highest of them.
    splits_final.json has one fold, train and val of the manifest, where there is a val.
    Raises `DatasetError` where there is nothing to train on, or a class is called ignore.
    """
    facts = manifest.facts
    names = file_names(manifest.samples, subfolders=False)
    numbering = Numbering.of(facts.classes, kind="nnU-Net")
    if "ignore" in numbering.names:
        raise DatasetError(
            f"{manifest.root}: a class is called 'ignore', which means void to nnU-Net; rename it "
            "in dataset.yaml"
        )
    if not any(sample.split != "test" for sample in manifest.samples):
        raise DatasetError(f"{manifest.root}: has no samples to train on, which nnU-Net needs")
    table = numbering.table.copy()
    table[IGNORE_INDEX] = ignore = facts.classes.num_classes

    def one(sample: Sample) -> None:
        end, case = "Ts" if sample.split == "test" else "Tr", names[sample.sample_id]
        label: Indices = table[read_indices(sample, facts.classes)]
        image = to_channels(read_image(sample.image), facts.in_channels, str(sample.image))
        files = [image] if facts.in_channels == 3 else np.split(image, facts.in_channels, axis=2)
        for channel, pixels in enumerate(files):
            _write(folder / f"images{end}" / f"{case}_{channel:04}", pixels, facts)
        _write(folder / f"labels{end}" / case, label, facts)

    for _ in each_sample(one, manifest, on_progress):
        pass
    labels = {"background": 0} | {name: k for k, name in enumerate(numbering.names, start=1)}
    if facts.classes.ignore_values:
        labels["ignore"] = ignore
    cases = {
        split: [names[s.sample_id] for s in manifest.samples if s.split == split]
        for split in ("train", "val")
    }
    _write_json(
        folder / "dataset.json",
        {
            "name": facts.name,
            "channel_names": _channel_names(facts),
            "labels": labels,
            "numTraining": sum(map(len, cases.values())),
            "file_ending": _ending(facts),
        },
    )
    if cases["val"]:
        _write_json(folder / "splits_final.json", [cases])


def _ending(facts: DatasetFacts) -> str:
    """PNG where every reader of it keeps the pixels: some cut 16-bit colour down to 8 bits."""
    wide_color = facts.dtype == "uint16" and facts.in_channels == 3
    return ".tif" if facts.dtype == "float32" or wide_color else ".png"


def _write(base: Path, pixels: npt.NDArray[Any], facts: DatasetFacts) -> None:
    ending = _ending(facts)
    write_file(base, ending, encode_png(pixels) if ending == ".png" else encode_tiff(pixels))


def _channel_names(facts: DatasetFacts) -> dict[str, str]:
    """Of each channel; names have a meaning there: `CT` would choose another normalisation."""
    known = {1: ("grey",), 3: ("R", "G", "B")}
    names = known.get(facts.in_channels, [f"channel_{k}" for k in range(facts.in_channels)])
    return {str(channel): name for channel, name in enumerate(names)}


def _write_json(path: Path, content: Any) -> None:
    write_atomic(path, json.dumps(content, indent=2) + "\n")
