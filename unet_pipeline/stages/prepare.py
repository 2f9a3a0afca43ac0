"""prepare: a source of images and masks -> a checked, split, described dataset."""

from __future__ import annotations

import contextlib
import filecmp
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unet_pipeline.config import PrepareConfig
from unet_pipeline.datasets.doctor import Diagnosis, examine
from unet_pipeline.datasets.exports import export
from unet_pipeline.datasets.formats import Found
from unet_pipeline.datasets.formats.class_list import CLASS_FILES
from unet_pipeline.datasets.formats.torchvision_sets import (
    find_torchvision,
    is_torchvision,
)
from unet_pipeline.datasets.index import complete, found_again
from unet_pipeline.datasets.manifest import FACTS_FILE, SAMPLES_FILE, Manifest, Sample
from unet_pipeline.datasets.repair import write_repaired
from unet_pipeline.datasets.samples import remove_scenes, write_scenes
from unet_pipeline.datasets.samples_csv import load_samples
from unet_pipeline.datasets.scan_store import ScanStore
from unet_pipeline.datasets.tiles import cut_into_tiles
from unet_pipeline.errors import DatasetError, UserError
from unet_pipeline.files import LOCK_NAME, folder_lock, make_writable_folder, write_atomic
from unet_pipeline.progress import progress_bar
from unet_pipeline.stages.describing import (
    diagnosis_summary,
    diagnosis_text,
    show_value,
    verdict,
)
from unet_pipeline.stages.opening import find_data, index_options, log_findings, reading

logger = logging.getLogger(__name__)

SAMPLE_NAME = "digits"
REPORT_FILE = "report.html"
MADE_FOLDERS = ("images", "masks")
"""What may be written beside the manifest: drawn masks, tiles, pages, repaired files."""

BEYOND_REPAIR = ("mask-values", "mixed-channels", "mixed-depths")
"""Errors that leaving pairs out does not mend."""

_SCENES_ALONE = "--num-scenes is for the sample data, which is made without a SOURCE"


@dataclass(frozen=True)
class PreparedDataset:
    """What `prepare` has made: the folder and the dataset in it.

    exported: the format that the folder is in, where it is not a dataset of this program.
    """

    folder: Path
    manifest: Manifest
    exported: str | None = None

    def summary(self) -> dict[str, Any]:
        """The facts of the dataset and what was found, JSON-able."""
        return {
            "folder": str(self.folder),
            "exported": self.exported,
            **self.manifest.facts.model_dump(mode="json"),
            "findings": [finding.summary() for finding in self.manifest.findings],
        }


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
        if self.diagnosis.errors:
            codes = ", ".join(finding.code for finding in self.diagnosis.errors)
            raise DatasetError(f"{self.source}: {verdict(self.diagnosis.findings)} ({codes})")


def check(config: PrepareConfig) -> CheckedSource:
    """Read everything and say what is to be said about it; nothing is written.

    Raises `UserError` for a source that does not exist and options that do not fit the data;
    `DatasetError` where no pairs are recognised at all.
    """
    for name, flag in (("output", "--output"), ("fix", "--fix"), ("export", "--export"),
                       ("tile", "--tile"), ("tile_overlap", "--overlap")):  # fmt: skip
        if getattr(config, name):
            raise UserError(f"{flag} has no effect with --check, which writes nothing")
    if config.data.path is None:
        raise UserError("--check needs a SOURCE to look at")
    if "num_scenes" in config.model_fields_set:
        raise UserError(_SCENES_ALONE)
    former = _former_samples(config)
    source = Path(config.data.path)
    if is_torchvision(config.data.path):
        raise UserError(f"{source} is fetched by `unet prepare`; check the folder it makes then")
    config, found = _look_for(config, source)
    return CheckedSource(str(source), _examine(config, found, source, _name_of(source), former))


