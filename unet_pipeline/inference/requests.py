"""What people hand over as images -> masks: arrays, files, paths, base64, alone or many at once.

Decoded and predicted exactly as `unet predict` does it; only where the bytes come from differs.
"""

from __future__ import annotations

import base64
import contextlib
import re
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from unet_pipeline.datasets.encoders import encode_lossless
from unet_pipeline.errors import DatasetError, UserError, did_you_mean
from unet_pipeline.inference.inputs import decode_pixels, fit_image, read_pixels
from unet_pipeline.inference.outputs import PICTURES, Prediction
from unet_pipeline.inference.sliding_window import OVERLAP, predict_image
from unet_pipeline.models import load_model
from unet_pipeline.runtime import choose_device, choose_precision, place

if TYPE_CHECKING:
    from unet_pipeline.models.segmenter import ModelCard

ANSWERS = ("auto", "indices", "values", *PICTURES)
"""What `Predictor.predict` can give for an image."""

_MAX_PATH = 4096
_LEAST_BYTES = 32  # of an image file: a GIF has 35
_EXAMPLE_SIDE = 16


class Predictor:
    """A loaded model that takes images in whatever form they come.

    model: a model file or run folder. device, amp: as the settings `runtime.device` and
    `runtime.amp`. Safe to be asked from several threads, which wait for each other.
    """

    def __init__(self, model: str | Path, *, device: str = "auto", amp: str = "auto") -> None:
        chosen = choose_device(device)
        self.segmenter = place(load_model(model), chosen)
        self._autocast_dtype = choose_precision(amp, chosen)
        self._lock = threading.Lock()

    def predict(
        self,
        images: Any,
        *,
        output: str = "auto",
        tta: bool = False,
        threshold: float | None = None,
        paths: bool = True,
        text: bool = False,
    ) -> Any:
        """The mask of one image, or a list of masks for several, each at its image's size.

        images: an array (H, W) or (H, W, C), bytes of a file, a path, base64 of a file (plain or
        as a data: URL), or numbers in nested lists; several of them as a list, a table of one
        column, or an array (N, H, W[, C]), whose masks come as an array too.
        output: `indices` (class indices, uint8) or `values` (of the training masks) as arrays;
        `mask`, `color` or `overlay` as the PNG file that `unet predict --save` writes; `auto` is
        `mask` for base64, `indices` for everything else.
        tta, threshold: see `predict_image`.
        paths: whether text may name a file, which is then read. text: give files as base64 text,
        as it is always done for an image that came so.

        Raises `DatasetError` that names the image for one that cannot be read or does not fit.
        """
        if output not in ANSWERS:
            raise UserError(f"unknown output {output!r}{did_you_mean(output, ANSWERS)}")

        def answer(item: Any, name: str) -> Any:
            pixels, encoded = self._read(item, name, paths=paths)
            return self._answer(
                pixels, output, encoded=encoded, text=text, tta=tta, threshold=threshold
            )

        if isinstance(images, dict) and len(images) == 1:  # {"image": ...}, as JSON has it
            images = next(iter(images.values()))
        several = _several(images, self.segmenter.card)
        if several is None:
            return answer(images, "the image")
        answers = [answer(item, f"image {n}") for n, item in enumerate(several)]
        if isinstance(several, np.ndarray) and output in ("auto", "indices", "values"):
            return np.stack(answers) if answers else np.zeros(several.shape[:3], np.uint8)
        return answers

    def _read(self, item: Any, name: str, *, paths: bool) -> tuple[npt.NDArray[Any], bool]:
        """Pixels (H, W, C) of an image, and whether it came as base64."""
        card = self.segmenter.card
        if isinstance(item, list | tuple):
            item = _from_numbers(item, card, name)
        if isinstance(item, np.ndarray):
            item = item[..., None] if item.ndim == 2 else item
            return fit_image(item, card, source=name), False
        if isinstance(item, bytes | bytearray | memoryview):
            return decode_pixels(bytes(item), card, source=name), False
        if isinstance(item, str) and paths and _is_file(item):
            item = Path(item)
        if isinstance(item, Path):
            try:
                return read_pixels(item, card), False
            except DatasetError as error:
                raise DatasetError(f"{name}: {error}") from error
        if isinstance(item, str):
            return decode_pixels(_from_base64(item, name, paths=paths), card, source=name), True
        raise DatasetError(
            f"{name}: is of type {type(item).__name__}; give an array, the bytes of a file, a path "
            "or base64"
        )

    def _answer(
        self,
        pixels: npt.NDArray[Any],
        output: str,
        *,
        encoded: bool,
        text: bool,
        tta: bool,
        threshold: float | None,
    ) -> npt.NDArray[Any] | bytes | str:
        card = self.segmenter.card
        with self._lock:
            indices, _ = predict_image(
                self.segmenter,
                pixels,
                window=card.window,
                overlap=OVERLAP,
                autocast_dtype=self._autocast_dtype,
                tta=tta,
                threshold=threshold,
            )
        if output == "auto":
            output = "mask" if encoded else "indices"
        if output == "indices":
            return indices
        if output == "values":
            return card.classes.to_values(indices)
        file = PICTURES[output](Prediction(pixels, indices, None, card.classes))
        return base64.b64encode(file).decode() if encoded or text else file


