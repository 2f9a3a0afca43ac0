"""What is wrong with annotations: gathered while they are read, told at the end."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from unet_pipeline.datasets.findings import Finding, Severity, counted
from unet_pipeline.datasets.shapes import Ring

Faults = defaultdict[str, list[str]]
"""The code of a finding -> where it was seen, one entry a fault."""


class Kind(NamedTuple):
    """How faults of one code are told: the noun to count, what is wrong with it, what mends it.

    severity: None for a warning that becomes an error where nothing at all could be drawn.
    """

    noun: str
    what: str
    remedy: str = ""
    severity: Severity | None = None


_MEND = "correct or remove them in the labelling tool and export again"

SHAPE_KINDS = {
    "broken-shapes": Kind("shape", "that cannot be drawn, left out", _MEND),
    "outside-image": Kind(
        "shape",
        "reaching beyond the picture, cut at its edge",
        "look whether the annotations belong to these images in this size",
        "warning",
    ),
    "unknown-categories": Kind("shape", "of a class that no list names, left out", _MEND),
    "no-segmentation": Kind(
        "shape", "without an outline, left out", "outline these objects by polygons or masks"
    ),
}
"""The faults that shapes have in every format."""


def fault_findings(
    faults: Faults, kinds: Mapping[str, Kind], *, all_lost: bool
) -> Iterator[Finding]:
    """One finding a code of `kinds` that occurs. all_lost: no shape at all could be drawn."""
    for code, (noun, what, remedy, severity) in kinds.items():
        if seen := faults.get(code):
            yield Finding(
                code=code,
                severity=severity or ("error" if all_lost else "warning"),
                message=f"{counted(len(seen), noun)} {what}",
                count=len(seen),
                examples=tuple(seen[:5]),
                remedy=remedy,
            )


def ring_of(coordinates: Any, *, least: int = 3) -> Ring:
    """A list x0, y0, x1, y1, ... as a ring. Raises ValueError with what is wrong with it.

    least: how many corners it must have.
    """
    try:
        # the sum is quick, and infinite also where large numbers add up
        finite = math.isfinite(sum(map(abs, coordinates))) or all(map(math.isfinite, coordinates))
    except (TypeError, OverflowError):
        finite = False
    if not finite:
        raise ValueError("coordinates that are no finite numbers")
    if len(coordinates) % 2:
        raise ValueError(f"{len(coordinates)} coordinates, an odd number")
    if len(coordinates) < 2 * least:
        raise ValueError(f"{counted(len(coordinates) // 2, 'corner')}, where {least} are needed")
    return tuple(coordinates)
