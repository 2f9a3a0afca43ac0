"""What `prepare` leaves in its output: a dataset, a repaired copy, an export; or nothing."""

from __future__ import annotations

import contextlib
import filecmp
import itertools
import logging
import os
import shutil
import tempfile
from collections.abc import Container, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from unet_pipeline.datasets.doctor import Diagnosis
from unet_pipeline.datasets.exports import export
from unet_pipeline.datasets.findings import name_five
from unet_pipeline.datasets.formats import Pair
from unet_pipeline.datasets.formats.class_list import CLASS_FILES
from unet_pipeline.datasets.former import MADE_FOLDERS, Changes, Former, changes_since
from unet_pipeline.datasets.index import complete
from unet_pipeline.datasets.made import in_files, safe_name
from unet_pipeline.datasets.manifest import FACTS_FILE, SAMPLES_FILE, Manifest, Sample
from unet_pipeline.datasets.repair import Repairs, write_repaired
from unet_pipeline.datasets.samples_csv import load_samples
from unet_pipeline.errors import DatasetError, UserError
from unet_pipeline.files import LOCK_NAME, write_atomic
from unet_pipeline.progress import progress_bar

logger = logging.getLogger(__name__)

REPORT_FILE = "report.html"
LAST = (SAMPLES_FILE, FACTS_FILE)
"""What says that a folder is whole."""
BEYOND_REPAIR = (
    *("mask-values", "void-masks", "mixed-channels", "mixed-depths"),
    *("absent-classes", "classes-absent-from-train"),
)
"""Errors that leaving pairs out does not mend."""


@dataclass(frozen=True)
class PreparedDataset:
    """What `prepare` has made: the folder and the dataset in it.

    exported: the format that the folder is in, where it is not a dataset of this program.
    changes: since its former version, where it was brought up to date.
    """

    folder: Path
    manifest: Manifest
    exported: str | None = None
    changes: Changes | None = None

    def summary(self) -> dict[str, Any]:
        """The facts of the dataset and what was found, JSON-able."""
        return {
            "folder": str(self.folder),
            "exported": self.exported,
            "changes": None if self.changes is None else asdict(self.changes),
            **self.manifest.facts.model_dump(mode="json"),
            "findings": [finding.summary() for finding in self.manifest.findings],
        }


def with_files_in_place(result: PreparedDataset) -> PreparedDataset:
    """`result` with the paths of its files where they are after they were moved."""
    if result.exported is not None:
        return result
    manifest = replace(Manifest.load(result.folder), findings=result.manifest.findings)
    return replace(result, manifest=manifest)


def write_dataset(diagnosis: Diagnosis, output: Path, place: Path) -> PreparedDataset:
    """Write manifest and report, and masks and images that no file of the source holds.

    They are written to `place`, which is `output` or becomes it.
    """
    manifest = _complete(diagnosis, place)
    _save(diagnosis, manifest, place, output)
    return PreparedDataset(output, manifest)


def _complete(diagnosis: Diagnosis, output: Path) -> Manifest:
    """`complete` with progress over what is to be drawn."""
    total = sum(not in_files(scan.pair) for scan in diagnosis.scans)
    with progress_bar("writing", total=total, unit="samples") as bar:
        return complete(
            diagnosis, output, output, on_progress=lambda done, _: bar.move_to(done, count=done)
        )


def _save(diagnosis: Diagnosis, manifest: Manifest, folder: Path, output: Path) -> None:
    """Write the report and, last, the manifest: a folder with one is whole.

    output: what `folder` is called in the end.
    """
    from unet_pipeline.stages.picturing import report_page  # takes torch along, --check does not

    write_atomic(folder / REPORT_FILE, report_page(diagnosis, manifest))
    if hasattr(os, "sync"):
        os.sync()  # the many files of the dataset; the manifest says that they are there
    manifest.save(folder)
    logger.info("report: %s", output / REPORT_FILE)


# ---- up to date ---------------------------------------------------------------------------------


