from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from unet_pipeline.datasets.manifest import Sample, Split
from unet_pipeline.datasets.splits import (
    SplitBy,
    Splits,
    assign_folds,
    assign_splits,
    match_former,
    merge_duplicates,
)
from unet_pipeline.errors import DatasetError, UserError


def split(
    groups: Sequence[str],
    given: Sequence[Split | None] | None = None,
    *,
    val: float = 0.2,
    test: float = 0.2,
    by: SplitBy = "random",
    seed: int = 0,
    keys: Sequence[str] | None = None,
    presence: Sequence[frozenset[int]] | None = None,
    former: Sequence[Split | None] | None = None,
    class_names: Sequence[str] = (),
) -> Splits:
    return assign_splits(
        groups,
        keys=keys,
        given=given,
        presence=presence,
        former=former,
        class_names=class_names,
        val_fraction=val,
        test_fraction=test,
        by=by,
        seed=seed,
    )


def hashed(key: str, seed: int = 0, purpose: str = "split") -> float:
    """u as the documentation has it, computed by other means."""
    digest = hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8, person=purpose.encode())
    return math.floor(int(digest.hexdigest(), 16) / 2**11) * 2.0**-53


IDS = [f"s{i}" for i in range(50)]

KEYS = st.lists(st.integers(0, 10**6).map(str), min_size=1, max_size=40, unique=True)
CLASSES = st.frozensets(st.integers(0, 4))

GOLDEN_SPLITS = (
    "test train train val train test train train train train train train test train "
    "train train train test train val train train train val"
)
GOLDEN_FOLDS = "210202201100122012110220"


# ---- by hash ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 7])
def test_a_group_is_where_its_hash_puts_it(seed: int) -> None:
    ids = [f"s{i}" for i in range(500)]
    result = split(ids, val=0.3, test=0.1, seed=seed)
    assert result.notes == ()
    for name, part in zip(ids, result.of_samples, strict=True):
        u = hashed(name, seed)
        assert part == ("test" if u < 0.1 else "val" if u < 0.4 else "train")


def test_the_splits_of_all_datasets_that_exist_stay_what_they_are() -> None:
    # To change this list is to move samples between the splits of every dataset prepared again
    assert " ".join(split(IDS[:24]).of_samples) == GOLDEN_SPLITS
    folds = assign_folds(IDS[:24], IDS[:24], num_folds=3, seed=0)
    assert "".join(map(str, folds)) == GOLDEN_FOLDS


@pytest.mark.parametrize("seed", range(5))
def test_fractions_are_within_the_bounds_of_chance(seed: int) -> None:
    number = 2000
    counts = Counter(split([f"{i:x}" for i in range(number)], val=0.15, test=0.1, seed=seed)[0])
    for part, share in (("val", 0.15), ("test", 0.1), ("train", 0.75)):
        deviation = math.sqrt(number * share * (1 - share))
        assert abs(counts[part] - number * share) < 4 * deviation, part  # 1 in 16,000


def test_a_random_split_depends_on_the_seed_and_not_on_the_order() -> None:
    assert split(IDS) == split(IDS)
    assert split(IDS) != split(IDS, seed=1)
    shuffled = dict(zip(reversed(IDS), split(IDS[::-1])[0], strict=True))
    assert [shuffled[name] for name in IDS] == split(IDS)[0]


@settings(max_examples=100, deadline=None)
@given(KEYS, KEYS, st.lists(CLASSES, min_size=80, max_size=80), st.integers(0, 3))
def test_adding_images_moves_no_old_one_unless_it_says_so(
    old: list[str], new: list[str], classes: list[frozenset[int]], seed: int
) -> None:
    everything = [*old, *(key for key in new if key not in old)]
    presence = classes[: len(everything)]
    before = split(old, presence=presence[: len(old)], seed=seed)
    after = split(everything, presence=presence, seed=seed)
    for name, was, now in zip(old, before.of_samples, after.of_samples, strict=False):
        moved = any(f" moved {name!r} " in note for note in (*before.notes, *after.notes))
        assert was == now or moved or any("more such" in note for note in before.notes)


