"""The cache with a folder: decoded once, wherever it is kept, and nobody can tell where that is."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from unet_pipeline.classes import Classes, default_colors
from unet_pipeline.datasets import cache as module
from unet_pipeline.datasets.encoders import encode_png
from unet_pipeline.datasets.loaders import (
    Batch,
    DecodedCache,
    TrainLoader,
    fill_cache,
    iterate_samples,
    read_sample,
    train_loader,
)
from unet_pipeline.datasets.manifest import Sample
from unet_pipeline.datasets.scan.content import stamp_of
from unet_pipeline.datasets.scratch import SUFFIX
from unet_pipeline.datasets.transforms import build_transform
from unet_pipeline.errors import DatasetError

# torch warns of more workers than cores; the tests are to pass on one core too
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

CLASSES = Classes(names=("a", "b"), colors=default_colors(2), values=(0, 255))
COUNT, SIZE = 8, 20 * 26 * 4
PLENTY = 10**7


def write_pair(image: Path, mask: Path, seed: int) -> None:
    """Files of the same size for every seed."""
    rng = np.random.default_rng(seed)
    image.write_bytes(encode_png(rng.integers(0, 256, (20, 26, 3)).astype(np.uint8)))
    np.save(mask, rng.choice([0, 255], size=(20, 26)).astype(np.uint8))


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    made = []
    for number in range(COUNT):
        image, mask = tmp_path / f"{number}.png", tmp_path / f"{number}.npy"
        write_pair(image, mask, number)
        made.append(Sample(f"scene {number}", image, mask, "train", "", 26, 20))
    return made


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as old however young they are."""
    monkeypatch.setattr(module, "_FRESH_NS", 0)


@pytest.fixture
def folder(tmp_path: Path, settled: None) -> Path:
    return tmp_path / "decoded"


@pytest.fixture
def cache(folder: Path) -> Iterator[DecodedCache]:
    """Nothing in memory, everything on the disk."""
    with DecodedCache(0, folder=folder, disk_limit=PLENTY) as made:
        yield made


