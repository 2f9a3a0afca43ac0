"""From a list of samples to batches for training and to whole arrays for evaluation.

Nothing here depends on the number of workers: the order of samples is a function of (seed, epoch)
and the augmentation of a sample one of (seed, epoch, sample_id), so an epoch can be entered at any
batch and goes on as if it had never stopped. Nor on the number of processes that train: each takes
its part of every batch.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import signal
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from unet_pipeline.classes import IGNORE_INDEX, Classes
from unet_pipeline.datasets.cache import (
    Decoded,
    DecodedCache,
    fill_cache,
    iterate_samples,
    read_sample,
)
from unet_pipeline.datasets.gone import folders_of, require_folders
from unet_pipeline.datasets.manifest import Sample
from unet_pipeline.datasets.points import PointSampler
from unet_pipeline.datasets.sampler import EpochKey, KeyedBatchSampler
from unet_pipeline.datasets.transforms import Transform, key_to_seed
from unet_pipeline.errors import DatasetError, ResourceError, UserError

__all__ = [
    "Batch",
    "Decoded",
    "DecodedCache",
    "KeyedBatchSampler",
    "LostWorkerError",
    "SegmentationDataset",
    "TrainLoader",
    "fill_cache",
    "iterate_samples",
    "lost_worker",
    "read_sample",
    "train_loader",
]

logger = logging.getLogger(__name__)

STAND_IN = -1
"""In place of a sample's number: it fills a process's batch, all void, and is not counted."""


class LostWorkerError(ResourceError):
    """A worker process has died or hangs; found out while a batch was waited for."""


class Batch(NamedTuple):
    """N samples as they cross to the device: small, in the dtype of the files."""

    images: torch.Tensor
    """(N, C, H, W), uint8, uint16 or float32."""
    masks: torch.Tensor
    """(N, H, W), uint8; `.long()` on the device makes them the target of a loss."""
    indices: torch.Tensor
    """(N,) int64: which samples they are; `STAND_IN` where one is not to be counted."""
    points: torch.Tensor | None = None
    """(N, P, 2) int64, rows and columns: where a patch network looks; `masks` is (N, P, 1) then."""
    failures: tuple[str, ...] = ()
    """A sentence for each sample that could not be read and is missing here."""


class Item(NamedTuple):
    """One sample of a `Batch`."""

    image: torch.Tensor
    mask: torch.Tensor
    number: int
    points: torch.Tensor | None


class Fetched(NamedTuple):
    """What a worker hands over for a batch: items, and a sentence for each that is missing."""

    items: list[Item]
    failures: tuple[str, ...]


class Unreadable:
    """The samples that were skipped because a file could not be read: each is said once.

    counts: how often each was, by the sentence that names the file.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, sentence: str) -> None:
        """Take note of one, and warn where it is new."""
        if not self.counts[sentence]:
            logger.warning("%s; it is skipped", sentence)
        self.counts[sentence] += 1


