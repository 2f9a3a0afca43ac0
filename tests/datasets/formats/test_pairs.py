from __future__ import annotations

from pathlib import Path

from unet_pipeline.datasets.formats.contract import Pair
from unet_pipeline.datasets.formats.pairs import (
    about_splits,
    in_splits,
    with_ids_of_their_own,
)
from unet_pipeline.datasets.manifest import Split


def pair(name: str, split: Split | None) -> Pair:
    return Pair(name, Path(name), Path(name), split)


def test_splits_are_told_with_their_sizes_in_one_order() -> None:
    pairs = [pair("a", "val"), pair("b", "train"), pair("c", "val")]
    assert about_splits(pairs, "by folder") == "; splits by folder: train 1, val 2"
    assert about_splits(pairs) == "; splits: train 1, val 2"
    assert about_splits([pair("a", None)], "by folder") == ""


def test_pairs_outside_the_splits_of_others_are_left_out() -> None:
    inside, loose = pair("a", "train"), pair("b", None)
    assert in_splits([inside, loose]) == ([inside], ["left out: 1 pair in no split (b)"])
    assert in_splits([loose]) == ([loose], [])
    assert in_splits([inside]) == ([inside], [])


def test_a_sample_id_that_several_pairs_share_is_an_error() -> None:
    first, other = pair("a", "train"), pair("b", None)
    second = Pair("a", Path("x"), Path("y"), "val")
    kept, (finding,) = with_ids_of_their_own([first, second, other])
    assert kept == (first, other)
    assert (finding.code, finding.severity, finding.count) == ("repeated-ids", "error", 1)
    assert finding.examples == ("a: a and x",)
    assert with_ids_of_their_own([first, other]) == ((first, other), ())
