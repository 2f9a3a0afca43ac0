"""nnU-Net, 2-D: imagesTr/<case>_0000.png, _0001.png, ... with labelsTr/<case>.png and dataset.json.

Versions 1 and 2 of dataset.json are read (labels {"0": "background"} and {"background": 0}).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from unet_pipeline.datasets.findings import Finding, agree, counted, name_five
from unet_pipeline.datasets.formats.class_list import ClassList
from unet_pipeline.datasets.formats.contract import Format, Found, Made, Pair, Tree
from unet_pipeline.datasets.formats.json_file import read_json
from unet_pipeline.datasets.formats.named_folders import refuse_folders
from unet_pipeline.datasets.formats.pairs import about_splits, in_several_splits
from unet_pipeline.datasets.formats.stacked_channels import StackedChannels
from unet_pipeline.datasets.images import IMAGE_EXTENSIONS, probe
from unet_pipeline.datasets.manifest import Split, natural_key
from unet_pipeline.errors import DatasetError

_FACTS_FILE = "dataset.json"
_SPLITS_FILE = "splits_final.json"

_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


class _Facts(NamedTuple):
    """What dataset.json says; num_channels is 0 where it does not.

    labels: value and name, without the value `ignore`, which means void.
    """

    num_channels: int
    labels: tuple[tuple[int, str], ...]
    ignore: int | None
    ending: str


class _Side(NamedTuple):
    """The cases of imagesTr or imagesTs: channel -> path of each image, path of each label."""

    images: dict[str, dict[int, str]]
    labels: dict[str, str]


def recognise(tree: Tree) -> str | None:
    """A dataset.json beside imagesTr/ or labelsTr/."""
    roots = [] if tree.only else _roots(tree)
    return f"{tree.join(roots[0], _FACTS_FILE)} beside imagesTr/ and labelsTr/" if roots else None


def read(tree: Tree, images: str | None, masks: str | None) -> Found:
    """The cases of `tree`, those of imagesTs as split test where labelsTs has their masks.

    Fold 0 of splits_final.json gives train and val. Several files of one case become one image of
    several channels. Raises `UserError` for folders that are named, `DatasetError` for several
    data sets in one folder, volumes, and labels that are regions.
    """
    looked_for = f"imagesTr/, labelsTr/ and {_FACTS_FILE}"
    refuse_folders(tree, images, masks, format_name="nnunet", looked_for=looked_for)
    root = _one_root(tree)
    facts = _read_facts(tree, root)
    sides, left_out = _sides(tree, root, facts)
    num_channels = _num_channels(tree, facts, sides)
    splits, num_folds, twice = _read_splits(tree.path(tree.join(root, _SPLITS_FILE)))
    if splits:
        left_out += _outside_fold(splits, num_folds, sides["train"])
    pairs = _pairs(tree, sides, num_channels, splits)
    return Found(
        pairs,
        f"{counted(len(pairs), 'case')}, {counted(num_channels, 'file')} an image"
        + about_splits(pairs),
        (*left_out, *_beyond(sides, num_channels)),
        class_list=ClassList(
            _FACTS_FILE,
            tuple(name for _, name in facts.labels),
            tuple(value for value, _ in facts.labels),
        ),
        ignore_values=() if facts.ignore is None else (facts.ignore,),
        findings=(
            *_incomplete(sides, num_channels),
            *_not_there(splits, sides["train"]),
            *in_several_splits(twice, "case", len(splits)),
        ),
    )


# ---- files --------------------------------------------------------------------------------------


def _roots(tree: Tree) -> list[str]:
    """The folders of `tree` that hold a data set; "" for the tree itself."""
    return [
        where
        for where, names in tree.folders.items()
        if _FACTS_FILE in names
        and any(tree.join(where, name) in tree.folders for name in ("imagesTr", "labelsTr"))
    ]


def _one_root(tree: Tree) -> str:
    roots = _roots(tree)
    if not roots:
        raise DatasetError(f"{tree.root}: no {_FACTS_FILE} beside imagesTr/ and labelsTr/")
    return tree.the_one(roots)


def _sides(tree: Tree, root: str, facts: _Facts) -> tuple[dict[Split, _Side], list[str]]:
    """The cases to train on and, where they have labels, those to test; what was left out."""
    sides: dict[Split, _Side] = {}
    left_out: list[str] = []
    ends: dict[Split, str] = {"train": "Tr", "test": "Ts"}
    for split, end in ends.items():
        images: dict[str, dict[int, str]] = {}
        unnumbered = []
        for path, stem in _files(tree, tree.join(root, f"images{end}"), facts.ending):
            match = _CHANNEL.fullmatch(stem)
            if match:
                images.setdefault(match["case"], {})[int(match["channel"])] = path
            else:
                unnumbered.append(path)
        labels = {
            stem: path for path, stem in _files(tree, tree.join(root, f"labels{end}"), facts.ending)
        }
        if unnumbered:
            left_out.append(
                f"left out: {counted(len(unnumbered), 'image')} without the number of a channel, "
                f"as in x_0000{facts.ending} ({name_five(unnumbered)})"
            )
        if split == "test" and images and not labels:
            left_out.append(
                f"left out: {counted(len(images), 'case')} of imagesTs/, without labels"
            )
            images = {}
        sides[split] = _Side(images, labels)
    if not sides["train"].images:
        raise DatasetError(
            f"{tree.path(tree.join(root, 'imagesTr'))}: holds no files *_0000{facts.ending}; "
            f"add them, or correct file_ending in {_FACTS_FILE}"
        )
    return sides, left_out


def _files(tree: Tree, folder: str, ending: str) -> Iterator[tuple[str, str]]:
    """Path and name without ending of the files in `folder` that end so."""
    for name in tree.folders.get(folder, ()):
        if name.endswith(ending):
            yield f"{folder}/{name}", name.removesuffix(ending)


def _num_channels(tree: Tree, facts: _Facts, sides: dict[Split, _Side]) -> int:
    """How many files make an image; one where a single file holds all channels (RGB)."""
    cases = [channels for side in sides.values() for channels in side.images.values()]
    most = 1 + max(max(channels) for channels in cases)
    declared = facts.num_channels or most
    if most > 1 or declared == 1:
        return declared
    for channels in cases[:5]:
        try:
            return 1 if probe(tree.path(channels[0])).channels == declared else declared
        except DatasetError:
            continue  # the file is reported when all are read
    return 1


def _pairs(
    tree: Tree, sides: dict[Split, _Side], num_channels: int, splits: dict[str, Split]
) -> tuple[Pair, ...]:
    pairs = []
    for split, side in sides.items():
        for case in side.images.keys() & side.labels.keys():
            paths = [tree.path(p) for k, p in sorted(side.images[case].items()) if k < num_channels]
            own: Split | None = split
            if split == "train" and splits:
                own = splits.get(case)
            elif split == "train" and not sides["test"].images:
                own = None  # nothing was divided
            if len(paths) < num_channels or (splits and own is None):
                continue
            image: Path | Made = paths[0] if len(paths) == 1 else StackedChannels(tuple(paths))
            twice = split == "test" and case in sides["train"].images
            name = f"imagesTs/{case}" if twice else case
            pairs.append(Pair(name, image, tree.path(side.labels[case]), own))
    return tuple(sorted(pairs, key=lambda pair: natural_key(pair.sample_id)))


# ---- dataset.json and splits_final.json ---------------------------------------------------------


def _read_facts(tree: Tree, root: str) -> _Facts:
    path = tree.path(tree.join(root, _FACTS_FILE))
    content = read_json(path)
    labels = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(labels, dict) or not labels:
        raise DatasetError(f'{path}: has no "labels", as in {{"background": 0, "cell": 1}}')
    ending = content.get("file_ending") or _common_ending(tree, tree.join(root, "labelsTr"))
    if ending not in IMAGE_EXTENSIONS:
        raise DatasetError(
            f"{path}: the files are {ending}, and volumes (NIfTI and the like) are not read: save "
            f'their slices as .png or .tif and set "file_ending"'
        )
    values = _label_values(path, labels)
    ignore = values.pop("ignore", None)
    channels = content.get("channel_names", content.get("modality", {}))
    named = sorted(((value, name) for name, value in values.items()))
    return _Facts(len(channels), tuple(named), ignore, ending)


def _label_values(path: Path, labels: dict[str, Any]) -> dict[str, int]:
    """Name -> mask value; version 1 has it the other way round."""
    if all(key.isdecimal() and isinstance(name, str) for key, name in labels.items()):
        return {name: int(key) for key, name in labels.items()}
    values = {}
    for name, value in labels.items():
        if isinstance(value, list):
            raise DatasetError(
                f"{path}: the label {name!r} is a region, {value}; regions overlap and are not "
                "supported: give each mask value a name of its own"
            )
        if not str(value).isdecimal():
            raise DatasetError(f"{path}: the label {name!r} is {value!r}; use a whole number")
        values[name] = int(value)
    return values


def _common_ending(tree: Tree, folder: str) -> str:
    """The ending of most files in `folder`; .nii.gz, as version 1 has it, where there are none."""
    endings = Counter(
        ".nii.gz" if name.lower().endswith(".nii.gz") else PurePosixPath(name).suffix
        for name in tree.folders.get(folder, ())
    )
    return endings.most_common(1)[0][0] if endings else ".nii.gz"


def _read_splits(path: Path) -> tuple[dict[str, Split], int, list[str]]:
    """The split of each case in fold 0, how many folds there are, the cases in both splits.

    None without the file.
    """
    if not path.exists():
        return {}, 0, []
    folds = read_json(path)
    try:
        first = folds[0]
        by_split: dict[Split, list[str]] = {"train": first["train"], "val": first["val"]}
        splits = {str(case): split for split, cases in by_split.items() for case in cases}
        held_out = {str(case) for case in by_split["val"]}
        twice = [str(case) for case in by_split["train"] if str(case) in held_out]
        return splits, len(folds), twice
    except (IndexError, KeyError, TypeError) as error:
        raise DatasetError(
            f'{path}: is no list of folds, as in [{{"train": ["a", "b"], "val": ["c"]}}]'
        ) from error


# ---- what is to be said -------------------------------------------------------------------------


def _beyond(sides: dict[Split, _Side], num_channels: int) -> Iterator[str]:
    files = [
        path
        for side in sides.values()
        for channels in side.images.values()
        for channel, path in channels.items()
        if channel >= num_channels
    ]
    if files:
        yield (
            f"left out: {counted(len(files), 'file')} of channels beyond the {num_channels} that "
            f"{_FACTS_FILE} names ({name_five(files)})"
        )


def _outside_fold(splits: dict[str, Split], num_folds: int, side: _Side) -> Iterator[str]:
    where = _SPLITS_FILE
    if num_folds > 1:
        where = "this fold"
        others = "is" if num_folds == 2 else f"{num_folds - 1} are"
        yield (
            f"fold 0 of {num_folds} in {_SPLITS_FILE} gives train and val; the other {others} left "
            "out"
        )
    alone = sorted((case for case in side.images if case not in splits), key=natural_key)
    if alone:
        count = counted(len(alone), "case")
        yield f"left out: {count} that {where} does not name ({name_five(alone)})"


def _incomplete(sides: dict[Split, _Side], num_channels: int) -> Iterator[Finding]:
    images = {
        (s, case): channels for s, side in sides.items() for case, channels in side.images.items()
    }
    labels = {(s, case): path for s, side in sides.items() for case, path in side.labels.items()}
    wanted = set(range(num_channels))
    lacking = [key for key, channels in images.items() if not wanted <= channels.keys()]
    if lacking:
        examples = [next(iter(images[key].values())) for key in lacking[:5]]
        yield Finding(
            "missing-channels",
            "error",
            f"{len(lacking)} of {counted(len(images), 'image')} {agree(len(lacking), 'lack')} a "
            f"channel: {counted(num_channels, 'file')} each {agree(num_channels, 'are')} needed",
            len(lacking),
            tuple(examples),
            f"add the files of the other channels, or correct channel_names in {_FACTS_FILE}",
        )
    alone = [min(channels.values()) for key, channels in images.items() if key not in labels]
    for kind, partner, paths, total in (
        ("image", "label", alone, len(images)),
        ("mask", "image", [path for key, path in labels.items() if key not in images], len(labels)),
    ):
        if paths:
            yield Finding(
                f"unpaired-{kind}s",
                "error",
                f"{len(paths)} of {counted(total, 'label' if kind == 'mask' else 'image')} "
                f"{agree(len(paths), 'have')} no {partner}",
                len(paths),
                tuple(paths[:5]),
                "name them x_0000.png and x.png, or remove those without a partner",
            )


def _not_there(splits: dict[str, Split], side: _Side) -> Iterator[Finding]:
    absent = sorted((case for case in splits if case not in side.images), key=natural_key)
    if absent:
        yield Finding(
            "missing-images",
            "error",
            f"{counted(len(absent), 'case')} of {_SPLITS_FILE} {agree(len(absent), 'are')} not in "
            "imagesTr/",
            len(absent),
            tuple(absent[:5]),
            "add the files, or take their names out of the list",
        )


FORMAT = Format("nnU-Net, 2-D: imagesTr/, labelsTr/ and dataset.json", recognise, read)
