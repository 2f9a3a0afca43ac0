"""Files, folders and globs -> the images to predict, and where each of them will be written."""

from __future__ import annotations

import contextlib
import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from unet_pipeline.datasets.images import (
    IMAGE_EXTENSIONS,
    decode_image,
    read_image,
    to_channels,
)
from unet_pipeline.datasets.manifest import natural_key
from unet_pipeline.datasets.raster import PAGES_HINT
from unet_pipeline.errors import DatasetError, UserError
from unet_pipeline.inference.outputs import output_names

if TYPE_CHECKING:
    from unet_pipeline.models.segmenter import ModelCard

_PAGES_REMEDY = (
    "one picture a file is predicted: save each page as a file of its own or, where the model was "
    "trained on pages as channels, all of them as one .npy or TIFF of height x width x channels"
)

_CHANNEL_STEM = re.compile(r"(?P<case>.+)_\d{4}", re.DOTALL)

INDEX_NAME = "predictions.jsonl"
"""The file in an output folder that says what was written for which image by which model."""


@dataclass(frozen=True)
class Input:
    """An image to predict.

    relative: its place below `root`, which the output folder mirrors.
    root: the folder it was found in; None for a file that was named itself.
    """

    path: Path
    relative: PurePath
    root: Path | None


@dataclass(frozen=True)
class Job:
    """An image and the files to be written for it: kind -> path."""

    input: Input
    outputs: dict[str, Path]


def collect_inputs(sources: Sequence[str | Path], *, output: Path) -> list[Input]:
    """The images that `sources` name, without duplicates, in natural order (2 before 10).

    A source is a file, a folder (searched deep) or a glob such as "data/**/*.tif". Folders give
    the files with the extensions of images, in any case; hidden files and folders are skipped, and
    so is `output` where it lies inside, because it holds results. A file that is named itself is
    taken whatever it is called.
    Raises `UserError` where a source does not exist, no image is found, or `output` is one of the
    folders that are read.
    """
    found: dict[Path, Input] = {}
    for source in sources:
        matches = list(_expand(source, output))
        if not matches:
            raise UserError(
                f"{source}: holds no images; files ending in {', '.join(IMAGE_EXTENSIONS)} (in "
                "upper or lower case) are looked for, hidden ones are not"
            )
        for match in matches:
            # the folder resolved, the file not: a link beside its target is an image of its own
            key = Path(os.path.realpath(match.path.parent)) / match.path.name
            found.setdefault(key, match)
    if not found:
        raise UserError("no images to predict: name files, folders or quoted globs")
    return sorted(found.values(), key=lambda match: natural_key(str(match.path)))


def plan_outputs(inputs: Sequence[Input], output: Path, save: Sequence[str]) -> list[Job]:
    """What will be written where, proven free of collisions before any work is done.

    save: kinds of the catalogue `outputs.OUTPUTS`.
    Raises `UserError` where two images would write one file, where a file would overwrite an input
    or land in a folder of inputs, and where it would replace a file that no earlier prediction
    into `output` has written.
    """
    images = {_real(match.path): match.path for match in inputs}
    roots = {Path(os.path.realpath(match.root)) for match in inputs if match.root is not None}
    owners: dict[Path, Path] = {}
    jobs = []
    for match in inputs:
        names = output_names(match.relative, save)
        job = Job(match, {kind: output / name for kind, name in names.items()})
        for path in job.outputs.values():
            if path in owners:
                raise _collision(owners[path], match.path, path)
            owners[path] = match.path
            _check_inputs_are_safe(_real(path), match, images, roots, output)
        jobs.append(job)
    for path, image in owners.items():
        for parent in path.parents:
            if parent in owners:  # x.jpg -> x.png, a file, and x.png/y.jpg -> x.png/y.png
                raise _collision(owners[parent], image, parent)
    if not (output / INDEX_NAME).exists():
        _check_nothing_is_lost(owners, output)
    return jobs


def read_pixels(path: Path, card: ModelCard) -> npt.NDArray[Any]:
    """The image at `path`, (H, W, C), as the model of `card` takes it.

    Raises `DatasetError` for a file that cannot be read, has channels that do not convert, is one
    of the channels of an image, or has pixels of another type than those of training, whose scale
    would be a guess.
    """
    with _one_picture():
        image = read_image(path)
    if image.shape[2] == 1 < card.in_channels:
        _refuse_one_of_channels(path, card.in_channels)
    return fit_image(image, card, source=str(path))


def decode_pixels(data: bytes, card: ModelCard, *, source: str) -> npt.NDArray[Any]:
    """`read_pixels` for the content of a file; source: what messages call it."""
    with _one_picture():
        image = decode_image(data, source=source)
    return fit_image(image, card, source=source)


