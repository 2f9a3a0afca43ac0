"""prepare: a source of images and masks -> a checked, split, described dataset."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unet_pipeline.catalogue import lookup
from unet_pipeline.classes import parse_value
from unet_pipeline.config import DataSettings, PrepareConfig
from unet_pipeline.datasets.doctor import Diagnosis, examine
from unet_pipeline.datasets.exports import EXPORTS
from unet_pipeline.datasets.findings import Finding
from unet_pipeline.datasets.formats import Found
from unet_pipeline.datasets.formats.torchvision_sets import (
    find_torchvision,
    is_torchvision,
)
from unet_pipeline.datasets.former import (
    ClassSettings,
    Former,
    class_settings,
    refuse_another_dataset,
    refuse_other_numbers,
    with_classes_of,
    with_edited_splits,
)
from unet_pipeline.datasets.found_classes import show_value
from unet_pipeline.datasets.index import found_again
from unet_pipeline.datasets.manifest import SAMPLES_FILE, Manifest, Sample
from unet_pipeline.datasets.samples import remove_scenes, write_scenes
from unet_pipeline.datasets.samples_csv import load_samples
from unet_pipeline.datasets.scan import ScanStore
from unet_pipeline.datasets.tiles import cut_into_tiles
from unet_pipeline.errors import DatasetError, UserError
from unet_pipeline.files import folder_lock, make_writable_folder
from unet_pipeline.progress import progress_bar
from unet_pipeline.stages.describing import (
    diagnosis_summary,
    diagnosis_text,
    verdict,
)
from unet_pipeline.stages.opening import find_data, index_options, log_findings, reading
from unet_pipeline.stages.writing import (
    PreparedDataset,
    not_there_yet,
    refuse_prepared,
    refuse_what_is_in_the_way,
    remove_unfinished,
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
        """Raise `DatasetError` where training would be wrong."""
        if [finding.code for finding in self.diagnosis.errors] == ["not-recognised"]:
            raise DatasetError(self.diagnosis.errors[0].message)
        if self.diagnosis.errors:
            codes = ", ".join(finding.code for finding in self.diagnosis.errors)
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
    former = _former_samples(config)
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
    output = _output_of(config)
    _refuse_what_does_not_go_together(config, output)
    if config.update and Manifest.is_in(output):
        return _update(config, output)
    may_update = path is not None and not (config.tile or is_torchvision(path))
    if not config.fix:
        refuse_prepared(output, may_update=may_update)
    source = None if path is None else Path(path)
    if source is not None and not is_torchvision(str(path)):
        # now, so that a source that is none leaves no output folder
        config, found = _look_for(config, source)
    former = _former_samples(config)
    with _folder_for(output), folder_lock(output), contextlib.ExitStack() as undo:
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
        if config.tile:
            found = _tiled(found, output, config)
        name = _dataset_name(config, source, output)
        diagnosis = _examine(config, found, source or output, name, former)
        if source is not None:
            _refuse_given_splits(config, found)
        log_findings(diagnosis.findings)
        if config.fix:
            result = write_copy(diagnosis, source or output, output)
        else:
            diagnosis.raise_for_errors(source or output)
            result = (
                write_export(config.export, diagnosis, output)
                if config.export
                else write_dataset(diagnosis, output)
            )
        undo.pop_all()  # from here on, what was made stays
    return result


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
    classes = manifest.facts.classes
    if manifest.facts.folds and config.folds is None:
        config = config.model_copy(
            update={"folds": len(manifest.facts.folds), "splits_from": str(source)}
        )
    if classes.other is None:
        return config, found_again(manifest)
    settings = ClassSettings(classes.values, classes.names, classes.other)
    return _with_classes(config, settings), found_again(manifest)


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
    make_writable_folder(output)
    with folder_lock(output):
        former = Former.load(output)
        config, found = _with_former_settings(config, former, found, source)
        diagnosis = _examine(config, found, source, former.facts.name, former.samples)
        refuse_another_dataset(
            former, diagnosis, source, grouped=config.data.group_regex is not None
        )
        _refuse_given_splits(config, found)
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


def _dataset_name(config: PrepareConfig, source: Path | None, output: Path) -> str:
    """A source is often called `train`, which says nothing: a named output names the dataset."""
    if source is None:
        return SAMPLE_NAME
    return output.resolve().name if config.output or not source.exists() else _name_of(source)


def _output_of(config: PrepareConfig) -> Path:
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
    if config.update:
        _refuse_update_without_effect(config, output)
    if config.fix and (config.export or config.tile):
        other = "--export" if config.export else "--tile"
        raise UserError(f"--fix and {other} each write a copy: run one after the other")
    if config.export:
        lookup(EXPORTS, config.export, kind="export")
    if config.export and (config.tile or is_torchvision(path or "")):
        raise UserError("--export writes what lies in files: prepare first, then --export that")
    if config.export and output.is_dir() and any(output.iterdir()):
        raise UserError(f"{output} is not empty: choose another folder for the export")
    if config.export and config.folds:
        raise UserError("--folds has no effect with --export: other formats have no folds")
    if config.tile_overlap and not config.tile:
        raise UserError("--overlap is for tiles: give --tile as well")
    if path is None:
        if config.fix or config.export or config.tile:
            raise UserError("--fix, --export and --tile need a SOURCE")
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


def _former_samples(config: PrepareConfig) -> Sequence[Sample]:
    """The samples of the dataset that --splits-from names, whose files may have moved since."""
    if config.splits_from is None:
        return ()
    path = Path(config.splits_from)
    path = path / SAMPLES_FILE if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"--splits-from {config.splits_from}: there is no {SAMPLES_FILE}")
    return load_samples(path).samples


def _refuse_given_splits(config: PrepareConfig, found: Found) -> None:
    """Raise `UserError` for options about splits where the data brings all of them."""
    given = {pair.split for pair in found.pairs} - {None}
    asked = config.data.model_fields_set
    fixed = {"val_fraction": "val" in given, "test_fraction": "test" in given or len(given) > 1}
    fixed["split_by"] = fixed["val_fraction"] and fixed["test_fraction"]
    for name, flag in (("val_fraction", "--val"), ("test_fraction", "--test"),
                       ("split_by", "--split-by")):  # fmt: skip
        if name in asked and fixed[name]:
            named = ", ".join(sorted(str(split) for split in given))
            raise UserError(
                f"{flag} has no effect: the data comes with its own splits ({named}); leave it "
                "out, or name the folders of all images and masks"
            )


@contextlib.contextmanager
def _folder_for(output: Path) -> Iterator[None]:
    """Make the output folder, and remove it again where an error leaves it empty."""
    existed = output.exists()
    make_writable_folder(output)
    try:
        yield
    except BaseException:
        if not existed:
            with contextlib.suppress(OSError):
                output.rmdir()
        raise


def _tiled(found: Found, output: Path, config: PrepareConfig) -> Found:
    assert config.tile is not None
    with progress_bar("cutting", total=len(found.pairs), unit="images") as bar:
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
        return with_edited_splits(diagnosis, options=options, store=store)
