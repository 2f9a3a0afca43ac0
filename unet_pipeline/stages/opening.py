"""From settings to data: a source recognised, read and checked, or a prepared dataset opened.

Apart from `assembly`, because none of this needs torch, which takes seconds to import.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from unet_pipeline.classes import parse_value
from unet_pipeline.config import DataSettings
from unet_pipeline.datasets.findings import Finding, name_five
from unet_pipeline.datasets.formats import Found
from unet_pipeline.datasets.formats.torchvision_sets import is_torchvision
from unet_pipeline.datasets.index import find, index_folder
from unet_pipeline.datasets.manifest import SAMPLES_FILE, Manifest, Sample, Split
from unet_pipeline.datasets.options import Options
from unet_pipeline.datasets.samples_csv import load_samples
from unet_pipeline.datasets.split_checks import why_empty
from unet_pipeline.errors import DatasetError, UserError
from unet_pipeline.progress import progress_bar

logger = logging.getLogger(__name__)

_SPLIT_FLAGS = {"val_fraction": "--val", "test_fraction": "--test", "split_by": "--split-by"}


def find_data(settings: DataSettings, source: Path) -> Found:
    """The pairs of `source`, recognised as `settings` says."""
    if is_torchvision(str(source)):
        raise UserError(f"{source} is fetched by `unet prepare`: train on the folder that it makes")
    return find(
        source,
        format_name=settings.format,
        images=settings.images,
        masks=settings.masks,
        pages=settings.pages,
    )


def index_options(
    settings: DataSettings,
    *,
    num_folds: int | None = None,
    former: Sequence[Sample] = (),
) -> Options:
    """What `settings` says about classes and splits.

    former: the samples of an earlier version of the dataset, which keep their splits.
    """
    return Options(
        ignore_values=[parse_value(text) for text in settings.ignore_values],
        class_names=settings.class_names or None,
        values=[parse_value(text) for text in settings.values] or None,
        other=settings.other,
        split_by=settings.split_by,
        val_fraction=settings.val_fraction,
        test_fraction=settings.test_fraction,
        seed=settings.split_seed,
        group_regex=settings.group_regex,
        num_folds=num_folds,
        former=former,
        value_range=settings.value_range,
    )


def former_samples(splits_from: str | None) -> Sequence[Sample]:
    """The samples of the dataset that --splits-from names, whose files may have moved since."""
    if splits_from is None:
        return ()
    path = Path(splits_from)
    path = path / SAMPLES_FILE if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"--splits-from {splits_from}: there is no {SAMPLES_FILE}")
    return load_samples(path).samples


def refuse_other_splits(splits_from: str, former: Sequence[Sample | None], source: Path) -> None:
    """Raise `UserError` where --splits-from knows no sample of the data; else say how many."""
    known = sum(sample is not None for sample in former)
    if not known:
        raise UserError(
            f"--splits-from {splits_from}: it knows none of the {len(former)} samples of {source}, "
            "neither by content nor by name: give the dataset that was made of this data"
        )
    logger.info("--splits-from knows %d of %d samples", known, len(former))


def refuse_given_splits(settings: DataSettings, found: Found) -> None:
    """Raise `UserError` for options about splits where the data brings all of them."""
    given = {pair.split for pair in found.pairs} - {None}
    asked = settings.model_fields_set
    fixed = {"val_fraction": "val" in given, "test_fraction": "test" in given or len(given) > 1}
    fixed["split_by"] = fixed["val_fraction"] and fixed["test_fraction"]
    for name, flag in _SPLIT_FLAGS.items():
        if name in asked and fixed[name]:
            named = ", ".join(sorted(str(split) for split in given))
            raise UserError(
                f"{flag} has no effect: the data comes with its own splits ({named}); leave it "
                "out, or name the folders of all images and masks"
            )


def refuse_splits_of_scenes(settings: DataSettings) -> None:
    """Raise `UserError` for options about splits where the sample data is made."""
    for name, flag in _SPLIT_FLAGS.items():
        if name in settings.model_fields_set:
            raise UserError(
                f"{flag} has no effect without a SOURCE: the sample data comes with its own splits"
            )


@contextlib.contextmanager
def reading() -> Iterator[Callable[[int, int], None]]:
    """A progress bar over the samples that are read."""
    with progress_bar("reading", total=1, unit="samples") as bar:
        yield lambda done, total: bar.move_to(done / max(total, 1), count=done)


def log_findings(findings: Iterable[Finding]) -> None:
    """Warnings and notes as log lines; errors are for exceptions."""
    for finding in findings:
        if finding.severity != "error":
            level = logging.WARNING if finding.severity == "warning" else logging.INFO
            logger.log(level, "%s", finding.sentence())


def index_data(settings: DataSettings, source: Path) -> Manifest:
    """The source of images and masks, recognised, checked and split as `settings` says."""
    found = find_data(settings, source)
    with reading() as on_progress:
        manifest = index_folder(
            found, source=source, options=index_options(settings), on_progress=on_progress
        )
    log_findings(manifest.findings)
    return manifest


def open_data(settings: DataSettings, *, splits: tuple[Split, ...]) -> Manifest:
    """The dataset at `settings.path`, prepared or plain, which must hold samples of `splits`.

    settings.fold: the fold of a prepared dataset that is its val split; all others train.
    """
    if not settings.path:
        raise UserError("no data: give --data, a prepared dataset or a folder of images and masks")
    path = Path(settings.path)
    if Manifest.is_in(path):
        unset = DataSettings(path=settings.path, fold=settings.fold).model_dump()
        without_effect = [name for name, v in settings.model_dump().items() if v != unset[name]]
        if without_effect:
            raise UserError(
                f"data.{without_effect[0]} has no effect on {path}, which is prepared: "
                "leave it out, or prepare the source again with it"
            )
        manifest = Manifest.load(path)
        if settings.fold is not None:
            manifest = manifest.fold(settings.fold)
        _warn_of_absent_classes(manifest)
    else:
        if settings.fold is not None:
            refuse_folds_of_plain(path)
        manifest = index_data(settings, path)
    for split in splits:
        if not manifest.split(split):
            counts = ", ".join(f"{n} {name}" for name, n in manifest.facts.num_samples.items())
            remedy = why_empty(
                [sample.group for sample in manifest.samples],
                group_regex=settings.group_regex,
                val_fraction=settings.val_fraction if split == "val" else None,
            )
            remedy = remedy or "add images, or set the column `split` of a prepared samples.csv"
            raise DatasetError(f"{path} has no {split} samples (it has {counts}): {remedy}")
    return manifest


def _warn_of_absent_classes(manifest: Manifest) -> None:
    """Say which classes have no training pixel; of a source that is read now, the checks do."""
    facts = manifest.facts
    counts = zip(facts.classes.names, facts.class_pixel_counts, strict=True)
    absent = [name for name, count in counts if not count]
    if absent:
        logger.warning("no training mask holds %s: it cannot be learned", name_five(absent))


def refuse_folds_of_plain(path: Path) -> NoReturn:
    """Raise the `UserError` for a fold of data that is not prepared."""
    raise UserError(
        f"{path} is no prepared dataset, so it has no folds: make them with `unet prepare {path} "
        "--folds 5`, then train on the folder that it writes"
    )