def example_image(card: ModelCard) -> bytes:
    """A small file of an image as the model of `card` takes it: a ramp over its range of values."""
    low, high = card.value_range
    ramp = np.linspace(low, high, _EXAMPLE_SIDE * _EXAMPLE_SIDE)
    picture = ramp.astype(card.dtype).reshape(_EXAMPLE_SIDE, _EXAMPLE_SIDE, 1)
    _, data = encode_lossless(np.repeat(picture, card.in_channels, axis=2))
    return data


def _several(images: Any, card: ModelCard) -> Sequence[Any] | npt.NDArray[Any] | None:
    """The images one by one; None where there is one. A batch stays an array, (N, H, W[, C])."""
    if hasattr(images, "columns") and hasattr(images, "iloc"):  # a table of pandas
        if len(images.columns) != 1:
            names = ", ".join(str(column) for column in images.columns)
            raise DatasetError(f"a table of {len(images.columns)} columns ({names}): give one")
        images = images.iloc[:, 0]
    if hasattr(images, "to_list"):
        return list(images.to_list())
    if isinstance(images, np.ndarray):
        if images.dtype.kind in "OSU":
            return [images.item()] if images.ndim == 0 else list(images.reshape(-1))
        one = images.ndim < 3 or (images.ndim == 3 and _has_channels(images, card))
        return None if one else images
    if isinstance(images, list | tuple):
        if not images or not isinstance(images[0], list | tuple | int | float):
            return images
        return _split_numbers(images, card)
    return None


def _split_numbers(numbers: Sequence[Any], card: ModelCard) -> Sequence[Any] | None:
    """Images in nested lists, one by one; None for one alone."""
    try:
        array = np.array(numbers)
    except ValueError:  # rows of different lengths: images of different sizes
        return numbers
    if array.ndim > 3 or (array.ndim == 3 and not _has_channels(array, card)):
        return numbers
    return None


def _has_channels(array: npt.NDArray[Any], card: ModelCard) -> bool:
    """Whether an array of three axes is one image (H, W, C), and no batch (N, H, W)."""
    return array.shape[2] in (1, 2, 3, 4, card.in_channels)


def _from_numbers(item: Iterable[Any], card: ModelCard, name: str) -> npt.NDArray[Any]:
    """Nested lists, which know no types, as an array of the model's."""
    try:
        array = np.array(item)
    except ValueError as error:
        raise DatasetError(f"{name}: its rows have different lengths") from error
    if array.dtype.kind not in "biuf":
        raise DatasetError(f"{name}: a list of numbers is needed, height x width [x channels]")
    with np.errstate(invalid="ignore", over="ignore"):
        cast = array.astype(card.dtype)
    if card.dtype != "float32" and not (cast == array).all():
        raise DatasetError(f"{name}: holds numbers that are not of the type {card.dtype}")
    return cast


def _is_file(text: str) -> bool:
    try:
        return len(text) <= _MAX_PATH and Path(text).is_file()
    except (OSError, ValueError):  # too long a name, a null character
        return False


def _from_base64(text: str, name: str, *, paths: bool) -> bytes:
    """The bytes in base64 text, plain or URL-safe, or a data: URL; spaces and lines do not count.

    Other URLs are refused: a server that fetches them can be sent anywhere.
    """
    content = text
    if text[:5].lower() == "data:":
        head, comma, content = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise DatasetError(f"{name}: a data: URL must hold base64 (data:image/png;base64,...)")
    packed = re.sub(r"\s+", "", content).rstrip("=").translate(str.maketrans("-_", "+/"))
    data = b""
    with contextlib.suppress(ValueError):
        data = base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    if len(data) < _LEAST_BYTES:  # a word such as `cells` is base64 too
        shown = repr(text if len(text) <= 60 else f"{text[:60]}...")
        if paths:
            raise DatasetError(f"{name}: {shown} is neither a file nor base64 of one")
        raise DatasetError(
            f"{name}: {shown} is not base64 of a file; paths and addresses are not opened here"
        )
    return data
