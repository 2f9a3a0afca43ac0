"""prepare: a source of images and masks -> a checked, split, described dataset."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unet_pipeline.catalogue import lookup
from unet_pipeline.classes import parse_value
from unet_pipeline.config import DataSettings, PrepareConfig
from unet_pipeline.datasets.doctor import Diagnosis, check_values, examine, values_to_keep
from unet_pipeline.datasets.exports import EXPORTS
from unet_pipeline.datasets.findings import Finding
from unet_pipeline.datasets.formats import Found
from unet_pipeline.datasets.formats.torchvision_sets import find_torchvision, is_torchvision
from unet_pipeline.datasets.former import (
    ClassSettings,
    Former,
    class_settings,
    refuse_another_dataset,
    refuse_other_numbers,
    with_classes_of,
)
from unet_pipeline.datasets.found_classes import show_value
from unet_pipeline.datasets.index import found_again
from unet_pipeline.datasets.manifest import Manifest, Sample
from unet_pipeline.datasets.samples import remove_scenes, write_scenes
from unet_pipeline.datasets.scan import ScanStore
from unet_pipeline.datasets.tiles import cut_into_tiles, scan_tile_masks
from unet_pipeline.errors import DatasetError, UserError
from unet_pipeline.files import (
    folder_lock,
    holds_nothing,
    make_writable_folder,
    output_folder,
    staged_folder,
)
from unet_pipeline.progress import progress_bar
from unet_pipeline.stages.describing import can_train, diagnosis_summary, diagnosis_text, verdict
from unet_pipeline.stages.opening import (
    find_data,
    former_samples,
    index_options,
    log_findings,
    reading,
    refuse_given_splits,
    refuse_other_splits,
    refuse_splits_of_scenes,
)
from unet_pipeline.stages.writing import (
    LAST,
    PreparedDataset,
    not_there_yet,
    refuse_prepared,
    refuse_what_is_in_the_way,
    refuse_what_is_no_copy,
    remove_unfinished,
    with_files_in_place,
    write_copy,
    write_dataset,
    write_export,
    write_update,
)

logger = logging.getLogger(__name__)

SAMPLE_NAME = "digits"
_SCENES_ALONE = "--num-scenes is for the sample data, which is made without a SOURCE"


@dataclass(frozen=True)
class CheckedSource:
    """What `check` has found out; nothing was written."""

    source: str
    diagnosis: Diagnosis

    def summary(self) -> dict[str, Any]:
        """JSON-able."""
        return {"source": self.source, **diagnosis_summary(self.diagnosis)}

    def table(self) -> str:
        """Findings, mask values and splits as text."""
        return diagnosis_text(self.diagnosis)

    def raise_for_errors(self) -> None:
        """Raise `DatasetError` where training would be wrong, or is not possible yet."""
        if [finding.code for finding in self.diagnosis.errors] == ["not-recognised"]:
            raise DatasetError(self.diagnosis.errors[0].message)
        if not can_train(self.diagnosis.findings):
            codes = ", ".join(f.code for f in self.diagnosis.errors) or "empty-splits"
            raise DatasetError(f"{self.source}: {verdict(self.diagnosis.findings)} ({codes})")


def check(config: PrepareConfig) -> CheckedSource:
    """Read everything and say what is to be said about it; nothing is written.

    Raises `UserError` for a source that does not exist and options that do not fit the data.
    """
    for name, flag in (("output", "--output"), ("fix", "--fix"), ("export", "--export"),
                       ("tile", "--tile"), ("tile_overlap", "--overlap"),
                       ("update", "--update")):  # fmt: skip
        if getattr(config, name):
            raise UserError(f"{flag} has no effect with --check, which writes nothing")
    if config.data.path is None:
        raise UserError("--check needs a SOURCE to look at")
    _refuse_fold(config)
    if "num_scenes" in config.model_fields_set:
        raise UserError(_SCENES_ALONE)
    source = Path(config.data.path)
    if is_torchvision(config.data.path):
        raise UserError(f"{source} is fetched by `unet prepare`; check the folder it makes then")
    try:
        config, found = _look_for(config, source)
    except DatasetError as error:  # in the form that was asked for, as all that is wrong
        finding = Finding("not-recognised", "error", str(error))
        return CheckedSource(str(source), Diagnosis(Found((), ""), (), (finding,)))
    refuse_given_splits(config.data, found)
    former = former_samples(config.splits_from)
    return CheckedSource(str(source), _examine(config, found, source, _name_of(source), former))


def prepare(config: PrepareConfig) -> PreparedDataset:
    """Read, check and split the data.

    Without `data.path` the embedded sample scenes are written first. The source is only read:
    samples.csv refers to its files by relative paths, and what it does not hold as a file (drawn
    masks, tiles) is written beside it. Raises `DatasetError` where training on the data would be
    wrong, `UserError` where the output folder holds a dataset already. With `update` that one is
    brought up to date: its samples keep their split and fold, its classes stay.
    """
    path = config.data.path
    output = output_of(config)
    _refuse_what_does_not_go_together(config, output)
    if config.update and Manifest.is_in(output):
        return _update(config, output)
    may_update = path is not None and not (config.tile or is_torchvision(path))
    if config.fix:
        refuse_what_is_no_copy(output)
    else:
        refuse_prepared(output, may_update=may_update)
    source = None if path is None else Path(path)
    if source is not None and not is_torchvision(str(path)):
        # now, so that a source that is none leaves no output folder
        config, found = _look_for(config, source)
    former = former_samples(config.splits_from)
    copies = bool(config.fix or config.export or config.tile)
    with (
        output_folder(output),
        folder_lock(output),
        staged_folder(output, last=LAST) if copies else contextlib.nullcontext(output) as place,
        contextlib.ExitStack() as undo,
    ):
        if not config.fix:
            refuse_prepared(output, may_update=may_update)  # another process may have been faster
        if source is not None:
            refuse_what_is_in_the_way(output, fix=config.fix)
        undo.callback(remove_unfinished, output, not_there_yet(output))
        if source is None:
            logger.info("drawing %d scenes of handwritten digits", config.num_scenes)
            write_scenes(output, num_scenes=config.num_scenes, seed=config.data.split_seed)
            undo.callback(remove_scenes, output)
            found = find_data(config.data, output)
        elif is_torchvision(str(path)):
            found = find_torchvision(str(path), download_to=output / "download")
        refuse_given_splits(config.data, found)
        if config.tile:
            found = _tiled(found, source or output, place, config)
        name = dataset_name(config, source, output)
        diagnosis = _examine(config, found, source or output, name, former)
        log_findings(diagnosis.findings)
        if config.fix:
            result = write_copy(diagnosis, source or output, output, place)
        else:
            diagnosis.raise_for_errors(source or output)
            result = (
                write_export(config.export, diagnosis, output, place)
                if config.export
                else write_dataset(diagnosis, output, place)
            )
        undo.pop_all()  # from here on, what was made stays
    return with_files_in_place(result) if copies else result


def _look_for(config: PrepareConfig, source: Path) -> tuple[PrepareConfig, Found]:
    """The pairs of `source`; of a prepared dataset its own, and the settings by its classes."""
    if not Manifest.is_in(source):
        return config, find_data(config.data, source)
    for name in ("format", "images", "masks", "pages"):
        if getattr(config.data, name) != getattr(DataSettings(), name):
            raise UserError(
                f"data.{name} has no effect on {source}, which is prepared: leave it out"
            )
    manifest = Manifest.load(source)
    classes, num_folds = manifest.facts.classes, len(manifest.facts.folds)
    if num_folds and config.splits_from:
        raise UserError(
            f"--splits-from has no effect on {source}, whose samples have splits and folds: leave "
            "it out"
        )
    found = found_again(manifest, keep_folds=config.folds is None)
    if num_folds and config.folds is None:
        config = config.model_copy(update={"folds": num_folds})
    if classes.other is None:
        return config, found
    return _with_classes(config, ClassSettings(classes.values, classes.names, classes.other)), found


def _with_classes(config: PrepareConfig, settings: ClassSettings) -> PrepareConfig:
    tree = config.model_dump(exclude_unset=True)
    tree.setdefault("data", {})
    tree["data"] |= {
        "values": [show_value(value) for value in settings.values],
        "class_names": list(settings.names),
        "other": settings.other,
    }
    return PrepareConfig.model_validate(tree)


def _update(config: PrepareConfig, output: Path) -> PreparedDataset:
    """Bring the dataset in `output` up to date; what is there stays where that cannot be done."""
    source = Path(config.data.path or "")
    found = find_data(config.data, source)
    refuse_given_splits(config.data, found)
    make_writable_folder(output)
    with folder_lock(output):
        former = Former.load(output)
        config, found = _with_former_settings(config, former, found, source)
        diagnosis = _examine(config, found, source, former.facts.name, former.samples)
        refuse_another_dataset(
            former, diagnosis, source, grouped=config.data.group_regex is not None
        )
        log_findings(diagnosis.findings)
        diagnosis.raise_for_errors(source)
        return write_update(diagnosis, former, output)


def _with_former_settings(
    config: PrepareConfig, former: Former, found: Found, source: Path
) -> tuple[PrepareConfig, Found]:
    """What the options leave open, by the dataset that is there: its classes and its folds."""
    folds = len(former.facts.folds) or None
    if config.folds not in (None, folds):
        raise UserError(
            f"--folds {config.folds}: {former.folder} has {folds or 'no'} folds, which --update "
            f"keeps; choose another --output, with --splits-from {former.folder}"
        )
    data = config.data
    if not (data.values or data.class_names):
        refuse_other_numbers(former, found, source)
    settings = class_settings(
        former.facts.classes,
        values=[parse_value(text) for text in data.values],
        class_names=data.class_names,
        other=data.other,
    )
    if settings is not None:
        config = _with_classes(config, settings)
    return config.model_copy(update={"folds": folds}), with_classes_of(former, found)


def _name_of(source: Path) -> str:
    """What a dataset from `source` is called."""
    resolved = source.resolve()
    return resolved.stem if resolved.is_file() else resolved.name


def dataset_name(config: PrepareConfig, source: Path | None, output: Path) -> str:
    """A source is often called `train`, which says nothing: a named output names the dataset."""
    if source is None:
        return SAMPLE_NAME
    return output.resolve().name if config.output or not source.exists() else _name_of(source)


def output_of(config: PrepareConfig) -> Path:
    """Where the result goes: --output, or data/<name of the source>."""
    if config.output:
        return Path(config.output)
    path = config.data.path
    if path is None:
        return Path("data", SAMPLE_NAME)
    name = path.rpartition(":")[2].lower() if is_torchvision(path) else _name_of(Path(path))
    return Path("data", "-".join(part for part in (name, config.export) if part))


def _refuse_what_does_not_go_together(config: PrepareConfig, output: Path) -> None:
    """Raise `UserError` for options that contradict each other, before any work is spent."""
    path = config.data.path
    _refuse_fold(config)
    if config.update:
        _refuse_update_without_effect(config, output)
    if config.fix and (config.export or config.tile):
        other = "--export" if config.export else "--tile"
        raise UserError(f"--fix and {other} each write a copy: run one after the other")
    if config.export:
        lookup(EXPORTS, config.export, kind="export")
    if config.export and (config.tile or is_torchvision(path or "")):
        raise UserError("--export writes what lies in files: prepare first, then --export that")
    if config.export and output.is_dir() and not holds_nothing(output):
        raise UserError(f"{output} is not empty: choose another folder for the export")
    if config.export and config.folds:
        raise UserError("--folds has no effect with --export: other formats have no folds")
    if config.tile_overlap and not config.tile:
        raise UserError("--overlap is for tiles: give --tile as well")
    if path is None:
        if config.fix or config.export or config.tile:
            raise UserError("--fix, --export and --tile need a SOURCE")
        refuse_splits_of_scenes(config.data)
        return
    if "num_scenes" in config.model_fields_set:
        raise UserError(_SCENES_ALONE)
    if is_torchvision(path):
        for name in ("format", "images", "masks", "pages"):
            if getattr(config.data, name) != getattr(DataSettings(), name):
                raise UserError(f"data.{name} has no effect on {path}: leave it out")
        return
    source = Path(path)
    if not source.exists():
        raise UserError(f"{source} does not exist: give the folder of images and masks")
    if source.is_dir() and output.resolve().is_relative_to(source.resolve()):
        raise UserError(f"--output {output} lies in the source, which is only read: choose another")
    if Manifest.is_in(source) and not (config.export or config.fix or config.tile):
        raise UserError(
            f"{source} is prepared already: train on it, --check it, or write it anew with --fix, "
            "--tile or --export"
        )


def _refuse_update_without_effect(config: PrepareConfig, output: Path) -> None:
    path = config.data.path
    if path is None or is_torchvision(path):
        raise UserError(
            f"--update has no effect with {path or 'no SOURCE'}: it is for images and masks of "
            "yours that have changed"
        )
    for name, remedy in (
        ("fix", f"choose another --output, with --splits-from {output}"),
        ("export", "choose another folder for the export"),
        ("tile", f"cut into another --output, with --splits-from {output}"),
        ("splits_from", "it keeps the splits of the dataset in --output"),
    ):
        if getattr(config, name):
            flag = name.replace("_", "-")
            raise UserError(f"--update has no effect with --{flag}: {remedy}")


def _refuse_fold(config: PrepareConfig) -> None:
    if config.data.fold is not None:
        raise UserError(
            "data.fold has no effect on `unet prepare`: --folds makes folds, `unet train --fold` "
            "takes one"
        )


def _tiled(found: Found, source: Path, output: Path, config: PrepareConfig) -> Found:
    """`found` in tiles, where its mask values make classes."""
    assert config.tile is not None
    options, total = index_options(config.data), len(found.pairs)
    with progress_bar("reading masks", total=total, unit="images") as bar:
        masks = scan_tile_masks(
            found,
            size=config.tile,
            overlap=config.tile_overlap,
            keep=values_to_keep(found, options),
            on_progress=lambda done, _: bar.move_to(done, count=done),
        )
        check_values(masks, found, source=source, options=options)
    with progress_bar("cutting", total=total, unit="images") as bar:
        tiled = cut_into_tiles(
            found,
            output,
            size=config.tile,
            overlap=config.tile_overlap,
            on_progress=lambda done, _: bar.move_to(done, count=done),
        )
    if len(tiled.pairs) == len(found.pairs):
        logger.warning("no image is larger than a tile of %d pixels", config.tile)
    return tiled


def _examine(
    config: PrepareConfig,
    found: Found,
    source: Path,
    name: str,
    former: Sequence[Sample] = (),
) -> Diagnosis:
    options = index_options(config.data, num_folds=config.folds, former=former)
    with ScanStore() as store, reading() as on_progress:
        diagnosis = examine(
            found, source=source, name=name, options=options, store=store, on_progress=on_progress
        )
    if config.splits_from and diagnosis.samples:
        refuse_other_splits(config.splits_from, diagnosis.former, source)
    return diagnosis
