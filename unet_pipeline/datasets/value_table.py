"""The values of all masks of a dataset in one table."""

from __future__ import annotations

import functools
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from unet_pipeline.classes import (
    IGNORE_INDEX,
    Classes,
    MaskValue,
    nearest_values,
    pack_value,
    unpack_value,
)
from unet_pipeline.datasets.images import Color, Encoding
from unet_pipeline.datasets.rows import Rows
from unet_pipeline.datasets.value_histograms import (
    Numbering,
    TwoEncodings,
    find_numbering,
    find_two_encodings,
    void_value,
)

if TYPE_CHECKING:
    from unet_pipeline.datasets.scan import MaskScan


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
    lossy: some files are compressed with loss. num_pixels: of all masks.
    void: what the -1 of mask files is read as. void_clash: a mask in which that is a class too.
    numbering: given where the values number objects. two_encodings: where masks of two kinds say
        the same by other values.
    shades_of: the values of which all others are shades: soft edges, noise; see `soft_edges`.
    """

    encoding: Encoding
    uses: Mapping[int, Use]
    palette: Mapping[int, Color]
    complete: bool
    lossy: bool
    num_pixels: int
    void: tuple[int, ...] = ()
    void_clash: str | None = None
    numbering: Numbering | None = None
    two_encodings: TwoEncodings | None = None
    shades_of: tuple[int, ...] = ()


def count_values(rows: Sequence[tuple[str, MaskScan]]) -> ValueTable:
    """The values of all masks, under the one encoding that suits all of them.

    rows: the id of each sample and what was read of its mask.
    """
    masks = Rows(lambda i: rows[i][1], len(rows))
    encoding, palette = _common_encoding(masks)
    uses: dict[int, Use] = {}
    void, complete, lossy, num_pixels = set[int](), True, False, 0
    for sample_id, mask in rows:
        complete, lossy = complete and mask.num_values == len(mask.values), lossy or mask.lossy
        num_pixels += mask.height * mask.width
        if (value := void_value(mask)) is not None:
            void.add(value)
        for key, pixels in keyed_counts(mask, encoding).items():
            use = uses.setdefault(key, Use())
            use.pixels += pixels
            use.num_masks += 1
            if len(use.examples) < 5:
                use.examples.append(sample_id)
    return ValueTable(
        encoding,
        uses,
        palette,
        complete=complete,
        lossy=lossy,
        num_pixels=num_pixels,
        void=tuple(sorted(value * 0x010101 if encoding == "rgb" else value for value in void)),
        void_clash=_clash(rows) if 255 in void else None,
        numbering=find_numbering(masks) if len(uses) > 5 else None,
        two_encodings=find_two_encodings(rows) if encoding == "grey" and 255 in uses else None,
    )


def _clash(rows: Sequence[tuple[str, MaskScan]]) -> str | None:
    """A mask that holds a 255 of its own among values beyond it, where -1 is read as 255."""
    own = [
        (sample_id, [value for value in mask.counts if value != void_value(mask)])
        for sample_id, mask in rows
    ]
    if max(max(values, default=0) for _, values in own) <= 255:
        return None  # then 255 is the usual mark of void, beside -1
    return next((sample_id for sample_id, values in own if 255 in values), None)


def keyed_counts(mask: MaskScan, encoding: Encoding) -> dict[int, int]:
    """The pixels of each value of one mask, the values as the dataset's encoding has them."""
    if encoding != "rgb" or mask.encoding == "rgb":
        return mask.counts
    counts: dict[int, int] = {}
    for value, pixels in mask.counts.items():
        key = pack_value(mask.palette[value]) if mask.palette else value * 0x010101
        counts[key] = counts.get(key, 0) + pixels
    return counts


def _common_encoding(masks: Sequence[MaskScan]) -> tuple[Encoding, dict[int, Color]]:
    """One encoding for all masks, and the palette where values are indices.

    Masks of 1 bit count as palette images of black and white. Colours, not indices, are what
    counts where an index has another colour in another file, and where black and white files
    (0, 1) stand beside grey ones (0, 255).
    """
    kinds: set[Encoding] = set()
    palette: dict[int, Color] = {}
    agree = True
    for mask in masks:
        kinds.add(mask.encoding)
        for value, color in mask.palette.items():
            agree = palette.setdefault(value, color) == color and agree
    if "rgb" in kinds or not agree:
        return "rgb", {}
    if kinds == {"palette"}:
        return "palette", palette
    greys = {value for mask in masks if mask.encoding == "grey" for value in mask.values}
    shown_alike = all(color == (value, value, value) for value, color in palette.items())
    all_grey = all(red == green == blue for red, green, blue in palette.values())
    if not shown_alike and all_grey and not greys <= set(palette) and max(greys) <= 255:
        return "rgb", {}
    return "grey", palette