class SegmentationDataset(Dataset[Item]):
    """Augmented training samples, asked for by (epoch, index).

    An item has the image (C, H, W) in the file's dtype and the mask (H, W) uint8, of the size that
    `transform` gives; with `point_sampler`, the mask (P, 1) at P points of the crop, and these. It
    is a function of (seed, epoch, sample_id) and the files alone. One that stands in has the same
    image, and a mask that is void.
    strict: a sample that cannot be read is an error, and not left out of its batch.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        classes: Classes,
        in_channels: int,
        transform: Transform,
        seed: int,
        cache: DecodedCache | None = None,
        point_sampler: PointSampler | None = None,
        strict: bool = True,
    ) -> None:
        self.strict = strict
        self.samples = list(samples)
        self.classes = classes
        self.in_channels = in_channels
        self.transform = transform
        self.seed = seed
        self.cache = cache
        self.point_sampler = point_sampler

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: EpochKey | tuple[int, int]) -> Item:
        epoch, number, stand_in = EpochKey(*key)
        sample = self.samples[number]
        image, mask = read_sample(
            sample, classes=self.classes, in_channels=self.in_channels, cache=self.cache
        )
        image, mask = self.vary(sample, Decoded(image, mask), epoch)
        # A crop that is the whole image may be the cache's own array, which is not to be written to
        pixels = torch.from_numpy(np.require(image.transpose(2, 0, 1), requirements=["C", "W"]))
        mask = np.require(mask, requirements=["C", "W"])
        if stand_in:
            number, mask = STAND_IN, np.full_like(mask, IGNORE_INDEX)
        if self.point_sampler is None:
            return Item(pixels, torch.from_numpy(mask), number, None)
        seed = key_to_seed((self.seed, epoch, sample.sample_id, "points"))
        points = self.point_sampler(mask, np.random.default_rng(seed))
        labels = mask[points[:, 0], points[:, 1], None]
        return Item(pixels, torch.from_numpy(labels), number, torch.from_numpy(points))

    def vary(self, sample: Sample, decoded: Decoded, epoch: int) -> Decoded:
        """`sample` as augmentation makes it in `epoch`."""
        key = (self.seed, epoch, sample.sample_id)
        return Decoded(*self.transform(decoded.image, decoded.mask, key=key))

    def __getitems__(self, keys: list[EpochKey]) -> Fetched | UserError:
        """What a DataLoader fetches: the items, or the error that ends the epoch.

        Handed over as a value because an exception raised in a worker process reaches the user
        as a traceback of that process in place of its one line.
        """
        try:
            items, failures = self._readable(keys)
            first, *rest = items
            for item in rest:
                if item.image.dtype != first.image.dtype:  # torch.stack would promote both
                    raise DatasetError(
                        f"{self.samples[item.number].image}: holds {item.image.numpy().dtype} and "
                        f"{self.samples[first.number].image} {first.image.numpy().dtype}: "
                        "convert them to one type"
                    )
        except UserError as error:
            return error
        return Fetched(items, tuple(failures))

    def _readable(self, keys: list[EpochKey]) -> tuple[list[Item], list[str]]:
        """The items that can be read, or another to stand in for all of them; what cannot be."""
        items, failures = [], []
        for key in keys:
            try:
                items.append(self[key])
            except DatasetError as error:
                require_folders(self._folders)
                if self.strict:
                    raise
                failures.append(str(error))
        return items or [self._stand_in(keys[0][0])], failures

    @functools.cached_property
    def _folders(self) -> tuple[Path, ...]:
        return folders_of(self.samples)

    def _stand_in(self, epoch: int) -> Item:
        for number in range(len(self.samples)):
            with contextlib.suppress(DatasetError):
                return self[EpochKey(epoch, number, stand_in=True)]
        raise DatasetError(
            f"none of the {len(self.samples)} training samples can be read any more: is the disk "
            "or network folder there?"
        )


class TrainLoader:
    """Training batches of any epoch from any batch on: `for batch in loader.epoch(3)`."""

    def __init__(
        self, loader: DataLoader[Batch], sampler: KeyedBatchSampler, dataset: SegmentationDataset
    ) -> None:
        self._loader = loader
        self._sampler = sampler
        self.samples = dataset.samples
        self.varied = dataset.vary
        self.unreadable = Unreadable()
        weakref.finalize(self, _end_workers, loader)

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self._sampler)

    def global_size(self, batch: int) -> int:
        """Samples of batch number `batch` (from 0) in all processes together."""
        return self._sampler.global_size(batch)

    def epoch(self, epoch: int, *, start_batch: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` from `start_batch` on: the same whenever they are asked for.

        Raises `DatasetError` for samples that cannot be read (where not `strict`, if none can), and
        `LostWorkerError` for a worker process that died or hangs. One epoch at a time.
        """
        assert 0 <= start_batch <= len(self), start_batch
        self._sampler.epoch, self._sampler.start_batch = epoch, start_batch
        try:
            for batch in self._loader:
                if isinstance(batch, UserError):
                    raise batch
                for sentence in batch.failures:
                    self.unreadable.add(sentence)
                yield batch
        except (RuntimeError, UserError, EOFError, ConnectionError) as error:
            # Now, not when the traceback, which holds this frame, is collected: in a ring of
            # objects the queues may go before the workers that wait on them, which costs 5 s
            self.close()
            reason = lost_worker(error)
            if reason is None:
                raise
            raise LostWorkerError(reason) from error

    def close(self) -> None:
        """End the worker processes; the next epoch would start new ones."""
        _end_workers(self._loader)


