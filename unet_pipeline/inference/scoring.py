"""A model over labelled images -> counts of what it says: the one way in which masks are scored.

Validation during training and `evaluate` both call this, so their figures agree to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unet_pipeline.classes import IGNORE_INDEX
from unet_pipeline.errors import DatasetError, UserError
from unet_pipeline.evaluation import confusion_matrix
from unet_pipeline.evaluation.curves import ProbabilityCounts, add_counts
from unet_pipeline.inference.probabilities import ProbabilityTally
from unet_pipeline.inference.sliding_window import (
    BATCH_SIZE,
    as_pixels,
    check_window,
    fits_whole,
    forward,
    iterate_bands,
)
from unet_pipeline.runtime import evaluation_mode, memory_errors

if TYPE_CHECKING:
    from unet_pipeline.models.segmenter import Segmenter

Loss = Callable[[Tensor, Tensor], Tensor]
Image = npt.NDArray[Any]
Mask = npt.NDArray[np.uint8]
OnPrediction = Callable[[str, Image, Mask, Mask], None]
"""Takes a sample's id, image, truth and prediction."""

# Images that wait for others of their size, in batches: datasets of mixed sizes still fill their
# batches, and memory stays bounded.
_WAITING_BATCHES = 4


@dataclass(frozen=True)
class ImageScores:
    """What `score` counted, one entry an image, in the order in which the images came.

    matrices: int64 (n, K, K), true classes by predicted ones.
    losses: float64 (n,), NaN for an image without counted pixels, and where none was asked for.
    probabilities: of all images together, where they were asked for.
    """

    sample_ids: tuple[str, ...]
    matrices: npt.NDArray[np.int64]
    losses: npt.NDArray[np.float64]
    probabilities: ProbabilityCounts | None = None

    @property
    def loss(self) -> float | None:
        """The mean of the losses; None where there are none."""
        counted = self.losses[~np.isnan(self.losses)]
        # fsum is exact, so the mean does not depend on the order in which batches were finished
        return math.fsum(counted) / len(counted) if len(counted) else None

    @classmethod
    def in_order(cls, shares: Sequence[ImageScores], sample_ids: Sequence[str]) -> ImageScores:
        """All that at least one process has scored, in the order of `sample_ids`.

        Some of these may have no scores, where their files could not be read.
        """
        places = {sample_id: place for place, sample_id in enumerate(sample_ids)}
        found = [sample_id for share in shares for sample_id in share.sample_ids]
        order = np.argsort([places[sample_id] for sample_id in found])
        counts = [share.probabilities for share in shares if share.probabilities is not None]
        return cls(
            tuple(found[n] for n in order),
            np.concatenate([share.matrices for share in shares])[order],
            np.concatenate([share.losses for share in shares])[order],
            add_counts(counts) if counts else None,
        )


@dataclass(frozen=True)
class _Entry:
    place: int
    sample_id: str
    image: Image
    mask: Mask


@dataclass
class _Tally:
    sample_ids: list[str] = field(default_factory=list)
    matrices: dict[int, npt.NDArray[np.int64]] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)
    probabilities: ProbabilityTally | None = None


def score(
    segmenter: Segmenter,
    samples: Iterable[tuple[str, Image, Mask]],
    *,
    window: int,
    overlap: float,
    autocast_dtype: torch.dtype | None = None,
    loss: Loss | None = None,
    probabilities: bool = False,
    batch_size: int = BATCH_SIZE,
    on_progress: Callable[[int], None] | None = None,
    on_prediction: OnPrediction | None = None,
) -> ImageScores:
    """The confusion counts of every sample, and the mean loss if `loss` is given.

    samples: (sample_id, image (H, W, C), class indices (H, W) with 255 for ignored pixels).
    loss: loss(logits (1, K, H, W), target (1, H, W) int64) -> scalar, taken image by image, so that
        it does not depend on the batches.
    probabilities: count those of all classes too, for curves.
    batch_size: at most so many images of one size, or windows of a large image, cross the network
        together. Counts do not depend on it but for rounding: leave it alone where figures shall
        agree to the last bit.
    on_progress: told how many images are done. on_prediction: shown each image and what the
        model says of it, in the order in which they are finished.

    Runs in evaluation mode without gradients and leaves the segmenter's modes as they were. Raises
    `DatasetError` for a mask of another size than its image, `DivergedError` where the output is
    not finite.
    """
    check_window(window, overlap, least=segmenter.least_window)
    num_classes = segmenter.card.classes.num_classes
    compute = forward(segmenter, autocast_dtype)
    tally = _Tally(probabilities=ProbabilityTally(num_classes) if probabilities else None)
    with evaluation_mode(segmenter):
        for entries in _groups(samples, tally, window=window, batch_size=batch_size):
            height, width = entries[0].mask.shape
            advice = f"{len(entries)} images of {width}x{height} pixels; use a smaller --window"
            with memory_errors(advice):
                bands = iterate_bands(
                    compute,
                    as_pixels([entry.image for entry in entries]),
                    window=window,
                    overlap=overlap,
                    batch_size=batch_size,
                )
                masks = _count(entries, bands, num_classes, loss, tally)
            if on_prediction is not None:
                for entry, prediction in zip(entries, masks, strict=True):
                    on_prediction(entry.sample_id, entry.image, entry.mask, prediction)
            if on_progress is not None:
                on_progress(len(tally.matrices))
    return _result(tally, num_classes)


