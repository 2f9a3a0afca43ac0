"""What the histogram of mask values says: classes under the blur of JPEG, and numbered objects."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from unet_pipeline.classes import color_points
from unet_pipeline.datasets.images import Encoding

if TYPE_CHECKING:
    from unet_pipeline.datasets.scan import MaskScan

MAX_FOUND_CLASSES = 64
"""More different values than this are not classes unless somebody has named them."""


class _Peaks(NamedTuple):
    """When a value counts as a class of JPEG masks; distances in grey levels.

    near: pixels so near belong to the peak. window: no value so near may be more frequent.
    apart: from a greater peak. share: of all pixels, near the peak. together: of all pixels, near
    any peak; below that the picture is no mask.
    """

    near: int
    window: int
    apart: int
    share: float
    together: float


# Measured on masks of crackforest (2 classes), isbi_membrane (2), dsb2018 (2), WBC (3) and CamVid
# (3, 5 and 11 classes as grey levels 25 apart), saved as JPEG of quality 50, 75, 90 and 95: all
# classes are found, and no other value, save one of 0.6 % of the pixels, in thin objects, among 11
# at quality 50. 78 % of the pixels or more are then near a peak; of photographs 15 to 55 %.
# With 0.5 % instead of 0.2 %, counting the very value only, three of the 11 are missed.
_GREY = _Peaks(near=2, window=12, apart=24, share=0.002, together=0.7)

# Colours suffer more, for JPEG halves their resolution. Found are the 3 classes of WBC at every
# quality, and of CamVid (in very thin areas a mixture as well at 95); of the 12 of CamVid 7 or 8:
# missing are those of 1.3 % and less. Red cracks of 1.6 % are not found, which is refused. Near a
# peak are 62 to 97 % of the pixels; of photographs 15 to 50 %.
_COLOR = _Peaks(near=8, window=24, apart=48, share=0.004, together=0.6)

_MOST_COLORS = 4096  # looked at, the most frequent


def blurred_classes(
    pixels: Mapping[int, int], num_pixels: int, encoding: Encoding
) -> tuple[int, ...]:
    """The mask values (packed) of which the `pixels` of each value are a blur, ascending.

    pixels: of each value. num_pixels: of all masks, those of values that are not listed included.
    Levels up to 8 count as 0, from 247 as 255. Empty where the values are no blurred classes.
    """
    rule = _COLOR if encoding == "rgb" else _GREY
    ranked = sorted(pixels.items(), key=lambda item: (-item[1], item[0]))[:_MOST_COLORS]
    places = color_points(np.array([key for key, _ in ranked], dtype=np.int64), encoding)
    counts = np.array([count for _, count in ranked], dtype=np.float64)
    free = np.ones(len(counts), dtype=bool)
    covered = np.zeros(len(counts), dtype=bool)
    peaks: list[int] = []
    while free.any() and len(peaks) <= MAX_FOUND_CLASSES:
        top = int(np.argmax(free))  # the most frequent: they are sorted
        away = np.sqrt(((places - places[top]) ** 2).sum(axis=1))
        near = away <= rule.near
        if counts[near].sum() < rule.share * num_pixels:
            free &= ~near
        elif counts[top] < counts[away <= rule.window].max():
            free[top] = False
        else:
            peaks.append(top)
            covered |= near
            free &= away >= rule.apart
    if not peaks or len(peaks) > MAX_FOUND_CLASSES:
        return ()
    if counts[covered].sum() < rule.together * num_pixels:
        return ()
    levels = places[peaks].astype(np.int64)
    levels[levels <= 8] = 0
    levels[levels >= 247] = 255
    weights = (1 << 16, 1 << 8, 1)[-levels.shape[1] :]
    return tuple(sorted(set((levels @ np.array(weights)).tolist())))


class Numbering(NamedTuple):
    """Masks whose values number objects, 1 to n.

    most: objects in one mask. wide: some files hold 16 bits. sure: else they may be classes.
    """

    most: int
    wide: bool
    sure: bool


def find_numbering(masks: Sequence[MaskScan]) -> Numbering | None:
    """Whether the values of grey masks number objects: 0, and 1 to n with another n in each mask.

    Gaps are usual where masks were cut out of larger ones. Sure are more than `MAX_FOUND_CLASSES`
    values, and 16-bit files without any gap that reach 10: few values in 16 bits are classes as
    often, but hardly ones that come as 1, then 1 and 2, and so on.
    """
    if any(mask.encoding != "grey" or mask.lossy for mask in masks):
        return None
    every = [_objects(mask) for mask in masks]
    objects = [entry for entry in every if entry.pixels]
    # In photographs 0 is never the most frequent value
    if not objects or 2 * sum(entry.background_first for entry in every) < len(masks):
        return None
    tops = [max(entry.pixels) for entry in objects]
    if Counter(tops).most_common(1)[0][1] > max(1, len(tops) // 2):
        return None  # the same last value everywhere: a class, or the white of a soft mask
    density = statistics.median(entry.number / max(entry.pixels) for entry in objects)
    most, wide = max(entry.number for entry in objects), any(mask.wide for mask in masks)
    if len({value for entry in objects for value in entry.pixels}) >= MAX_FOUND_CLASSES:
        if density >= 0.5 and _roughness([entry.pixels for entry in objects]) >= 0.4:
            return Numbering(most, wide, sure=True)
    elif density == 1 and most >= 5 and len(set(tops)) >= 3:
        return Numbering(most, wide, sure=wide and most >= 10)
    return None


class _Objects(NamedTuple):
    """The values of a mask but 0 and void. pixels: of those listed; number: of all."""

    pixels: dict[int, int]
    number: int
    background_first: bool


def _objects(mask: MaskScan) -> _Objects:
    counts, void = mask.counts, void_value(mask)
    pixels = {value: count for value, count in counts.items() if value not in (0, void)}
    unlisted = mask.num_values - len(counts)
    first = counts.get(0, 0) >= max(pixels.values(), default=0)
    return _Objects(pixels, len(pixels) + unlisted, first)


class TwoEncodings(NamedTuple):
    """Values 1 to n in some masks, and as many grey levels up to 255 in others, never together.

    small, large: the values. num_small, num_large: masks that hold them. examples: one of each.
    """

    small: tuple[int, ...]
    large: tuple[int, ...]
    num_small: int
    num_large: int
    examples: tuple[str, str]


def find_two_encodings(masks: Sequence[tuple[str, MaskScan]]) -> TwoEncodings | None:
    """Whether grey masks hold 1, 2, ... n beside 0, and others 255 or n levels up to it instead.

    Void meets classes somewhere, the white of another encoding never does; a mask of nothing but
    255 tells nothing.
    """
    every = [(name, set(mask.counts)) for name, mask in masks]
    if any(mask.lossy or mask.void or mask.num_values > 32 for _, mask in masks):
        return None
    found = {value for _, values in every for value in values} - {0}
    small = {value for value in found if value <= 32}
    large = found - small
    if not small or small != set(range(1, len(small) + 1)):
        return None
    levels = [round(255 * (k + 1) / len(small)) for k in range(len(small))]
    scaled = len(large) == len(small) and all(
        abs(value - level) <= 1 for value, level in zip(sorted(large), levels, strict=True)
    )
    if not (large == {255} or scaled):
        return None
    low = [name for name, values in every if values & small]
    high = [name for name, values in every if values & large and 0 in values]
    if not high or any(values & small and values & large for _, values in every):
        return None
    return TwoEncodings(
        tuple(sorted(small)), tuple(sorted(large)), len(low), len(high), (low[0], high[0])
    )


def void_value(mask: MaskScan) -> int | None:
    """What the -1 of a mask file is read as, None where it holds none; see `MaskPixels.void`."""
    if not mask.void:
        return None
    return 255 if max(mask.counts) <= 255 else 65535


def _roughness(masks: Sequence[Mapping[int, int]]) -> float:
    """The median over masks of |log2| of how the pixels of neighbouring values differ.

    Objects have any size, levels of grey change smoothly. Medians measured: 0.76 in the masks of
    dsb2018, 0.56 and 0.70 in two of StarDist; 0.05 to 0.3 in photographs of seven datasets, 0.21
    in masks blurred by 3 pixels.
    """
    medians = []
    for ids in masks:
        steps = [
            abs(float(np.log2(ids[value + 1] / count)))
            for value, count in ids.items()
            if value + 1 in ids
        ]
        if steps:
            medians.append(statistics.median(steps))
    return statistics.median(medians) if medians else 0.0
