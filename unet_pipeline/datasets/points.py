"""Which pixels of a crop a patch network is trained on: a few, drawn by a key."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unet_pipeline.classes import IGNORE_INDEX


@dataclass(frozen=True)
class PointSampler:
    """Draws pixels of a mask.

    num_points: how many of each mask. balance: the chance that a pixel is drawn with all classes
    of its mask alike, rather than with all valid pixels alike; 0 keeps their frequencies.
    """

    num_points: int
    balance: float

    def __call__(
        self, mask: npt.NDArray[np.uint8], rng: np.random.Generator
    ) -> npt.NDArray[np.int64]:
        """Rows and columns (P, 2) of pixels of `mask` (H, W), drawn with replacement.

        Void pixels are drawn only where there are no others.
        """
        flat = mask.ravel()
        valid = np.flatnonzero(flat != IGNORE_INDEX)
        if not len(valid):
            valid = np.arange(flat.size)
        chosen = valid[rng.integers(len(valid), size=self.num_points)]
        balanced = np.flatnonzero(rng.random(self.num_points) < self.balance)
        if len(balanced):
            # sorted by class, each class is one run of pixels
            order = valid[np.argsort(flat[valid], kind="stable")]
            _, starts, counts = np.unique(flat[order], return_index=True, return_counts=True)
            classes = rng.integers(len(starts), size=len(balanced))
            places = (rng.random(len(balanced)) * counts[classes]).astype(np.int64)
            chosen[balanced] = order[starts[classes] + places]
        return np.stack(np.divmod(chosen, mask.shape[1]), axis=1)
