"""An earlier version of a dataset: what of it stays when the dataset is brought up to date."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Self

from unet_pipeline.classes import Classes, MaskValue
from unet_pipeline.datasets.doctor import Diagnosis
from unet_pipeline.datasets.findings import counted, name_five
from unet_pipeline.datasets.formats import Found
from unet_pipeline.datasets.formats.class_list import ClassList
from unet_pipeline.datasets.found_classes import default_names
from unet_pipeline.datasets.manifest import (
    FACTS_FILE,
    SAMPLES_FILE,
    DatasetFacts,
    Manifest,
    Sample,
    load_facts,
)
from unet_pipeline.datasets.samples_csv import dump_samples, load_samples
from unet_pipeline.errors import UserError

MADE_FOLDERS = ("images", "masks")
"""What may be written beside the manifest: drawn masks, tiles, pages, repaired files."""


@dataclass(frozen=True)
class Former:
    """A prepared dataset, some of whose files may be gone by now.

    folder: where it is, links resolved. facts: as its dataset.yaml has them, whatever was edited
    since. samples: the rows of its samples.csv, with the edits.
    """

    folder: Path
    facts: DatasetFacts
    samples: tuple[Sample, ...]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Raises `DatasetError` for a manifest that is damaged."""
        samples, _ = load_samples(folder / SAMPLES_FILE)
        return cls(folder.resolve(), load_facts(folder / FACTS_FILE), tuple(samples))

    def is_equal(self, manifest: Manifest) -> bool:
        """Whether `manifest`, saved in the same folder, would say the same, however it is put."""
        rows = [dump_samples(some, self.folder) for some in (self.samples, manifest.samples)]
        return self.facts == manifest.facts and rows[0] == rows[1]

    def holds(self, path: Path | None) -> bool:
        """Whether a file lies among those that `prepare` makes beside the manifest."""
        return path is not None and any(
            path.is_relative_to(self.folder / name) for name in MADE_FOLDERS
        )


@dataclass(frozen=True)
class Changes:
    """What distinguishes a dataset from its former version.

    num_new, num_kept: samples, those that are only renamed or changed among the kept ones.
    gone: the ids of those that are not there any more.
    """

    num_new: int
    num_kept: int
    gone: tuple[str, ...]

    def sentence(self) -> str:
        """The three numbers."""
        new = counted(self.num_new, "new sample")
        return f"{new}, {self.num_kept} kept, {len(self.gone)} gone"


def changes_since(former: Former, diagnosis: Diagnosis) -> Changes:
    """What is new in the samples of `diagnosis`, and what is gone."""
    matched = {old.sample_id for old in diagnosis.former if old is not None}
    gone = tuple(old.sample_id for old in former.samples if old.sample_id not in matched)
    return Changes(len(diagnosis.samples) - len(matched), len(matched), gone)


# ---- classes ------------------------------------------------------------------------------------


class ClassSettings(NamedTuple):
    """The mask value and the name of each class; the class index of all other values."""

    values: tuple[MaskValue, ...]
    names: tuple[str, ...]
    other: int | None


def with_classes_of(former: Former, found: Found) -> Found:
    """`found` with the classes of the former dataset, void included, as those of its class list."""
    classes = former.facts.classes
    void = [value for value in found.ignore_values if value not in classes.values]
    return replace(
        found,
        class_list=ClassList(
            FACTS_FILE, classes.names, classes.values, classes.colors, snap=classes.snap
        ),
        ignore_values=tuple(dict.fromkeys((*classes.ignore_values, *void))),
    )