def fit_image(image: npt.NDArray[Any], card: ModelCard, *, source: str) -> npt.NDArray[Any]:
    """`image` (H, W, C) with the channels that the model takes; see `read_pixels`."""
    if image.ndim != 3:
        raise DatasetError(f"{source}: an array of the shape {image.shape}, not (H, W, C)")
    if image.dtype.name != card.dtype:
        raise DatasetError(
            f"{source}: holds {image.dtype.name} pixels, but the model was trained on {card.dtype} "
            f"ones from {card.value_range[0]:g} to {card.value_range[1]:g}; convert it to those"
        )
    return to_channels(image, card.in_channels, source)


@contextlib.contextmanager
def _one_picture() -> Iterator[None]:
    """Say of a file of several pages what can be done about it here."""
    try:
        yield
    except DatasetError as error:
        if PAGES_HINT not in str(error):
            raise
        text = str(error).replace(PAGES_HINT, _PAGES_REMEDY)
        raise DatasetError(text) from error


def _refuse_one_of_channels(path: Path, in_channels: int) -> None:
    """Raise `DatasetError` for a file whose name, and those beside it, say that it is a channel.

    nnU-Net has the channels of an image in files x_0000, x_0001, ...; a grey file among three of
    them would pass for an image in RGB, and its mask would be wrong without a word.
    """
    match = _CHANNEL_STEM.fullmatch(path.stem)
    if not match:
        return
    names = [f"{match['case']}_{k:04}{path.suffix}" for k in range(in_channels + 1)]
    *wanted, beyond = [path.with_name(name).exists() for name in names]
    if path.name in names and all(wanted) and not beyond:
        raise DatasetError(
            f"{path}: is by its name one of the channels of {match['case']}, but the model takes "
            f"all {in_channels} in one file: save {names[0]} to {names[-2]} as one .npy or TIFF of "
            f"height x width x {in_channels}, or give images of their own other names"
        )


def _expand(source: str | Path, output: Path) -> Iterator[Input]:
    path = Path(source)
    if path.is_dir():
        yield from _walk(path, root=path, output=output)
    elif path.exists():
        yield Input(path, PurePath(path.name), None)
    elif glob.has_magic(str(source)):
        yield from _match(str(source), output)
    else:
        raise UserError(f"{source}: no such file or folder; name images, folders or quoted globs")


def _match(pattern: str, output: Path) -> Iterator[Input]:
    """What a glob matches, mirrored from the folder before its first wildcard on."""
    fixed = []
    for part in Path(pattern).parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    root = Path(*fixed)
    # Path.glob would find folders alone for "**" before Python 3.13, and hidden files
    for name in glob.iglob(pattern, recursive=True):  # noqa: PTH207
        path = Path(name)
        if path.is_dir():
            # "data/**" names folders and what is in them: files come from their own matches
            if not pattern.endswith("**"):
                yield from _walk(path, root=root, output=output)
        elif _is_image(path.name) and not _is_inside(path.parent, output, strictly_below=root):
            yield Input(path, path.relative_to(root), root)


def _walk(folder: Path, *, root: Path, output: Path) -> Iterator[Input]:
    """The images below `folder`; links to folders are followed, each folder once."""
    if os.path.realpath(folder) == os.path.realpath(output):
        if folder == root:
            raise UserError(
                f"the output folder {output} is the folder that is read: choose another --output, "
                "so that results and images stay apart"
            )
        return
    if _is_inside(folder, output, strictly_below=root):
        return
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and not _is_inside(Path(parent, name), output, strictly_below=root)
        ]
        for name in names:
            if _is_image(name):
                path = Path(parent, name)
                yield Input(path, path.relative_to(root), root)


def _is_image(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_EXTENSIONS


def _is_inside(folder: Path, output: Path, *, strictly_below: Path) -> bool:
    """Whether `folder` belongs to an output folder that lies below the folder that is read."""
    real, root = Path(os.path.realpath(output)), Path(os.path.realpath(strictly_below))
    below = real.is_relative_to(root) and real != root
    return below and Path(os.path.realpath(folder)).is_relative_to(real)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path.parent)) / path.name


def _collision(first: Path, second: Path, path: Path) -> UserError:
    return UserError(
        f"{first} and {second} would both write {path}: rename one of them, or predict them "
        "into two output folders"
    )


def _check_inputs_are_safe(
    path: Path, match: Input, images: dict[Path, Path], roots: set[Path], output: Path
) -> None:
    if path in images:
        raise UserError(
            f"the result for {match.path} would overwrite the image {images[path]}: choose another "
            "--output"
        )
    target = Path(os.path.realpath(output))
    for root in roots:
        if target == root or (path.is_relative_to(root) and not target.is_relative_to(root)):
            raise UserError(
                f"the result for {match.path} would be written to {path}, among the images that "
                f"are read from {root}: choose another --output"
            )


def _check_nothing_is_lost(owners: dict[Path, Path], output: Path) -> None:
    present = [path for path in owners if os.path.lexists(path)]
    if present:
        more = f" and {len(present) - 1} more" if len(present) > 1 else ""
        raise UserError(
            f"{present[0]}{more} exist, and no earlier prediction has written them (there is no "
            f"{INDEX_NAME} in {output}): move them away or choose another --output"
        )
