from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_pipeline.datasets.manifest import Split
from unet_pipeline.datasets.splits import SplitBy, assign_splits, merge_duplicates
from unet_pipeline.errors import DatasetError, UserError


def split(
    groups: list[str],
    given: list[Split | None] | None = None,
    *,
    val: float = 0.2,
    test: float = 0.2,
    by: SplitBy = "random",
    seed: int = 0,
) -> list[Split]:
    return assign_splits(
        groups, given=given, val_fraction=val, test_fraction=test, by=by, seed=seed
    )


IDS = [f"s{i}" for i in range(50)]


@pytest.mark.parametrize("by", ["random", "order"])
def test_fractions_are_met(by: SplitBy) -> None:
    assert Counter(split(IDS, by=by)) == {"train": 30, "val": 10, "test": 10}
    assert Counter(split(IDS, by=by, val=0.1, test=0.0)) == {"train": 45, "val": 5}


def test_a_random_split_depends_on_the_seed_and_on_nothing_else() -> None:
    assert split(IDS) == split(IDS)
    assert split(IDS) != split(IDS, seed=1)
    shuffled = dict(zip(reversed(IDS), split(IDS[::-1]), strict=True))
    assert [shuffled[name] for name in IDS] == split(IDS)


def test_order_holds_out_contiguous_blocks_at_the_end() -> None:
    expected = ["train"] * 20 + ["val"] * 4 + ["test"] * 6
    assert split(IDS[:30], by="order", val=4 / 30, test=6 / 30) == expected
    assert split(IDS[:30], by="order", val=4 / 30, test=6 / 30, seed=5) == expected


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
    assert Counter(split(IDS[:number], by=by, val=0.01, test=0.01)) == expected


@pytest.mark.parametrize("by", ["random", "order"])
def test_given_splits_are_kept_and_the_missing_ones_are_carved_out_of_train(by: SplitBy) -> None:
    train: list[Split | None] = ["train"] * 30
    ids = IDS[:40]
    assert Counter(split(IDS[:30], train, by=by)) == {"train": 18, "val": 6, "test": 6}
    result = split(ids, [*train, *["test"] * 10], by=by)
    assert result[30:] == ["test"] * 10
    assert Counter(result) == {"train": 24, "val": 6, "test": 10}
    # with train and val given, a test split is somebody else's business
    assert split(ids, [*train, *["val"] * 10], by=by) == [*train, *["val"] * 10]
    everything: list[Split | None] = [*train, *["val"] * 5, *["test"] * 5]
    assert split(ids, everything, by=by) == everything


def test_held_out_data_without_training_data_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"splits \(test, val\) but none to train on"):
        split(IDS[:2], ["val", "test"])


@pytest.mark.parametrize(("val", "test"), [(-0.1, 0.1), (1.0, 0.0), (0.5, 0.5), (float("nan"), 0)])
def test_fractions_that_cannot_be_are_refused(val: float, test: float) -> None:
    with pytest.raises(UserError, match="fraction"):
        split(IDS, val=val, test=test)


@settings(max_examples=200, deadline=None)
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
    result = split(groups, val=val, test=test, by=by, seed=seed)
    assert len({(g, s) for g, s in zip(groups, result, strict=True)}) == len(set(groups))
    present = set(result)
    assert "train" in present
    wanted = [name for name, part in (("val", val), ("test", test)) if part > 0]
    assert present == {"train", *wanted[: len(set(groups)) - 1]}


def test_a_group_too_large_for_a_part_stays_in_train() -> None:
    groups = ["big"] * 40 + IDS[:10]
    for seed in range(5):
        result = split(groups, seed=seed)
        assert set(result[:40]) == {"train"}


def test_equal_contents_make_one_group() -> None:
    groups = ["a", "b", "c", "d", "e"]
    assert merge_duplicates(groups, [1, 2, 1, 3, 2]) == ["a", "b", "a", "d", "b"]


def test_joining_groups_is_transitive() -> None:
    # patient p shares a picture with q, and q with r
    groups = ["p", "p", "q", "q", "r", "s"]
    assert merge_duplicates(groups, [1, 2, 2, 3, 3, 4]) == ["p", "p", "p", "p", "p", "s"]
