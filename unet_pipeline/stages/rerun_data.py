"""The samples and splits of a former run, found again in data that may have changed since."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from unet_pipeline.config import DataSettings
from unet_pipeline.datasets.findings import agree, counted, name_five
from unet_pipeline.datasets.manifest import Manifest, Sample, count_splits, fingerprint
from unet_pipeline.errors import DatasetError
from unet_pipeline.stages.opening import open_data
from unet_pipeline.training.run_folder import slug

logger = logging.getLogger(__name__)

FOLDER = "datasets"
"""Below the folder of runs: the samples and splits of former runs, where their data has changed."""


@dataclass(frozen=True)
class DataChange:
    """How the data differs from that of the former run, in samples.

    gone: from the dataset; their files are still there. moved: to another split.
    """

    former_fingerprint: str
    fingerprint: str
    new: int = 0
    gone: int = 0
    edited: int = 0
    moved: int = 0

    def summary(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    def __str__(self) -> str:
        if not (self.new or self.gone or self.edited or self.moved):
            return f"as it was ({self.fingerprint[:12]})"
        return (
            f"changed: {counted(self.new, 'sample')} new, {self.gone} gone, {self.edited} edited, "
            f"{self.moved} in another split; training on the run's own samples and splits"
        )


def same_data(
    former: Manifest, settings: DataSettings, place: str | None, runs_dir: Path
) -> tuple[DataSettings, DataChange]:
    """The settings that open the samples and splits of `former`, and what has changed since.

    settings: of the former run. place: where its data lies now, if it has moved.
    Where the data is not what it was, its former samples and splits are written as a dataset below
    `runs_dir`. Raises `DatasetError` where files of the samples are gone.
    """
    was = Path(settings.path or "")
    now, settings = _now(settings, place)
    change = _change(former, now)
    if now is not None and _trains_alike(former, now):
        return settings, change
    samples = _found(former, now, was=was, place=Path(place) if place else was)
    facts = former.facts.model_copy(
        update={"num_samples": count_splits(samples), "fingerprint": fingerprint(samples)}
    )
    folder = runs_dir / FOLDER / f"{slug(facts.name)}-{facts.fingerprint[:12]}"
    Manifest(folder, facts, samples).save(folder)
    return DataSettings(path=str(folder.resolve())), replace(change, fingerprint=facts.fingerprint)


def _now(settings: DataSettings, place: str | None) -> tuple[Manifest | None, DataSettings]:
    """The data as it is now; None where it is not there, though its files may be."""
    path = Path(place or settings.path or "")
    if not path.exists() and place is None:
        return None, settings
    if Manifest.is_in(path):
        settings = DataSettings(path=str(path), fold=settings.fold)
    else:
        settings = settings.model_copy(update={"path": str(path)})
    return open_data(settings, splits=()), settings


def _change(former: Manifest, now: Manifest | None) -> DataChange:
    old = {sample.sample_id: sample for sample in former.samples}
    new = {sample.sample_id: sample for sample in now.samples} if now else {}
    both = [(old[name], new[name]) for name in old.keys() & new.keys()]
    return DataChange(
        former.facts.fingerprint,
        now.facts.fingerprint if now else former.facts.fingerprint,
        new=len(new.keys() - old.keys()),
        gone=len(old.keys() - new.keys()) if now else 0,
        edited=sum(one.content != other.content for one, other in both),
        moved=sum(one.split != other.split for one, other in both),
    )


def _trains_alike(former: Manifest, now: Manifest) -> bool:
    """Whether a training sees the same: samples, splits, contents, classes, normalisation."""
    unseen = {"name", "percentiles", "objects", "folds"}
    return former.facts.model_dump(exclude=unseen) == now.facts.model_dump(exclude=unseen)


def _found(former: Manifest, now: Manifest | None, *, was: Path, place: Path) -> tuple[Sample, ...]:
    """The former samples with the places and contents of now; `DatasetError` for those gone.

    was, place: where the data was, and is. A sample that is no longer listed may still have files.
    """
    known = {sample.sample_id: sample for sample in now.samples} if now else {}
    samples, missing = [], []
    for sample in former.samples:
        current = known.get(sample.sample_id)
        if current is not None:
            sample = replace(current, split=sample.split, group=sample.group, fold=None)
        else:
            image = _moved(sample.image, was, place)
            mask = None if sample.mask is None else _moved(sample.mask, was, place)
            missing += [str(file) for file in (image, mask) if file and not file.is_file()]
            sample = replace(sample, image_file=image, mask_file=mask, fold=None)
        samples.append(sample)
    if missing:
        raise DatasetError(
            f"{counted(len(missing), 'file')} of the run's samples "
            f"{agree(len(missing), 'are')} not there any more: {name_five(missing)}; put them "
            "back, or name their new place with --data"
        )
    return tuple(samples)


def _moved(file: Path, was: Path, place: Path) -> Path:
    """Where a file lies now, if it has moved with its dataset."""
    if file.is_relative_to(was):
        candidate = place.absolute() / file.relative_to(was)
        return candidate if candidate.is_file() else file
    return file
