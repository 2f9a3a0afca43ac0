"""Logits -> counts of probabilities, on the device where the logits are."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unet_pipeline.classes import IGNORE_INDEX
from unet_pipeline.evaluation.curves import NUM_LEVELS, ProbabilityCounts

# Probabilities taken at a time: their copies stay in the cache, which halves the time, and small
# where the image is large
_BLOCK = 1 << 17


class ProbabilityTally:
    """Adds up how often each probability was given; see `evaluation.curves`.

    One count over (class, level) of all probabilities and one of those of the true class: what is
    left are the probabilities of the other classes. The sums stay on the device until `counts`.
    """

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._sums: list[Tensor] | None = None

    def add(self, logits: Tensor, chosen: Tensor, truth: npt.NDArray[Any]) -> None:
        """Count the pixels of an image, or of rows of it.

        logits: (K, H, W). chosen: the class indices (H, W) that were predicted. truth: class
        indices (H, W); those that are void are left out.
        """
        target = torch.from_numpy(truth.astype(np.int64)).to(logits.device)
        rows = max(1, _BLOCK // (logits.shape[0] * max(1, logits.shape[2])))
        for top in range(0, logits.shape[1], rows):
            part = slice(top, top + rows)
            self._add_block(logits[:, part], chosen[part].reshape(-1), target[part].reshape(-1))

    def counts(self) -> ProbabilityCounts:
        """All that has been counted."""
        num_classes = self._num_classes
        if self._sums is None:
            empty = np.zeros((num_classes, NUM_LEVELS), dtype=np.int64)
            return ProbabilityCounts(empty, empty.copy(), empty[0].copy(), empty[0].copy())
        every, own, top = (total.cpu().numpy() for total in self._sums)
        wrong, right = top.reshape(2, NUM_LEVELS)
        positives = own.reshape(num_classes, NUM_LEVELS)
        negatives = every.reshape(num_classes, NUM_LEVELS) - positives
        return ProbabilityCounts(positives, negatives, right, wrong)

    def _add_block(self, logits: Tensor, chosen: Tensor, target: Tensor) -> None:
        levels = logits.softmax(0).mul_(NUM_LEVELS - 1).round_().int().flatten(1)
        size = len(levels) * NUM_LEVELS
        confidence = levels.amax(0)
        confidence += (chosen == target) * NUM_LEVELS
        places = levels.add_(torch.arange(0, size, NUM_LEVELS, device=levels.device).int()[:, None])
        void = target == IGNORE_INDEX
        own = places.gather(0, target.masked_fill(void, 0)[None])[0]
        counted = ((places, size), (own, size), (confidence, 2 * NUM_LEVELS))
        sums = [torch.bincount(index.flatten(), minlength=length) for index, length in counted]
        taken_back = void.nonzero()[:, 0]  # to copy all other pixels would take twice the time
        if len(taken_back):
            for total, (index, length) in zip(sums, counted, strict=True):
                absent = index.index_select(-1, taken_back).flatten()
                total -= torch.bincount(absent, minlength=length)
        if self._sums is None:
            self._sums = sums
        else:
            for total, new in zip(self._sums, sums, strict=True):
                total += new