def class_settings(
    classes: Classes,
    *,
    values: Sequence[MaskValue],
    class_names: Sequence[str],
    other: int | None,
) -> ClassSettings | None:
    """What the options are to say, so that all that they leave open stays as in `classes`.

    values, class_names, other: as they were given. None where they need say no more, because a
    class list is enough (`with_classes_of`), or because the masks are to decide: names were given
    that are more or fewer than the classes, and no values.
    """
    if not (values or class_names) and other is None and classes.other is None:
        return None
    if not values and class_names and len(class_names) != classes.num_classes:
        return None
    chosen = tuple(values) or classes.values
    known = dict(zip(classes.values, classes.names, strict=True))
    fresh = default_names(chosen, classes.encoding)
    names = class_names or [known.get(v, name) for v, name in zip(chosen, fresh, strict=True)]
    if other is None and classes.other is not None:
        value = classes.values[classes.other]
        other = chosen.index(value) if value in chosen else None
    return ClassSettings(chosen, tuple(names), other)


def refuse_other_numbers(former: Former, found: Found, source: Path) -> None:
    """Raise `UserError` where `source` numbers its classes otherwise than the former dataset.

    What the pixels of a mask file mean does not depend on its neighbours; but a format that draws
    masks numbers the classes that it meets, so that one more may give all others another number.
    """
    listed, classes = found.class_list, former.facts.classes
    drawn = any(not isinstance(pair.mask, Path) for pair in found.pairs)
    if not drawn or listed is None or listed.values is None or not _are_alike(listed, classes):
        return
    known = dict(zip(classes.values, classes.names, strict=True))
    rows = [
        (value, name)
        for value, name in zip(listed.values, listed.names, strict=True)
        if value not in classes.ignore_values
    ]
    if any(known.get(value) != name for value, name in rows):
        names = [name for _, name in rows]
        raise UserError(
            f"{source} has the classes {name_five(names)}, {former.folder / FACTS_FILE} "
            f"{name_five(classes.names)}: --class-names {','.join(names)} takes them over, or "
            "choose another --output"
        )


def _are_alike(listed: ClassList, classes: Classes) -> bool:
    """Whether both have colours for values, or both numbers."""
    assert listed.values is not None
    return isinstance(listed.values[0], tuple) == (classes.encoding == "rgb")


# ---- what cannot be brought up to date ----------------------------------------------------------


def refuse_another_dataset(
    former: Former, diagnosis: Diagnosis, source: Path, *, grouped: bool
) -> None:
    """Raise `UserError` where `diagnosis` is not of the data that the former dataset was made of.

    That is where none of its samples is there; where it holds copies of its images, repaired or
    cut into tiles; and where its samples have groups of which only `--group-regex` told.
    grouped: that option was given now, so that groups are what it says.
    """
    if not diagnosis.samples:
        return
    if not any(diagnosis.former):
        raise UserError(
            f"none of the {len(former.samples)} samples of {former.folder} is in {source}: give "
            "the SOURCE that it was made of, or choose another --output"
        )
    for scan, old in zip(diagnosis.scans, diagnosis.former, strict=True):
        image = scan.pair.image
        if old is not None and isinstance(image, Path) and former.holds(old.image):
            raise UserError(
                f"{former.folder} holds copies of its images (--fix or --tile), which --update "
                f"would drop: write them anew, with --splits-from {former.folder} and another "
                "--output"
            )
    lost = [] if grouped else _lost_groups(former, diagnosis)
    if lost:
        raise UserError(
            f"{former.folder} has groups ({name_five(lost)}) of which {source} alone does not "
            "tell: give the --group-regex that it was made with, or undo the groups in "
            f"{SAMPLES_FILE}, or choose another --output with --splits-from {former.folder}"
        )


def _lost_groups(former: Former, diagnosis: Diagnosis) -> list[str]:
    """The groups that somebody named once and that nothing names now.

    A group of equal pictures has the name of one of them, and does not fall apart while the files
    stay what they are. Pictures of one colour are equal without being a group.
    """
    ids = {sample.sample_id for sample in former.samples}
    now: dict[str, set[str]] = {}
    rows = zip(diagnosis.scans, diagnosis.samples, diagnosis.former, strict=True)
    for scan, sample, old in rows:
        if scan.image.is_flat:
            continue
        if old is not None and old.content == sample.content and scan.pair.group is None:
            now.setdefault(old.group, set()).add(sample.group)
    return [group for group, parts in now.items() if group not in ids or len(parts) > 1]
