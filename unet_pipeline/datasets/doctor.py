"""Every file read once, everything that is to be said about a dataset, and the dataset itself."""

from __future__ import annotations

import functools
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from unet_pipeline.classes import Classes, pack_value
from unet_pipeline.datasets import checks, class_checks, split_checks
from unet_pipeline.datasets.division import Division, divide
from unet_pipeline.datasets.duplicates import (
    Likeness,
    equal_pictures,
    near_duplicate_findings,
    near_duplicates,
)
from unet_pipeline.datasets.facts import make_facts
from unet_pipeline.datasets.findings import Finding
from unet_pipeline.datasets.formats import Found, Made
from unet_pipeline.datasets.manifest import DatasetFacts, Sample, fingerprint
from unet_pipeline.datasets.mask_values import find_classes
from unet_pipeline.datasets.options import Options
from unet_pipeline.datasets.rows import Rows, chosen
from unet_pipeline.datasets.scan import (
    BadPair,
    MaskScan,
    PairScan,
    Progress,
    ScanStore,
    ScanTable,
    scan_pairs,
)
from unet_pipeline.datasets.soft_edges import with_shades
from unet_pipeline.datasets.value_table import (
    ClassPixelRows,
    ClassPixels,
    ValueTable,
    class_pixels,
    count_values,
)
from unet_pipeline.errors import DatasetError


@dataclass(frozen=True)
class Diagnosis:
    """What was found out about a dataset.

    found: as the format read it. scans: what was read of each good pair, in the order of
        `samples`; a pair whose mask must be turned as the EXIF of its image says is among them.
        Like the samples, they are made anew whenever they are asked for (`Rows`).
    findings: errors first. table: the values of the masks; classes, pixels (of each class in each
        mask), facts, samples: the dataset that the good pairs make; None or empty where they make
        none.
    former: which sample of the earlier dataset each sample is, None for a new one.
    turned: orientation by which masks must be turned. likenesses: nearly equal pictures.
    """

    found: Found
    scans: Sequence[PairScan]
    findings: tuple[Finding, ...]
    table: ValueTable | None = None
    classes: Classes | None = None
    pixels: Sequence[ClassPixels] = ()
    facts: DatasetFacts | None = None
    samples: Sequence[Sample] = ()
    former: Sequence[Sample | None] = ()
    turned: Mapping[str, int] = field(default_factory=dict)
    likenesses: tuple[Likeness, ...] = ()

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings with which training would be wrong."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    def raise_for_errors(self, source: Path) -> None:
        """Raise one `DatasetError` that names every error; nothing where there is none."""
        if self.errors:
            raise DatasetError(f"{source}: " + "; ".join(f.sentence() for f in self.errors))


def examine(
    found: Found,
    *,
    source: Path,
    name: str,
    options: Options,
    store: ScanStore,
    on_progress: Progress | None = None,
) -> Diagnosis:
    """Read every pair of `found` once and say all that is to be said about them.

    source: where they are from, for messages. name: of the dataset.
    on_progress: called as on_progress(done, total) after each pair.
    Raises `UserError` for options that do not fit the data; what is wrong with the data is a
    finding.
    """
    scans, bad = _read(found, options, store, on_progress)
    findings = [
        *_recognised(found),
        *found.findings,
        *checks.unreadable(bad),
        *checks.other_sizes(scans),
        *_about_images(scans),
        *checks.overlapping_objects(scans),
    ]
    turned: dict[str, int] = {}
    good = array("Q")
    for place, scan in enumerate(scans):
        if checks.turned_by_exif(scan):
            turned[scan.pair.sample_id] = scan.image.orientation
        elif not _fits(scan):
            continue
        good.append(place)
    if len(good) < len(scans):
        scans = chosen(scans, good)
    diagnosis = Diagnosis(found, scans, tuple(findings), turned=turned)
    if scans:
        diagnosis = _with_classes(diagnosis, source, options)
    if diagnosis.classes is not None:
        diagnosis = _with_samples(diagnosis, diagnosis.classes, name, options, store)
    order = ("error", "warning", "note")
    ranked = sorted(diagnosis.findings, key=lambda finding: order.index(finding.severity))
    return replace(diagnosis, findings=tuple(ranked))


def _read(
    found: Found, options: Options, store: ScanStore, on_progress: Progress | None
) -> tuple[Sequence[PairScan], list[BadPair]]:
    table = ScanTable()
    bad: list[BadPair] = []
    keep = values_to_keep(found, options)
    for scan in scan_pairs(found.pairs, store=store, keep=keep, on_progress=on_progress):
        if isinstance(scan, BadPair):
            bad.append(scan)
        else:
            table.append(scan)
    return table.rows(), bad


def values_to_keep(found: Found, options: Options) -> list[int]:
    """The mask values, packed, that are counted however rare they are."""
    named = (*(options.values or ()), *options.ignore_values, *found.ignore_values)
    return [pack_value(value) for value in named]


def _fits(scan: PairScan) -> bool:
    image, mask = scan.image, scan.mask
    return (image.height, image.width) == (mask.height, mask.width)


def _recognised(found: Found) -> Iterator[Finding]:
    yield Finding("recognised", "note", found.sentence, len(found.pairs))
    for sentence in found.left_out:
        yield Finding("left-out", "note", sentence)


def _about_images(scans: Sequence[PairScan]) -> Iterator[Finding]:
    for check in (
        checks.mixed_channels,
        checks.mixed_types,
        checks.mixed_ranges,
        checks.exif_disagrees,
        checks.flat_images,
        checks.alpha_with_information,
        checks.outlier_sizes,
    ):
        yield from check(scans)


