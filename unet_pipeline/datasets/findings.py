"""What is to be said about a dataset: one finding a subject, with what mends it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
"""error: training would be wrong. warning: a person should look. note: what was assumed."""


CODES: dict[str, str] = {
    # files and pairs
    "recognised": "which format, and how",
    "left-out": "a part of the source that was not used",
    "unreadable-files": "cut off, damaged, empty, no image, NaN, several pages",
    "unpaired-images": "an image without mask",
    "unpaired-masks": "a mask without image",
    "unpaired-labels": "a label file without image",
    "missing-images": "named in a list, not on the disk",
    "missing-masks": "named in a list, not on the disk",
    "missing-channels": "a channel of an image that has a file for each",
    "missing-folders": "a folder that the settings of the data name",
    "ambiguous-images": "one name fits several files",
    "repeated-images": "an image that is listed twice",
    "repeated-ids": "a sample id that is listed twice",
    "repeated-masks": "a mask that several images share",
    "repeated-annotations": "an annotation that is listed twice",
    "in-several-splits": "an image that the lists put into several splits",
    "unknown-splits": "a word that is no split",
    "rows-without-split": "rows without a split among rows with one",
    "hidden-files": "files passed over because they are hidden",
    "foreign-files": "files among the images that are neither image nor mask",
    # annotations
    "unreadable-annotations": "JSON, XML or text that cannot be parsed",
    "broken-shapes": "outlines that cannot be drawn",
    "outside-image": "outlines that reach beyond their picture, cut there",
    "broken-lines": "lines of text that are no numbers",
    "no-segmentation": "annotations without an outline, such as boxes and points",
    "unknown-categories": "annotations of a class that is not listed",
    "unknown-images": "annotations of an image that is not listed",
    "unlisted-labels": "labels that the list of labels does not have",
    "unnamed-classes": "class numbers without a name",
    "class-count": "another number of classes than of names",
    "line-width": "lines drawn with a width that the file does not give",
    "background-images": "images without any annotation: all background",
    "overlapping-objects": "pixels that several objects claim",
    # pixels
    "other-sizes": "mask and image differ in size",
    "masks-transposed": "the mask fits when turned by a quarter",
    "masks-not-turned": "the mask was drawn before EXIF turned the image",
    "exif-orientation": "EXIF turns the image, the mask has no mark, both ways fit",
    "mixed-channels": "images of several numbers of channels",
    "mixed-grey-and-color": "grey images among RGB ones",
    "mixed-depths": "images of several pixel types",
    "mixed-ranges": "floats from 0 to 1 beside floats far beyond",
    "flat-images": "images of one value",
    "alpha-in-images": "transparency that is dropped",
    "alpha-in-masks": "transparency that is dropped",
    "outlier-sizes": "four times larger or smaller than the others",
    # classes
    "classes": "where names and void come from",
    "mask-values": "values that are no classes",
    "jpeg-masks": "values snapped to the nearest class",
    "soft-edges": "values that are shades between classes",
    "empty-masks": "nothing but background",
    "full-masks": "nothing but one other class",
    "void-masks": "nothing but void",
    "rare-classes": "below 0.1 % of the pixels",
    "absent-classes": "declared and in no mask",
    "classes-absent-from-train": "nothing to learn them from",
    "classes-absent-from-val": "no score there",
    "classes-absent-from-test": "no score there",
    # splits
    "empty-splits": "no train or no val samples",
    "not-recognised": "no pairs of image and mask at all",
    "splits": "groups that were moved so that no split lacks anything",
    "duplicates": "equal pictures in one split",
    "duplicates-cross-splits": "equal pictures in several splits",
    "contradicting-masks": "equal pictures with different masks",
    "near-duplicates": "nearly equal pictures in one split",
    "near-duplicates-cross-splits": "nearly equal pictures in several splits",
    "probable-groups": "names such as patient12_slice03",
    "groups-cross-splits": "groups that the given splits part",
    "ungrouped": "names that --group-regex does not match",
}
"""Code of a finding -> what it is about; docs/data.md explains them to users."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about a dataset.

    code: a stable name for programs, one of `CODES`.
    message: what was seen, a sentence with its numbers. count: how many files, pairs or values.
    examples: the first five of them, paths inside the dataset or sample ids.
    remedy: the option or the action that mends it; empty for a note.
    """

    code: str
    severity: Severity
    message: str
    count: int = 1
    examples: tuple[str, ...] = ()
    remedy: str = ""

    def __post_init__(self) -> None:
        assert self.code in CODES, self.code

    def sentence(self) -> str:
        """All of it in one line."""
        shown = f" ({name_five(self.examples, self.count)})" if self.examples else ""
        text = f"{self.message}{shown}" + (f"; {self.remedy}" if self.remedy else "")
        return " ".join(text.split())  # names of files may hold line breaks

    def summary(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self) | {"examples": list(self.examples)}


def name_five(items: Sequence[str], total: int | None = None) -> str:
    """The first five of `items`, and how many of `total` there are beyond."""
    total = len(items) if total is None else total
    shown = ", ".join(items[:5])
    beyond = total - min(len(items), 5)
    return shown + (f" and {beyond} more" if beyond > 0 else "")


def counted(number: int, noun: str) -> str:
    """`number` with its noun: 1 image, 2 images, 2 classes."""
    end = "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{'' if number == 1 else end}"


def agree(number: int, verb: str) -> str:
    """`verb`, given in the plural, as it goes with `number`: 1 has, 2 have."""
    if number != 1:
        return verb
    return {"have": "has", "are": "is", "were": "was", "do": "does"}.get(verb, f"{verb}s")