@settings(max_examples=100, deadline=None)
@given(KEYS, KEYS, st.lists(CLASSES, min_size=80, max_size=80), st.integers(0, 3))
def test_with_a_former_assignment_no_old_one_moves_ever(
    old: list[str], new: list[str], classes: list[frozenset[int]], seed: int
) -> None:
    everything = [*old, *(key for key in new if key not in old)]
    presence = classes[: len(everything)]
    before = split(old, presence=presence[: len(old)], seed=seed).of_samples
    former: list[Split | None] = [*before, *[None] * (len(everything) - len(old))]
    after = split(everything, presence=presence, former=former, seed=seed + 1)
    assert after.of_samples[: len(old)] == before


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=40),
    st.floats(0, 0.45),
    st.floats(0, 0.45),
    st.sampled_from(["random", "order"]),
    st.integers(0, 3),
)
def test_no_group_is_ever_parted_and_training_is_never_empty(
    numbers: list[int], val: float, test: float, by: SplitBy, seed: int
) -> None:
    groups = [str(n) for n in numbers]
    result = split(groups, val=val, test=test, by=by, seed=seed).of_samples
    assert len({(g, s) for g, s in zip(groups, result, strict=True)}) == len(set(groups))
    present = set(result)
    wanted = [name for name, part in (("val", val), ("test", test)) if part > 0]
    assert present == {"train", *wanted[: len(set(groups)) - 1]}


@pytest.mark.parametrize("by", ["random", "order"])
@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (1, {"train": 1}),
        (2, {"train": 1, "val": 1}),
        (3, {"train": 1, "val": 1, "test": 1}),
        (4, {"train": 2, "val": 1, "test": 1}),
    ],
)
def test_few_groups_fill_train_then_val_then_test(
    by: SplitBy, number: int, expected: dict[str, int]
) -> None:
    for first in range(0, 40, 4):
        ids = IDS[first : first + number]
        assert Counter(split(ids, by=by, val=0.001, test=0.001).of_samples) == expected


def test_the_group_nearest_to_an_empty_part_is_moved_there_and_it_is_said() -> None:
    result = split(IDS, val=0.0001, test=0.0)
    nearest = min(IDS, key=hashed)
    assert [name for name, s in zip(IDS, result[0], strict=True) if s == "val"] == [nearest]
    assert result.notes[0] == f"val was empty: moved {nearest!r} there from train"
    assert "--splits-from" in result.notes[-1]


# ---- classes ------------------------------------------------------------------------------------


def parts_of(groups: Sequence[str], parts: Sequence[object]) -> dict[object, set[str]]:
    result: dict[object, set[str]] = defaultdict(set)
    for group, part in zip(groups, parts, strict=True):
        result[part].add(group)
    return result


def test_a_class_that_no_val_group_has_comes_with_the_nearest_one_that_has() -> None:
    natural = split(IDS)[0]
    rare = [name for name, part in zip(IDS, natural, strict=True) if part == "train"][:6]
    rare += [name for name, part in zip(IDS, natural, strict=True) if part == "test"][:2]
    presence = [frozenset({0, 3}) if name in rare else frozenset({0}) for name in IDS]
    result = split(IDS, presence=presence, class_names=["sky", "car", "tree", "pole"])
    moved = [n for n, was, now in zip(IDS, natural, result[0], strict=True) if was != now]

    def distance(name: str) -> float:
        return max(0.2 - hashed(name), hashed(name) - 0.4)

    assert moved == [min(rare, key=distance)]
    assert result.notes[0] == (
        f"val had no pole: moved {moved[0]!r} there from {natural[IDS.index(moved[0])]}"
    )


def test_one_group_that_brings_two_missing_classes_is_moved_instead_of_two() -> None:
    natural = split(IDS)[0]
    train = [name for name, part in zip(IDS, natural, strict=True) if part == "train"]
    test = [name for name, part in zip(IDS, natural, strict=True) if part == "test"]
    presence = dict.fromkeys(IDS, frozenset({0}))
    train.sort(key=hashed)  # the nearest to val first
    for name, classes in zip(train, ({1}, {2}, {1}, {2}, {1, 2}), strict=False):
        presence[name] = frozenset({0} | classes)
    presence[test[0]] = frozenset({0, 1, 2})
    result = split(IDS, presence=list(presence.values()))
    moved = [n for n, was, now in zip(IDS, natural, result[0], strict=True) if was != now]
    assert moved == [train[4]]


