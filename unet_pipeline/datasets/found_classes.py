"""Which classes the masks themselves tell of, where nobody has declared their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from unet_pipeline.classes import MaskValue, pack_value, unpack_value
from unet_pipeline.datasets.images import Encoding
from unet_pipeline.datasets.value_histograms import MAX_FOUND_CLASSES, blurred_classes
from unet_pipeline.datasets.value_table import Use, ValueTable
from unet_pipeline.errors import DatasetError, UserError

if TYPE_CHECKING:  # formats import `mask_values`, which imports this
    from unet_pipeline.datasets.formats.class_list import ClassList

_VOC_BORDER = (224, 224, 192)  # the colour of index 255 in the palette of Pascal VOC


@dataclass(frozen=True)
class DeclaredClasses:
    """The classes before void ones are taken out, and who declared them.

    numbers: the masks number objects, and all numbers are of the second class.
    """

    by: str
    classes: list[tuple[MaskValue, str]]
    numbers: bool = False


def classes_by_occurrence(
    table: ValueTable,
    source: Path,
    found: list[MaskValue],
    listed: ClassList | None,
    class_names: Sequence[str] | None,
    notes: list[str],
) -> DeclaredClasses:
    """The classes by the values that occur, with the names that fit."""
    rest = [value for value in found if value != 255]
    plain = rest if 255 in found and is_void(255, rest, table) else found
    named = class_names or (listed.names if listed is not None else ())
    if len(named) != len(found):  # else all of them are meant
        refuse_two_encodings(table, source, found)
    if class_names is None and listed is not None and listed.values is None:
        classes = _named_values(listed.names, found, plain, table)
        if classes:
            notes.append(f"{len(listed.names)} names of classes by {listed.source}")
            return DeclaredClasses(listed.source, classes)
        notes.append(
            f"{listed.source} was left out: {len(listed.names)} names for the mask values "
            f"{show_values(found)}"
        )
    if class_names is not None:
        classes = _named_values(class_names, found, plain, table)
        if not classes:
            raise UserError(
                f"{source}: {len(class_names)} class names for the mask values "
                f"{show_values(found)}: give one name for each"
            )
        return DeclaredClasses("the class names given", classes)
    _check_plausible(table, source, plain)
    if 255 in plain and len(plain) > 3 and all(pack_value(v) < MAX_FOUND_CLASSES for v in rest):
        notes.append("mask value 255 is a class here; if it means void, use --ignore-values 255")
    numbering = table.numbering
    if numbering is not None and not numbering.sure:
        notes.append(
            f"masks hold 1, 2, ... up to {numbering.most}, another number in each: if these number "
            "objects, use --values 0,255 --other 1"
        )
    names = default_names(plain, table.encoding)
    return DeclaredClasses("the masks", list(zip(plain, names, strict=True)))


def numbers_objects(table: ValueTable, class_names: Sequence[str] | None) -> bool:
    """Whether the masks number objects, and the user has not named a class for each number."""
    sure = table.numbering is not None and table.numbering.sure
    return sure and (class_names is None or len(class_names) == 2)


def background_and_foreground(
    table: ValueTable,
    listed: ClassList | None,
    class_names: Sequence[str] | None,
    void: set[MaskValue],
    notes: list[str],
) -> DeclaredClasses:
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
    return DeclaredClasses("the masks", list(zip((0, white), names, strict=True)), numbers=True)


def without_blur(table: ValueTable) -> ValueTable:
    """`table` with the values alone that JPEG has blurred; as it is where there are none."""
    if not table.lossy:
        return table
    pixels = {key: use.pixels for key, use in table.uses.items()}
    keys = blurred_classes(pixels, table.num_pixels, table.encoding)
    if len(keys) < 2:
        return table
    uses = {key: table.uses.get(key, Use()) for key in keys}
    return replace(table, uses=uses, complete=True, lossy=False)


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


def is_void(value: int, others: Sequence[MaskValue], table: ValueTable) -> bool:
    """Whether 255 beside the values `others` is the usual mark for void."""
    if table.encoding == "palette" and table.palette.get(value) == _VOC_BORDER:
        return True
    return len(others) >= 2 and sorted(map(pack_value, others)) == list(range(len(others)))


def refuse_two_encodings(table: ValueTable, source: Path, found: Sequence[MaskValue]) -> None:
    """Raise `DatasetError` where some masks say by 255 what others say by 1.

    found: the values of which nobody has said that they are void.
    """
    two = table.two_encodings
    if two is None or not set(two.large) <= {*found}:
        return
    small, large = (show_values([0, *values]) for values in (two.small, two.large))
    ways = ["save all of them in one encoding"]
    if len(two.small) == 1:
        ways.append("or take every value but 0 for one class with --values 0,1 --other 1")
    if two.large == (255,):
        ways.append("or, if 255 means void, say --ignore-values 255")
    raise DatasetError(
        f"{source}: {two.num_small} masks hold {small} ({two.examples[0]}, for one) and "
        f"{two.num_large} hold {large} ({two.examples[1]}, for one), none holds both: these look "
        f"like two encodings of the same classes; {', '.join(ways)}"
    )


def _check_plausible(table: ValueTable, source: Path, found: list[MaskValue]) -> None:
    """Refuse values that are no classes: blur, photographs, soft masks, numbered objects."""
    many = len(found) > MAX_FOUND_CLASSES or not table.complete
    count = f"{'more than ' if not table.complete else ''}{len(found)}"
    what = "colours" if table.encoding == "rgb" else "values"
    declare = "list those of the classes with --values and give all others to one with --other"
    if table.shades_of:
        around = [unpack_value(key, table.encoding) for key in table.shades_of]
        if many:
            raise DatasetError(
                f"{source}: the masks hold {count} different {what}, too many to be classes (at "
                f"most {MAX_FOUND_CLASSES}): they are shades of {show_values(around)}, by soft "
                f"edges or noise; {snapping_option(around)}"
            )
        return
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


def snapping_option(values: Sequence[MaskValue]) -> str:
    """What to say so that every pixel counts as the nearest of `values`."""
    return (
        f"--values {','.join(map(show_value, values))} gives every pixel the nearest of them "
        "(without --other)"
    )


def default_names(values: Sequence[MaskValue], encoding: Encoding) -> list[str]:
    """Names that show the mask value: class_128, color_ff0000; two classes have plain names."""
    if len(values) == 2:
        return ["background", "foreground"]
    if encoding == "rgb":
        return [f"color_{pack_value(value):06x}" for value in values]
    return [f"class_{value}" for value in values]


def found_values(table: ValueTable) -> list[MaskValue]:
    """The values that occur, ascending; black, packed as 0, comes first."""
    return [unpack_value(key, table.encoding) for key in sorted(table.uses)]


def show_value(value: MaskValue) -> str:
    return "/".join(map(str, value)) if isinstance(value, tuple) else str(value)


def show_values(values: Sequence[MaskValue]) -> str:
    """Up to eight values for a sentence."""
    if len(values) > 8:
        return (
            ", ".join(map(show_value, values[:7]))
            + f", ... {show_value(values[-1])} ({len(values)})"
        )
    return ", ".join(map(show_value, values))
