"""Masks and images that no file holds, written out: what training reads are files."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unet_pipeline.datasets.encoders import encode_lossless, encode_png
from unet_pipeline.datasets.formats.contract import Made, Pair
from unet_pipeline.datasets.images import Color
from unet_pipeline.datasets.scan import Progress, content
from unet_pipeline.datasets.threads import in_threads
from unet_pipeline.errors import DatasetError
from unet_pipeline.files import make_writable_folder, write_atomic


def write_made(
    pairs: Sequence[Pair],
    folder: Path,
    *,
    palette: Sequence[Color] | None = None,
    by_digest: bool = False,
    on_progress: Progress | None = None,
) -> list[Pair]:
    """`pairs` with files for all that was `Made`, written to `folder`; the rest stays where it is.

    Images go to folder/images/<sample_id>, masks to folder/masks/<sample_id>, losslessly: PNG
    where it can hold the pixels, else TIFF.
    palette: the colours of the class indices, for masks that viewers then show in colour.
    by_digest: name files by what they hold, and leave those that are there already.
    on_progress: called as on_progress(done, total) over the pairs that have something made.
    """
    todo = [pair for pair in pairs if not in_files(pair)]
    if todo:
        make_writable_folder(folder)
    write = functools.partial(_write_pair, folder=folder, palette=palette, by_digest=by_digest)
    written: dict[str, Pair] = {}
    for pair in in_threads(write, todo):
        written[pair.sample_id] = pair
        if on_progress is not None:
            on_progress(len(written), len(todo))
    return [written.get(pair.sample_id, pair) for pair in pairs]


def in_files(pair: Pair) -> bool:
    """Whether nothing of the pair has to be written before it can be read."""
    return isinstance(pair.image, Path) and isinstance(pair.mask, Path)


def _write_pair(
    pair: Pair, *, folder: Path, palette: Sequence[Color] | None, by_digest: bool
) -> Pair:
    image, mask = (
        part
        if isinstance(part, Path)
        else _write(part, folder / place, pair.sample_id, palette, by_digest)
        for part, place in ((pair.image, "images"), (pair.mask, "masks"))
    )
    return pair.with_files(image, mask)


def _write(
    made: Made, folder: Path, sample_id: str, palette: Sequence[Color] | None, by_digest: bool
) -> Path:
    name = f"1{content.MADE_RULES}-{made.digest().hex()}" if by_digest else safe_name(sample_id)
    if by_digest:
        for suffix in (".png", ".tif"):
            if (former := folder / f"{name}{suffix}").exists():
                return former
    pixels = made.pixels()
    if pixels.ndim == 3:
        suffix, data = encode_lossless(pixels)
    else:
        suffix, data = ".png", encode_png(pixels, palette if pixels.dtype == np.uint8 else None)
    path = folder / f"{name}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data, durable=False)
    return path


def safe_name(sample_id: str) -> str:
    """`sample_id` as a path below a folder, never above it."""
    parts = [part for part in sample_id.replace("\\", "/").split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        raise DatasetError(f"sample id {sample_id!r} is no name for a file; rename the image")
    return "/".join(parts)