def prepare(config: PrepareConfig) -> PreparedDataset:
    """Read, check and split the data.

    Without `data.path` the embedded sample scenes are written first. The source is only read:
    samples.csv refers to its files by relative paths, and what it does not hold as a file (drawn
    masks, tiles) is written beside it. Raises `DatasetError` where training on the data would be
    wrong, `UserError` where the output folder holds another dataset already.
    """
    path = config.data.path
    output = _output_of(config)
    _refuse_what_does_not_go_together(config, output)
    if not config.fix:
        _refuse_prepared(output)
    former = _former_samples(config)
    source = None if path is None else Path(path)
    if source is not None and not is_torchvision(str(path)):
        # now, so that a source that is none leaves no output folder
        config, found = _look_for(config, source)
    make_writable_folder(output)
    with folder_lock(output), contextlib.ExitStack() as undo:
        if not config.fix:
            _refuse_prepared(output)  # another process may have been faster
        if source is None:
            logger.info("drawing %d scenes of handwritten digits", config.num_scenes)
            write_scenes(output, num_scenes=config.num_scenes, seed=config.data.split_seed)
            undo.callback(remove_scenes, output)
            found = find_data(config.data, output)
        else:
            undo.callback(_remove, _not_there_yet(output))
            if is_torchvision(str(path)):
                found = find_torchvision(str(path), download_to=output / "download")
        if config.tile:
            found = _tiled(found, output, config)
        name = _dataset_name(config, source, output)
        diagnosis = _examine(config, found, source or output, name, former)
        log_findings(diagnosis.findings)
        result = _write(config, diagnosis, source or output, output)
        undo.pop_all()  # from here on, what was made stays
    return result


def _look_for(config: PrepareConfig, source: Path) -> tuple[PrepareConfig, Found]:
    """The pairs of `source`; of a prepared dataset its own, and the settings by its classes."""
    if not Manifest.is_in(source):
        return config, find_data(config.data, source)
    manifest = Manifest.load(source)
    classes = manifest.facts.classes
    if classes.other is None:
        return config, found_again(manifest)
    tree = config.model_dump()
    tree["data"] |= {
        "values": [show_value(value) for value in classes.values],
        "class_names": list(classes.names),
        "other": classes.other,
    }
    return PrepareConfig.model_validate(tree), found_again(manifest)


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
    if config.fix and (config.export or config.tile):
        other = "--export" if config.export else "--tile"
        raise UserError(f"--fix and {other} each write a copy: run one after the other")
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
        return
    source = Path(path)
    if not source.exists():
        raise UserError(f"{source} does not exist: give the folder of images and masks")
    folder = source.resolve().parent if source.is_file() else source.resolve()
    if output.resolve().is_relative_to(folder) and not source.is_file():
        raise UserError(f"--output {output} lies in the source, which is only read: choose another")
    if Manifest.is_in(source) and not (config.export or config.fix or config.tile):
        raise UserError(
            f"{source} is prepared already: train on it, --check it, or write it anew with --fix, "
            "--tile or --export"
        )


def _refuse_prepared(output: Path) -> None:
    if Manifest.is_in(output):
        raise UserError(f"{output} holds a prepared dataset: choose another --output or remove it")


def _former_samples(config: PrepareConfig) -> Sequence[Sample]:
    """The samples of the dataset that --splits-from names, whose files may have moved since."""
    if config.splits_from is None:
        return ()
    path = Path(config.splits_from)
    path = path / SAMPLES_FILE if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"--splits-from {config.splits_from}: there is no {SAMPLES_FILE}")
    return load_samples(path).samples


def _not_there_yet(output: Path) -> list[Path]:
    """What may be made in `output` beside the manifest, and is to go if the dataset is not finished.

    Raises `UserError` where folders of that name are there already: whose they are is unknown.
    """
    if Manifest.is_in(output):
        return []
    for name in MADE_FOLDERS:
        if (output / name).exists():
            raise UserError(
                f"{output} holds a folder {name} already: choose another --output or remove it"
            )
    names = (*MADE_FOLDERS, CLASS_FILES[0], REPORT_FILE)
    return [path for name in names if not (path := output / name).exists()]


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _tiled(found: Found, output: Path, config: PrepareConfig) -> Found:
    assert config.tile is not None
    with progress_bar("cutting", total=len(found.pairs), unit="images") as bar:
        return cut_into_tiles(
            found,
            output,
            size=config.tile,
            overlap=config.tile_overlap,
            on_progress=lambda done, _: bar.move_to(done, count=done),
        )