def write_update(diagnosis: Diagnosis, former: Former, output: Path) -> PreparedDataset:
    """Write what is new in the dataset in `output`; where nothing has changed, nothing is written.

    At every moment the files that samples.csv names are there and hold what they held: what is
    drawn anew gets another name, and what is no longer named is removed at the end. Between
    samples.csv and dataset.yaml, which comes last, the samples are the new ones and the statistics
    those of before; another --update completes that.
    """
    changes = changes_since(former, diagnosis)
    if changes.gone:
        logger.warning("gone from the source: %s", name_five(changes.gone))
    logger.info("%s", changes.sentence())
    diagnosis, fresh = _beside_former(diagnosis, former, output)
    drawn = [path for s in former.samples for path in (s.image, s.mask) if former.holds(path)]
    try:
        manifest = _complete(diagnosis, output)
        if not former.is_equal(manifest):
            _save(diagnosis, manifest, output, output)
        else:
            logger.info("%s is up to date: nothing was written", output)
    finally:
        _remove_unnamed([*filter(None, drawn), *fresh], output)
    return PreparedDataset(output, manifest, changes=changes)


def _beside_former(
    diagnosis: Diagnosis, former: Former, output: Path
) -> tuple[Diagnosis, list[Path]]:
    """`diagnosis` with the drawn files that are there, and with free names for all other ones.

    The second value: the places where these may be written, of which none is there yet.
    """
    rows = {sample.sample_id: sample for sample in former.samples}
    same_classes = former.facts.classes == diagnosis.classes
    names = {sample.sample_id for sample in diagnosis.samples}
    scans, fresh = [], list[Path]()
    for scan, sample in zip(diagnosis.scans, diagnosis.samples, strict=True):
        pair, old = scan.pair, rows.get(sample.sample_id)
        if old is not None and same_classes and old.content == sample.content:
            pair = _with_files_of(old, pair)
        if not in_files(pair):
            name, places = _free_name(sample.sample_id, names, output)
            names.add(name)
            fresh += places
            pair = pair.renamed(name)
        scans.append(replace(scan, pair=pair))
    return replace(diagnosis, scans=tuple(scans)), fresh


def _with_files_of(old: Sample, pair: Pair) -> Pair:
    """`pair` with the files that were written for it when it was the same."""
    made_image, made_mask = (not isinstance(part, Path) for part in (pair.image, pair.mask))
    if made_image and old.image.is_file():
        pair = pair.with_files(old.image, pair.mask_file)
    if made_mask and old.mask is not None and old.mask.is_file():
        pair = pair.with_files(pair.image_file, old.mask)
    return pair


def _free_name(sample_id: str, names: Container[str], output: Path) -> tuple[str, list[Path]]:
    """The id, or the id with a number, under which no file is there yet; and the places for it."""
    numbered = (f"{sample_id}.{number}" for number in itertools.count(2))
    for name in itertools.chain([sample_id], numbered):
        places = [
            output / role / f"{safe_name(name)}{suffix}"
            for role in MADE_FOLDERS
            for suffix in (".png", ".tif")
        ]
        if (name == sample_id or name not in names) and not any(map(os.path.lexists, places)):
            break
    return name, places


def _remove_unnamed(paths: Sequence[Path], output: Path) -> None:
    """Remove those of `paths`, all drawn by us, that the samples.csv of `output` does not name."""
    samples, _ = load_samples(output / SAMPLES_FILE)
    named = {path for sample in samples for path in (sample.image, sample.mask)}
    for path in paths:
        if path.parent.resolve() / path.name not in named:
            path.unlink(missing_ok=True)
            for folder in path.parents:
                if folder in (output, output.resolve()) or not folder.is_dir():
                    break
                with contextlib.suppress(OSError):  # others are in it
                    folder.rmdir()


# ---- other forms --------------------------------------------------------------------------------


def write_export(name: str, diagnosis: Diagnosis, output: Path, place: Path) -> PreparedDataset:
    """Write the dataset in the format of others to `place`, which becomes `output`."""
    with tempfile.TemporaryDirectory() as folder:  # for masks that are no files yet
        manifest = complete(diagnosis, output, Path(folder))
        with progress_bar("writing", total=len(manifest.samples), unit="samples") as bar:
            export(
                name,
                manifest,
                place,
                on_progress=lambda done, _: bar.move_to(done, count=done),
            )
    return PreparedDataset(output, manifest, exported=name)


