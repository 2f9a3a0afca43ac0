"""Which samples train, which choose the model (val), which give the final figures (test); folds.

The place of a group follows from a hash of (seed, key) and from nothing else, so images that are
added later move no old one, with two exceptions. Equal pictures are one group, and where they come
in several files, the place of one of these files is that of all. And where a part would be empty or
lack a class, a group moves (`topping_up`); when images are added, that may be undone or fall on
another group. The key is a digest of the file, so that saving it anew, in another format say, is
like taking the picture away and adding another one.
No rule without memory does better: if no image may ever move, each is where it would be as the
only one, so its place follows from the image alone, and then nothing keeps a part from staying
empty. The memory is `former`, the splits and folds of an earlier samples.csv
(`prepare --update`, `--splits-from`): with it no old image moves, whatever is added, and a file
that was saved anew is known by its sample id.
"""

from __future__ import annotations

import hashlib
import itertools
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

from unet_pipeline.datasets.manifest import SPLITS, Sample, Split
from unet_pipeline.datasets.topping_up import Groups, top_up
from unet_pipeline.errors import DatasetError, UserError

SplitBy = Literal["random", "order"]
Part = TypeVar("Part", Split, int)

_NOTHING = frozenset[int]()


class Splits(NamedTuple):
    """The split of every sample, and a sentence about each group that was moved."""

    of_samples: list[Split]
    notes: tuple[str, ...] = ()


def assign_splits(
    groups: Sequence[str],
    *,
    val_fraction: float,
    test_fraction: float,
    by: SplitBy,
    seed: int,
    keys: Sequence[str] | None = None,
    presence: Sequence[frozenset[int]] | None = None,
    class_names: Sequence[str] = (),
    given: Sequence[Split | None] | None = None,
    former: Sequence[Split | None] | None = None,
) -> Splits:
    """The split of every sample; samples of one group always share theirs.

    groups: the group of each sample, in natural order.
    keys: what is hashed, for each sample: the name of its group where somebody named it, else a
        digest of its file, so that renaming files moves nothing. Saving them anew, in another
        format say, deals them anew, unless `former` knows them. The group where None.
    presence: the classes in the mask of each sample, to be spread over the splits.
    class_names: by class index, for the notes.
    by: "random": test where the hash u of the group is below test_fraction, val where it is below
        test_fraction + val_fraction, else train. "order": contiguous blocks at the end are held
        out, in the order train, val, test, as consecutive slices or frames demand.
    given: the split that the data came with, or None. Given splits are kept. What is missing is
        carved out of train: val, and test unless both train and val were given.
    former: the split in an earlier division (see `match_former`), or None; it is kept before all
        others, and new samples of such a group follow it.
    Every split whose fraction is not 0 gets at least one group where there are enough of them, val
    before test; train always has one. A class that occurs in at least as many groups as there are
    splits gets into each of them. What was moved for that is in the notes.
    Raises `UserError` for fractions that leave nothing to train on, `DatasetError` where the data
    came with held-out splits but nothing to train on.
    """
    _check_fractions(val_fraction, test_fraction)
    known = given if given is not None else [None] * len(groups)
    kept = former if former is not None else [None] * len(groups)
    fractions = _to_carve(known, {"val": val_fraction, "test": test_fraction})
    follows = _of_groups(groups, kept, SPLITS)
    loose = [split in ("train", None) for split in known]
    notes: list[str] = []
    if by == "order":
        sizes = Counter(itertools.compress(groups, loose))  # in the order of their first sample
        targets = {part: share * sum(loose) for part, share in fractions.items()}
        chosen = _by_order(sizes, targets)
    else:
        samples = _Samples(groups, keys or groups, presence, loose)
        intervals = _intervals(fractions)
        units = _units(samples, intervals, follows, seed=seed, purpose="split")
        notes = top_up(units, intervals, class_names=class_names)
        chosen = dict(zip(units.names, units.parts, strict=True))
    result: list[Split] = [old or split or "train" for old, split in zip(kept, known, strict=True)]
    for i in itertools.compress(range(len(groups)), loose):
        result[i] = kept[i] or follows.get(groups[i]) or chosen.get(groups[i], "train")
    return Splits(result, tuple(notes))


