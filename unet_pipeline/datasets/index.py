"""A source of images and masks -> a dataset in memory; the source is never written to."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from unet_pipeline.datasets.doctor import Diagnosis, examine
from unet_pipeline.datasets.formats import Found, Pair
from unet_pipeline.datasets.formats.catalogue import find_pairs
from unet_pipeline.datasets.formats.class_list import ClassList
from unet_pipeline.datasets.images import probe
from unet_pipeline.datasets.made import write_made
from unet_pipeline.datasets.manifest import FACTS_FILE, Manifest, Sample
from unet_pipeline.datasets.options import Options
from unet_pipeline.datasets.pages import Pages, expand_pages
from unet_pipeline.datasets.scan import Progress, ScanStore
from unet_pipeline.errors import DatasetError
from unet_pipeline.files import cache_folder


def find(
    source: Path,
    *,
    format_name: str,
    images: str | None,
    masks: str | None,
    pages: Pages,
) -> Found:
    """The pairs of `source`; see `find_pairs` and `expand_pages` for options and errors."""
    source = Path(os.path.normpath(source.absolute()))
    found = find_pairs(source, format_name=format_name, images=images, masks=masks)
    return expand_pages(found, pages)


def found_again(manifest: Manifest, *, keep_folds: bool) -> Found:
    """The pairs of a prepared dataset, with splits, groups and folds, to be looked at once more."""
    classes = manifest.facts.classes
    pairs = tuple(
        Pair(s.sample_id, s.image, s.mask, s.split, s.group, s.fold if keep_folds else None)
        for s in manifest.samples
        if s.mask is not None
    )
    return Found(
        pairs,
        f"{len(pairs)} pairs of the prepared dataset {manifest.facts.name}",
        class_list=ClassList(
            FACTS_FILE, classes.names, classes.values, classes.colors, snap=classes.snap
        ),
        ignore_values=classes.ignore_values,
    )


def index_folder(
    found: Found, *, source: Path, options: Options, on_progress: Progress | None = None
) -> Manifest:
    """The dataset of `found`, read once, checked, divided.

    What has no file (drawn masks) is written to the user's cache. Raises `DatasetError`, with
    every error, its count and the first five files, for data that cannot be trained on; and
    `UserError` for options that do not fit the data.
    """
    source = Path(os.path.normpath(source.absolute()))
    with ScanStore() as store:
        diagnosis = examine(
            found,
            source=source,
            name=source.name,
            options=options,
            store=store,
            on_progress=on_progress,
        )
    diagnosis.raise_for_errors(source)
    return complete(diagnosis, source, cache_folder() / "made", by_digest=True)


def complete(
    diagnosis: Diagnosis,
    root: Path,
    folder: Path,
    *,
    by_digest: bool = False,
    on_progress: Progress | None = None,
) -> Manifest:
    """The manifest of a dataset without errors, what was made for it written to `folder`.

    root: the folder that the manifest is of. by_digest: see `write_made`.
    Raises `DatasetError` where there is nothing to train on.
    """
    if diagnosis.facts is None or diagnosis.classes is None:
        raise DatasetError(f"{root}: has no train samples to take statistics from")
    palette = diagnosis.classes.colors
    pairs = write_made(
        [scan.pair for scan in diagnosis.scans],
        folder,
        palette=palette,
        by_digest=by_digest,
        on_progress=on_progress,
    )
    samples = tuple(map(_with_files, diagnosis.samples, pairs))
    return Manifest(root, diagnosis.facts, samples, diagnosis.findings)


def list_samples(found: Found) -> list[Sample]:
    """The pairs as they lie, without facts, for scoring a model that knows its classes already.

    Splits that the data has are kept, all else is test. Raises `DatasetError` for pairs that are
    incomplete, and for an image without a size.
    """
    errors = [finding.sentence() for finding in found.findings if finding.severity == "error"]
    if errors:
        raise DatasetError("; ".join(errors))
    pairs = write_made(found.pairs, cache_folder() / "made", by_digest=True)
    return [_listed(pair) for pair in pairs]


def _listed(pair: Pair) -> Sample:
    assert isinstance(pair.image, Path)
    assert isinstance(pair.mask, Path)
    header = probe(pair.image)
    return Sample(
        sample_id=pair.sample_id,
        image_file=pair.image,
        mask_file=pair.mask,
        split=pair.split or "test",
        group=pair.group or pair.sample_id,
        width=header.width,
        height=header.height,
    )


def _with_files(sample: Sample, pair: Pair) -> Sample:
    assert isinstance(pair.image, Path)
    assert isinstance(pair.mask, Path)
    return replace(sample, image_file=pair.image, mask_file=pair.mask)
