"""Which samples belong together, by their names: the slices of a patient, the frames of a video."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from unet_pipeline.errors import UserError

_LEAST_GROUPS = 3  # two are rather left and right, or positive and negative
_LEAST_COVERED = 0.75  # of the samples are in a group of several

# The end of a name that tells the members of a group apart: a number with its word and unit
# (slice03, frame_0001, 180d), or a letter
_MEMBER = r"(?:(?:[A-Za-z]+[/_. -]?)?[0-9]+[A-Za-z]*|[A-Za-z])"
_PATTERNS = (
    *(rf"^(.+)(?:[/_. -]{_MEMBER}){{{count}}}$" for count in (3, 2, 1)),  # the coarsest first
    r"^(.*[0-9])[A-Za-z]+[0-9]+$",  # p12s03
    r"^(.*[0-9])[A-Za-z]$",  # p12a
    r"^(.+)/[^/]+$",  # p12/flair
)
# Simpler to read and to quote in a shell; taken where they come to the same
_PLAIN_PATTERNS = tuple(
    pattern
    for mark, itself in (("/", "/"), ("_", "_"), ("-", "-"), (".", "[.]"), (" ", " "))
    for pattern in (f"^([^{mark}]+){itself}", f"^(.+){itself}[^{mark}]+$")
)


class Grouping(NamedTuple):
    """The group of each sample, and the ids that the pattern does not match.

    Those are groups of their own, under their own name.
    """

    groups: list[str]
    unmatched: list[str]


@dataclass(frozen=True, slots=True)
class GroupHint:
    """What names look like.

    pattern: for --group-regex. num_groups: of several samples each.
    examples: three of them, such as "patient12: patient12_slice01, patient12_slice02".
    """

    pattern: str
    num_groups: int
    examples: tuple[str, ...]


def group_by_regex(ids: Sequence[str], pattern: str) -> Grouping:
    """The group of each sample id: what the first group of `pattern` captures in it.

    Without a group in the pattern, or where that one takes no part in the match, the whole match
    counts; an empty match counts as none. The search begins anywhere in the id.
    Raises `UserError` for a pattern that is no regular expression, or that matches no id.
    """
    try:
        search = re.compile(pattern).search
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(
            f"--group-regex {pattern!r} is no regular expression: {error}; an example: '^([^_]+)_'"
        ) from error
    groups: list[str] = []
    unmatched: list[str] = []
    for sample_id in ids:
        match = search(sample_id)
        name = "" if match is None else match.group(match.re.groups and 1) or match.group()
        groups.append(name or sample_id)
        if not name:
            unmatched.append(sample_id)
    if ids and len(unmatched) == len(ids):
        raise UserError(
            f"--group-regex {pattern!r} matches none of the {len(ids)} sample ids, such as "
            f"{', '.join(ids[:3])}; an example: '^([^_]+)_' takes what stands before the first _"
        )
    return Grouping(groups, unmatched)


def probable_groups(ids: Sequence[str]) -> GroupHint | None:
    """What most names have in common with a few others each, if that is so: probable groups.

    Such are patient12_slice03, video3_frame_0001, s1/t05, spot3_0d_3: a name with a number in it,
    shared by several samples, which differ in a trailing number or letter. Not so plain numbering
    (img001), random names, years (2007_000032) and names of classes (cat_1): such beginnings are
    one, all different, or say nothing of where a picture is from.
    """
    for pattern in _PATTERNS:
        search = re.compile(pattern).search
        partition = [_captured(search(sample_id)) for sample_id in ids]
        members = _members(ids, partition)
        if not _convincing(members, len(ids)):
            continue
        readable = _readable(pattern, ids, partition)
        search = re.compile(readable).search
        members = _members(ids, [_captured(search(sample_id)) for sample_id in ids])
        examples = tuple(
            f"{name}: {', '.join(found[:3])}" + (", ..." if len(found) > 3 else "")
            for name, found in list(members.items())[:3]
        )
        return GroupHint(readable, len(members), examples)
    return None


def _captured(match: re.Match[str] | None) -> str | None:
    return None if match is None else match.group(1)


def _members(ids: Sequence[str], partition: Sequence[str | None]) -> dict[str, list[str]]:
    """The groups of several samples."""
    members: dict[str, list[str]] = {}
    for sample_id, name in zip(ids, partition, strict=True):
        if name is not None:
            members.setdefault(name, []).append(sample_id)
    return {name: found for name, found in members.items() if len(found) > 1}


def _convincing(members: dict[str, list[str]], num_ids: int) -> bool:
    if len(members) < _LEAST_GROUPS:
        return False
    if sum(map(len, members.values())) < _LEAST_COVERED * num_ids:
        return False
    numbered = [name for name in members if re.search(r"[0-9]", name)]
    years = [name for name in numbered if re.fullmatch(r"(?:.*/)?(?:19|20)[0-9]{2}", name)]
    return len(numbered) - len(years) > len(members) / 2


def _readable(pattern: str, ids: Sequence[str], partition: Sequence[str | None]) -> str:
    """The simplest pattern that parts `ids` as `pattern` does."""
    wanted = _pairs_of(ids, partition)
    for plain in _PLAIN_PATTERNS:
        search = re.compile(plain).search
        if _pairs_of(ids, [_captured(search(sample_id)) for sample_id in ids]) == wanted:
            return plain
    return pattern


def _pairs_of(ids: Sequence[str], partition: Sequence[str | None]) -> list[str]:
    """The first member of each sample's group: equal for equal partitions, whatever their names."""
    first: dict[str, str] = {}
    return [
        sample_id if name is None else first.setdefault(name, sample_id)
        for sample_id, name in zip(ids, partition, strict=True)
    ]