def snapping(table: ValueTable, classes: Classes) -> tuple[int, float]:
    """How many pixels of all masks are not exactly of a class or void, and how far the furthest is.

    Of values too rare to be listed in the table, the pixels count, not the distance.
    """
    keys = np.array(sorted(table.uses))
    _, away = nearest_values(classes, keys)
    exact = sum(table.uses[key].pixels for key in keys[away == 0].tolist())
    return table.num_pixels - exact, float(away.max(initial=0))


@functools.lru_cache(maxsize=4)
def _indices(classes: Classes) -> dict[int, int]:
    """The class index of each mask value, colours packed."""
    index_of = {pack_value(value): k for k, value in enumerate(classes.values)}
    return index_of | {pack_value(value): IGNORE_INDEX for value in classes.ignore_values}


ClassPixels = Mapping[int, int]
"""The pixels of each class index of one mask, as `class_pixels` gives them."""


class ClassPixelRows(Rows[ClassPixels]):
    """The class pixels of many masks, in their order.

    A mapping of four classes takes 360 bytes, its numbers alone 32.
    """

    def __init__(self, rows: Iterable[ClassPixels] = ()) -> None:
        self._counts = array("Q")
        self._ends = array("Q", [0])
        self._indices: list[tuple[int, ...]] = []
        known: dict[tuple[int, ...], tuple[int, ...]] = {}
        for row in rows:
            indices = tuple(row)
            self._indices.append(known.setdefault(indices, indices))
            self._counts.extend(row.values())
            self._ends.append(len(self._counts))
        super().__init__(self._row, len(self._indices))

    def _row(self, place: int) -> ClassPixels:
        counts = self._counts[self._ends[place] : self._ends[place + 1]]
        return dict(zip(self._indices[place], counts, strict=True))


def class_totals(pixels: Iterable[ClassPixels], classes: Classes) -> list[int]:
    """Pixels of each class over several masks; void is left out."""
    totals = dict.fromkeys((*range(classes.num_classes), IGNORE_INDEX), 0)
    for counts in pixels:
        for k, count in counts.items():
            totals[k] += count
    return [totals[k] for k in range(classes.num_classes)]


def class_pixels(mask: MaskScan, classes: Classes) -> dict[int, int]:
    """The pixels of each class index of one mask, `IGNORE_INDEX` included; absent ones left out.

    As `Classes.to_indices` gives them, from the counts alone. Of a mask with too many values to
    list, the rest counts as `other`; where values are snapped, it is left out.
    """
    counts = keyed_counts(mask, classes.encoding)
    index_of = _indices(classes)
    if classes.snap:
        keys = sorted(counts)
        index_of = dict(zip(keys, nearest_values(classes, np.array(keys))[0].tolist(), strict=True))
    pixels: dict[int, int] = {}
    for key, count in counts.items():
        if key in index_of:
            pixels[index_of[key]] = pixels.get(index_of[key], 0) + count
    if classes.other is not None:
        rest = mask.height * mask.width - sum(pixels.values())
        if rest:
            pixels[classes.other] = pixels.get(classes.other, 0) + rest
    return pixels


def value_rows(
    table: ValueTable | None, classes: Classes | None
) -> list[tuple[MaskValue, int, int, str]]:
    """Rows for people: mask value, pixels, number of masks, what it is taken for.

    The value is -1 where the files hold that, whatever it is read as.
    """
    if table is None:
        return []
    keys = sorted(table.uses)
    meanings = ["?"] * len(keys) if classes is None else _meanings(keys, classes)
    return [
        (as_held(key, table), table.uses[key].pixels, table.uses[key].num_masks, name)
        for key, name in zip(keys, meanings, strict=True)
    ]


def as_held(key: int, table: ValueTable) -> MaskValue:
    """A packed mask value as the files hold it: -1 for what stands for it."""
    return -1 if key in table.void else unpack_value(key, table.encoding)


def _meanings(keys: Sequence[int], classes: Classes) -> list[str]:
    """The class of each mask value; snapped ones say so."""
    indices, away = nearest_values(classes, np.array(keys))
    names = dict(enumerate(classes.names)) | {IGNORE_INDEX: "void"}
    meanings = []
    for index, distance in zip(indices.tolist(), away.tolist(), strict=True):
        if distance and not classes.snap:
            meanings.append("?" if classes.other is None else names[classes.other])
        else:
            meanings.append(names[index] + (" (snapped)" if distance else ""))
    return meanings
