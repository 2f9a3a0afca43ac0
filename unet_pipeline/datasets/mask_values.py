"""The values that masks hold -> the classes of a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pydantic

from unet_pipeline.classes import Classes, MaskValue, default_colors
from unet_pipeline.datasets.checks import name_five
from unet_pipeline.datasets.class_list import ClassList
from unet_pipeline.datasets.images import Color, Encoding
from unet_pipeline.datasets.manifest import natural_key
from unet_pipeline.datasets.scan import MaskScan, pack, unpack
from unet_pipeline.errors import DatasetError, UserError

MAX_FOUND_CLASSES = 64
"""More different values than this are not classes unless somebody has named them."""

VOID_NAMES = frozenset(
    {"void", "unlabelled", "unlabeled", "ignore", "ignored", "background-void", "dontcare"}
)

_VOC_BORDER = (224, 224, 192)  # the colour of index 255 in the palette of Pascal VOC


@dataclass
class Use:
    """How often a mask value occurs, and in which masks (the first five by id)."""

    pixels: int = 0
    num_masks: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ValueTable:
    """The mask values of a whole dataset, colours packed as 0xRRGGBB.

    complete: whether every value is listed; a file of very many values lists the frequent ones.
    """

    encoding: Encoding
    uses: Mapping[int, Use]
    palette: Mapping[int, Color]
    complete: bool
    lossy: bool


def count_values(scans: Iterable[tuple[str, MaskScan]]) -> ValueTable:
    """The values of all masks, under the one encoding that suits all of them.

    scans: the id of each sample and what was read of its mask.
    """
    rows = list(scans)
    encoding, palette = _common_encoding([mask for _, mask in rows])
    uses: dict[int, Use] = {}
    for sample_id, mask in rows:
        for key, pixels in keyed_counts(mask, encoding).items():
            use = uses.setdefault(key, Use())
            use.pixels += pixels
            use.num_masks += 1
            if len(use.examples) < 5:
                use.examples.append(sample_id)
    complete = all(mask.num_values == len(mask.counts) for _, mask in rows)
    return ValueTable(encoding, uses, palette, complete, any(mask.lossy for _, mask in rows))


def keyed_counts(mask: MaskScan, encoding: Encoding) -> dict[int, int]:
    """The pixels of each value of one mask, the values as the dataset's encoding has them."""
    if encoding != "rgb" or mask.encoding == "rgb":
        return mask.counts
    counts: dict[int, int] = {}
    for value, pixels in mask.counts.items():
        key = pack(mask.palette[value]) if mask.palette else value * 0x010101
        counts[key] = counts.get(key, 0) + pixels
    return counts


def _common_encoding(masks: Sequence[MaskScan]) -> tuple[Encoding, dict[int, Color]]:
    """One encoding for all masks, and the palette where values are indices.

    Masks of 1 bit count as palette images of black and white. Colours, not indices, are what
    counts where an index has another colour in another file, and where black and white files
    (0, 1) stand beside grey ones (0, 255).
    """
    kinds = {mask.encoding for mask in masks}
    palette: dict[int, Color] = {}
    agree = all(
        palette.setdefault(value, color) == color
        for mask in masks
        for value, color in mask.palette.items()
    )
    if "rgb" in kinds or not agree:
        return "rgb", {}
    if kinds == {"palette"}:
        return "palette", palette
    greys = {value for mask in masks if mask.encoding == "grey" for value in mask.counts}
    shown_alike = all(color == (value, value, value) for value, color in palette.items())
    all_grey = all(red == green == blue for red, green, blue in palette.values())
    if not shown_alike and all_grey and not greys <= set(palette) and max(greys) <= 255:
        return "rgb", {}
    return "grey", palette


