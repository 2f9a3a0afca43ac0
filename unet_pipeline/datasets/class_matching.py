"""Classes of a model in data that numbers them otherwise: two annotation files seldom agree."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

from unet_pipeline.classes import IGNORE_INDEX, Classes, MaskValue
from unet_pipeline.datasets.findings import name_five
from unet_pipeline.datasets.formats.class_list import ClassList
from unet_pipeline.datasets.found_classes import show_value
from unet_pipeline.datasets.mask_values import VOID_NAMES
from unet_pipeline.errors import DatasetError

logger = logging.getLogger(__name__)


def by_names(model: Classes, listed: ClassList | None) -> Classes:
    """`model` with the mask values that `listed` gives to the same names.

    Where no name but the background's is the same, values are compared as they are, with a warning.
    Raises `DatasetError` where some names are the same and others are no class of the model.
    """
    if listed is None or listed.values is None:
        return model
    ours = dict(zip(model.names, model.values, strict=True))
    theirs = dict(zip(listed.names, listed.values, strict=True))
    if all(ours.get(name) == value for name, value in theirs.items()):
        return model
    unknown = [name for name in theirs if name not in ours and name.casefold() not in VOID_NAMES]
    if unknown and not set(theirs) & set(model.names[1:]):
        logger.warning(
            "the data names the classes %s, the model %s: masks are compared by their values",
            name_five(list(theirs)),
            name_five(list(ours)),
        )
        return model
    if unknown:
        raise DatasetError(
            f"{listed.source}: {name_five(unknown)} are no classes of the model, which knows "
            f"{name_five(list(ours))}: merge or ignore them when preparing the data"
        )
    return _with_values(model, {name: theirs[name] for name in ours if name in theirs})


def warn_of_absent_classes(classes: Classes, pixels: Sequence[int], *, data: str) -> None:
    """Say which classes of a model no mask of other data holds: it may number them otherwise.

    pixels: of each class in the masks of `data`. A plain folder names no classes, so its values are
    all that can be compared.
    """
    rows = zip(classes.names, classes.values, pixels, strict=True)
    absent = [f"{name} ({show_value(value)})" for name, value, count in rows if not count]
    if absent:
        logger.warning(
            "the model knows %d classes, and the masks of %s hold %d of them: no pixel is %s; "
            "where their values mean other classes, the scores mean nothing",
            classes.num_classes,
            data,
            classes.num_classes - len(absent),
            name_five(absent),
        )


def _with_values(model: Classes, value_of: Mapping[str, MaskValue]) -> Classes:
    """`model` reading the values of `value_of`; the other classes get values of no mask."""
    colored = any(isinstance(value, tuple) for value in value_of.values())
    taken = {*value_of.values(), IGNORE_INDEX}
    free: Iterator[MaskValue] = (
        value
        for number in range(256)
        if (value := (number, 1, 2) if colored else number) not in taken
    )
    return Classes(
        names=model.names,
        colors=model.colors,
        values=tuple(value_of[n] if n in value_of else next(free) for n in model.names),
        snap=model.snap,
        encoding="rgb" if colored else "grey",
    )
