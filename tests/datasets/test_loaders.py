"""Loading: keyed by (seed, epoch, sample), so that neither workers nor caches nor stops show."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from unet_pipeline.classes import Classes, default_colors
from unet_pipeline.datasets.encoders import encode_png
from unet_pipeline.datasets.loaders import (
    STAND_IN,
    Batch,
    DecodedCache,
    KeyedBatchSampler,
    SegmentationDataset,
    TrainLoader,
    fill_cache,
    iterate_samples,
    read_sample,
    train_loader,
)
from unet_pipeline.datasets.manifest import Sample
from unet_pipeline.datasets.points import PointSampler
from unet_pipeline.datasets.transforms import Key, build_transform
from unet_pipeline.errors import DatasetError, ResourceError, UserError

# torch warns of more workers than cores; the tests are to pass on one core too
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

CLASSES = Classes(
    names=("ground", "thing", "rim"),
    colors=default_colors(3),
    values=(0, 128, 255),
    ignore_values=(7,),
)
COUNT = 11


def make_sample(folder: Path, number: int, *, size: tuple[int, int] = (20, 26)) -> Sample:
    rng = np.random.default_rng(number)
    image, mask = folder / f"{number}.png", folder / f"{number}_mask.png"
    image.write_bytes(encode_png(rng.integers(0, 256, (*size, 3)).astype(np.uint8)))
    values = rng.choice([0, 128, 255, 7], size=size).astype(np.uint8)
    mask.write_bytes(encode_png(values))
    return Sample(f"scene {number}", image, mask, "train", str(number), size[1], size[0])


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    return [make_sample(tmp_path, number) for number in range(COUNT)]


def loader_of(samples: list[Sample], **changes: Any) -> TrainLoader:
    transform = build_transform("light", {}, image_size=(16, 24), value_range=(0, 255))
    settings: dict[str, Any] = {
        "classes": CLASSES,
        "in_channels": 3,
        "transform": transform,
        "batch_size": 4,
        "seed": 0,
        "num_workers": 0,
    }
    return train_loader(samples, **settings | changes)


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) and b is not None else a is b
        for one, two in zip(first, second, strict=True)
        for a, b in zip(one, two, strict=True)
    )


# ---- what a batch is


def test_a_batch_holds_raw_pixels_class_indices_and_sample_numbers(samples: list[Sample]) -> None:
    loader = loader_of(samples)
    batches = list(loader.epoch(0))
    assert [len(batch.images) for batch in batches] == [4, 4, 3]
    assert len(loader) == 3
    for images, masks, indices, points, failures in batches:
        assert failures == ()
        assert images.dtype == torch.uint8
        assert images.shape[1:] == (3, 16, 24)
        assert masks.dtype == torch.uint8
        assert masks.shape[1:] == (16, 24)
        assert set(masks.unique().tolist()) <= {0, 1, 2, 255}
        assert indices.dtype == torch.int64
        assert points is None
    assert sorted(torch.cat([b.indices for b in batches]).tolist()) == list(range(COUNT))


def test_pixels_and_mask_are_those_of_the_files(samples: list[Sample]) -> None:
    transform = build_transform("none", {}, image_size=(20, 26), value_range=(0, 255))
    dataset = SegmentationDataset(
        samples, classes=CLASSES, in_channels=3, transform=transform, seed=0
    )
    assert len(dataset) == COUNT
    image, mask, index, points = dataset[(5, 3)]
    assert index == 3
    assert points is None
    rng = np.random.default_rng(3)
    np.testing.assert_array_equal(
        image.permute(1, 2, 0).numpy(), rng.integers(0, 256, (20, 26, 3)).astype(np.uint8)
    )
    values = rng.choice([0, 128, 255, 7], size=(20, 26))
    expected = np.select([values == 0, values == 128, values == 255], [0, 1, 2], 255)
    np.testing.assert_array_equal(mask.numpy(), expected)


@pytest.mark.parametrize(("dtype", "channels"), [("uint16", 1), ("float32", 2), ("uint16", 5)])
def test_deep_and_multi_channel_images_keep_their_dtype(
    tmp_path: Path, dtype: str, channels: int
) -> None:
    rng, samples = np.random.default_rng(0), []
    for number in range(3):
        sample = make_sample(tmp_path, number)
        path = tmp_path / f"{number}.npy"
        np.save(path, (rng.uniform(0, 999, (20, 26, channels))).astype(dtype))
        samples.append(Sample(f"{number}", path, sample.mask, "train", "", 26, 20))
    transform = build_transform("light", {}, image_size=(16, 16), value_range=(0, 999))
    for workers in (0, 1):
        loader = loader_of(samples, in_channels=channels, transform=transform, num_workers=workers)
        (batch,) = loader.epoch(0)
        assert batch.images.dtype == getattr(torch, dtype)
        assert batch.images.shape == (3, channels, 16, 16)


# ---- keyed: epochs, workers, resuming


def test_epochs_differ_in_order_and_augmentation_and_can_be_asked_for_again(
    samples: list[Sample],
) -> None:
    loader = loader_of(samples)
    epochs = [list(loader.epoch(number)) for number in (0, 1, 0)]
    assert same(epochs[0], epochs[2])
    orders = [torch.cat([b.indices for b in epoch]).tolist() for epoch in epochs]
    assert orders[0] != orders[1]
    by_sample = [
        {int(i): image for b in epoch for i, image in zip(b.indices, b.images, strict=True)}
        for epoch in epochs[:2]
    ]
    assert all(not torch.equal(by_sample[0][i], by_sample[1][i]) for i in range(COUNT))


def test_another_seed_is_another_order_and_another_augmentation(samples: list[Sample]) -> None:
    one, two = (list(loader_of(samples, seed=seed).epoch(0)) for seed in (0, 1))
    assert [b.indices.tolist() for b in one] != [b.indices.tolist() for b in two]
    assert not same(one, two)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_does_not_show(samples: list[Sample], workers: int) -> None:
    alone = loader_of(samples)
    shared = loader_of(samples, num_workers=workers, cache=DecodedCache(10**6))
    for epoch in (0, 1, 4):
        assert same(list(alone.epoch(epoch)), list(shared.epoch(epoch)))


def test_workers_may_be_spawned(samples: list[Sample]) -> None:
    cache = DecodedCache(10**6)
    loader = loader_of(samples[:5], num_workers=1, start_method="spawn", cache=cache)
    assert same(list(loader.epoch(2)), list(loader_of(samples[:5]).epoch(2)))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_can_be_entered_at_any_batch_and_left_at_any(
    samples: list[Sample], workers: int
) -> None:
    loader = loader_of(samples, num_workers=workers)
    whole = list(loader.epoch(1))
    for start in range(4):
        assert same(list(loader.epoch(1, start_batch=start)), whole[start:])
    stopped = loader.epoch(1)
    next(stopped)
    stopped.close()
    assert same(list(loader.epoch(1)), whole)


def test_loading_draws_nothing_from_the_global_random_streams(samples: list[Sample]) -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    list(loader_of(samples).epoch(0))
    list(loader_of(samples, num_workers=1).epoch(0))
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # type: ignore[index]


# ---- points


def points_of(batches: list[Batch]) -> dict[int, torch.Tensor]:
    """The points by sample number."""
    found = {}
    for batch in batches:
        assert batch.points is not None
        found |= dict(zip(batch.indices.tolist(), batch.points, strict=True))
    return found


@pytest.mark.parametrize("balance", [0.0, 1.0])
@pytest.mark.parametrize("workers", [0, 2])
def test_with_points_a_batch_has_the_mask_at_them_alone(
    samples: list[Sample], balance: float, workers: int
) -> None:
    whole = list(loader_of(samples).epoch(3))
    loader = loader_of(samples, point_sampler=PointSampler(9, balance), num_workers=workers)
    batches = list(loader.epoch(3))
    for batch, full in zip(batches, whole, strict=True):
        count = len(batch.images)
        assert torch.equal(batch.images, full.images)
        assert torch.equal(batch.indices, full.indices)
        assert batch.points is not None
        assert batch.points.shape == (count, 9, 2)
        assert batch.points.dtype == torch.int64
        assert batch.masks.shape == (count, 9, 1)
        assert batch.masks.dtype == torch.uint8
        for n in range(count):
            rows, columns = batch.points[n].T
            assert torch.equal(batch.masks[n, :, 0], full.masks[n, rows, columns])
        assert (batch.masks != 255).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_points_show_neither_workers_nor_where_an_epoch_is_entered(
    samples: list[Sample], workers: int
) -> None:
    sampler = PointSampler(9, 0.5)
    whole = list(loader_of(samples, point_sampler=sampler).epoch(1))
    loader = loader_of(samples, point_sampler=sampler, num_workers=workers)
    for start in range(4):
        assert same(list(loader.epoch(1, start_batch=start)), whole[start:])


def test_points_differ_between_epochs_samples_and_seeds(samples: list[Sample]) -> None:
    # no augmentation and one mask for all, so that nothing else could make a difference
    alike = [
        Sample(f"{n}", samples[0].image, samples[0].mask, "train", "", 26, 20) for n in range(4)
    ]
    changes: dict[str, Any] = {
        "transform": build_transform("none", {}, image_size=(20, 26), value_range=(0, 255)),
        "point_sampler": PointSampler(9, 0.5),
    }
    loader = loader_of(alike, **changes)
    first, second, again = (points_of(list(loader.epoch(epoch))) for epoch in (0, 1, 0))
    other = points_of(list(loader_of(alike, seed=1, **changes).epoch(0)))
    drawn = [*first.values(), *second.values(), *other.values()]
    assert len({tuple(points.flatten().tolist()) for points in drawn}) == 12
    assert all(torch.equal(first[n], again[n]) for n in range(4))


# ---- several processes


def shares_of(samples: list[Sample], size: int, epoch: int, **changes: Any) -> list[list[Batch]]:
    """The batches of an epoch by rank of `size` processes."""
    return [
        list(loader_of(samples, rank=rank, world_size=size, **changes).epoch(epoch))
        for rank in range(size)
    ]


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("points", [None, PointSampler(9, 0.5)])
def test_processes_share_the_batches_of_one(
    samples: list[Sample], size: int, points: PointSampler | None
) -> None:
    for epoch in (0, 1):
        whole = list(loader_of(samples, point_sampler=points).epoch(epoch))
        shares = shares_of(samples, size, epoch, point_sampler=points)
        for rank, batches in enumerate(shares):
            assert len(batches) == len(whole)
            for own, batch in zip(batches, whole, strict=True):
                if rank < len(batch.images):
                    part = [None if field is None else field[rank::size] for field in batch]
                    assert same([own], [Batch(*part)])  # type: ignore[arg-type]


def test_processes_augment_alike_samples_differently(samples: list[Sample]) -> None:
    first = samples[0]
    alike = [Sample(f"{n}", first.image, first.mask, "train", "", 26, 20) for n in range(4)]
    shares = shares_of(alike, 2, 0)
    images = [image for batches in shares for batch in batches for image in batch.images]
    assert len({image.numpy().tobytes() for image in images}) == 4


@pytest.mark.parametrize("workers", [0, 1])
def test_a_share_does_not_show_workers_nor_where_an_epoch_is_entered(
    samples: list[Sample], workers: int
) -> None:
    whole = shares_of(samples, 4, 1)[3]  # its last batch is one that stands in
    loader = loader_of(samples, rank=3, world_size=4, num_workers=workers)
    for start in range(4):
        assert same(list(loader.epoch(1, start_batch=start)), whole[start:])


@pytest.mark.parametrize("points", [None, PointSampler(9, 0.5)])
def test_where_nothing_is_left_for_a_process_a_sample_stands_in_and_teaches_nothing(
    samples: list[Sample], points: PointSampler | None
) -> None:
    whole = list(loader_of(samples, point_sampler=points).epoch(0))
    stands_in = shares_of(samples, 4, 0, point_sampler=points)[3][-1]  # of a batch of three
    assert torch.equal(stands_in.images, whole[-1].images[:1])
    assert stands_in.masks.shape == whole[-1].masks[:1].shape
    assert (stands_in.masks == 255).all()
    assert stands_in.indices.tolist() == [STAND_IN]


@pytest.mark.parametrize(("count", "size"), [(1, 3), (2, 3), (11, 2), (11, 4), (9, 4)])
def test_all_processes_take_as_many_steps_and_count_each_sample_once(
    samples: list[Sample], count: int, size: int
) -> None:
    loader = loader_of(samples[:count])
    shares = shares_of(samples[:count], size, 0)
    assert {len(batches) for batches in shares} == {len(loader)}
    for number, (whole, *parts) in enumerate(zip(loader.epoch(0), *shares, strict=True)):
        counted = [n for part in parts for n in part.indices.tolist() if n != STAND_IN]
        assert sorted(counted) == sorted(whole.indices.tolist())
        assert len(counted) == len(whole.images) == loader.global_size(number)


def test_a_batch_that_leaves_processes_without_work_is_refused(samples: list[Sample]) -> None:
    with pytest.raises(UserError, match="batch_size = 4 for 5 processes: use at least 5"):
        loader_of(samples, world_size=5)


# ---- the batch sampler


@pytest.mark.parametrize(
    ("num_samples", "batch_size", "sizes"),
    [
        (8, 4, [4, 4]),
        (9, 4, [4, 4]),  # one left over: dropped
        (10, 4, [4, 4, 2]),
        (1, 4, [1]),  # nothing else there is
        (3, 4, [3]),
        (3, 1, [1, 1, 1]),
        (5, 2, [2, 2]),
    ],
)
def test_the_last_batch_is_kept_unless_it_is_one_sample_beside_others(
    num_samples: int, batch_size: int, sizes: list[int]
) -> None:
    sampler = KeyedBatchSampler(num_samples, batch_size=batch_size, seed=0)
    assert [len(batch) for batch in sampler] == sizes
    assert len(sampler) == len(sizes)


def test_the_sample_left_out_is_another_one_each_epoch() -> None:
    sampler = KeyedBatchSampler(9, batch_size=4, seed=0)
    left_out = set()
    for sampler.epoch in range(40):
        keys = [key for batch in sampler for key in batch]
        assert {key.epoch for key in keys} == {sampler.epoch}
        left_out |= set(range(9)) - {key.number for key in keys}
    assert len(left_out) == 9


def test_no_samples_and_no_batch_size_are_refused(samples: list[Sample]) -> None:
    with pytest.raises(UserError, match="'train' is empty"):
        loader_of([])
    with pytest.raises(UserError, match="batch_size = 0"):
        loader_of(samples, batch_size=0)


# ---- the cache


def test_the_cache_reads_each_file_once(
    samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = count_reads(monkeypatch)
    cache = DecodedCache(10**6)
    loader = loader_of(samples, cache=cache)
    first = list(loader.epoch(0))
    again = list(loader.epoch(0))
    assert same(first, again)
    assert len(opened) == len(set(opened)) == COUNT
    assert len(cache) == COUNT
    assert cache.num_bytes == COUNT * 20 * 26 * 4
    assert not cache.full


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    from unet_pipeline.datasets import cache as module

    opened: list[Path] = []
    read = module.read_image

    def counted(path: Path) -> npt.NDArray[Any]:
        opened.append(path)
        return read(path)

    monkeypatch.setattr(module, "read_image", counted)
    return opened


def test_the_cache_keeps_to_its_limit_and_gives_the_same_either_way(samples: list[Sample]) -> None:
    size = 20 * 26 * 4
    cache = DecodedCache(3 * size + 5)
    assert same(list(loader_of(samples, cache=cache).epoch(0)), list(loader_of(samples).epoch(0)))
    assert len(cache) == 3
    assert cache.num_bytes == 3 * size
    assert cache.full
    nothing = DecodedCache(0)
    list(loader_of(samples, cache=nothing).epoch(0))
    assert len(nothing) == 0


def test_augmentation_never_reaches_into_the_cache(samples: list[Sample]) -> None:
    cache = DecodedCache(10**6)
    options = {"classes": CLASSES, "in_channels": 3, "cache": cache}
    before = [read_sample(s, **options).image.copy() for s in samples]  # type: ignore[arg-type]
    transform = build_transform("none", {}, image_size=(20, 26), value_range=(0, 255))
    for batch in loader_of(samples, cache=cache, transform=transform).epoch(0):
        batch.images.zero_()
        batch.masks.zero_()
    for sample, image in zip(samples, before, strict=True):
        np.testing.assert_array_equal(read_sample(sample, **options).image, image)  # type: ignore[arg-type]


def test_one_cache_serves_two_readings_of_the_same_file(samples: list[Sample]) -> None:
    cache = DecodedCache(10**6)
    binary = CLASSES.model_copy(update={"values": (0, 128), "names": ("a", "b"), "other": 1})
    color = read_sample(samples[0], classes=CLASSES, in_channels=3, cache=cache)
    grey = read_sample(samples[0], classes=binary, in_channels=1, cache=cache)
    assert color.image.shape == (20, 26, 3)
    assert grey.image.shape == (20, 26, 1)
    assert color.mask.tolist() != grey.mask.tolist()
    other = read_sample(samples[0], classes=binary, in_channels=3, cache=cache)
    assert other.image.shape == (20, 26, 3)
    assert other.mask.tolist() == grey.mask.tolist()


def test_the_cache_is_filled_by_threads_until_it_is_full(
    samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = count_reads(monkeypatch)
    told: list[int] = []
    cache = DecodedCache(10**6)
    count = fill_cache(
        cache, samples, classes=CLASSES, in_channels=3, num_threads=4, on_progress=told.append
    )
    assert count == len(cache) == COUNT
    assert told == list(range(1, COUNT + 1))
    list(loader_of(samples, cache=cache).epoch(0))
    assert len(opened) == COUNT  # nothing was read twice
    small = DecodedCache(2 * 20 * 26 * 4)
    assert fill_cache(small, samples, classes=CLASSES, in_channels=3, num_threads=1) == 2
    assert len(opened) < COUNT + 8  # and the rest is not decoded for nothing


def test_forked_workers_use_what_was_cached_before_and_spawned_ones_start_empty(
    samples: list[Sample],
) -> None:
    cache = DecodedCache(10**6)
    fill_cache(cache, samples, classes=CLASSES, in_channels=3)
    expected = list(loader_of(samples).epoch(0))
    for sample in samples:
        sample.image.unlink()  # only memory is left
    loader = loader_of(samples, cache=cache, num_workers=2, start_method="fork")
    assert same(list(loader.epoch(0)), expected)
    copied = pickle.loads(pickle.dumps(cache))
    assert len(copied) == 0
    assert copied.byte_limit == cache.byte_limit


# ---- evaluation


def test_samples_come_whole_in_order_and_ahead_of_time(samples: list[Sample]) -> None:
    found = list(iterate_samples(samples, classes=CLASSES, in_channels=3, num_threads=3))
    assert [sample_id for sample_id, _, _ in found] == [f"scene {n}" for n in range(COUNT)]
    for (_, image, mask), sample in zip(found, samples, strict=True):
        alone = read_sample(sample, classes=CLASSES, in_channels=3)
        np.testing.assert_array_equal(image, alone.image)
        np.testing.assert_array_equal(mask, alone.mask)


def test_only_a_few_samples_are_decoded_ahead(
    samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = count_reads(monkeypatch)
    iterator = iterate_samples(samples, classes=CLASSES, in_channels=3, num_threads=1)
    assert isinstance(iterator, Iterator)
    next(iterator)
    time.sleep(0.2)
    assert len(opened) <= 3
    iterator.close()  # type: ignore[attr-defined]
    assert len(opened) <= 4


def test_an_iteration_over_nothing_yields_nothing() -> None:
    assert list(iterate_samples([], classes=CLASSES, in_channels=3)) == []


# ---- faults


def damage(sample: Sample, fault: str) -> str:
    """Spoil a sample; returns what the message must hold."""
    assert sample.mask is not None
    if fault == "missing":
        sample.image.unlink()
        return str(sample.image)
    if fault == "truncated":
        sample.image.write_bytes(sample.image.read_bytes()[:200])
        return str(sample.image)
    if fault == "value":
        sample.mask.write_bytes(encode_png(np.full((20, 26), 99, np.uint8)))
        return f"{sample.mask}: 520 pixels hold the mask values 99"
    sample.mask.write_bytes(encode_png(np.zeros((20, 25), np.uint8)))
    return f"{sample.mask}: the mask is 25x20 pixels, its image {sample.image} 26x20"


@pytest.mark.parametrize("fault", ["missing", "truncated", "value", "size"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_file_is_named_in_one_line_whoever_reads_it(
    samples: list[Sample], fault: str, workers: int
) -> None:
    message = damage(samples[4], fault)
    with pytest.raises(DatasetError) as caught:
        list(loader_of(samples, num_workers=workers).epoch(0))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bad_file_is_met_in_its_turn_by_evaluation(samples: list[Sample]) -> None:
    message = damage(samples[4], "value")
    iterator = iterate_samples(samples, classes=CLASSES, in_channels=3)
    for number in range(4):
        assert next(iterator)[0] == f"scene {number}"
    with pytest.raises(DatasetError) as caught:
        next(iterator)
    assert message in str(caught.value)


def test_a_sample_without_a_mask_is_refused(samples: list[Sample]) -> None:
    first = samples[0]
    bare = Sample(first.sample_id, first.image, None, "train", "", 26, 20)
    with pytest.raises(DatasetError, match="has no mask"):
        read_sample(bare, classes=CLASSES, in_channels=3)


def test_images_of_two_dtypes_are_never_mixed_in_silence(samples: list[Sample]) -> None:
    np.save(samples[1].image.with_suffix(".npy"), np.zeros((20, 26, 3), np.float32))
    path = samples[1].image.with_suffix(".npy")
    mixed = [samples[0], Sample("odd", path, samples[1].mask, "train", "", 26, 20)]
    with pytest.raises(DatasetError, match=r"holds .* and .*: convert them to one type"):
        list(loader_of(mixed).epoch(0))


class Sleepy:
    """A transform that takes too long, or ends its process."""

    def __init__(self, signal_number: int | None) -> None:
        self.signal_number = signal_number

    def __call__(
        self, image: npt.NDArray[Any], mask: npt.NDArray[np.uint8], *, key: Key
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
        if self.signal_number is not None:
            os.kill(os.getpid(), self.signal_number)
        time.sleep(0.5)
        return image, mask


def test_workers_leave_at_once_after_an_error_and_new_ones_can_follow(
    samples: list[Sample],
) -> None:
    assert samples[4].mask is not None
    good = samples[4].mask.read_bytes()
    damage(samples[4], "value")
    loader = loader_of(samples, num_workers=1)
    before = set(multiprocessing.active_children())
    started = time.monotonic()
    with pytest.raises(DatasetError):
        list(loader.epoch(0))
    assert set(multiprocessing.active_children()) <= before
    assert time.monotonic() - started < 3  # torch gives a stuck worker 5 s
    samples[4].mask.write_bytes(good)
    assert same(list(loader.epoch(0)), list(loader_of(samples).epoch(0)))
    loader.close()
    assert set(multiprocessing.active_children()) <= before


def test_a_worker_that_is_killed_is_one_line_about_memory(samples: list[Sample]) -> None:
    loader = loader_of(samples, num_workers=1, transform=Sleepy(signal.SIGKILL))
    with pytest.raises(ResourceError, match="ended from outside, as a rule for want of memory"):
        next(loader.epoch(0))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_group_is_left_to_the_main_process(
    number: signal.Signals, samples: list[Sample]
) -> None:
    loader = loader_of(samples, num_workers=1)
    before = set(multiprocessing.active_children())
    batches = loader.epoch(0)
    found = [next(batches)]
    for worker in set(multiprocessing.active_children()) - before:
        assert worker.pid is not None
        os.kill(worker.pid, number)
    found += batches
    assert same(found, list(loader_of(samples).epoch(0)))


def test_a_worker_that_hangs_is_found_out(samples: list[Sample]) -> None:
    loader = loader_of(
        samples, num_workers=1, transform=Sleepy(None), batch_size=1, timeout_seconds=0.2
    )
    with pytest.raises(ResourceError, match="delivered nothing"):
        next(loader.epoch(0))
