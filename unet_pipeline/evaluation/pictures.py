"""Pictures for people: images of any depth made visible, classes laid over them, errors marked."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from unet_pipeline.classes import IGNORE_INDEX, Classes
from unet_pipeline.errors import UserError

Picture = npt.NDArray[np.uint8]
Color = tuple[int, int, int]

# The colours of Okabe and Ito, which stay apart for colour-blind readers too.
CORRECT: Color = (0, 158, 115)
MISSED: Color = (86, 180, 233)
FALSE_ALARM: Color = (213, 94, 0)
WRONG_CLASS: Color = (240, 228, 66)
IGNORED: Color = (200, 200, 200)

_PAPER: Color = (255, 255, 255)
_INK: Color = (40, 40, 40)
_MARGIN = 12
_LINE = 22
_INDENT = 72  # of the swatches, right of the heading of their legend
_ROWS = 512  # rows worked on at a time, so that a huge image needs no second copy in wide numbers


def visible(image: npt.NDArray[Any]) -> Picture:
    """An RGB picture (H, W, 3), uint8, of an image (H, W) or (H, W, C) of any type.

    8-bit RGB is shown as it is. Anything else is stretched from its 1st to its 99th percentile:
    RGB by one range, so that its colours stay, other channel counts by one range a channel. Of
    more than three channels the first three are shown; two are shown as magenta and green.
    """
    image = image[..., None] if image.ndim == 2 else image
    count = image.shape[2]
    if image.dtype == np.uint8 and count == 3:
        return image
    channels = {1: [0, 0, 0], 2: [0, 1, 0]}.get(count, [0, 1, 2])
    step = 1 + int((image.shape[0] * image.shape[1] / 250_000) ** 0.5)
    sample = image[::step, ::step]
    ranges = [_range(sample)] * 3 if count == 3 else [_range(sample[..., c]) for c in channels]
    low, high = (np.array(ends) for ends in zip(*ranges, strict=True))
    picture = np.empty((*image.shape[:2], 3), dtype=np.uint8)
    for rows in _bands(len(image)):
        band = np.nan_to_num(image[rows][..., channels].astype(np.float64))
        picture[rows] = (np.clip(band, low, high) - low) * (255 / (high - low)) + 0.5
    return picture


def overlay(
    image: npt.NDArray[Any],
    indices: npt.NDArray[Any],
    classes: Classes,
    *,
    alpha: float = 0.45,
) -> Picture:
    """The image with its classes laid over it: RGB (H, W, 3), uint8.

    Class 0 stays clear. Every other class is tinted with its colour, `alpha` of it, and outlined in
    full colour; ignored pixels are greyed. Raises `UserError` where the sizes differ.
    """
    _check_sizes(image, indices)
    colors = np.array([*classes.colors, IGNORED], dtype=np.uint8)
    weights = np.full(len(colors), alpha)
    weights[0] = 0
    keys = np.where(indices == IGNORE_INDEX, classes.num_classes, indices)
    return _tint(visible(image), keys, colors, weights, outlined=True)


def errors(
    image: npt.NDArray[Any], truth: npt.NDArray[Any], prediction: npt.NDArray[Any]
) -> Picture:
    """Where the prediction is right and wrong, over the darkened grey image: RGB (H, W, 3), uint8.

    Foreground is every class but 0. Green: right. Blue: foreground that was missed. Orange:
    background taken for foreground. Yellow: foreground of another class. Ignored pixels are grey,
    background that is right stays clear.
    """
    _check_sizes(image, truth)
    _check_sizes(image, prediction)
    keys = np.zeros(truth.shape, dtype=np.uint8)
    keys[(truth == prediction) & (truth != 0)] = 1
    keys[(truth != 0) & (prediction == 0)] = 2
    keys[(truth == 0) & (prediction != 0)] = 3
    keys[(truth != 0) & (prediction != 0) & (truth != prediction)] = 4
    keys[truth == IGNORE_INDEX] = 5
    colors = np.array(
        [(0, 0, 0), CORRECT, MISSED, FALSE_ALARM, WRONG_CLASS, IGNORED], dtype=np.uint8
    )
    grey = np.asarray(Image.fromarray(visible(image)).convert("L"))
    dark = np.repeat((grey * 0.6).astype(np.uint8)[..., None], 3, axis=2)
    return _tint(dark, keys, colors, np.array([0, 0.8, 0.8, 0.8, 0.8, 0.5]), outlined=False)


def panel(
    image: npt.NDArray[Any],
    truth: npt.NDArray[Any],
    prediction: npt.NDArray[Any],
    classes: Classes,
    *,
    caption: str = "",
    tile_side: int = 384,
) -> Picture:
    """Image, truth, prediction and errors side by side with a legend: RGB uint8.

    caption: a line under the pictures, such as the name of the sample and its score.
    tile_side: the longer side of each picture comes as near to this as crisp scaling allows.
    The legend names the classes that occur in truth or prediction.
    """
    tiles = {
        "image": visible(image),
        "truth": overlay(image, truth, classes),
        "prediction": overlay(image, prediction, classes),
        "errors": errors(image, truth, prediction),
    }
    fitted = [(title, fit(tile, tile_side)) for title, tile in tiles.items()]
    width = max(fitted[0][1].width, 110)  # narrow images leave room for their titles
    sheet_width = len(fitted) * (width + _MARGIN) + _MARGIN
    inner = sheet_width - 2 * _MARGIN
    strips = [_caption(caption, inner)] if caption else []
    strips.append(_legend("classes", _class_entries(truth, prediction, classes), inner))
    strips.append(_legend("errors", _error_entries(classes), inner))
    top = _MARGIN + _LINE
    below = top + fitted[0][1].height + _MARGIN
    height = below + sum(strip.height for strip in strips) + _MARGIN // 2
    sheet = Image.new("RGB", (sheet_width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (title, tile) in enumerate(fitted):
        left = _MARGIN + number * (width + _MARGIN)
        draw.text((left, _MARGIN - 3), title, fill=_INK, font=font(14, bold=True))
        sheet.paste(tile, (left, top))
    for strip in strips:
        sheet.paste(strip, (_MARGIN, below))
        below += strip.height
    return np.array(sheet)


def pair(
    image: npt.NDArray[Any],
    truth: npt.NDArray[Any],
    prediction: npt.NDArray[Any],
    classes: Classes,
    *,
    tile_side: int = 384,
) -> Picture:
    """Truth left and prediction right, each laid over the image: RGB uint8, and nothing else.

    tile_side: the longer side of each comes as near to this as crisp scaling allows, so that huge
    images make small pictures.
    """
    tiles = [
        np.array(fit(overlay(image, indices, classes), tile_side))
        for indices in (truth, prediction)
    ]
    return np.concatenate(tiles, axis=1)


@dataclass(frozen=True)
class _Entry:
    """A swatch of the legend; without a colour it is hollow."""

    label: str
    color: Color | None


def _class_entries(truth: Any, prediction: Any, classes: Classes) -> list[_Entry]:
    found = {int(k) for k in np.union1d(np.unique(truth), np.unique(prediction))}
    entries = [
        _Entry(name, classes.colors[k]) if k else _Entry(f"{name} (clear)", None)
        for k, name in enumerate(classes.names)
        if k in found
    ]
    return [*entries, _Entry("ignored", IGNORED)] if IGNORE_INDEX in found else entries


def _error_entries(classes: Classes) -> list[_Entry]:
    entries = [_Entry("right", CORRECT), _Entry("missed", MISSED)]
    entries.append(_Entry("false alarm", FALSE_ALARM))
    return [*entries, _Entry("wrong class", WRONG_CLASS)] if classes.num_classes > 2 else entries


def _legend(heading: str, entries: list[_Entry], width: int) -> Image.Image:
    """A heading and swatches with their labels, as many a line as `width` takes."""
    face = font(13)
    places, left, line = [], _INDENT, 0
    for entry in entries:
        label = shorten(entry.label, face, width - _INDENT - 30)
        needed = 20 + int(face.getlength(label)) + 18
        if left > _INDENT and left + needed - 18 > width:
            left, line = _INDENT, line + 1
        places.append((entry.color, label, left, line * _LINE))
        left += needed
    strip = Image.new("RGB", (width, (line + 1) * _LINE), _PAPER)
    draw = ImageDraw.Draw(strip)
    draw.text((0, 0), heading, fill=_INK, font=font(13, bold=True))
    for color, label, x, y in places:
        draw.rectangle((x, y + 2, x + 13, y + 15), fill=color, outline=(120, 120, 120))
        draw.text((x + 20, y), label, fill=_INK, font=face)
    return strip


def _caption(text: str, width: int) -> Image.Image:
    strip = Image.new("RGB", (width, _LINE + 4), _PAPER)
    face = font(14, bold=True)
    ImageDraw.Draw(strip).text((0, 0), shorten(text, face, width), fill=_INK, font=face)
    return strip


def shorten(text: str, face: ImageFont.FreeTypeFont, width: int) -> str:
    """One printable line of `text` that fits into `width` pixels."""
    text = re.sub(r"\s", " ", text.encode("utf-8", "replace").decode("utf-8"))
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


@functools.cache
def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, for words in pictures."""
    # matplotlib brings DejaVu along: it knows Latin, Greek, Cyrillic and more, on every machine
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def fit(tile: Picture, side: int) -> Image.Image:
    """Small tiles grow by whole factors and stay crisp, large ones shrink smoothly."""
    picture = Image.fromarray(tile)
    longer = max(picture.size)
    if longer > side:
        size = tuple(max(1, round(s * side / longer)) for s in picture.size)
        return picture.resize((size[0], size[1]), Image.Resampling.LANCZOS, reducing_gap=3.0)
    factor = side // longer
    size = (picture.width * factor, picture.height * factor)
    return picture.resize(size, Image.Resampling.NEAREST)