def test_a_class_in_fewer_groups_than_parts_moves_nothing() -> None:
    natural = split(IDS)[0]
    train = [name for name, part in zip(IDS, natural, strict=True) if part == "train"]
    presence = [frozenset({0, 1} if name in train[:2] else {0}) for name in IDS]
    assert split(IDS, presence=presence).of_samples == natural


def test_no_part_gives_away_its_last_group_of_a_class() -> None:
    natural = split(IDS)[0]
    train = [name for name, part in zip(IDS, natural, strict=True) if part == "train"]
    train.sort(key=hashed)
    # class 1: three groups, all in train; the nearest one alone holds the rare class 2
    presence = {name: frozenset({0, 1} if name in train[:3] else {0}) for name in IDS}
    presence[train[0]] = frozenset({0, 1, 2})
    parts = dict(zip(IDS, split(IDS, presence=list(presence.values()))[0], strict=True))
    assert parts[train[0]] == "train"
    assert {parts[name] for name in train[:3]} == {"train", "val", "test"}


def test_what_cannot_be_spread_is_said() -> None:
    # one group in each part, and one more in train: classes 1 and 2 cannot both be everywhere
    former: list[Split | None] = ["train", "train", "train", "val", "test"]
    presence = [frozenset({1})] * 3 + [frozenset({0})] * 2
    result = split(IDS[:5], presence=presence, former=former)
    assert result.of_samples == former
    assert result.notes[:2] == (
        "val has no class 1: every group that has would be missed elsewhere",
        "test has no class 1: every group that has would be missed elsewhere",
    )


@settings(max_examples=150, deadline=None)
@given(KEYS, st.lists(CLASSES, min_size=40, max_size=40), st.integers(0, 5))
def test_common_classes_are_in_every_split_or_it_is_said(
    keys: list[str], classes: list[frozenset[int]], seed: int
) -> None:
    presence = dict(zip(keys, classes, strict=False))
    result = split(keys, presence=list(presence.values()), seed=seed)
    assume(len(keys) >= 3)
    parts = parts_of(keys, result[0])
    assert len(parts) == 3
    said = " ".join(result.notes)
    for k in range(5):
        if sum(k in held for held in presence.values()) >= 3:
            for part, names in parts.items():
                has = any(k in presence[name] for name in names)
                assert has or f"{part} has no" in said or "more such" in said
    shuffled = split(keys[::-1], presence=list(presence.values())[::-1], seed=seed)
    assert shuffled.of_samples[::-1] == result.of_samples
    assert sorted(shuffled.notes) == sorted(result.notes)


# ---- given, former, order -----------------------------------------------------------------------


def test_order_holds_out_contiguous_blocks_at_the_end() -> None:
    expected = ["train"] * 20 + ["val"] * 4 + ["test"] * 6
    assert split(IDS[:30], by="order", val=4 / 30, test=6 / 30)[0] == expected
    assert split(IDS[:30], by="order", val=4 / 30, test=6 / 30, seed=5)[0] == expected


def test_order_meets_the_fractions() -> None:
    assert Counter(split(IDS, by="order")[0]) == {"train": 30, "val": 10, "test": 10}
    assert Counter(split(IDS, by="order", val=0.1, test=0)[0]) == {"train": 45, "val": 5}


def test_order_leaves_what_has_a_former_split() -> None:
    former: list[Split | None] = ["test", *[None] * 9]
    result = split(IDS[:10], by="order", former=former).of_samples
    assert result == ["test", *["train"] * 5, "val", "val", "test", "test"]


@pytest.mark.parametrize("by", ["random", "order"])
def test_given_splits_are_kept_and_the_missing_ones_are_carved_out_of_train(by: SplitBy) -> None:
    train: list[Split | None] = ["train"] * 30
    ids = IDS[:40]
    assert set(split(IDS[:30], train, by=by)[0]) == {"train", "val", "test"}
    result = split(ids, [*train, *["test"] * 10], by=by)[0]
    assert result[30:] == ["test"] * 10
    assert set(result[:30]) == {"train", "val"}
    # with train and val given, a test split is somebody else's business
    assert split(ids, [*train, *["val"] * 10], by=by)[0] == [*train, *["val"] * 10]
    everything: list[Split | None] = [*train, *["val"] * 5, *["test"] * 5]
    assert split(ids, everything, by=by)[0] == everything


