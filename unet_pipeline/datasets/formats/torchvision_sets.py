"""Datasets by name: `torchvision:OxfordIIITPet`, fetched once by torchvision, then read as files.

Addresses and checksums of the archives are torchvision's own. What is under way lies in a folder
of its own and is moved into place when it is whole, so that an interrupted transfer is never taken
for a dataset.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import os
import shutil
import socket
import tarfile
import tempfile
import urllib.error
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from unet_pipeline.catalogue import lookup
from unet_pipeline.datasets.findings import Finding, agree, counted
from unet_pipeline.datasets.formats import voc
from unet_pipeline.datasets.formats.class_list import ClassList
from unet_pipeline.datasets.formats.contract import Found, Pair, list_tree
from unet_pipeline.datasets.images import read_bytes
from unet_pipeline.datasets.manifest import SPLITS, Split, natural_key
from unet_pipeline.errors import UserError
from unet_pipeline.files import make_writable_folder, resource_errors, resource_reason

_PREFIX = "torchvision:"
_TIMEOUT = 30.0  # seconds without an answer

_VOC_YEARS = {
    "2007": ("VOCdevkit/VOC2007", "0.5 GB"),
    "2008": ("VOCdevkit/VOC2008", "0.6 GB"),
    "2009": ("VOCdevkit/VOC2009", "0.9 GB"),
    "2010": ("VOCdevkit/VOC2010", "1.3 GB"),
    "2011": ("TrainVal/VOCdevkit/VOC2011", "1.7 GB"),
    "2012": ("VOCdevkit/VOC2012", "2 GB"),
}


class _Set(NamedTuple):
    """One dataset.

    size, origin: of what is fetched, for people. place: the folder it makes below the one it is
    fetched to. parts: what must be in it. fetch: has torchvision do it. read: folder -> pairs.
    """

    size: str
    origin: str
    place: str
    parts: tuple[str, ...]
    fetch: Callable[[Path], object]
    read: Callable[[Path], Found]


def is_torchvision(source: str) -> bool:
    """Whether a source is the name of such a dataset and no path."""
    return source.startswith(_PREFIX)


def find_torchvision(source: str, *, download_to: Path) -> Found:
    """The pairs of a dataset by name, `torchvision:NAME` or `torchvision:VOCSegmentation@YEAR`.

    It is fetched into the folder `download_to` unless it lies there already.
    Raises `UserError`, in one line, for an unknown name, where there is no network, where what
    arrives is damaged, and where an incomplete copy is in the way; `ResourceError` for a full disk.
    """
    name, _, year = source.removeprefix(_PREFIX).partition("@")
    dataset = lookup(_SETS, name, kind="torchvision dataset")(year)
    folder = download_to / dataset.place
    if lacking := _lacking(folder, dataset):
        if folder.exists():
            raise UserError(
                f"{source}: {folder} lacks {', '.join(lacking)}: complete it, or remove it to have "
                "it fetched"
            )
        _fetch(source, dataset, download_to)
    found = dataset.read(folder)
    return replace(found, sentence=f"{source}: {found.sentence}")


def _lacking(folder: Path, dataset: _Set) -> list[str]:
    return [part for part in dataset.parts if not (folder / part).exists()]


# ---- fetching -----------------------------------------------------------------------------------


def _fetch(source: str, dataset: _Set, download_to: Path) -> None:
    """Have torchvision fetch and unpack a dataset; it appears in `download_to` whole or not."""
    folder = download_to / dataset.place
    by_hand = f"or fetch and unpack it elsewhere so that {folder} holds {', '.join(dataset.parts)}"
    made = not download_to.exists()
    make_writable_folder(download_to)
    scratch = Path(tempfile.mkdtemp(prefix=".partial-", dir=download_to))
    try:
        with resource_errors(download_to), _short_patience():
            dataset.fetch(scratch)
        if lacking := _lacking(scratch / dataset.place, dataset):
            raise UserError(f"{source}: what was fetched lacks {', '.join(lacking)}; {by_hand}")
        for archive in (scratch / dataset.place).glob("*.t*gz"):
            archive.unlink()
        folder.parent.mkdir(parents=True, exist_ok=True)
        os.replace(scratch / dataset.place, folder)
    except _TRANSFER_ERRORS as error:
        if isinstance(error, OSError) and resource_reason(error):
            raise
        raise UserError(
            f"{source}: about {dataset.size} from {dataset.origin} cannot be fetched: "
            f"{_reason(error)}; try again, {by_hand}"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if made:
            with contextlib.suppress(OSError):  # it holds the dataset
                download_to.rmdir()


_TRANSFER_ERRORS = (
    *(OSError, http.client.HTTPException, RecursionError),  # no network; redirected in a circle
    *(RuntimeError, tarfile.TarError, EOFError, zlib.error),  # checksums, damaged archives
)


def _reason(error: Exception) -> str:
    """What went wrong, in words."""
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    said = " ".join(str(inner).split())[:200]
    if isinstance(error, urllib.error.HTTPError):
        return f"the server says {error.code} {error.reason}"
    if isinstance(error, RecursionError | http.client.HTTPException):
        return f"the server gives no sense ({said or type(error).__name__})"
    if isinstance(error, OSError) and not isinstance(error, tarfile.TarError):
        return f"there is no network, or no answer ({said or type(error).__name__})"
    return f"what arrives is damaged ({said or type(error).__name__})"


@contextlib.contextmanager
def _short_patience() -> Iterator[None]:
    """Let no connection hang: torchvision sets no time limit of its own."""
    former = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(former)


# torchvision is imported where it is needed: it takes seconds


def _fetch_pet(folder: Path) -> None:
    from torchvision.datasets import OxfordIIITPet

    OxfordIIITPet(folder, download=True)


def _fetch_voc(folder: Path, *, year: str) -> None:
    from torchvision.datasets import VOCSegmentation

    VOCSegmentation(folder, year=year, download=True)


def _fetch_sbd(folder: Path) -> None:
    from torchvision.datasets import SBDataset

    place = folder / "sbd"  # it unpacks where it is told, without a folder of its own
    place.mkdir()
    SBDataset(place, mode="segmentation", download=True)


# ---- reading ------------------------------------------------------------------------------------


def _read_pet(folder: Path) -> Found:
    """The trimaps: 1 pet, 2 background, 3 the border between them, which is void.

    trainval.txt is train, as no list tells val; the split is made later.
    """
    lists: dict[Split, Path] = {
        "train": folder / "annotations" / "trainval.txt",
        "test": folder / "annotations" / "test.txt",
    }
    masks = folder / "annotations" / "trimaps" / "*.png"
    found = _listed(lists, images=folder / "images" / "*.jpg", masks=masks)
    return replace(
        found,
        class_list=ClassList("OxfordIIITPet", ("background", "pet"), (2, 1)),
        ignore_values=(3,),
    )


def _read_sbd(folder: Path) -> Found:
    lists: dict[Split, Path] = {"train": folder / "train.txt", "val": folder / "val.txt"}
    found = _listed(lists, images=folder / "img" / "*.jpg", masks=folder / "cls" / "*.mat")
    values = tuple(range(len(voc.CLASSES)))
    return replace(found, class_list=ClassList("SBDataset", voc.CLASSES, values))


def _read_voc(folder: Path) -> Found:
    return voc.FORMAT.read(list_tree(folder), None, None)


def _listed(lists: dict[Split, Path], *, images: Path, masks: Path) -> Found:
    """The pairs that lists name, one id at the beginning of a line; absent files are findings.

    images, masks: the paths of the files, with * for the id.
    """
    split_of: dict[str, Split] = {}
    for split, path in lists.items():
        words = (line.split() for line in read_bytes(path).decode("utf-8", "replace").splitlines())
        split_of |= {word[0]: split for word in words if word}
    pairs, findings = [], []
    for name in sorted(split_of, key=natural_key):
        image, mask = (p.with_name(p.name.replace("*", name)) for p in (images, masks))
        pairs.append(Pair(name, image, mask, split_of[name]))
    for kind in ("image", "mask"):
        there = [pair for pair in pairs if getattr(pair, kind).is_file()]
        if len(there) < len(pairs):
            kept = {pair.sample_id for pair in there}
            absent = [pair.sample_id for pair in pairs if pair.sample_id not in kept]
            findings.append(_missing(kind, absent))
            pairs = there
    counts = Counter(pair.split for pair in pairs)
    shown = ", ".join(f"{name} {counts[name]}" for name in SPLITS if counts[name])
    sentence = f"{counted(len(pairs), 'pair')}; splits by list: {shown}"
    return Found(tuple(pairs), sentence, findings=tuple(findings))


def _missing(kind: str, names: list[str]) -> Finding:
    return Finding(
        f"missing-{kind}s",
        "error",
        f"{counted(len(names), f'listed {kind}')} {agree(len(names), 'are')} not there",
        len(names),
        tuple(names[:5]),
        "remove the folder to have all fetched again, or take the names out of the lists",
    )


def _pet(year: str) -> _Set:
    _refuse_year("OxfordIIITPet", year)
    parts = ("images", "annotations/trimaps", "annotations/trainval.txt", "annotations/test.txt")
    origin = "https://www.robots.ox.ac.uk/~vgg/data/pets"
    return _Set("0.8 GB", origin, "oxford-iiit-pet", parts, _fetch_pet, _read_pet)


def _voc(year: str) -> _Set:
    year = year or "2012"
    place, size = lookup(_VOC_YEARS, year, kind="year of VOCSegmentation")
    origin = f"https://thor.robots.ox.ac.uk/pascal/VOC/voc{year}"
    parts = ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation")
    return _Set(size, origin, place, parts, functools.partial(_fetch_voc, year=year), _read_voc)


def _sbd(year: str) -> _Set:
    _refuse_year("SBDataset", year)
    origin = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping"
    parts = ("img", "cls", "train.txt", "val.txt")
    return _Set("1.4 GB", origin, "sbd", parts, _fetch_sbd, _read_sbd)


def _refuse_year(name: str, year: str) -> None:
    if year:
        raise UserError(f"{_PREFIX}{name}@{year}: only VOCSegmentation has years; leave it out")


_SETS: dict[str, Callable[[str], _Set]] = {
    "OxfordIIITPet": _pet,
    "SBDataset": _sbd,
    "VOCSegmentation": _voc,
}