def find_classes(
    table: ValueTable,
    *,
    source: Path,
    listed: ClassList | None = None,
    ignore_values: Sequence[MaskValue] = (),
    class_names: Sequence[str] | None = None,
    values: Sequence[MaskValue] | None = None,
    other: int | None = None,
) -> tuple[Classes, list[str]]:
    """The classes of a dataset whose masks hold the values of `table`, and notes for the user.

    The classes are those of `values`; else those of a class list with values; else the values
    that occur, in ascending order (black first among colours), named by `class_names` or by a
    class list without values where their number fits. Void are `ignore_values`, classes with a
    name such as void or unlabelled, 255 beside at least two values 0..K-1, and the border colour
    of Pascal VOC. other: the class index of every value that is not in `values`.
    Raises `DatasetError` for values outside the declared classes, for too many values, and where
    fewer than two classes remain; `UserError` for options that do not fit the masks.
    """
    _check_options(table, ignore_values, values, other)
    notes: list[str] = []
    if values is not None:
        names = class_names or _default_names(values, table.encoding)
        if len(names) != len(values):
            raise UserError(
                f"{len(names)} class names for {len(values)} mask values: give one each"
            )
        declared = _Declared("the values given", list(zip(values, names, strict=True)))
    elif class_names is None and _has_fitting_values(listed, table, notes):
        assert listed is not None
        assert listed.values is not None
        declared = _Declared(listed.source, list(zip(listed.values, listed.names, strict=True)))
        notes.append(f"{len(listed.names)} names of classes by {listed.source}")
    else:
        found = [value for value in _found(table) if value not in ignore_values]
        declared = _by_occurrence(table, source, found, listed, class_names, notes)
    void = set(ignore_values)
    for value, name in declared.classes:
        if name.casefold() in VOID_NAMES and value not in void:
            void.add(value)
            notes.append(f"mask value {_show(value)} is void, by its name {name!r}")
    kept = [(value, name) for value, name in declared.classes if value not in void]
    known = {value for value, _ in kept} | void
    unknown = [value for value in _found(table) if value not in known]
    if 255 in unknown and other is None and _is_void(255, [v for v, _ in kept], table):
        void.add(255)
        unknown.remove(255)
        notes.append("mask value 255 is void (ignored); name it with --class-names if it is not")
    if unknown and other is None:
        raise _outside(table, source, declared, unknown)
    return _build(table, source, kept, sorted(void, key=pack), other), notes


@dataclass(frozen=True)
class _Declared:
    """The classes before void ones are taken out, and who declared them."""

    by: str
    classes: list[tuple[MaskValue, str]]


def _check_options(
    table: ValueTable,
    ignore_values: Sequence[MaskValue],
    values: Sequence[MaskValue] | None,
    other: int | None,
) -> None:
    colored = table.encoding == "rgb"
    for value in (*ignore_values, *(values or ())):
        if isinstance(value, tuple) != colored:
            kind = "colours, such as 255/0/0" if colored else "whole numbers"
            raise UserError(f"mask value {_show(value)}: the masks of this data hold {kind}")
    for value in ignore_values:
        if pack(value) not in table.uses and table.complete:
            raise UserError(
                f"--ignore-values {_show(value)}: no mask holds it; they hold "
                f"{_show_all(_found(table))}"
            )
    if other is not None and values is None:
        raise UserError(
            "--other needs --values: it is the class of every value that is not listed there"
        )


def _has_fitting_values(listed: ClassList | None, table: ValueTable, notes: list[str]) -> bool:
    if listed is None or listed.values is None:
        return False
    fits = isinstance(listed.values[0], tuple) == (table.encoding == "rgb")
    if not fits:
        notes.append(f"{listed.source} was left out: its values are of another kind than the masks")
    return fits


def _by_occurrence(
    table: ValueTable,
    source: Path,
    found: list[MaskValue],
    listed: ClassList | None,
    class_names: Sequence[str] | None,
    notes: list[str],
) -> _Declared:
    """The classes by the values that occur, with the names that fit."""
    rest = [value for value in found if value != 255]
    plain = rest if 255 in found and _is_void(255, rest, table) else found
    if class_names is None and listed is not None and listed.values is None:
        classes = _named_values(listed.names, found, plain, table)
        if classes:
            notes.append(f"{len(listed.names)} names of classes by {listed.source}")
            return _Declared(listed.source, classes)
        notes.append(
            f"{listed.source} was left out: {len(listed.names)} names for the mask values "
            f"{_show_all(found)}"
        )
    if class_names is not None:
        classes = _named_values(class_names, found, plain, table)
        if not classes:
            raise UserError(
                f"{source}: {len(class_names)} class names for the mask values "
                f"{_show_all(found)}: give one name for each"
            )
        return _Declared("the class names given", classes)
    _check_plausible(table, source, plain)
    if 255 in plain and len(plain) > 3 and all(pack(v) < MAX_FOUND_CLASSES for v in rest):
        notes.append("mask value 255 is a class here; if it means void, use --ignore-values 255")
    names = _default_names(plain, table.encoding)
    return _Declared("the masks", list(zip(plain, names, strict=True)))