def test_new_samples_of_an_old_group_follow_it() -> None:
    former: list[Split | None] = ["test", "val", None, None, None]
    result = split(["a", "b", "a", "b", "a"], former=former)
    assert result.of_samples == ["test", "val", "test", "val", "test"]
    # where its old ones are parted already, the new ones do no further harm in train
    former = ["test", "train", None]
    assert split(["a", "a", "a"], former=former).of_samples == ["test", "train", "train"]


def test_a_former_split_wins_over_a_given_one() -> None:
    former: list[Split | None] = ["val", None, None, None]
    result = split(IDS[:4], ["train", "train", "val", "test"], former=former)
    assert result.of_samples == ["val", "train", "val", "test"]


def test_former_samples_are_known_by_content_and_else_by_name() -> None:
    def sample(name: str, part: Split, content: str) -> Sample:
        return Sample(name, Path(name), None, part, name, 1, 1, content)

    old = [
        sample("a", "train", "1"),
        sample("b", "val", "2"),
        sample("c", "test", "3"),
        sample("d", "train", "4"),
        sample("e", "val", "4"),
        sample("f", "val", ""),
    ]
    new = {"b": "1", "renamed": "3", "c": "changed", "e": "4", "x": "5", "y": ""}
    found = match_former(old, list(new), list(new.values()))
    assert [s and s.sample_id for s in found] == ["a", "c", "c", "e", None, None]


def test_held_out_data_without_training_data_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"splits \(test, val\) but none to train on"):
        split(IDS[:2], ["val", "test"])


@pytest.mark.parametrize(("val", "test"), [(-0.1, 0.1), (1.0, 0.0), (0.5, 0.5), (float("nan"), 0)])
def test_fractions_that_cannot_be_are_refused(val: float, test: float) -> None:
    with pytest.raises(UserError, match="fraction"):
        split(IDS, val=val, test=test)


# ---- keys and duplicates ------------------------------------------------------------------------


def test_renaming_files_moves_nothing() -> None:
    contents = [f"{i:032x}" for i in range(50)]
    renamed = [f"other{i}" for i in range(50)]
    assert split(IDS, keys=contents)[0] == split(renamed, keys=contents)[0] != split(IDS)[0]


def test_a_copy_of_an_old_file_moves_nothing() -> None:
    contents = [f"{i:032x}" for i in range(50)]
    before = split(IDS, keys=contents)[0]
    for copied in range(50):
        ids, pictures = ["0copy", *IDS], [contents[copied], *contents]
        groups = merge_duplicates(ids, pictures)
        after = split(groups, keys=pictures)[0]
        assert after[1:] == before
        assert after[0] == before[copied]


def test_an_equal_picture_in_another_file_moves_a_held_out_one_but_not_where_it_is_known() -> None:
    before = split(IDS)[0]
    held_out = next(i for i, part in enumerate(before) if part == "test")
    other = max((f"file{n}" for n in range(99)), key=hashed)
    ids, keys = [*IDS, "copy"], [*IDS, other]
    groups = merge_duplicates(ids, [*IDS, IDS[held_out]])
    after = split(groups, keys=keys)[0]
    assert after[held_out] == after[-1] == "train"
    assert [i for i in range(50) if after[i] != before[i]] == [held_out]
    known = split(groups, keys=keys, former=[*before, None])[0]
    assert known == [*before, "test"]


def test_a_group_that_a_copy_ties_to_another_goes_towards_train() -> None:
    keys = sorted(IDS, key=hashed)
    low, high = keys[0], keys[-1]
    assert split(IDS)[0][IDS.index(low)] == "test"
    joined = dict.fromkeys((low, high), "joined")
    result = split([joined.get(name, name) for name in IDS], keys=IDS)[0]
    assert result[IDS.index(low)] == result[IDS.index(high)] == "train"