def assign_folds(
    groups: Sequence[str],
    keys: Sequence[str],
    *,
    num_folds: int,
    seed: int,
    presence: Sequence[frozenset[int]] | None = None,
    former: Sequence[int | None] | None = None,
) -> list[int]:
    """The fold, from 0 to num_folds - 1, of every sample; samples of one group share theirs.

    It is a hash of the group, independent of the one of the split; no fold stays empty, and a
    class that occurs in at least num_folds groups gets into each fold. Samples of the test split
    belong to no fold: leave them out.
    former: the fold in an earlier division, or None; it is kept.
    Raises `UserError` for fewer than two folds, fewer groups than folds, or another number of
    folds than the earlier division has.
    """
    number = len(set(groups))
    if num_folds < 2:
        raise UserError(f"{num_folds} folds: at least 2 are needed, such as --folds 5")
    if number < num_folds:
        raise UserError(
            f"{num_folds} folds need as many groups of samples, this dataset has {number}: "
            "use fewer --folds"
        )
    kept = former if former is not None else [None] * len(groups)
    highest = max((fold for fold in kept if fold is not None), default=0)
    if highest >= num_folds:
        raise UserError(
            f"--folds {num_folds}: the former dataset has a fold {highest}, so at least "
            f"{highest + 1} folds; ask for as many"
        )
    intervals = {i: (i / num_folds, (i + 1) / num_folds) for i in range(num_folds)}
    follows = _of_groups(groups, kept, range(num_folds))
    samples = _Samples(groups, keys, presence, [True] * len(groups))
    units = _units(samples, intervals, follows, seed=seed, purpose="fold")
    top_up(units, intervals)
    chosen = dict(zip(units.names, units.parts, strict=True))
    return [
        chosen[group] if fold is None else fold for group, fold in zip(groups, kept, strict=True)
    ]


def merge_duplicates(groups: Iterable[str], contents: Iterable[object]) -> list[str]:
    """`groups` with those joined that share an equal content, so that no split can part them.

    contents: of each sample, None for one that is equal to no other.
    A joined group takes the name of its first member. Joining is transitive.
    """
    groups = list(groups)
    parent: dict[str, str] = {}  # of those that are joined to another one: mostly few

    def root(name: str) -> str:
        while name in parent:
            above = parent[name]
            if above in parent:
                parent[name] = parent[above]
            name = above
        return name

    first: dict[object, str] = {}
    for group, content in zip(groups, contents, strict=True):
        if content is None:
            continue
        earlier, own = root(first.setdefault(content, group)), root(group)
        if own != earlier:
            parent[own] = earlier
    return [root(group) for group in groups]


def match_former(
    former: Collection[Sample], ids: Sequence[str], contents: Iterable[str]
) -> list[Sample | None]:
    """Which sample of an earlier dataset each sample is; None for a new one.

    The content of the files decides, whatever they are called now. Of several with that content it
    is the one of this id, else one whose id is not there any more, each taken once, else any of
    them where they have one split and fold. All else is known by its sample id.
    """
    if not former:
        return [None] * len(ids)
    by_id: dict[str, Sample] = {}
    by_content: dict[str, list[Sample]] = {}
    for sample in former:
        by_id[sample.sample_id] = sample
        by_content.setdefault(sample.content, []).append(sample)
    by_content.pop("", None)
    names = set(ids)
    renamed = {
        content: [twin for twin in twins if twin.sample_id not in names]
        for content, twins in by_content.items()
    }
    result: list[Sample | None] = []
    for sample_id, content in zip(ids, contents, strict=True):
        same, twins = by_id.get(sample_id), by_content.get(content, [])
        if same in twins:
            result.append(same)
        elif renamed.get(content):
            result.append(renamed[content].pop(0))
        elif len({(twin.split, twin.fold) for twin in twins}) == 1:
            result.append(twins[0])
        else:
            result.append(same)
    return result


# ---- hashing ------------------------------------------------------------------------------------


class _Samples(NamedTuple):
    """Group, key and classes of each sample, and whether the place of its group is to be chosen."""

    groups: Sequence[str]
    keys: Sequence[str]
    presence: Sequence[frozenset[int]] | None
    loose: Sequence[bool]


