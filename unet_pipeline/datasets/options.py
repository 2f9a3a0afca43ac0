"""What the user says about a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unet_pipeline.classes import MaskValue
from unet_pipeline.datasets.facts import ValueRange
from unet_pipeline.datasets.manifest import Sample
from unet_pipeline.datasets.splits import SplitBy


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user says about a dataset; the defaults are those of the settings.

    ignore_values: mask values that mean void. class_names: in the order of the mask values.
    values: the mask value of each class, where the masks hold others too; other: the class index
        of those others.
    split_by, val_fraction, test_fraction, seed: how splits are drawn where the data has none.
    group_regex: what of a sample id names its group. num_folds: for cross-validation.
    former: the samples of an earlier version of the dataset, which keep their split and fold.
    value_range: how the range of pixel values is found.
    """

    ignore_values: Sequence[MaskValue]
    class_names: Sequence[str] | None
    values: Sequence[MaskValue] | None
    other: int | None
    split_by: SplitBy
    val_fraction: float
    test_fraction: float
    seed: int
    group_regex: str | None
    num_folds: int | None
    former: Sequence[Sample] = ()
    value_range: ValueRange
