"""The values that masks hold -> the classes of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pydantic

from unet_pipeline.classes import Classes, MaskValue, default_colors, pack_value, unpack_value
from unet_pipeline.datasets.findings import name_five
from unet_pipeline.datasets.images import Color, Encoding
from unet_pipeline.datasets.manifest import natural_key
from unet_pipeline.datasets.value_histograms import MAX_FOUND_CLASSES, blurred_classes
from unet_pipeline.datasets.value_table import (
    Use,
    ValueTable,
    count_values,
    keyed_counts,
    snapping,
)
from unet_pipeline.errors import DatasetError, UserError

if TYPE_CHECKING:  # formats import the names of void from here
    from unet_pipeline.datasets.formats.class_list import ClassList

__all__ = ["VOID_NAMES", "ValueTable", "count_values", "find_classes", "keyed_counts", "snapping"]

VOID_NAMES = frozenset(
    {"void", "unlabelled", "unlabeled", "ignore", "ignored", "background-void", "dontcare"}
)

_VOC_BORDER = (224, 224, 192)  # the colour of index 255 in the palette of Pascal VOC


def find_classes(
    table: ValueTable,
    *,
    source: Path,
    listed: ClassList | None = None,
    format_void: Sequence[MaskValue] = (),
    ignore_values: Sequence[MaskValue] = (),
    class_names: Sequence[str] | None = None,
    values: Sequence[MaskValue] | None = None,
    other: int | None = None,
) -> tuple[Classes, list[str]]:
    """The classes of a dataset whose masks hold the values of `table`, and notes for the user.

    The classes are those of `values`; else those of a class list with values; else background and
    foreground, where the masks number objects; else the values that occur, in ascending order
    (black first among colours), named by `class_names` or by a class list without values where
    their number fits. Values blurred by JPEG are first snapped to the classes, or to the most
    frequent values among which they lie. Void are `ignore_values`, those of the format
    (`format_void`, which the masks need not hold), what -1 is read as, classes with a name such as
    void or unlabelled, 255 beside at least two values 0..K-1, and the border colour of Pascal VOC.
    other: the class index of every value that is not in `values`.
    Raises `DatasetError` for values outside the declared classes, for too many values, and where
    fewer than two classes remain; `UserError` for options that do not fit the masks.
    """
    _check_options(table, ignore_values, values, other)
    notes: list[str] = []
    void = {*ignore_values, *_void_of_files(table, source, values or (), notes)}
    colored = table.encoding == "rgb"
    declared_by_user = values or ()
    void |= {
        value
        for value in format_void
        if isinstance(value, tuple) == colored and value not in declared_by_user
    }
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
    elif _numbers_objects(table, class_names):
        declared = _numbered(table, listed, class_names, void, notes)
        other = 1
    else:
        plain = _without_blur(table)
        found = [value for value in _found(plain) if value not in void]
        declared = _by_occurrence(plain, source, found, listed, class_names, notes)
    for value, name in declared.classes:
        if name.casefold() in VOID_NAMES and value not in void:
            void.add(value)
            notes.append(f"mask value {_show(value)} is void, by its name {name!r}")
    snap = table.lossy and other is None
    if other is None and not snap:
        void |= _void_beside(table, source, declared, void, notes)
    kept = [(value, name) for value, name in declared.classes if value not in void]
    classes = _build(table, source, kept, sorted(void, key=pack_value), other, snap, listed)
    if snap:
        notes.append(_about_blur(table, classes))
    return classes, notes


def _void_beside(
    table: ValueTable,
    source: Path,
    declared: _Declared,
    void: set[MaskValue],
    notes: list[str],
) -> set[MaskValue]:
    """255 where it is void among the declared classes; raises for other values outside them."""
    kept = [value for value, _ in declared.classes if value not in void]
    unknown = [value for value in _found(table) if value not in (*kept, *void)]
    if 255 in unknown and _is_void(255, kept, table):
        notes.append("mask value 255 is void (ignored); name it with --class-names if it is not")
        unknown.remove(255)
        void = {255}
    else:
        void = set()
    if unknown:
        raise _outside(table, source, declared, unknown)
    return void


def _void_of_files(
    table: ValueTable, source: Path, values: Sequence[MaskValue], notes: list[str]
) -> list[MaskValue]:
    """The values as which the -1 of mask files is read; none that the user has declared."""
    if table.void_clash is not None:
        raise DatasetError(
            f"{source}: the masks hold -1 (void), which is read as 255, and {table.void_clash} "
            "holds the value 255 itself; save void as 65535 instead of -1"
        )
    void = [unpack_value(key, table.encoding) for key in table.void]
    void = [value for value in void if value not in values]
    if void:
        notes.append(f"mask value -1 is void (ignored); it is read as {_show_all(void)}")
    return void


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
        if pack_value(value) not in table.uses and table.complete and not table.lossy:
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
    if 255 in plain and len(plain) > 3 and all(pack_value(v) < MAX_FOUND_CLASSES for v in rest):
        notes.append("mask value 255 is a class here; if it means void, use --ignore-values 255")
    numbering = table.numbering
    if numbering is not None and not numbering.sure:
        notes.append(
            f"masks hold 1, 2, ... up to {numbering.most}, another number in each: if these number "
            "objects, use --values 0,255 --other 1"
        )
    names = _default_names(plain, table.encoding)
    return _Declared("the masks", list(zip(plain, names, strict=True)))


def _numbers_objects(table: ValueTable, class_names: Sequence[str] | None) -> bool:
    """Whether the masks number objects, and the user has not named a class for each number."""
    sure = table.numbering is not None and table.numbering.sure
    return sure and (class_names is None or len(class_names) == 2)


def _numbered(
    table: ValueTable,
    listed: ClassList | None,
    class_names: Sequence[str] | None,
    void: set[MaskValue],
    notes: list[str],
) -> _Declared:
    """Background and foreground; 255 is what viewers show as white."""
    assert table.numbering is not None
    names: Sequence[str] = class_names or ("background", "foreground")
    if class_names is None and listed is not None and listed.values is None:
        if len(listed.names) <= 2:
            names = listed.names if len(listed.names) == 2 else ("background", *listed.names)
        else:
            notes.append(f"{listed.source} was left out: the masks number objects")
    bits = " (16-bit)" if table.numbering.wide else ""
    notes.append(
        f"masks number up to {table.numbering.most:,} objects{bits}: all of them are `{names[1]}`"
    )
    white = 254 if 255 in void else 255
    return _Declared("the masks", list(zip((0, white), names, strict=True)))


def _without_blur(table: ValueTable) -> ValueTable:
    """`table` with the values alone that JPEG has blurred; as it is where there are none."""
    if not table.lossy:
        return table
    pixels = {key: use.pixels for key, use in table.uses.items()}
    keys = blurred_classes(pixels, table.num_pixels, table.encoding)
    if len(keys) < 2:
        return table
    uses = {key: table.uses.get(key, Use()) for key in keys}
    return replace(table, uses=uses, complete=True, lossy=False)


def _about_blur(table: ValueTable, classes: Classes) -> str:
    pixels, furthest = snapping(table, classes)
    values = _show_all([*classes.values, *classes.ignore_values])
    share = pixels / max(table.num_pixels, 1)
    return (
        f"masks are JPEG: {share:.1%} of their pixels were snapped to the nearest of {values} (the "
        f"furthest by {furthest:.0f}); list all values with --values if one is missing"
    )


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
    top = max(pack_value(value) for value in plain)
    if top < len(names):
        return list(enumerate(names))
    if top == len(names) and 0 in plain:
        return list(enumerate(["background", *names]))
    return []


def _is_void(value: int, others: Sequence[MaskValue], table: ValueTable) -> bool:
    """Whether 255 beside the values `others` is the usual mark for void."""
    if table.encoding == "palette" and table.palette.get(value) == _VOC_BORDER:
        return True
    return len(others) >= 2 and sorted(map(pack_value, others)) == list(range(len(others)))


def _check_plausible(table: ValueTable, source: Path, found: list[MaskValue]) -> None:
    """Refuse values that are no classes: blur, photographs, soft masks, numbered objects."""
    many = len(found) > MAX_FOUND_CLASSES or not table.complete
    count = f"{'more than ' if not table.complete else ''}{len(found)}"
    what = "colours" if table.encoding == "rgb" else "values"
    declare = "list those of the classes with --values and give all others to one with --other"
    if table.lossy and (many or len(found) > 2):
        raise DatasetError(
            f"{source}: the masks are JPEG files, whose compression blurs values: they hold "
            f"{count} different {what}; save them as PNG from the original, or list the {what} of "
            "the classes with --values"
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
    uses = [table.uses[pack_value(value)] for value in unknown]
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
    snap: bool,
    listed: ClassList | None,
) -> Classes:
    values = [value for value, _ in kept]
    if len(values) < 2:
        raise DatasetError(
            f"{source}: the masks hold {_show_all(_found(table)) or 'no value'}"
            + (f", of which {_show_all(void)} is void" if void else "")
            + ": at least two classes are needed; check that these are the right masks"
        )
    colors: Sequence[Color] = default_colors(len(values))
    shown = [v if isinstance(v, tuple) else table.palette.get(v) for v in values]
    if listed is not None and listed.colors is not None and listed.values is not None:
        named = dict(zip(listed.values, listed.colors, strict=True))
        shown = [named.get(value, color) for value, color in zip(values, shown, strict=True)]
    if len(set(shown)) == len(shown) and None not in shown:
        colors = [color for color in shown if color is not None]
    try:
        return Classes(
            names=tuple(name for _, name in kept),
            colors=tuple(colors),
            values=tuple(values),
            ignore_values=tuple(void),
            other=other,
            snap=snap,
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
        return [f"color_{pack_value(value):06x}" for value in values]
    return [f"class_{value}" for value in values]


def _found(table: ValueTable) -> list[MaskValue]:
    """The values that occur, ascending; black, packed as 0, comes first."""
    return [unpack_value(key, table.encoding) for key in sorted(table.uses)]


def _show(value: MaskValue) -> str:
    return "/".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _show_all(values: Sequence[MaskValue]) -> str:
    """Up to eight values for a sentence."""
    if len(values) > 8:
        return ", ".join(map(_show, values[:7])) + f", ... {_show(values[-1])} ({len(values)})"
    return ", ".join(map(_show, values))