def _units(
    samples: _Samples,
    intervals: Mapping[Part, tuple[float, float]],
    follows: Mapping[str, Part],
    *,
    seed: int,
    purpose: str,
) -> Groups[Part]:
    """The groups with a loose sample, each in the part of its hash or of `follows`.

    u in [0, 1) of a group is the hash of its key.

    The keys of a group differ where equal pictures are in several files, or have joined groups
    that somebody named, or named ones with unnamed. The largest u counts: adding a copy of an old
    file under no name or the same name moves nothing, and a picture that has once trained is never
    held out later on. But a held-out picture moves where one equal to it comes in another file, or
    in another named group, whose place is nearer to train; only `former` knows better.
    """
    places: dict[str, int] = {}
    for group in itertools.compress(samples.groups, samples.loose):
        places.setdefault(group, len(places))
    u = array("d", bytes(8 * len(places)))
    classes = [_NOTHING] * len(places)
    presence = samples.presence or itertools.repeat(_NOTHING, len(samples.groups))
    for group, key, own, loose in zip(
        samples.groups, samples.keys, presence, samples.loose, strict=True
    ):
        place = places.get(group)
        if place is not None:
            u[place] = max(u[place], _uniform(f"{seed}:{key}", purpose))
            if loose:
                classes[place] = _union(classes[place], own)
    parts = [
        follows[name] if name in follows else _part_of(u[place], intervals)
        for name, place in places.items()
    ]
    return Groups(list(places), u, classes, parts, fixed=follows)


def _union(one: frozenset[int], other: frozenset[int]) -> frozenset[int]:
    """The classes of both; one of the two where it has them all: there are a few sets in all."""
    if one <= other:
        return other
    return one if other <= one else one | other


def _part_of(u: float, intervals: Mapping[Part, tuple[float, float]]) -> Part:
    return next(part for part, (low, high) in intervals.items() if low <= u < high)


def _uniform(text: str, purpose: str) -> float:
    """A number in [0, 1) that follows from `text`; another one for each purpose."""
    data = text.encode("utf-8", "surrogateescape")
    digest = hashlib.blake2b(data, digest_size=8, person=purpose.encode()).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53  # 53 bits: none is rounded up to 1


def _of_groups(
    groups: Sequence[str], kept: Sequence[Part | None], order: Sequence[Part]
) -> dict[str, Part]:
    """The part that new samples of a group follow: the first in `order` that an old one has."""
    places = {part: place for place, part in enumerate(order)}
    result: dict[str, Part] = {}
    for group, part in zip(groups, kept, strict=True):
        if part is not None and places[part] <= places[result.get(group, part)]:
            result[group] = part
    return result


# ---- fractions ----------------------------------------------------------------------------------


def _check_fractions(val_fraction: float, test_fraction: float) -> None:
    for name, value in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        if not 0 <= value < 1:
            raise UserError(f"{name} = {value}: must be at least 0 and less than 1")
    if val_fraction + test_fraction >= 1:
        raise UserError(
            f"val_fraction {val_fraction} and test_fraction {test_fraction} leave nothing to "
            "train on; their sum must be less than 1"
        )


def _to_carve(
    given: Iterable[Split | None], fractions: Mapping[Split, float]
) -> dict[Split, float]:
    """The parts that are to be made out of train, test first, with their fractions."""
    present = set(given) - {None}
    if present and "train" not in present:
        raise DatasetError(
            f"the data has splits ({', '.join(sorted(str(p) for p in present))}) but none to train "
            "on: add a folder train, or give a folder without splits, which is then divided"
        )
    parts: list[Split] = []
    if "test" not in present and not {"train", "val"} <= present:
        parts.append("test")
    if "val" not in present:
        parts.append("val")
    return {part: fractions[part] for part in parts if fractions[part] > 0}


def _intervals(fractions: Mapping[Split, float]) -> dict[Split, tuple[float, float]]:
    """The range of u that belongs to each part, the most important part first."""
    edge = fractions.get("test", 0.0)
    top = edge + fractions.get("val", 0.0)
    intervals: dict[Split, tuple[float, float]] = {"train": (top, 1.0)}
    intervals |= {"val": (edge, top)} if "val" in fractions else {}
    intervals |= {"test": (0.0, edge)} if "test" in fractions else {}
    return intervals


def _by_order(sizes: Mapping[str, int], targets: Mapping[Split, float]) -> dict[str, Split]:
    """Give each part, test first, the groups at the end that are still free."""
    free = list(sizes)
    chosen: dict[str, Split] = {}
    parts = list(targets.items())
    # beside train, as many parts as there are groups for; val goes before test
    possible = parts[max(0, len(parts) - (len(sizes) - 1)) :] if len(sizes) > 1 else []
    for place, (part, target) in enumerate(possible):
        count = 0
        while len(free) > len(possible) - place:  # one group for train and each later part
            size = sizes[free[-1]]
            if count and abs(count + size - target) > abs(count - target):
                break
            chosen[free.pop()] = part
            count += size
    return chosen