def write_copy(diagnosis: Diagnosis, source: Path, output: Path, place: Path) -> PreparedDataset:
    """Write a repaired copy to `place`, which becomes `output`.

    Where `output` holds it already, byte for byte, `place` is left empty.
    """
    beyond = [f.sentence() for f in diagnosis.errors if f.code in BEYOND_REPAIR]
    if beyond or diagnosis.facts is None:
        reason = "; ".join(beyond) or "no usable pair of image and mask to train on"
        raise DatasetError(f"{source}: cannot be repaired by itself: {reason}")
    for finding in diagnosis.errors:
        logger.info("left out or mended: %s", finding.message)
    repairs = _repair(diagnosis, place)
    if Manifest.is_in(output):
        repairs.manifest.save(place)
        if not _same_files(place, output):
            refuse_prepared(output, may_update=False)
        logger.info("%s holds this repaired copy already: nothing to do", output)
        for entry in place.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    else:
        for what, count in repairs.counts.items():
            logger.info("%s: %d", what, count)
        findings = repairs.manifest.findings
        _save(replace(diagnosis, findings=findings), repairs.manifest, place, output)
    return PreparedDataset(output, replace(repairs.manifest, root=output))


def _repair(diagnosis: Diagnosis, folder: Path) -> Repairs:
    """The files of the copy in `folder`, but no manifest yet."""
    with tempfile.TemporaryDirectory() as scratch:
        manifest = complete(diagnosis, folder, Path(scratch))
        with progress_bar("writing", total=len(manifest.samples), unit="samples") as bar:
            repairs = write_repaired(
                manifest,
                folder,
                turned=diagnosis.turned,
                on_progress=lambda done, _: bar.move_to(done, count=done),
            )
    # What the source had wrong is no error of the copy
    findings = tuple(
        replace(f, severity="note", message=f"of the source: {f.message}", remedy="")
        if f.severity == "error"
        else f
        for f in diagnosis.findings
    )
    return replace(repairs, manifest=replace(repairs.manifest, findings=findings))


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


def refuse_what_is_in_the_way(output: Path, *, fix: bool) -> None:
    """Raise `UserError` for folders and files of names that are needed: whose they are is open."""
    for name in (*MADE_FOLDERS, *((CLASS_FILES[0],) if fix else ())):
        if (output / name).exists() and not Manifest.is_in(output):
            what = f"a folder {name}" if name in MADE_FOLDERS else name
            raise UserError(f"{output} holds {what} already: choose another --output or remove it")


def refuse_what_is_no_copy(output: Path) -> None:
    """Raise `UserError` where `output` holds a dataset that no --fix can have written."""
    if not Manifest.is_in(output):
        return
    samples, gone = load_samples(output / SAMPLES_FILE)
    own = [output.resolve() / name for name in MADE_FOLDERS]
    is_copy = (output / CLASS_FILES[0]).is_file() and all(
        sample.mask is not None
        and sample.image.is_relative_to(own[0])
        and sample.mask.is_relative_to(own[1])
        for sample in samples
    )
    if not is_copy or gone:
        refuse_prepared(output, may_update=False)


def not_there_yet(output: Path) -> list[Path]:
    """What may be made in `output` and is not there; all else in it belongs to the user."""
    names = (*MADE_FOLDERS, CLASS_FILES[0], REPORT_FILE, SAMPLES_FILE)
    return [path for name in names if not (path := output / name).exists()]


def remove_unfinished(output: Path, made: Sequence[Path]) -> None:
    """Remove the files and folders `made` of a dataset that was not finished after all."""
    if Manifest.is_in(output):
        return
    for path in made:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def refuse_prepared(output: Path, *, may_update: bool) -> None:
    """Raise `UserError` where `output` holds a dataset; may_update: --update is a way out."""
    if Manifest.is_in(output):
        way = "--update brings it up to date, or choose another --output"
        raise UserError(
            f"{output} holds a prepared dataset: "
            + (way if may_update else "choose another --output or remove it")
        )
