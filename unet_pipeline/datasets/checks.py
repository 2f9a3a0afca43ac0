"""What is wrong with a dataset: everything is collected, then told at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from unet_pipeline.datasets.scan import ImageScan, PairScan
from unet_pipeline.errors import DatasetError


def check_scans(source: Path, scans: Sequence[PairScan | DatasetError]) -> list[PairScan]:
    """`scans` where nothing is wrong with them.

    Raises one `DatasetError` that names every problem with its count and the first five files:
    files that cannot be read, masks of another size than their image, images whose channels or
    depths do not go together.
    """
    good = [scan for scan in scans if isinstance(scan, PairScan)]
    problems = [
        *unreadable([scan for scan in scans if isinstance(scan, DatasetError)], len(scans)),
        *other_sizes(good),
        *mixed_channels(good),
        *mixed_types(good),
    ]
    if problems:
        raise DatasetError(f"{source}: {'; '.join(problems)}")
    return good


def unreadable(errors: Sequence[DatasetError], num_pairs: int) -> list[str]:
    """A sentence about pairs with a file that cannot be read, if there are any."""
    if not errors:
        return []
    shown = name_five([str(error) for error in errors])
    return [f"{len(errors)} of {num_pairs} pairs cannot be read ({shown}); replace or remove them"]


def other_sizes(scans: Sequence[PairScan]) -> list[str]:
    """A sentence about masks of another size than their image, if there are any."""
    wrong = [s for s in scans if (s.image.height, s.image.width) != (s.mask.height, s.mask.width)]
    if not wrong:
        return []
    shown = [
        f"{s.pair.sample_id}: image {s.image.width}x{s.image.height}, "
        f"mask {s.mask.width}x{s.mask.height}"
        for s in wrong
    ]
    turned = sum((s.image.width, s.image.height) == (s.mask.height, s.mask.width) for s in wrong)
    advice = "save both in one size"
    if turned:
        advice = (
            f"{turned} of them fit when turned by a quarter: either the mask was drawn over the "
            "picture as stored, before its EXIF orientation, or rows and columns were swapped"
        )
    return [
        f"{len(wrong)} of {len(scans)} masks have another size than their image "
        f"({name_five(shown)}); {advice}"
    ]


def mixed_channels(scans: Sequence[PairScan]) -> list[str]:
    """A sentence about images whose channels do not go together; grey beside RGB does."""
    if {s.image.channels for s in scans} <= {1, 3}:
        return []
    return _mixed(scans, "channels", lambda image: f"{image.channels} channels")


def mixed_types(scans: Sequence[PairScan]) -> list[str]:
    """A sentence about images of several pixel types, whose values have no common scale."""
    return _mixed(scans, "pixel types", lambda image: image.dtype)


def _mixed(scans: Sequence[PairScan], what: str, kind_of: Callable[[ImageScan], str]) -> list[str]:
    kinds = Counter(kind_of(s.image) for s in scans)
    if len(kinds) < 2:
        return []
    rarest = kinds.most_common()[-1][0]
    examples = [s.pair.sample_id for s in scans if kind_of(s.image) == rarest]
    counts = ", ".join(f"{kind} in {count}" for kind, count in kinds.most_common())
    return [
        f"the images differ in their {what}: {counts} images ({rarest}: {name_five(examples)}); "
        "convert them to one kind"
    ]


def name_five(items: Sequence[str]) -> str:
    """The first five of `items`, and how many there are beyond."""
    more = f" and {len(items) - 5} more" if len(items) > 5 else ""
    return ", ".join(items[:5]) + more