def _examine(
    config: PrepareConfig,
    found: Found,
    source: Path,
    name: str,
    former: Sequence[Sample] = (),
) -> Diagnosis:
    options = index_options(config.data, num_folds=config.folds, former=former)
    with ScanStore() as store, reading() as on_progress:
        return examine(
            found, source=source, name=name, options=options, store=store, on_progress=on_progress
        )


def _write(
    config: PrepareConfig, diagnosis: Diagnosis, source: Path, output: Path
) -> PreparedDataset:
    """The dataset in the form that was asked for."""
    if config.fix:
        return _fix(diagnosis, source, output)
    diagnosis.raise_for_errors(source)
    if config.export:
        return _export(config.export, diagnosis, output)
    manifest = complete(diagnosis, output, output)
    _save(diagnosis, manifest, output)
    for split in ("train", "val"):
        if not manifest.facts.num_samples[split]:
            logger.warning("%s has no %s samples: it cannot be trained on yet", output, split)
    return PreparedDataset(output, manifest)


def _save(diagnosis: Diagnosis, manifest: Manifest, folder: Path) -> None:
    """Write the report and, last, the manifest: a folder with one is whole."""
    from unet_pipeline.stages.picturing import report_page  # takes torch along, --check does not

    write_atomic(folder / REPORT_FILE, report_page(diagnosis, manifest))
    manifest.save(folder)
    logger.info("report: %s", folder / REPORT_FILE)


def _export(name: str, diagnosis: Diagnosis, output: Path) -> PreparedDataset:
    """Write the dataset in the format of others."""
    with tempfile.TemporaryDirectory() as folder:  # for masks that are no files yet
        manifest = complete(diagnosis, output, Path(folder))
        with progress_bar("writing", total=len(manifest.samples), unit="samples") as bar:
            export(
                name,
                manifest,
                output,
                on_progress=lambda done, _: bar.move_to(done, count=done),
            )
    return PreparedDataset(output, manifest, exported=name)


def _fix(diagnosis: Diagnosis, source: Path, output: Path) -> PreparedDataset:
    """Write a repaired copy; where it is there already, byte for byte, nothing changes."""
    beyond = [f.sentence() for f in diagnosis.errors if f.code in BEYOND_REPAIR]
    if beyond or diagnosis.facts is None:
        reason = "; ".join(beyond) or "no usable pair of image and mask to train on"
        raise DatasetError(f"{source}: cannot be repaired by itself: {reason}")
    for finding in diagnosis.errors:
        logger.info("left out or mended: %s", finding.message)
    if not Manifest.is_in(output):
        return PreparedDataset(output, _repair(diagnosis, output))
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".fix-") as folder:
        manifest = _repair(diagnosis, Path(folder))
        if not _same_files(Path(folder), output):
            _refuse_prepared(output)
        logger.info("%s holds this repaired copy already: nothing to do", output)
        return PreparedDataset(output, replace(manifest, root=output))


def _repair(diagnosis: Diagnosis, folder: Path) -> Manifest:
    with tempfile.TemporaryDirectory() as scratch:
        manifest = complete(diagnosis, folder, Path(scratch))
        repairs = write_repaired(manifest, folder, turned=diagnosis.turned)
    for what, count in repairs.counts.items():
        logger.info("%s: %d", what, count)
    _save(diagnosis, repairs.manifest, folder)
    return repairs.manifest


def _same_files(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files, byte for byte; the lock of a run is none."""

    def names(folder: Path) -> set[str]:
        return {
            os.path.relpath(Path(path) / name, folder)
            for path, _, files in os.walk(folder)
            for name in files
            if name not in (LOCK_NAME, REPORT_FILE)
        }

    if not names(one) == names(other) >= {FACTS_FILE, SAMPLES_FILE}:
        return False
    return not any(filecmp.cmpfiles(one, other, sorted(names(one)), shallow=False)[1:])