def _end_workers(loader: DataLoader[Batch]) -> None:
    """End the processes of `loader`; those by force that hang, since SIGTERM does not end them."""
    iterator, loader._iterator = loader._iterator, None
    if iterator is None:
        return
    try:
        iterator._shutdown_workers()  # type: ignore[attr-defined]  # only workers outlive an epoch
    except RuntimeError as error:  # torch raises it wherever the main process is, even here
        if lost_worker(error) is None:
            raise
    for worker in iterator._workers:  # type: ignore[attr-defined]
        if worker.is_alive():
            worker.kill()


def train_loader(
    samples: Sequence[Sample],
    *,
    classes: Classes,
    in_channels: int,
    transform: Transform,
    batch_size: int,
    seed: int,
    num_workers: int,
    cache: DecodedCache | None = None,
    point_sampler: PointSampler | None = None,
    pin_memory: bool = False,
    start_method: str | None = None,
    timeout_seconds: float = 300.0,
    rank: int = 0,
    world_size: int = 1,
    strict: bool = True,
) -> TrainLoader:
    """Batches of augmented samples, the same for any number of workers.

    batch_size: of all processes together. rank, world_size: which of how many processes this is,
    each of which gets its part of every batch.
    num_workers: processes that decode and augment; 0 does it in this one. They live from the first
    epoch to the end of the loader.
    point_sampler: draws the points of a patch network; None trains on whole crops.
    pin_memory: whether batches lie where a GPU can fetch them by itself.
    start_method: `fork`, `spawn` or `forkserver`; None is the platform's own.
    timeout_seconds: how long to wait for a batch before a worker counts as hanging.
    strict: see `SegmentationDataset`.
    Raises `UserError` for an empty list and a batch size below 1 for each process.
    """
    sampler = KeyedBatchSampler(
        len(samples), batch_size=batch_size, seed=seed, rank=rank, world_size=world_size
    )
    dataset = SegmentationDataset(
        samples,
        classes=classes,
        in_channels=in_channels,
        transform=transform,
        seed=seed,
        cache=cache,
        point_sampler=point_sampler,
        strict=strict,
    )
    loader: DataLoader[Batch] = DataLoader(
        dataset,  # type: ignore[arg-type]  # the collated type is what it yields
        batch_sampler=sampler,
        num_workers=num_workers,
        collate_fn=_collate,  # type: ignore[arg-type]  # it gets what `__getitems__` gives
        pin_memory=pin_memory,
        timeout=timeout_seconds if num_workers else 0,
        worker_init_fn=_start_worker,
        multiprocessing_context=start_method if num_workers else None,
        # Its own generator: a seed for workers is drawn every epoch, from the global one otherwise,
        # and a run that resumes within an epoch would draw once more than one that never stopped
        generator=torch.Generator(),
        persistent_workers=num_workers > 0,
    )
    return TrainLoader(loader, sampler, dataset)


def _collate(fetched: Fetched | UserError) -> Batch | UserError:
    if isinstance(fetched, UserError):
        return fetched
    images, masks, indices, points = zip(*fetched.items, strict=True)
    return Batch(
        torch.stack(images),
        torch.stack(masks),
        torch.tensor(indices),
        None if points[0] is None else torch.stack(points),
        fetched.failures,
    )


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)  # the workers are the parallelism
    # Ctrl-C reaches the whole process group, and so do SIGTERM of `timeout`, SLURM and systemd,
    # and SIGHUP of a terminal that is closed.
    # What to do about it is the main process's decision, which may still need batches to end the
    # step that it is in. Workers end when it says so, and within 5 s when it is gone.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def lost_worker(error: Exception) -> str | None:
    """What to tell of a worker that died or hangs; None for any other error."""
    message = str(error) if isinstance(error, RuntimeError) else ""
    broken = isinstance(error, EOFError | ConnectionError)  # while it handed over a batch
    if broken or "exited unexpectedly" in message or "is killed by signal" in message:
        return (
            "a data worker process was ended from outside, as a rule for want of memory: "
            "use fewer --workers (0 works everywhere) or a smaller cache"
        )
    if "timed out" in message:
        return (
            "the data workers delivered nothing for too long: is the disk or network folder alive? "
            "--workers 0 shows which file hangs"
        )
    return None
