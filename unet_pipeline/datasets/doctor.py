"""Every file read once, everything that is to be said about a dataset, and the dataset itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from unet_pipeline.classes import (
    IGNORE_INDEX,
    Classes,
    MaskValue,
    pack_value,
)
from unet_pipeline.datasets import checks, class_checks, split_checks
from unet_pipeline.datasets.duplicates import (
    Likeness,
    equal_pictures,
    near_duplicate_findings,
    near_duplicates,
)
from unet_pipeline.datasets.facts import ValueRange, make_facts
from unet_pipeline.datasets.findings import Finding
from unet_pipeline.datasets.formats import Found, Made
from unet_pipeline.datasets.formats.object_masks import ObjectMasks
from unet_pipeline.datasets.groups import group_by_regex
from unet_pipeline.datasets.manifest import DatasetFacts, Sample, Split
from unet_pipeline.datasets.mask_values import find_classes
from unet_pipeline.datasets.scan import BadPair, PairScan, Progress, ScanStore, scan_pairs
from unet_pipeline.datasets.splits import (
    SplitBy,
    assign_folds,
    assign_splits,
    match_former,
    merge_duplicates,
)
from unet_pipeline.datasets.threads import in_threads
from unet_pipeline.datasets.value_table import (
    ClassPixelRows,
    ClassPixels,
    ValueTable,
    class_pixels,
    count_values,
)
from unet_pipeline.errors import DatasetError


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user says about a dataset; the defaults are those of the settings.

    ignore_values: mask values that mean void. class_names: in the order of the mask values.
    values: the mask value of each class, where the masks hold others too; other: the class index
        of those others.
    split_by, val_fraction, test_fraction, seed: how splits are drawn where the data has none.
    group_regex: what of a sample id names its group. num_folds: for cross-validation.
    former: the samples of an earlier version of the dataset, which keep their split and fold.
    value_range: how the range of pixel values is found.
    """

    ignore_values: Sequence[MaskValue]
    class_names: Sequence[str] | None
    values: Sequence[MaskValue] | None
    other: int | None
    split_by: SplitBy
    val_fraction: float
    test_fraction: float
    seed: int
    group_regex: str | None
    num_folds: int | None
    former: Sequence[Sample] = ()
    value_range: ValueRange


@dataclass(frozen=True)
class Diagnosis:
    """What was found out about a dataset.

    found: as the format read it. scans: what was read of each good pair, in the order of
        `samples`; a pair whose mask must be turned as the EXIF of its image says is among them.
    findings: errors first. table: the values of the masks; classes, pixels (of each class in each
        mask), facts, samples: the dataset that the good pairs make; None or empty where they make
        none.
    turned: orientation by which masks must be turned. likenesses: nearly equal pictures.
    """

    found: Found
    scans: tuple[PairScan, ...]
    findings: tuple[Finding, ...]
    table: ValueTable | None = None
    classes: Classes | None = None
    pixels: Sequence[ClassPixels] = ()
    facts: DatasetFacts | None = None
    samples: tuple[Sample, ...] = ()
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
        *_overlaps(found),
    ]
    turned = {s.pair.sample_id: s.image.orientation for s in scans if checks.turned_by_exif(s)}
    good = [s for s in scans if s.pair.sample_id in turned or _fits(s)]
    diagnosis = Diagnosis(found, tuple(good), tuple(findings), turned=turned)
    if good:
        diagnosis = _with_classes(diagnosis, source, options)
    if diagnosis.classes is not None:
        diagnosis = _with_samples(diagnosis, diagnosis.classes, name, options, store)
    order = ("error", "warning", "note")
    ranked = sorted(diagnosis.findings, key=lambda finding: order.index(finding.severity))
    return replace(diagnosis, findings=tuple(ranked))


def _read(
    found: Found, options: Options, store: ScanStore, on_progress: Progress | None
) -> tuple[list[PairScan], list[BadPair]]:
    keep = [
        pack_value(value)
        for value in (*(options.values or ()), *options.ignore_values, *found.ignore_values)
    ]
    scans: list[PairScan] = []
    bad: list[BadPair] = []
    for scan in scan_pairs(found.pairs, store=store, keep=keep, on_progress=on_progress):
        if isinstance(scan, BadPair):
            bad.append(scan)
        else:
            scans.append(scan)
    return scans, bad


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


def _overlaps(found: Found) -> Iterator[Finding]:
    """Pixels that two objects of one image claim, where each has a mask file of its own."""
    masks = [pair.mask for pair in found.pairs if isinstance(pair.mask, ObjectMasks)]
    if not masks:
        return
    counts = list(in_threads(_count_overlap, masks))
    touched = [mask for mask, count in zip(masks, counts, strict=True) if count]
    if touched:
        yield Finding(
            "overlapping-objects",
            "note",
            f"{sum(counts)} pixels belong to several objects, in {len(touched)} images; they "
            "count once",
            len(touched),
            tuple(mask.source for mask in touched[:5]),
        )


def _count_overlap(mask: ObjectMasks) -> int:
    try:
        return mask.overlap()
    except DatasetError:  # an unreadable file has its own finding
        return 0


