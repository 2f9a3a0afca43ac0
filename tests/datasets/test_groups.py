from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from unet_pipeline.datasets.groups import group_by_regex, probable_groups
from unet_pipeline.errors import UserError


def test_the_first_group_of_the_pattern_names_the_group() -> None:
    ids = ["a/patient1_s1", "a/patient1_s2", "a/patient22_s1"]
    assert group_by_regex(ids, r"(patient\d+)_(s\d)") == (
        ["patient1", "patient1", "patient22"],
        [],
    )
    assert group_by_regex(ids, r"patient\d") == (["patient1", "patient1", "patient2"], [])


def test_ids_that_do_not_match_stand_alone_and_are_told() -> None:
    groups, unmatched = group_by_regex(["p1_a", "p1_b", "other"], r"^(p\d)_")
    assert groups == ["p1", "p1", "other"]
    assert unmatched == ["other"]


def test_an_empty_match_ties_nothing_together() -> None:
    assert group_by_regex(["x1", "y"], "x*") == (["x", "y"], ["y"])
    # the group takes no part in the second match: the whole match counts
    assert group_by_regex(["a1", "b2"], r"(a)1|b\d").groups == ["a", "b2"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(patient", "no regular expression: missing"),
        (r"patient\d+", r"matches none of the 2 sample ids, such as img1, img2"),
        ("z*", "matches none"),
    ],
)
def test_a_pattern_that_cannot_work_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        group_by_regex(["img1", "img2"], pattern)
    assert "\n" not in str(caught.value)


GROUPED = {
    "slices": ([f"patient{p}_slice{s:02d}" for p in (3, 12, 40) for s in range(4)], 3),
    "frames": ([f"video{v}_frame_{f:04d}" for v in range(4) for f in range(0, 90, 30)], 4),
    "folders": ([f"s{s}/t{t:02d}" for s in range(5) for t in range(3)], 5),
    "frames of patients": (
        [f"patient{p:03d}_frame{f:02d}_slice_{s}" for p in range(4) for f in (1, 12) for s in "12"],
        4,
    ),
    "without separator": ([f"p{p}s{s:02d}" for p in range(4) for s in range(3)], 4),
    "letters": ([f"leaf{p}{s}" for p in range(4) for s in "abc"], 4),
    "dots": ([f"case{p}.{s}" for p in range(4) for s in range(3)], 4),
    "names of files in folders": ([f"p{p}/{s}" for p in range(4) for s in ("flair", "t1")], 4),
    "most of them": ([f"p{p}_{s}" for p in range(4) for s in range(3)] + ["odd", "p9_1"], 4),
}


@pytest.mark.parametrize("name", GROUPED)
def test_names_of_pieces_are_recognised_and_the_pattern_groups_them(name: str) -> None:
    ids, number = GROUPED[name]
    hint = probable_groups(ids)
    assert hint is not None
    assert hint.num_groups == number
    grouped = group_by_regex(ids, hint.pattern).groups
    sizes = [grouped.count(group) for group in dict.fromkeys(grouped)]
    assert sum(size > 1 for size in sizes) == number
    assert len(hint.examples) == 3
    group, members = hint.examples[0].split(": ")
    assert grouped[0] == group
    assert members.startswith(", ".join(ids[:2]))


def test_the_pattern_is_one_that_people_can_read() -> None:
    hint = probable_groups(GROUPED["slices"][0])
    assert hint is not None
    assert hint.pattern == "^([^_]+)_"


def hexadecimal(seed: int, length: int) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices("0123456789abcdef", k=length)) for _ in range(500)]


UNGROUPED = {
    "plain numbering": [f"img{i:03d}" for i in range(50)],
    "numbering with a separator": [f"img_{i}" for i in range(50)],
    "numbers": [str(i) for i in range(50)],
    "long random names": hexadecimal(0, 64),
    "short random names": hexadecimal(1, 8),
    "random names in parts": [
        f"{a}-{b}" for a, b in zip(hexadecimal(2, 8), hexadecimal(3, 4), strict=True)
    ],
    "two numbers, the first of which is never shared": [f"{i:04d}_{7 * i}" for i in range(50)],
    "years": [f"{y}_{i:06d}" for y in (2007, 2008, 2009, 2010) for i in range(30)],
    "classes": [f"{c}_{i}" for c in ("cat", "dog", "bird", "cow") for i in range(30)],
    "folders of splits": [f"{s}/{i}" for s in ("train", "val", "test") for i in range(30)],
    "two sides": [f"side{s}_{i}" for s in (1, 2) for i in range(30)],
    "a few pairs among many": [f"photo{i}_0" for i in range(50)] + ["photo1_1", "photo2_1"],
    "one": ["p1_s1"],
    "none": [],
}


@pytest.mark.parametrize("name", UNGROUPED)
def test_other_names_are_not_taken_for_groups(name: str) -> None:
    assert probable_groups(UNGROUPED[name]) is None


@pytest.mark.parametrize(
    ("name", "pattern", "number"),
    [
        ("camvid", "t*/*.png", 4),  # drives
        ("nasa_super1", "*/spot*d_[0-9].tif", 7),  # spots, each seen at two angles
        ("wbc1", "**/*.bmp", 0),
        ("isbi_membrane", "**/*.png", 0),
        ("crackforest", "**/*.jpg", 0),
        ("dsb2018_mini", "**/*.png", 0),
        ("facade_coco", "*/*.jpg", 0),
        ("fruits_nuts", "**/*.jpg", 0),
    ],
)
def test_real_names(real_data: Callable[[str], Path], name: str, pattern: str, number: int) -> None:
    ids = sorted({path.stem for path in real_data(name).glob(pattern)})
    assert len(ids) > 5
    hint = probable_groups(ids)
    assert (0 if hint is None else hint.num_groups) == number


def test_pieces_of_a_video_are_given_as_such(real_data: Callable[[str], Path]) -> None:
    ids = sorted(path.stem for path in (real_data("camvid") / "train").iterdir())
    hint = probable_groups(ids)
    assert hint is not None
    assert hint.examples[0] == "0001TP: 0001TP_006690, 0001TP_006720, 0001TP_006750, ..."
