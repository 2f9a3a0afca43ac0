"""A diagnosis of a dataset in pictures: report.html."""

from __future__ import annotations

import numpy as np

from unet_pipeline.datasets.cache import read_sample
from unet_pipeline.datasets.doctor import Diagnosis
from unet_pipeline.datasets.manifest import SPLITS, Manifest, Sample
from unet_pipeline.datasets.value_table import class_totals
from unet_pipeline.errors import DatasetError
from unet_pipeline.evaluation.dataset_report import DatasetPage, Exhibit, dataset_report
from unet_pipeline.evaluation.pictures import Picture, fit, overlay
from unet_pipeline.stages.describing import frequent_values

_PICTURES_A_CLASS = 3
_MOST_GALLERIES = 30  # classes that get pictures; the report stays below some megabytes
_MOST_LOOK_ALIKES = 12
_SIDE = 320
_MOST_PIXELS = 2**26  # larger images are not decoded again for a picture of 320 pixels


def report_page(diagnosis: Diagnosis, manifest: Manifest) -> str:
    """The HTML page about a dataset whose files are all there."""
    facts, classes = manifest.facts, manifest.facts.classes
    present: list[str] = [split for split in SPLITS if facts.num_samples[split]]
    pixels = {split: _pixels(diagnosis, split) for split in present}
    sizes = {
        split: [(s.width, s.height) for s in manifest.samples if s.split == split]
        for split in present
    }
    page = DatasetPage(
        title=facts.name,
        facts=[
            ("samples", ", ".join(f"{len(sizes[split])} {split}" for split in present)),
            ("images", f"{facts.in_channels} channels, {facts.dtype}"),
            (
                "pixel values that become 0 and 1",
                f"{facts.value_range[0]:g} to {facts.value_range[1]:g}",
            ),
            ("folds", str(len(facts.folds)) if facts.folds else "none"),
            ("fingerprint", facts.fingerprint[:16]),
        ],
        findings=[finding.summary() for finding in diagnosis.findings],
        classes=list(zip(classes.names, classes.colors, strict=True)),
        pixels=pixels,
        values=frequent_values(diagnosis).rows,
        channel_columns=("channel", "mean", "sd", *facts.percentiles),
        channels=_channel_rows(manifest),
        objects=[
            (name, o.num_objects, o.min_area, o.median_area, o.max_area)
            for name, o in facts.objects.items()
        ],
        sizes=sizes,
        gallery=_gallery(diagnosis, manifest),
        look_alikes=_look_alikes(diagnosis, manifest),
    )
    return dataset_report(page)


def _pixels(diagnosis: Diagnosis, split: str) -> list[int]:
    assert diagnosis.classes is not None
    rows = zip(diagnosis.pixels, diagnosis.samples, strict=True)
    return class_totals((counts for counts, s in rows if s.split == split), diagnosis.classes)


def _channel_rows(manifest: Manifest) -> list[list[str]]:
    """Mean, sd and percentiles of each channel, in the values of the files."""
    facts = manifest.facts
    low, high = facts.value_range
    return [
        [
            str(c),
            f"{low + facts.mean[c] * (high - low):.4g}",
            f"{facts.std[c] * (high - low):.4g}",
            *(f"{values[c]:.4g}" for values in facts.percentiles.values()),
        ]
        for c in range(facts.in_channels)
    ]


def _gallery(diagnosis: Diagnosis, manifest: Manifest) -> dict[str, list[Exhibit]]:
    """For each class, overlays of images in which it takes much room, from different groups."""
    classes = manifest.facts.classes
    shares = [
        [counts.get(k, 0) / sum(counts.values()) for k in range(classes.num_classes)]
        for counts in diagnosis.pixels
    ]
    shown: dict[str, list[Exhibit]] = {}
    first = 0 if classes.num_classes == 1 else 1
    for k in range(first, min(classes.num_classes, first + _MOST_GALLERIES)):
        ranked = sorted(range(len(shares)), key=lambda i: -shares[i][k])
        places = [i for i in ranked if shares[i][k] > 0]
        # the largest, and some from the middle: the largest alone are often odd
        chosen = dict.fromkeys(
            places[(len(places) - 1) * n // 4] for n in range(_PICTURES_A_CLASS) if places
        )
        exhibits = [
            Exhibit(f"{sample.sample_id}: {shares[i][k]:.1%}", picture)
            for i in chosen
            if (picture := _overlay(sample := manifest.samples[i], manifest)) is not None
        ]
        if exhibits:
            shown[classes.names[k]] = exhibits
    return shown


def _look_alikes(diagnosis: Diagnosis, manifest: Manifest) -> list[tuple[Exhibit, Exhibit]]:
    """Nearly equal pictures side by side, those in different splits first."""
    samples = manifest.samples
    ranked = sorted(
        diagnosis.likenesses,
        key=lambda like: (samples[like.first].split == samples[like.second].split, like.bits),
    )
    pairs = []
    for like in ranked[:_MOST_LOOK_ALIKES]:
        sides = [samples[like.first], samples[like.second]]
        pictures = [_overlay(sample, manifest) for sample in sides]
        first, second = (
            None if picture is None else Exhibit(f"{sample.sample_id} ({sample.split})", picture)
            for sample, picture in zip(sides, pictures, strict=True)
        )
        if first is not None and second is not None:
            pairs.append((first, second))
    return pairs


def _overlay(sample: Sample, manifest: Manifest) -> Picture | None:
    """The image with its classes laid over it, small; None where it is huge or gone."""
    if sample.width * sample.height > _MOST_PIXELS:
        return None
    facts = manifest.facts
    try:
        decoded = read_sample(sample, classes=facts.classes, in_channels=facts.in_channels)
    except DatasetError:  # it was there a moment ago; the page goes on without it
        return None

    return np.asarray(fit(overlay(decoded.image, decoded.mask, facts.classes), _SIDE))