def _tint(
    picture: Picture,
    keys: npt.NDArray[Any],
    colors: Picture,
    weights: npt.NDArray[np.float64],
    *,
    outlined: bool,
) -> Picture:
    """`picture` with `weights[key]` of `colors[key]` mixed in, in integers, band by band."""
    parts = np.round(weights * 256).astype(np.uint32)
    result = np.empty_like(picture)
    for rows in _bands(len(keys)):
        band = keys[rows]
        part = parts[band][..., None]
        mixed = (picture[rows] * (256 - part) + colors[band] * part + 128) >> 8
        result[rows] = np.minimum(mixed, 255)
    if outlined:
        edge = _edges(keys) & (parts[keys] > 0)
        result[edge] = colors[keys[edge]]
    return result


def _edges(keys: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Pixels that have another key beside, above or below them."""
    edge = np.zeros(keys.shape, dtype=bool)
    across, down = keys[:, 1:] != keys[:, :-1], keys[1:] != keys[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge


def _range(values: npt.NDArray[Any]) -> tuple[float, float]:
    """The 1st and 99th percentile; all of the range where they meet, such as on sparse images."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(finite, (1, 99)))
    if high <= low:
        low, high = float(finite.min()), float(finite.max())
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _bands(height: int) -> Iterator[slice]:
    for top in range(0, height, _ROWS):
        yield slice(top, top + _ROWS)


def _check_sizes(image: npt.NDArray[Any], indices: npt.NDArray[Any]) -> None:
    if image.shape[:2] != indices.shape:
        raise UserError(
            f"an image of {image.shape[1]}x{image.shape[0]} pixels and a mask of the shape "
            f"{indices.shape} cannot be drawn together: their sizes must be equal"
        )
