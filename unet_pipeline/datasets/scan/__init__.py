"""Every image and its mask read once, on all cores, and what the facts are made of kept.

`pairs` goes over a dataset; `reading` reads one file, with what `pixels`, `objects` and
`picture_hash` measure; `records` are what is known of a file, `scan_table` holds those of a
dataset, `store` keeps them between runs; `workers` are the processes that read.
"""

from __future__ import annotations

from unet_pipeline.datasets.scan.content import content_digest
from unet_pipeline.datasets.scan.pairs import Progress, scan_pair, scan_pairs
from unet_pipeline.datasets.scan.records import BadPair, ImageScan, MaskScan, Objects, PairScan
from unet_pipeline.datasets.scan.scan_table import ScanTable
from unet_pipeline.datasets.scan.store import ScanStore

__all__ = [
    "BadPair",
    "ImageScan",
    "MaskScan",
    "Objects",
    "PairScan",
    "Progress",
    "ScanStore",
    "ScanTable",
    "content_digest",
    "scan_pair",
    "scan_pairs",
]