def test_equal_contents_make_one_group() -> None:
    groups = ["a", "b", "c", "d", "e"]
    assert merge_duplicates(groups, [1, 2, 1, 3, 2]) == ["a", "b", "a", "d", "b"]


def test_joining_groups_is_transitive() -> None:
    # patient p shares a picture with q, and q with r
    groups = ["p", "p", "q", "q", "r", "s"]
    assert merge_duplicates(groups, [1, 2, 2, 3, 3, 4]) == ["p", "p", "p", "p", "p", "s"]


# ---- folds --------------------------------------------------------------------------------------


def test_a_fold_is_a_hash_of_its_own() -> None:
    ids = [f"s{i}" for i in range(400)]
    folds = assign_folds(ids, ids, num_folds=7, seed=3)
    assert folds == [int(7 * hashed(name, 3, "fold")) for name in ids]
    # independent of the split: 4 standard deviations
    held_out = [f for f, s in zip(folds, split(ids, seed=3)[0], strict=True) if s == "val"]
    assert all(abs(held_out.count(k) - len(held_out) / 7) < 14 for k in range(7))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 15), CLASSES), min_size=1, max_size=50),
    st.integers(2, 5),
    st.integers(0, 3),
)
def test_folds_are_whole_groups_and_none_is_empty(
    samples: list[tuple[int, frozenset[int]]], num_folds: int, seed: int
) -> None:
    groups = [str(number) for number, _ in samples]
    presence = [classes for _, classes in samples]
    assume(len(set(groups)) >= num_folds)
    folds = assign_folds(groups, groups, num_folds=num_folds, seed=seed, presence=presence)
    assert set(folds) == set(range(num_folds))
    assert len(set(zip(groups, folds, strict=True))) == len(set(groups))
    turned = assign_folds(
        groups[::-1], groups[::-1], num_folds=num_folds, seed=seed, presence=presence[::-1]
    )
    assert turned[::-1] == folds


def test_a_class_in_as_many_groups_as_folds_is_in_every_fold() -> None:
    ids = [f"s{i}" for i in range(60)]
    for first in range(0, 55):
        rare = ids[first : first + 5]
        presence = [frozenset({0, 1} if name in rare else {0}) for name in ids]
        folds = assign_folds(ids, ids, num_folds=5, seed=0, presence=presence)
        assert sorted(folds[ids.index(name)] for name in rare) == [0, 1, 2, 3, 4]


def test_adding_images_moves_no_fold() -> None:
    ids = [f"s{i}" for i in range(200)]
    before = assign_folds(ids[:100], ids[:100], num_folds=5, seed=0)
    assert assign_folds(ids, ids, num_folds=5, seed=0)[:100] == before
    kept = assign_folds(ids, ids, num_folds=5, seed=1, former=[*before, *[None] * 100])
    assert kept[:100] == before
    assert kept != assign_folds(ids, ids, num_folds=5, seed=1)


@pytest.mark.parametrize(
    ("number", "former", "message"),
    [
        (1, None, "at least 2"),
        (6, None, "6 folds need as many groups of samples, this dataset has 5"),
        (3, [0, 4, None, None, None], "has a fold 4"),
    ],
)
def test_folds_that_cannot_be_are_refused(
    number: int, former: list[int | None] | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        assign_folds(IDS[:5], IDS[:5], num_folds=number, seed=0, former=former)


def test_of_equal_pictures_each_keeps_the_place_of_its_own_id() -> None:
    former = [_former("a", "same", "train"), _former("b", "same", "val")]
    matched = match_former(former, ["b", "a"], ["same", "same"])
    assert [sample and sample.sample_id for sample in matched] == ["b", "a"]


def test_a_renamed_one_of_equal_pictures_takes_the_place_whose_id_is_gone() -> None:
    former = [_former("a", "same", "train"), _former("b", "same", "val")]
    matched = match_former(former, ["a", "c"], ["same", "same"])
    assert [sample and sample.sample_id for sample in matched] == ["a", "b"]


def _former(sample_id: str, content: str, split: Split) -> Sample:
    return Sample(sample_id, Path(sample_id), None, split, sample_id, 1, 1, content)
