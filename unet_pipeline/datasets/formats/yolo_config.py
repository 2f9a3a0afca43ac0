"""The YAML file of a YOLO dataset: it names the classes, and the images of each split."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import yaml

from unet_pipeline.datasets.findings import Finding, agree, counted, name_five
from unet_pipeline.datasets.formats.contract import Tree, list_tree
from unet_pipeline.datasets.formats.layout import pictures, split_of_path
from unet_pipeline.datasets.formats.named_folders import folders_of_images
from unet_pipeline.datasets.images import IMAGE_EXTENSIONS, read_bytes
from unet_pipeline.datasets.manifest import SPLITS, Split
from unet_pipeline.errors import DatasetError

_SPLIT_KEYS: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("val", "validation", "valid"),
    "test": ("test",),
}
_MAX_CONFIG = 2**20  # bytes; such files are written by hand
_CONFIG_STEMS = ("data", "dataset")
_CONFIG_KEYS = {"path", *(key for keys in _SPLIT_KEYS.values() for key in keys)}


@dataclass(frozen=True, slots=True)
class Config:
    """A YAML file that describes a dataset. name: its path in the tree. classes: number -> name."""

    name: str
    path: Path
    content: dict[str, Any]
    classes: dict[int, str]


class Listing(NamedTuple):
    """The images that a file names with their splits, and what is to be said about them."""

    splits: dict[Path, Split | None]
    left_out: list[str]
    findings: list[Finding]


def find_config(tree: Tree) -> Config | None:
    """The YAML file that names classes and images, the least deep one; data.yaml before others."""
    names = tree.files(".yaml", ".yml")
    names.sort(key=lambda name: (name.count("/"), PurePosixPath(name).stem not in _CONFIG_STEMS))
    for name in names[:20]:
        path = tree.path(name)
        content: Any = None
        with contextlib.suppress(OSError, yaml.YAMLError, ValueError, RecursionError):
            if path.is_file() and path.stat().st_size < _MAX_CONFIG:
                content = yaml.safe_load(path.read_bytes())
        if isinstance(content, dict) and content.keys() & _CONFIG_KEYS:
            classes = _classes_of(content.get("names"))
            if classes:
                return Config(name, path, content, classes)
    return None


def broken_configs(tree: Tree) -> Iterator[str]:
    """What is wrong with files that are called as the YAML file of a dataset and hold none."""
    for name in tree.files(".yaml", ".yml"):
        path = tree.path(name)
        if PurePosixPath(name).stem not in _CONFIG_STEMS or not path.is_file():
            continue
        try:
            content = yaml.safe_load(path.read_bytes())
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            yield f"{name}: is no valid YAML ({' '.join(str(error).split())})"
            continue
        if not isinstance(content, dict):
            yield f"{name}: {'is empty' if content is None else 'names neither classes nor images'}"


def _classes_of(names: Any) -> dict[int, str]:
    """Class number -> name, of a list or of a mapping; empty where it is neither."""
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(str(number).isdecimal() for number in names):
        return {}
    return {int(number): str(names[number]).strip() for number in sorted(names, key=int)}


def class_count(config: Config) -> Iterator[Finding]:
    """A warning where the number of classes is not that of their names."""
    count = config.content.get("nc")
    if isinstance(count, int) and count != len(config.classes):
        yield Finding(
            "class-count",
            "warning",
            f"{config.name} gives nc: {count} but {len(config.classes)} names, which count",
            remedy=f"correct {config.name}",
        )


def images_of_folders(tree: Tree, images: str | None) -> dict[Path, Split | None]:
    """The images of the folders, in the splits that their names say; images: a folder of them."""
    return {
        Path(os.path.normpath(path)): split_of_path(folder.parts)
        for folder, path in pictures(folders_of_images(tree, images))
    }


def configured_images(config: Config, tree: Tree) -> Listing:
    """The images that the YAML file names, each in the first split that names it.

    Of a split whose places are not there, the images of the folders that are called like it. All
    in no split, where train and val are the same or train stands alone. Raises `DatasetError`
    where none of them exists.
    """
    findings: list[Finding] = []
    missing: dict[Split, list[str]] = {}
    named_in: dict[Split, dict[Path, None]] = {}
    for split, keys in _SPLIT_KEYS.items():
        entries: Any = next((config.content[key] for key in keys if config.content.get(key)), [])
        for entry in entries if isinstance(entries, list) else [entries]:
            found = dict.fromkeys(_images_at(config, str(entry), findings))
            if found:
                named_in.setdefault(split, {}).update(found)
            else:
                missing.setdefault(split, []).append(f"{split}: {entry}")
    if missing:
        instead = _by_folder(tree, missing, named_in)
        findings.append(_not_there(config, missing, instead))
        named_in |= instead
    if not named_in:
        places = name_five([place for places in missing.values() for place in places])
        raise DatasetError(
            f"{config.path}: none of the images that it names exist ({places}); "
            "correct the paths, or name the folder with --images"
        )
    named_in = {split: named_in[split] for split in SPLITS if split in named_in}
    splits, left_out = _divide(config, named_in, findings)
    return Listing(splits, left_out, findings)


def _by_folder(
    tree: Tree, missing: Iterable[Split], named_in: Mapping[Split, Iterable[Path]]
) -> dict[Split, dict[Path, None]]:
    """The images of the splits that are missing, by the names of the folders of `tree`."""
    taken = {path for paths in named_in.values() for path in paths}
    free = {path: said for path, said in images_of_folders(tree, None).items() if path not in taken}
    return {
        split: paths
        for split in missing
        if split not in named_in
        and (paths := dict.fromkeys(path for path, said in free.items() if said == split))
    }


def _not_there(
    config: Config, missing: Mapping[Split, list[str]], instead: Mapping[Split, Iterable[Path]]
) -> Finding:
    places = [place for places in missing.values() for place in places]
    by_folder = [split for split in missing if split in instead]
    told = f"; {' and '.join(by_folder)} taken by the names of the folders" if by_folder else ""
    return Finding(
        "missing-folders",
        "error" if "train" in missing and "train" not in instead else "warning",
        f"{config.name} names {counted(len(places), 'place')} without images{told}",
        len(places),
        tuple(places[:5]),
        f"correct the paths in {config.name}, or name the folder with --images",
    )


def _divide(
    config: Config, named_in: dict[Split, dict[Path, None]], findings: list[Finding]
) -> tuple[dict[Path, Split | None], list[str]]:
    """The split of each image; sentences about splits that are not used."""
    if len({frozenset(images) for images in named_in.values()}) == 1:
        (first, images), *others = named_in.items()
        if others or first == "train":
            why = "the same images for" if others else "images only for"
            same = " and ".join(named_in)
            sentence = f"{config.name} names {why} {same}: no split is taken from it"
            return dict.fromkeys(images), [sentence]
    splits: dict[Path, Split | None] = {}
    left_out: list[str] = []
    for split, images in named_in.items():
        again = [path for path in images if path in splits]
        if again and len(again) == len(images):
            first = splits[again[0]] or split
            left_out.append(f"{config.name} names for {split} what it names for {first}")
        elif again:
            findings.append(
                Finding(
                    "in-several-splits",
                    "warning",
                    f"{counted(len(again), 'image')} named for {split} and for a split before it, "
                    "where alone they count",
                    len(again),
                    tuple(str(path) for path in again[:5]),
                    f"name each image once in {config.name}",
                )
            )
        for path in images:
            splits.setdefault(path, split)
    return splits, left_out


def _images_at(config: Config, entry: str, findings: list[Finding]) -> Iterator[Path]:
    """The images of one entry: a folder with all below it, or a text file of image paths."""
    here = config.path.parent
    told = config.content.get("path")
    base = _existing(told, [here]) if isinstance(told, str) else here
    place = _existing(entry, [base, here] if base else [here], keep_split=True)
    if place is None:
        return
    if place.is_dir():
        below = list_tree(place)
        yield from (below.path(name) for name in below.files(*IMAGE_EXTENSIONS))
        return
    lines = read_bytes(place).decode("utf-8-sig", "replace").splitlines()
    paths = {line: _existing(line, [place.parent, base or here, here])
             for line in map(str.strip, lines) if line}  # fmt: skip
    yield from (path for path in paths.values() if path)
    if absent := [line for line, path in paths.items() if path is None]:
        findings.append(
            Finding(
                "missing-images",
                "error",
                f"{len(absent)} of {counted(len(paths), 'image')} in {place.name} "
                f"{agree(len(absent), 'do')} not exist",
                len(absent),
                tuple(absent[:5]),
                f"correct the paths in {place.name}, or take them out",
            )
        )


def _existing(told: str, bases: Sequence[Path], *, keep_split: bool = False) -> Path | None:
    """Where the path `told` leads from the first of `bases` where it leads anywhere.

    Of a path of another machine, and of one that leads too far up, the longest end that exists.
    keep_split: the end must say the split that the whole says; images/ of ../train/images may hold
        all of them.
    """
    parts = PurePosixPath(PureWindowsPath(told).as_posix()).parts
    foreign = bool(parts) and (parts[0] in ("/", "..") or ":" in parts[0])
    starts = range(len(parts) if foreign else 1)
    for start in starts:
        if keep_split and split_of_path(parts[start:]) != split_of_path(parts):
            continue
        for base in bases:
            with contextlib.suppress(OSError, ValueError):  # no name for a file
                if (path := base.joinpath(*parts[start:])).exists():
                    return Path(os.path.normpath(path))
    return None
