"""The classes of a dataset, and the way between mask values (what files hold) and class indices."""

from __future__ import annotations

import colorsys
import functools
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pydantic

from unet_pipeline.errors import DatasetError, UserError

IGNORE_INDEX = 255
"""The class index of pixels that count for nothing, in every mask of the pipeline."""

MaskValue = int | tuple[int, int, int]


class Classes(pydantic.BaseModel):
    """The classes of a dataset: class index -> name, colour, mask value.

    names, colors, values: one entry a class, in the order of the class indices 0..K-1.
    ignore_values: mask values that mean void; they become `IGNORE_INDEX`.
    other: the class index of every mask value that is not listed; None refuses such values.
    snap: every value that is not listed counts as the nearest one that is, void values included:
        masks whose compression blurs values (JPEG). Ties go to the lower value.
    encoding: how the mask files hold the values: `grey` integers, `palette` indices, or `rgb`.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    values: tuple[MaskValue, ...]
    ignore_values: tuple[MaskValue, ...] = ()
    other: int | None = None
    snap: bool = False
    encoding: Literal["grey", "palette", "rgb"] = "grey"

    @pydantic.model_validator(mode="after")
    def _agree(self) -> Self:
        count = len(self.values)
        if not 2 <= count <= IGNORE_INDEX:
            raise ValueError(f"{count} classes: between 2 and {IGNORE_INDEX} are possible")
        if len(self.names) != count or len(self.colors) != count:
            raise ValueError(
                f"{len(self.names)} names and {len(self.colors)} colours for {count} mask values"
            )
        if len(set(self.names)) != count:
            raise ValueError("two classes have the same name")
        if len({*self.values, *self.ignore_values}) != count + len(self.ignore_values):
            raise ValueError("a mask value is listed twice")
        rgb = self.encoding == "rgb"
        for value in (*self.values, *self.ignore_values):
            if isinstance(value, tuple) != rgb:
                raise ValueError(f"mask value {value} does not fit the encoding {self.encoding}")
            if any(not 0 <= v <= (255 if rgb else 65535) for v in _as_tuple(value)):
                raise ValueError(f"mask value {value} is out of range")
        if self.other is not None and not 0 <= self.other < count:
            raise ValueError(f"other = {self.other} is not a class index of {count} classes")
        if self.snap and self.other is not None:
            raise ValueError("`snap` and `other` both say what unlisted values are: use one")
        return self

    @property
    def num_classes(self) -> int:
        """K, background included."""
        return len(self.values)

    def to_indices(self, mask: npt.NDArray[Any], *, source: str) -> npt.NDArray[np.uint8]:
        """The class indices (H, W), uint8, of a mask as its file holds it: (H, W) or (H, W, 3).

        source: what messages call the mask, its path as a rule.
        Raises `DatasetError` for values that are no class, naming up to five of them.
        """
        keys = pack_colors(mask) if self.encoding == "rgb" else _as_grey(mask, source)
        if self.snap:
            return _snapped(self, keys)
        table = _index_table(self)
        if mask.dtype in (np.uint8, np.uint16):
            indices = table[keys]
        else:  # beyond the table there are no classes
            within = (keys >= 0) & (keys < len(table))
            indices = np.where(within, table[np.where(within, keys, 0)], np.int16(-1))
        strange = indices < 0
        if strange.any():
            if self.other is None:
                raise self._unknown_values(keys[strange], source)
            indices[strange] = self.other
        return indices.astype(np.uint8)

    def to_values(self, indices: npt.NDArray[Any]) -> npt.NDArray[np.uint8 | np.uint16]:
        """The mask (H, W) or (H, W, 3) in the values of the dataset's own files.

        Pixels of `IGNORE_INDEX` get the first void value, or 255 where there is none.
        """
        void = self.ignore_values[0] if self.ignore_values else None
        if void is None:
            void = (255, 255, 255) if self.encoding == "rgb" else 255
        wide = np.array([*self.values, void], dtype=np.int64)
        table: npt.NDArray[np.uint8 | np.uint16]
        table = wide.astype(np.uint16 if wide.max() > 255 else np.uint8)
        return table[np.where(indices == IGNORE_INDEX, self.num_classes, indices)]

    def to_colors(self, indices: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """An RGB picture (H, W, 3), uint8, of class indices (H, W); void is white."""
        table = np.array([*self.colors, (255, 255, 255)], dtype=np.uint8)
        return table[np.where(indices == IGNORE_INDEX, self.num_classes, indices)]

    def _unknown_values(self, keys: npt.NDArray[np.int64], source: str) -> DatasetError:
        found = np.unique(keys)
        shown = ", ".join(str(unpack_value(int(k), self.encoding)) for k in found[:5])
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        known = ", ".join(str(v) for v in (*self.values, *self.ignore_values)[:12])
        return DatasetError(
            f"{source}: {keys.size} pixels hold the mask values {shown}{more}, which are no class "
            f"(the classes are {known}); mend the mask, or prepare again with --ignore-values"
        )


def default_colors(count: int) -> tuple[tuple[int, int, int], ...]:
    """Distinct colours for `count` classes; the first, background, is black."""
    colors = [(0, 0, 0)]
    for k in range(count - 1):
        # steps of the golden ratio spread hues evenly however many there are
        red, green, blue = colorsys.hsv_to_rgb((0.02 + k * 0.618034) % 1, 0.75, 1 - 0.25 * (k % 2))
        colors.append((round(red * 255), round(green * 255), round(blue * 255)))
    return tuple(colors)


@functools.lru_cache(maxsize=4)
def _index_table(classes: Classes) -> npt.NDArray[np.int16]:
    """The class index of every possible key, -1 where it is no class.

    2**24 entries for colours, 32 MB. Against a binary search of the values, 800x600 pixels take
    1.1 ms instead of 14.7 (11 grey values), 3.0 instead of 7.6 (32 colours).
    """
    table = np.full(2**24 if classes.encoding == "rgb" else 2**16, -1, dtype=np.int16)
    for index, value in enumerate(classes.values):
        table[pack_value(value)] = index
    for value in classes.ignore_values:
        table[pack_value(value)] = IGNORE_INDEX
    # Where values are snapped, `_snapped` adds those that it meets
    table.setflags(write=classes.snap)
    return table


def _snapped(classes: Classes, keys: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The index of the nearest class or void value for every key.

    Distances are computed once for each value that occurs (of 2**24 colours a dataset holds a few
    thousand) and kept in the table: 800x600 colours of a JPEG take 73 ms the first time, 6 to
    9 ms again. Threads may meet here: what they write is the same.
    """
    table = _index_table(classes)
    keys = np.clip(keys, 0, len(table) - 1)
    indices = table[keys]
    strange = indices < 0
    if strange.any():
        missing = np.unique(keys[strange])
        nearest, _ = nearest_values(classes, missing)
        table[missing] = nearest
        indices = table[keys]
    snapped: npt.NDArray[np.uint8] = indices.astype(np.uint8)
    return snapped