def _named_values(
    names: Sequence[str], found: list[MaskValue], plain: list[MaskValue], table: ValueTable
) -> list[tuple[MaskValue, str]]:
    """Names in the order of the mask values; empty where their numbers do not fit.

    found: the values that occur; plain: the same without a void 255. More names than values fit
    where they name 0, 1, 2, ... and some never occur; one name less where background has none.
    """
    for values in (plain, found):
        if len(values) == len(names):
            return list(zip(values, names, strict=True))
    if table.encoding == "rgb" or not plain:
        return []
    top = max(pack(value) for value in plain)
    if top < len(names):
        return list(enumerate(names))
    if top == len(names) and 0 in plain:
        return list(enumerate(["background", *names]))
    return []


def _is_void(value: int, others: Sequence[MaskValue], table: ValueTable) -> bool:
    """Whether 255 beside the values `others` is the usual mark for void."""
    if table.encoding == "palette" and table.palette.get(value) == _VOC_BORDER:
        return True
    return len(others) >= 2 and sorted(map(pack, others)) == list(range(len(others)))


def _check_plausible(table: ValueTable, source: Path, found: list[MaskValue]) -> None:
    """Refuse values that are no classes: blur, photographs, soft masks, numbered objects."""
    many = len(found) > MAX_FOUND_CLASSES or not table.complete
    count = f"{'more than ' if not table.complete else ''}{len(found)}"
    what = "colours" if table.encoding == "rgb" else "values"
    declare = "list those of the classes with --values and give all others to one with --other"
    if table.lossy and (many or len(found) > 2):
        raise DatasetError(
            f"{source}: the masks are JPEG files, whose compression blurs values: they hold "
            f"{count} different {what}; save them as PNG from the original"
        )
    if many and table.encoding == "rgb":
        raise DatasetError(
            f"{source}: the masks hold {count} different colours, too many to be classes (at most "
            f"{MAX_FOUND_CLASSES}): they are anti-aliased, drawn over the photograph, or no masks; "
            f"save them in plain colours, or {declare}"
        )
    if many:
        raise DatasetError(
            f"{source}: the masks hold {count} different values, too many to be classes (at most "
            f"{MAX_FOUND_CLASSES}): they number objects (instances) or are soft masks; save class "
            f"values, or {declare}, or name all classes with --class-names"
        )


def _outside(
    table: ValueTable, source: Path, declared: _Declared, unknown: list[MaskValue]
) -> DatasetError:
    uses = [table.uses[pack(value)] for value in unknown]
    masks = sorted({name for use in uses for name in use.examples}, key=natural_key)
    known = _show_all([value for value, _ in declared.classes])
    return DatasetError(
        f"{source}: {sum(use.pixels for use in uses)} pixels hold the mask values "
        f"{_show_all(unknown)} (in {name_five(masks)}), which are none of the classes of "
        f"{declared.by} ({known}); mend the masks or that list, or use --ignore-values"
    )


def _build(
    table: ValueTable,
    source: Path,
    kept: list[tuple[MaskValue, str]],
    void: list[MaskValue],
    other: int | None,
) -> Classes:
    values = [value for value, _ in kept]
    if len(values) < 2:
        raise DatasetError(
            f"{source}: the masks hold {_show_all(_found(table)) or 'no value'}"
            + (f", of which {_show_all(void)} is void" if void else "")
            + ": at least two classes are needed; are these the right masks?"
        )
    colors: Sequence[Color] = default_colors(len(values))
    shown = [v if isinstance(v, tuple) else table.palette.get(v) for v in values]
    if len(set(shown)) == len(shown) and None not in shown:
        colors = [color for color in shown if color is not None]
    try:
        return Classes(
            names=tuple(name for _, name in kept),
            colors=tuple(colors),
            values=tuple(values),
            ignore_values=tuple(void),
            other=other,
            encoding=table.encoding,
        )
    except pydantic.ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise DatasetError(f"{source}: the classes cannot be used: {problem}") from error


def _default_names(values: Sequence[MaskValue], encoding: Encoding) -> list[str]:
    """Names that show the mask value: class_128, color_ff0000; two classes have plain names."""
    if len(values) == 2:
        return ["background", "foreground"]
    if encoding == "rgb":
        return [f"color_{pack(value):06x}" for value in values]
    return [f"class_{value}" for value in values]


def _found(table: ValueTable) -> list[MaskValue]:
    """The values that occur, ascending; black, packed as 0, comes first."""
    return [unpack(key, table.encoding) for key in sorted(table.uses)]


def _show(value: MaskValue) -> str:
    return "/".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _show_all(values: Sequence[MaskValue]) -> str:
    """Up to eight values for a sentence."""
    if len(values) > 8:
        return ", ".join(map(_show, values[:7])) + f", ... {_show(values[-1])} ({len(values)})"
    return ", ".join(map(_show, values))