@pytest.fixture
def decoded_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a line for each image that this process or a forked one decodes."""
    log = tmp_path / "decoded.log"
    log.touch()
    read = module.read_image

    def logged(path: Path) -> npt.NDArray[Any]:
        with log.open("a") as file:
            file.write(f"{path}\n")
        return read(path)

    monkeypatch.setattr(module, "read_image", logged)
    return log


def decoded(log: Path) -> list[str]:
    return log.read_text().splitlines()


def read(sample: Sample, cache: DecodedCache | None = None, **changes: Any) -> module.Decoded:
    settings: dict[str, Any] = {"classes": CLASSES, "in_channels": 3}
    return read_sample(sample, cache=cache, **settings | changes)


def loader_of(samples: list[Sample], **settings: Any) -> TrainLoader:
    return train_loader(
        samples,
        classes=CLASSES,
        in_channels=3,
        transform=build_transform("light", {}, image_size=(16, 24), value_range=(0, 255)),
        batch_size=3,
        seed=0,
        **{"num_workers": 0} | settings,
    )


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.images, b.images) and torch.equal(a.masks, b.masks)
        for a, b in zip(first, second, strict=True)
    )


def kept_files(folder: Path) -> dict[str, int]:
    """The inodes of the samples on the disk."""
    names = (path.name for path in folder.iterdir())
    kept = [name for name in names if len(name) == 32 + len(SUFFIX)]
    return {name: (folder / name).stat().st_ino for name in kept}


# ---- decoded once


def test_what_does_not_fit_in_memory_is_decoded_once_too(
    samples: list[Sample], folder: Path, decoded_log: Path
) -> None:
    alone = loader_of(samples)
    expected = [list(alone.epoch(number)) for number in range(3)]
    decoded_log.write_text("")
    with DecodedCache(3 * SIZE + 5, folder=folder, disk_limit=PLENTY) as cache:
        loader = loader_of(samples, cache=cache)
        assert all(same(list(loader.epoch(number)), expected[number]) for number in range(3))
        assert len(cache) == 3
        assert cache.num_bytes == 3 * SIZE
        assert cache.full
        assert len(kept_files(folder)) == COUNT - 3  # what is in memory is not written
    assert sorted(decoded(decoded_log)) == sorted(str(sample.image) for sample in samples)


def test_what_fits_in_memory_is_not_written(samples: list[Sample], folder: Path) -> None:
    with DecodedCache(PLENTY, folder=folder, disk_limit=PLENTY) as cache:
        assert fill_cache(cache, samples, classes=CLASSES, in_channels=3) == COUNT
        assert kept_files(folder) == {}


def test_without_a_folder_nothing_is_written_and_arrays_are_as_they_were_decoded(
    samples: list[Sample], tmp_path: Path, settled: None
) -> None:
    before = sorted(tmp_path.iterdir())
    with DecodedCache(SIZE) as cache:
        assert all(read(sample, cache).image.flags.writeable for sample in samples)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("workers", [1, 3])
def test_forked_workers_find_what_others_have_decoded(
    samples: list[Sample], cache: DecodedCache, folder: Path, decoded_log: Path, workers: int
) -> None:
    alone = loader_of(samples)
    expected = [list(alone.epoch(number)) for number in range(3)]
    decoded_log.write_text("")
    loader = loader_of(samples, cache=cache, num_workers=workers, start_method="fork")
    assert all(same(list(loader.epoch(number)), expected[number]) for number in range(3))
    loader.close()
    assert sorted(decoded(decoded_log)) == sorted(str(sample.image) for sample in samples)
    assert len(kept_files(folder)) == COUNT  # a worker that ended has not removed it


def test_workers_put_on_the_disk_what_would_fit_in_the_memory_of_one(
    samples: list[Sample], folder: Path, decoded_log: Path
) -> None:
    with DecodedCache(PLENTY, folder=folder, disk_limit=PLENTY) as cache:
        loader = loader_of(samples, cache=cache, num_workers=2, start_method="fork")
        for number in range(3):
            list(loader.epoch(number))
        loader.close()
    assert len(decoded(decoded_log)) == COUNT


def test_spawned_workers_write_and_read_the_same_files(
    samples: list[Sample], cache: DecodedCache, folder: Path, decoded_log: Path
) -> None:
    read(samples[0], cache)
    loader = loader_of(samples, cache=cache, num_workers=1, start_method="spawn")
    assert same(list(loader.epoch(0)), list(loader_of(samples).epoch(0)))
    kept = kept_files(folder)
    assert len(kept) == COUNT
    decoded_log.write_text("")
    for sample in samples:
        read(sample, cache)
    assert decoded(decoded_log) == []
    for name in kept:  # what only one who reads the files can know
        with (folder / name).open("r+b") as file:
            file.seek(-20 * 26, os.SEEK_END)
            file.write(b"\1" * 20 * 26)
    assert all((batch.masks == 1).sum() > batch.masks.numel() / 2 for batch in loader.epoch(1))
    assert kept_files(folder) == kept
    loader.close()
    assert kept_files(folder) == kept


def test_evaluation_reads_from_the_disk_as_well(
    samples: list[Sample], cache: DecodedCache, decoded_log: Path
) -> None:
    expected = [read(sample) for sample in samples]
    decoded_log.write_text("")
    for _ in range(2):
        found = iterate_samples(samples, classes=CLASSES, in_channels=3, cache=cache)
        for (_, image, mask), alone in zip(found, expected, strict=True):
            np.testing.assert_array_equal(image, alone.image)
            np.testing.assert_array_equal(mask, alone.mask)
    assert len(decoded(decoded_log)) == COUNT


# ---- what is returned


@pytest.mark.parametrize("byte_limit", [0, PLENTY])
def test_arrays_are_the_same_and_read_only_wherever_they_come_from(
    samples: list[Sample], folder: Path, byte_limit: int
) -> None:
    expected = read(samples[0])
    with DecodedCache(byte_limit, folder=folder, disk_limit=PLENTY) as cache:
        found = [read(samples[0], cache) for _ in range(3)]
    for pair in found:
        for array, original in zip(pair, expected, strict=True):
            assert array.tobytes() == original.tobytes()
            assert (array.shape, array.dtype) == (original.shape, original.dtype)
            assert array.strides == original.strides
            assert not array.flags.writeable


@pytest.mark.parametrize("byte_limit", [0, PLENTY])
def test_the_layout_of_arrays_does_not_depend_on_where_they_come_from(
    samples: list[Sample], folder: Path, byte_limit: int
) -> None:
    assert samples[0].mask is not None
    key = module.SampleKey(samples[0].image, samples[0].mask, 3, CLASSES)
    image, mask = read(samples[0])
    turned = module.Decoded(image.transpose(1, 0, 2)[::-1], np.asfortranarray(mask.T[::-1]))
    with DecodedCache(byte_limit, folder=folder, disk_limit=PLENTY) as cache:
        found = [cache.get(key, lambda: turned) for _ in range(2)]
    for pair in found:
        for array, original in zip(pair, turned, strict=True):
            assert array.flags.c_contiguous
            np.testing.assert_array_equal(array, original)


@pytest.mark.parametrize("part", ["image", "mask"])
def test_a_changed_file_is_never_served_from_before(
    samples: list[Sample], cache: DecodedCache, part: str
) -> None:
    sample = samples[0]
    assert sample.mask is not None
    former = read(sample, cache)
    path = sample.image if part == "image" else sample.mask
    status, before = path.stat(), stamp_of(path)
    other_image, other_mask = path.with_name("other.png"), path.with_name("other.npy")
    write_pair(other_image, other_mask, 99)
    content = (other_image if part == "image" else other_mask).read_bytes()
    while stamp_of(path) == before:  # the clock of file times ticks only every few milliseconds
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as some tools do
    changed = read(sample, cache)
    expected = read(sample)
    for array, old, new in zip(changed, former, expected, strict=True):
        np.testing.assert_array_equal(array, new)
        assert array.shape == old.shape
    assert not np.array_equal(getattr(changed, part), getattr(former, part))


def test_a_missing_file_is_missing_though_it_was_decoded(
    samples: list[Sample], cache: DecodedCache
) -> None:
    read(samples[0], cache)
    samples[0].image.unlink()
    with pytest.raises(DatasetError, match=r"0\.png"):
        read(samples[0], cache)


def test_a_file_written_just_now_is_not_kept_yet(
    samples: list[Sample], cache: DecodedCache, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FRESH_NS", 10**18)
    assert read(samples[0], cache).image.tobytes() == read(samples[0]).image.tobytes()
    assert kept_files(folder) == {}
    monkeypatch.setattr(module, "_FRESH_NS", 0)
    read(samples[0], cache)
    assert len(kept_files(folder)) == 1


def test_readings_with_other_channels_or_classes_are_kept_apart(
    samples: list[Sample], cache: DecodedCache, folder: Path
) -> None:
    swapped = CLASSES.model_copy(update={"values": (255, 0)})
    for _ in range(2):
        plain = read(samples[0], cache)
        grey = read(samples[0], cache, in_channels=1)
        other = read(samples[0], cache, classes=swapped)
        assert grey.image.shape == (20, 26, 1)
        np.testing.assert_array_equal(other.mask, 1 - plain.mask)
        np.testing.assert_array_equal(other.image, plain.image)
    assert len(kept_files(folder)) == 3


def test_an_unreadable_sample_is_not_kept(
    samples: list[Sample], cache: DecodedCache, folder: Path
) -> None:
    samples[0].image.write_bytes(b"no image")
    for _ in range(2):
        with pytest.raises(DatasetError, match=r"0\.png"):
            read(samples[0], cache)
    assert kept_files(folder) == {}


# ---- limits and ends


def test_beyond_the_disk_limit_samples_are_decoded_again(
    samples: list[Sample], folder: Path, decoded_log: Path
) -> None:
    size = 128 + SIZE
    expected = list(loader_of(samples).epoch(0))
    decoded_log.write_text("")
    with DecodedCache(0, folder=folder, disk_limit=4 * size) as cache:
        for _ in range(2):
            assert same(list(loader_of(samples, cache=cache).epoch(0)), expected)
        assert len(kept_files(folder)) == 4
    assert len(decoded(decoded_log)) == COUNT + COUNT - 4


def test_a_folder_that_cannot_be_used_means_decoding_again(
    samples: list[Sample], tmp_path: Path, settled: None, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    expected = list(loader_of(samples).epoch(0))
    with DecodedCache(2 * SIZE, folder=tmp_path / "file", disk_limit=PLENTY) as cache:
        for _ in range(2):
            assert same(list(loader_of(samples, cache=cache).epoch(0)), expected)
        assert len(cache) == 2
    assert len(caplog.records) == 1
    assert (tmp_path / "file").is_file()


def test_the_folder_is_removed_at_the_end_also_of_a_run_that_fails(
    samples: list[Sample], folder: Path
) -> None:
    cache = DecodedCache(0, folder=folder, disk_limit=PLENTY)
    with contextlib.suppress(KeyError), cache:
        kept = [read(samples[0], cache) for _ in range(2)]
        raise KeyError
    assert not folder.exists()
    np.testing.assert_array_equal(kept[1].image, read(samples[0]).image)
    np.testing.assert_array_equal(read(samples[1], cache).image, read(samples[1]).image)
    assert not folder.exists()


def test_a_cache_that_is_sent_starts_with_the_files_alone(
    samples: list[Sample], folder: Path, decoded_log: Path
) -> None:
    with DecodedCache(2 * SIZE, folder=folder, disk_limit=PLENTY) as cache:
        for sample in samples:
            read(sample, cache)
        copy = pickle.loads(pickle.dumps(cache))
        assert len(copy) == 0
        assert copy.byte_limit == 2 * SIZE
        for sample in samples:
            read(sample, copy)
        assert len(copy) == 0  # and what the other had in memory is on the disk now
        copy.close()
        assert len(kept_files(folder)) == COUNT
    assert len(decoded(decoded_log)) == COUNT + 2


def test_where_the_disk_takes_nothing_a_sent_cache_uses_memory(
    samples: list[Sample], folder: Path
) -> None:
    with DecodedCache(2 * SIZE, folder=folder, disk_limit=0) as cache:
        copy = pickle.loads(pickle.dumps(cache))
        for sample in samples:
            read(sample, copy)
        assert len(copy) == 2