def check_values(
    masks: Iterable[tuple[str, MaskScan]], found: Found, *, source: Path, options: Options
) -> None:
    """Raise the `DatasetError` or `UserError` that `examine` has for these mask values, if any.

    masks: the id of each sample and what was read of its mask.
    """
    table = with_shades(count_values(list(masks)), found.pairs)
    if table.uses:
        _find_classes(table, found, source, options)


def _find_classes(
    table: ValueTable, found: Found, source: Path, options: Options
) -> tuple[Classes, list[str]]:
    return find_classes(
        table,
        source=source,
        listed=found.class_list,
        format_void=found.ignore_values,
        ignore_values=options.ignore_values,
        class_names=options.class_names,
        values=options.values,
        other=options.other,
    )


def _with_classes(diagnosis: Diagnosis, source: Path, options: Options) -> Diagnosis:
    """`diagnosis` with the classes of the masks, or the error why there are none."""
    found = diagnosis.found
    scans = diagnosis.scans

    def mask_of(place: int) -> tuple[str, MaskScan]:
        scan = scans[place]
        return scan.pair.sample_id, scan.mask

    table = count_values(Rows(mask_of, len(scans)))
    table = with_shades(table, Rows(lambda place: scans[place].pair, len(scans)))
    try:
        classes, notes = _find_classes(table, found, source, options)
    except DatasetError as error:
        text = str(error).removeprefix(f"{source}: ")
        message, _, remedy = text.rpartition("; ")
        if not message:
            message, remedy = remedy, "see --values, --other, --class-names and --ignore-values"
        finding = Finding("mask-values", "error", message, len(table.uses), (), remedy)
        return replace(diagnosis, table=table, findings=(*diagnosis.findings, finding))
    findings = [Finding("classes", "note", note) for note in notes]
    pixels = ClassPixelRows(class_pixels(s.mask, classes) for s in diagnosis.scans)
    findings += [
        *class_checks.jpeg_masks(table, classes),
        *class_checks.soft_edges(table, classes),
        *class_checks.one_class_masks(diagnosis.scans, pixels, classes),
        *class_checks.rare_classes(pixels, classes),
    ]
    return replace(
        diagnosis,
        table=table,
        classes=classes,
        pixels=pixels,
        findings=(*diagnosis.findings, *findings),
    )


def _with_samples(
    diagnosis: Diagnosis, classes: Classes, name: str, options: Options, store: ScanStore
) -> Diagnosis:
    """`diagnosis` with splits and facts, and what is to be said about both."""
    scans = diagnosis.scans
    division = divide(scans, diagnosis.pixels, classes.names, options)
    samples = Rows(functools.partial(_sample, scans, division), len(scans))
    likenesses = tuple(near_duplicates(scans, store.thumbnail, store.details))
    diagnosis = replace(
        diagnosis,
        samples=samples,
        former=division.former,
        likenesses=likenesses,
        findings=(
            *diagnosis.findings,
            *division.findings,
            *_about_splits(diagnosis, classes, division, likenesses, options),
        ),
    )
    if "train" not in division.splits or _disagree(diagnosis.findings):
        return diagnosis
    facts = make_facts(
        name,
        scans,
        diagnosis.pixels,
        classes,
        splits=division.splits,
        folds=division.folds,
        fingerprint=fingerprint(samples),
        histogram=store.histogram,
        value_range=options.value_range,
    )
    return replace(diagnosis, facts=facts)


def _about_splits(
    diagnosis: Diagnosis,
    classes: Classes,
    division: Division,
    likenesses: Sequence[Likeness],
    options: Options,
) -> Iterator[Finding]:
    """What is to be said about a division: empty splits, absent classes, leaks."""
    scans, splits = diagnosis.scans, division.splits
    # Folds are held out in turn: what lies in two of them leaks like what lies in two splits
    parts = [
        split if fold is None else f"fold {fold}"
        for split, fold in zip(splits, division.folds, strict=True)
    ]
    yield from split_checks.empty_splits(splits, groups=division.groups, options=options)
    yield from class_checks.absent_classes(diagnosis.pixels, splits, classes, fixed=division.fixed)
    yield from equal_pictures(scans, parts)
    yield from near_duplicate_findings(scans, parts, likenesses, fixed="train" in division.fixed)
    yield from split_checks.parted_groups(division.groups, parts)
    if options.split_by == "random":
        pairs = [scan.pair for scan in scans]
        yield from split_checks.leaking_groups(
            [pair.sample_id for pair in pairs],
            grouped=options.group_regex is not None or any(pair.group for pair in pairs),
            given=[pair.split for pair in pairs],
        )


def _disagree(findings: Sequence[Finding]) -> bool:
    """Whether images have no common number of channels or type, so that no facts hold for all."""
    return any(finding.code in ("mixed-channels", "mixed-depths") for finding in findings)


def _sample(scans: Sequence[PairScan], division: Division, place: int) -> Sample:
    """The sample of a scan; where its files are not written yet, `source` stands for them."""
    scan = scans[place]
    pair = scan.pair
    return Sample(
        sample_id=pair.sample_id,
        image_file=_text(pair.image_file),
        mask_file=_text(pair.mask_file),
        split=division.splits[place],
        group=division.groups[place],
        width=scan.image.width,
        height=scan.image.height,
        content=scan.content,
        fold=division.folds[place],
    )


def _text(file: str | Path | Made) -> str:
    return str(file) if isinstance(file, str | Path) else file.source