def nearest_values(
    classes: Classes, keys: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float64]]:
    """For each mask value (packed) the index of the class, or void, nearest to it; and how far.

    Distances are differences of grey levels, Euclidean among colours; ties go to the lower value.
    """
    pairs = [(pack_value(v), index) for index, v in enumerate(classes.values)]
    pairs += [(pack_value(v), IGNORE_INDEX) for v in classes.ignore_values]
    pairs.sort()
    best = np.zeros(len(keys), dtype=np.int16)
    least = np.full(len(keys), np.inf)
    points = color_points(np.asarray(keys), classes.encoding)
    for key, index in pairs:  # a class at a time: memory does not grow with their number
        away = np.sqrt(
            ((points - color_points(np.array([key]), classes.encoding)) ** 2).sum(axis=1)
        )
        closer = away < least
        best[closer], least[closer] = index, away[closer]
    return best, least


def color_points(keys: npt.NDArray[Any], encoding: str) -> npt.NDArray[np.float64]:
    """Packed mask values as places in space: (N, 1) grey levels or (N, 3) colours."""
    if encoding == "rgb":
        keys = np.stack([keys >> 16, (keys >> 8) & 255, keys & 255], axis=1)
    return keys.reshape(len(keys), -1).astype(np.float64)


def pack_colors(mask: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """One integer 0xRRGGBB a pixel, (H, W), of an RGB mask (H, W, 3)."""
    if mask.ndim == 2:  # a grey file among coloured ones means R = G = B
        return mask.astype(np.int64) * 0x010101
    wide = mask.astype(np.int64)
    packed: npt.NDArray[np.int64] = (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]
    return packed


def _as_grey(mask: npt.NDArray[Any], source: str) -> npt.NDArray[Any]:
    if mask.ndim == 2:
        return mask
    if (mask == mask[..., :1]).all():
        return mask[..., 0]
    raise DatasetError(
        f"{source}: a coloured mask in a dataset of single-channel masks; "
        "convert it, or prepare coloured and plain masks apart"
    )


def _as_tuple(value: MaskValue) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def pack_value(value: MaskValue) -> int:
    """A mask value as one integer: itself, or 0xRRGGBB for a colour."""
    if isinstance(value, tuple):
        return (value[0] << 16) | (value[1] << 8) | value[2]
    return value


def unpack_value(key: int, encoding: str) -> MaskValue:
    """The mask value that `pack_value` made `key` of, in a dataset of the given encoding."""
    return ((key >> 16) & 255, (key >> 8) & 255, key & 255) if encoding == "rgb" else key


def parse_value(text: str) -> MaskValue:
    """A mask value as people type it: `255`, or `255/0/0` or `#ff0000` for a colour.

    >>> parse_value("128"), parse_value("#ff0000"), parse_value("0/0/255")
    (128, (255, 0, 0), (0, 0, 255))
    """
    try:
        if text.startswith("#") and len(text) == 7:
            key = int(text[1:], 16)
            return (key >> 16, (key >> 8) & 255, key & 255)
        parts = [int(part) for part in text.split("/")]
    except ValueError:
        parts = []
    if len(parts) == 1 and parts[0] >= 0:
        return parts[0]
    if len(parts) == 3 and all(0 <= part <= 255 for part in parts):
        return (parts[0], parts[1], parts[2])
    raise UserError(f"mask value {text!r}: use a whole number, or a colour as 255/0/0 or #ff0000")