def _with_classes(diagnosis: Diagnosis, source: Path, options: Options) -> Diagnosis:
    """`diagnosis` with the classes of the masks, or the error why there are none."""
    found = diagnosis.found
    table = count_values((s.pair.sample_id, s.mask) for s in diagnosis.scans)
    try:
        classes, notes = find_classes(
            table,
            source=source,
            listed=found.class_list,
            format_void=found.ignore_values,
            ignore_values=options.ignore_values,
            class_names=options.class_names,
            values=options.values,
            other=options.other,
        )
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
    ids = [s.pair.sample_id for s in scans]
    given = [s.pair.split for s in scans]
    named, findings = _named_groups(scans, options)
    # Of the file, not of its pixels: decoders of another version must not deal all splits anew
    keys = [g if g is not None else s.image.key.hex() for g, s in zip(named, scans, strict=True)]
    groups = merge_duplicates(
        [own if own is not None else sample_id for own, sample_id in zip(named, ids, strict=True)],
        [s.image.picture for s in scans],
    )
    presence = _presence(diagnosis.pixels)
    contents = [s.content for s in scans]
    former = match_former(options.former, ids, contents)
    splits, notes = assign_splits(
        groups,
        keys=keys,
        given=given,
        val_fraction=options.val_fraction,
        test_fraction=options.test_fraction,
        by=options.split_by,
        seed=options.seed,
        presence=presence,
        class_names=classes.names,
        former=[None if sample is None else sample.split for sample in former],
    )
    findings += [Finding("splits", "note", note) for note in notes]
    folds = _folds(groups, keys, splits, presence, former, options)
    samples = tuple(map(_sample, scans, contents, splits, groups, folds))
    likenesses = tuple(near_duplicates(scans, store.thumbnail))
    # Folds are held out in turn: what lies in two of them leaks like what lies in two splits
    parts = [s.split if s.fold is None else f"fold {s.fold}" for s in samples]
    findings += [
        *split_checks.dissolved_splits(given, folds),
        *split_checks.empty_splits(samples),
        *class_checks.absent_classes(diagnosis.pixels, [s.split for s in samples], classes),
        *equal_pictures(scans, parts),
        *near_duplicate_findings(scans, parts, likenesses),
        *split_checks.parted_groups(groups, parts),
    ]
    if options.split_by == "random":
        grouped = any(group is not None for group in named)
        findings += split_checks.leaking_groups(ids, grouped=grouped, given=given)
    facts = None
    if "train" in splits and not _disagree(diagnosis.findings):
        facts = make_facts(
            name,
            scans,
            samples,
            diagnosis.pixels,
            classes,
            histogram=store.histogram,
            value_range=options.value_range,
        )
    return replace(
        diagnosis,
        samples=samples,
        facts=facts,
        likenesses=likenesses,
        findings=(*diagnosis.findings, *findings),
    )


def _disagree(findings: Sequence[Finding]) -> bool:
    """Whether images have no common number of channels or type, so that no facts hold for all."""
    return any(finding.code in ("mixed-channels", "mixed-depths") for finding in findings)


def _named_groups(
    scans: Sequence[PairScan], options: Options
) -> tuple[list[str | None], list[Finding]]:
    """The group that the data or the user names for each sample, or None."""
    if options.group_regex is None:
        return [s.pair.group for s in scans], []
    groups, unmatched = group_by_regex([s.pair.sample_id for s in scans], options.group_regex)
    if not unmatched:
        return list(groups), []
    alone = set(unmatched)
    finding = Finding(
        "ungrouped",
        "warning",
        f"{len(unmatched)} sample ids do not match --group-regex {options.group_regex!r}: each "
        "is a group of its own",
        len(unmatched),
        tuple(unmatched[:5]),
        "widen the expression if they belong to others",
    )
    ids = [s.pair.sample_id for s in scans]
    return [None if i in alone else g for i, g in zip(ids, groups, strict=True)], [finding]


def _folds(
    groups: Sequence[str],
    keys: Sequence[str],
    splits: Sequence[Split],
    presence: Sequence[frozenset[int]],
    former: Sequence[Sample | None],
    options: Options,
) -> list[int | None]:
    """The fold of each sample that is not held out for the test; None without folds."""
    folds: list[int | None] = [None] * len(groups)
    if options.num_folds is None:
        return folds
    places = [i for i, split in enumerate(splits) if split != "test"]
    chosen = assign_folds(
        [groups[i] for i in places],
        [keys[i] for i in places],
        num_folds=options.num_folds,
        seed=options.seed,
        presence=[presence[i] for i in places],
        former=[sample.fold if (sample := former[i]) else None for i in places],
    )
    for i, fold in zip(places, chosen, strict=True):
        folds[i] = fold
    return folds


def _presence(pixels: Iterable[ClassPixels]) -> list[frozenset[int]]:
    """The classes of each mask; masks of the same classes share one set."""
    known: dict[frozenset[int], frozenset[int]] = {}
    return [
        known.setdefault(present, present)
        for counts in pixels
        for present in [frozenset(counts) - {IGNORE_INDEX}]
    ]


def _sample(scan: PairScan, content: str, split: Split, group: str, fold: int | None) -> Sample:
    """The sample of a scan; where its files are not written yet, `source` stands for them."""
    pair = scan.pair
    return Sample(
        sample_id=pair.sample_id,
        image_file=_text(pair.image_file),
        mask_file=_text(pair.mask_file),
        split=split if fold is None else ("val" if fold == 0 else "train"),
        group=group,
        width=scan.image.width,
        height=scan.image.height,
        content=content,
        fold=fold,
    )


def _text(file: str | Path | Made) -> str:
    return str(file) if isinstance(file, str | Path) else file.source
