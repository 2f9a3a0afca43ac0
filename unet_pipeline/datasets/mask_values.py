"""The values that masks hold -> the classes of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pydantic

from unet_pipeline.classes import Classes, MaskValue, default_colors, pack_value, unpack_value
from unet_pipeline.datasets.findings import name_five
from unet_pipeline.datasets.found_classes import (
    DeclaredClasses,
    background_and_foreground,
    classes_by_occurrence,
    default_names,
    found_values,
    is_void,
    numbers_objects,
    refuse_two_encodings,
    show_value,
    show_values,
    without_blur,
)
from unet_pipeline.datasets.images import Color
from unet_pipeline.datasets.manifest import natural_key
from unet_pipeline.datasets.soft_edges import lie_around
from unet_pipeline.datasets.value_table import ValueTable, as_held, snapping
from unet_pipeline.errors import DatasetError, UserError

if TYPE_CHECKING:  # formats import the names of void from here
    from unet_pipeline.datasets.formats.class_list import ClassList

VOID_NAMES = frozenset(
    {"void", "unlabelled", "unlabeled", "ignore", "ignored", "background-void", "dontcare"}
)


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
    frequent values among which they lie; shades of the `values` given (soft edges, noise) to these.
    Void are `ignore_values`, those of the format
    (`format_void`, which the masks need not hold), what -1 is read as, classes with a name such as
    void or unlabelled, 255 beside at least two values 0..K-1, and the border colour of Pascal VOC.
    other: the class index of every value that is not in `values`.
    Raises `DatasetError` for values outside the declared classes, for too many values, and where
    fewer than two classes remain; `UserError` for options that do not fit the masks.
    """
    _check_options(table, ignore_values, class_names, values, other)
    notes: list[str] = []
    void = {*ignore_values, *_void_of_files(table, source, values or (), notes)}
    colored = table.encoding == "rgb"
    void |= {v for v in format_void if isinstance(v, tuple) == colored and v not in (values or ())}
    declared = _declare(table, source, listed, class_names, values, void, notes)
    if declared.numbers:
        other = 1
    for value, name in declared.classes:
        if name.casefold() in VOID_NAMES and value not in void:
            void.add(value)
            notes.append(f"mask value {show_value(value)} is void, by its name {name!r}")
    snap = other is None and (
        table.lossy
        or (values is not None and lie_around(table, [*values, *void]))
        or (listed is not None and listed.snap and declared.by == listed.source)
    )
    if other is None and not snap:
        void |= _void_beside(table, source, declared, void, notes)
    kept = [(value, name) for value, name in declared.classes if value not in void]
    classes = _build(table, source, kept, sorted(void, key=pack_value), other, snap, listed)
    if table.lossy and snap:
        notes.append(_about_blur(table, classes))
    return classes, notes


def _declare(
    table: ValueTable,
    source: Path,
    listed: ClassList | None,
    class_names: Sequence[str] | None,
    values: Sequence[MaskValue] | None,
    void: set[MaskValue],
    notes: list[str],
) -> DeclaredClasses:
    """The classes by the first that declares any: `values`, a class list, the masks themselves."""
    if values is not None:
        names = class_names or default_names(values, table.encoding)
        if len(names) != len(values):
            raise UserError(
                f"{len(names)} class names for {len(values)} mask values: give one each"
            )
        return DeclaredClasses("the values given", list(zip(values, names, strict=True)))
    if class_names is None and _has_fitting_values(listed, table, notes):
        assert listed is not None
        assert listed.values is not None
        notes.append(f"{len(listed.names)} names of classes by {listed.source}")
        return DeclaredClasses(listed.source, list(zip(listed.values, listed.names, strict=True)))
    if numbers_objects(table, class_names):
        return background_and_foreground(table, listed, class_names, void, notes)
    plain = without_blur(table)
    found = [value for value in found_values(plain) if value not in void]
    return classes_by_occurrence(plain, source, found, listed, class_names, notes)


def _void_beside(
    table: ValueTable,
    source: Path,
    declared: DeclaredClasses,
    void: set[MaskValue],
    notes: list[str],
) -> set[MaskValue]:
    """255 where it is void among the declared classes; raises for other values outside them."""
    kept = [value for value, _ in declared.classes if value not in void]
    unknown = [value for value in found_values(table) if value not in (*kept, *void)]
    occurring = [value for value in kept if pack_value(value) in table.uses]
    # beside a single class of the declared ones it is the other class, by its true value
    if 255 in unknown and len(occurring) > 1 and is_void(255, kept, table):
        refuse_two_encodings(table, source, unknown)
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
        notes.append(f"mask value -1 is void (ignored); it is read as {show_values(void)}")
    return void


def _check_options(
    table: ValueTable,
    ignore_values: Sequence[MaskValue],
    class_names: Sequence[str] | None,
    values: Sequence[MaskValue] | None,
    other: int | None,
) -> None:
    for flag, given in (("--values", values), ("--class-names", class_names)):
        twice = [v for n, v in enumerate(given or ()) if v in (given or ())[:n]]
        if twice:
            shown = twice[0] if isinstance(twice[0], str) else show_value(twice[0])
            raise UserError(f"{flag} names {shown} twice: give each once")
    if other is not None and values is not None and other >= len(values):
        raise UserError(
            f"--other {other}: is no class index of {len(values)} classes (0 to {len(values) - 1})"
        )
    colored = table.encoding == "rgb"
    for value in (*ignore_values, *(values or ())):
        if isinstance(value, tuple) != colored:
            kind = "colours, such as 255/0/0" if colored else "whole numbers"
            raise UserError(f"mask value {show_value(value)}: the masks of this data hold {kind}")
    for value in ignore_values:
        if pack_value(value) not in table.uses and table.complete and not table.lossy:
            raise UserError(
                f"--ignore-values {show_value(value)}: no mask holds it; they hold "
                f"{show_values(found_values(table))}"
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


def _about_blur(table: ValueTable, classes: Classes) -> str:
    pixels, furthest = snapping(table, classes)
    values = show_values([*classes.values, *classes.ignore_values])
    share = pixels / max(table.num_pixels, 1)
    return (
        f"masks are JPEG: {share:.1%} of their pixels were snapped to the nearest of {values} (the "
        f"furthest by {furthest:.0f}); list all values with --values if one is missing"
    )


def _outside(
    table: ValueTable, source: Path, declared: DeclaredClasses, unknown: list[MaskValue]
) -> DatasetError:
    uses = [table.uses[pack_value(value)] for value in unknown]
    masks = sorted({name for use in uses for name in use.examples}, key=natural_key)
    known = show_values([value for value, _ in declared.classes])
    return DatasetError(
        f"{source}: {sum(use.pixels for use in uses)} pixels hold the mask values "
        f"{show_values(unknown)} (in {name_five(masks)}), which are none of the classes of "
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
        held = show_values([as_held(key, table) for key in sorted(table.uses)])
        names = show_values([as_held(pack_value(value), table) for value in void])
        raise DatasetError(
            f"{source}: the masks hold {held or 'no value'}"
            + (f", of which {names} is void" if void else "")
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