def _groups(
    samples: Iterable[tuple[str, Image, Mask]], tally: _Tally, *, window: int, batch_size: int
) -> Iterator[list[_Entry]]:
    """Images that cross the network together: of one size and type, soon after each other."""
    waiting: dict[tuple[Any, ...], list[_Entry]] = {}
    for place, (sample_id, image, mask) in enumerate(samples):
        if image.shape[:2] != mask.shape:
            raise DatasetError(
                f"{sample_id}: the image is {image.shape[1]}x{image.shape[0]} pixels, its mask "
                f"has the shape {mask.shape}: they must have one size"
            )
        tally.sample_ids.append(sample_id)
        key = (image.shape, image.dtype)
        waiting.setdefault(key, []).append(_Entry(place, sample_id, image, mask))
        if len(waiting[key]) >= _group_size(image.shape, window, batch_size):
            yield waiting.pop(key)
        elif sum(map(len, waiting.values())) >= _WAITING_BATCHES * batch_size:
            yield waiting.pop(max(waiting, key=lambda key: len(waiting[key])))
    yield from waiting.values()


def _group_size(shape: tuple[int, ...], window: int, batch_size: int) -> int:
    """How many images of this shape go together: no more pixels than `batch_size` windows have."""
    height, width = shape[:2]
    if not fits_whole(height, width, window=window):
        return 1
    return max(1, min(batch_size, batch_size * window * window // (height * width)))


def _count(
    entries: list[_Entry],
    bands: Iterable[tuple[int, Tensor]],
    num_classes: int,
    loss: Loss | None,
    tally: _Tally,
) -> Mask:
    """The predictions (n, H, W), after adding what is counted of the logits in `bands`."""
    matrices = np.zeros((len(entries), num_classes, num_classes), dtype=np.int64)
    masks = np.empty((len(entries), *entries[0].mask.shape), dtype=np.uint8)
    kept = []
    for top, logits in bands:
        best = logits.max(1).indices  # on a CPU up to six times as fast as argmax (torch 2.15)
        rows = slice(top, top + best.shape[1])
        masks[:, rows] = best.to(torch.uint8).cpu().numpy()
        for n, entry in enumerate(entries):
            truth = entry.mask[rows]
            try:
                matrices[n] += confusion_matrix(truth, masks[n, rows], num_classes=num_classes)
            except UserError as error:
                raise DatasetError(f"{entry.sample_id}: {error}") from error
            if tally.probabilities is not None:
                tally.probabilities.add(logits[n], best[n], truth)
        if loss is not None:  # it needs the logits of the whole image
            whole = logits.shape[2] == len(entries[0].mask)
            kept.append(logits if whole else logits.clone())  # the next band takes its place
    for n, entry in enumerate(entries):
        tally.matrices[entry.place] = matrices[n]
    _add_losses(entries, kept, loss, tally)
    return masks


def _add_losses(
    entries: list[_Entry], kept: list[Tensor], loss: Loss | None, tally: _Tally
) -> None:
    """Add the losses of `entries`, if they are wanted, from the bands of their logits."""
    if loss is None:
        return
    values: dict[int, Tensor] = {}
    for n, entry in enumerate(entries):
        if (entry.mask != IGNORE_INDEX).any():
            parts = [band[n : n + 1] for band in kept]
            logits = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
            target = torch.from_numpy(entry.mask.astype(np.int64))[None].to(logits.device)
            values[entry.place] = loss(logits, target)
    if values:  # read together: each look waits for the device
        tally.losses.update(zip(values, torch.stack(list(values.values())).tolist(), strict=True))


def _result(tally: _Tally, num_classes: int) -> ImageScores:
    count = len(tally.sample_ids)
    matrices = [tally.matrices[place] for place in range(count)]
    return ImageScores(
        sample_ids=tuple(tally.sample_ids),
        matrices=np.array(matrices, dtype=np.int64).reshape(count, num_classes, num_classes),
        losses=np.array([tally.losses.get(place, math.nan) for place in range(count)]),
        probabilities=tally.probabilities.counts() if tally.probabilities is not None else None,
    )
