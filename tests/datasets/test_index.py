from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unet_pipeline.datasets.encoders import encode_png
from unet_pipeline.datasets.images import (
    read_image,
    read_mask,
)
from unet_pipeline.datasets.index import find, index_folder
from unet_pipeline.datasets.manifest import Manifest
from unet_pipeline.datasets.options import Options
from unet_pipeline.datasets.threads import in_threads
from unet_pipeline.errors import DatasetError, UserError
from unet_pipeline.files import cache_folder

RealData = Callable[[str], Path]
RNG = np.random.default_rng(0)


def index(source: Path, *, on_progress: Any = None, **changes: Any) -> Manifest:
    places = {"format_name": "auto", "images": None, "masks": None, "pages": "refuse"}
    places |= {name: changes.pop(name) for name in list(changes) if name in places}
    options: dict[str, Any] = {
        "ignore_values": (), "class_names": None, "values": None, "other": None,
        "split_by": "random", "val_fraction": 0.2, "test_fraction": 0.2, "seed": 0,
        "group_regex": None, "num_folds": None, "value_range": "auto",
    }  # fmt: skip
    found = find(source, **places)
    return index_folder(
        found, source=source, options=Options(**options | changes), on_progress=on_progress
    )


def sentences(manifest: Manifest) -> str:
    return "\n".join(finding.sentence() for finding in manifest.findings)


def folder(
    root: Path,
    number: int = 10,
    *,
    image: Callable[[int], np.ndarray] | None = None,
    mask: Callable[[int], np.ndarray] | None = None,
) -> Path:
    """images/ and masks/ of `number` pairs of random pictures and masks of 0 and 255."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "masks").mkdir(parents=True, exist_ok=True)
    for i in range(number):
        size = (16 + i, 20)
        pixels = image(i) if image else RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
        values = mask(i) if mask else RNG.choice([0, 255], pixels.shape[:2]).astype(np.uint8)
        if pixels.dtype == np.float32 or pixels.shape[2] > 3:
            np.save(root / "images" / f"s{i}.npy", pixels)
        else:
            (root / "images" / f"s{i}.png").write_bytes(encode_png(pixels))
        (root / "masks" / f"s{i}.png").write_bytes(encode_png(values))
    return root


def state(root: Path) -> dict[str, tuple[str, int]]:
    return {
        str(p): (
            hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "",
            p.stat().st_mtime_ns,
        )
        for p in sorted(root.rglob("*"))
    }


def test_a_plain_folder_is_indexed_and_never_written_to(tmp_path: Path) -> None:
    source = folder(tmp_path / "cells")
    before = state(source)
    manifest = index(source)
    assert state(source) == before
    facts = manifest.facts
    assert manifest.root == source
    assert facts.name == "cells"
    assert [s.sample_id for s in manifest.samples] == [f"s{i}" for i in range(10)]
    assert sum(facts.num_samples.values()) == 10
    assert min(facts.num_samples.values()) >= 1
    assert facts.classes.values == (0, 255)
    assert (facts.in_channels, facts.dtype, facts.value_range) == (3, "uint8", (0.0, 255.0))
    assert (facts.image_size.height.min, facts.image_size.height.max) == (16, 25)
    assert (facts.image_size.width.min, facts.image_size.width.median) == (20, 20)
    assert {(s.sample_id, s.height) for s in manifest.samples} == {
        (f"s{i}", 16 + i) for i in range(10)
    }
    assert "10 pairs: images in images/, masks in masks/" in sentences(manifest)
    assert all(s.image.is_absolute() for s in manifest.samples)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_statistics_are_those_of_the_training_pixels(tmp_path: Path, kind: str) -> None:
    def image(i: int) -> np.ndarray:
        pixels = RNG.random((9 + i, 11, 3)) * (250 if kind == "uint8" else 3000)
        return (pixels - 500 * (kind == "float32")).astype(kind)

    manifest = index(folder(tmp_path, image=image))
    facts = manifest.facts
    train = manifest.split("train")
    pixels = np.concatenate([read_image(s.image).reshape(-1, 3) for s in train]).astype(float)
    low, high = facts.value_range
    scaled = (pixels - low) / (high - low)
    np.testing.assert_allclose(facts.mean, scaled.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(facts.std, scaled.std(axis=0), rtol=1e-9)
    means = np.concatenate(
        [
            np.tile(own.mean(axis=0), (len(own), 1))
            for own in (read_image(s.image).reshape(-1, 3).astype(float) for s in train)
        ]
    )
    spread = (means.var(axis=0) / pixels.var(axis=0)).mean()
    assert facts.image_spread == pytest.approx(spread, rel=1e-9)
    masks = np.concatenate([read_mask(s.mask).ravel() for s in train if s.mask])
    assert facts.class_pixel_counts == ((masks == 0).sum(), (masks == 255).sum())
    expected = {"uint8": (0, 255), "uint16": (0, 4095)}
    if kind == "float32":  # within one of the 256 steps of an image's histogram
        ends = np.percentile(pixels, 0.1), np.percentile(pixels, 99.9)
        np.testing.assert_allclose(facts.value_range, ends, atol=np.ptp(pixels) / 255)
    else:
        assert facts.value_range == expected[kind]
    assert [len(values) for values in facts.percentiles.values()] == [3] * 5
    step = 0 if kind == "uint8" else np.ptp(pixels) / 200
    for name, values in facts.percentiles.items():
        exact = np.percentile(pixels, float(name[1:]), axis=0, method="inverted_cdf")
        np.testing.assert_allclose(values, exact, atol=step)


@pytest.mark.parametrize(
    ("largest", "top"),
    [(1, 255), (255, 255), (256, 1023), (1023, 1023), (4000, 4095), (16383, 16383), (16384, 65535)],
)
def test_the_range_of_16_bit_images_is_their_bit_depth(
    tmp_path: Path, largest: int, top: float
) -> None:
    def image(i: int) -> np.ndarray:
        return np.full((4, 4, 1), largest, np.uint16) * np.eye(4, dtype=np.uint16)[..., None]

    assert index(folder(tmp_path, 3, image=image)).facts.value_range == (0.0, top)


def test_a_hot_pixel_does_not_set_the_range_of_floats(tmp_path: Path) -> None:
    def image(i: int) -> np.ndarray:
        pixels = RNG.random((40, 40, 1)).astype(np.float32)
        pixels[0, 0] = 1e5 if i == 2 else 0.5
        return pixels

    source = folder(tmp_path, 12, image=image)
    facts = index(source).facts
    assert -0.02 <= facts.value_range[0] < 0.05
    assert 0.95 < facts.value_range[1] < 1.05
    low, middle, high = (facts.percentiles[name][0] for name in ("p1", "p50", "p99"))
    assert low < 0.05
    assert 0.4 < middle < 0.55
    assert 0.95 < high < 1.05


def test_numbered_objects_are_counted_as_objects(tmp_path: Path) -> None:
    def mask(i: int) -> np.ndarray:
        values = np.zeros((40, 40), np.uint16)
        for number in range(12 + i % 3):
            row, column = divmod(number, 5)
            values[row * 8 : row * 8 + 5, column * 8 : column * 8 + 4] = number + 1
        return values

    def image(i: int) -> np.ndarray:
        return RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8)

    facts = index(folder(tmp_path, 30, image=image, mask=mask)).facts
    assert facts.classes.names == ("background", "foreground")
    objects = facts.objects["foreground"]
    assert objects.num_objects >= 12 * facts.num_samples["train"]
    assert (objects.min_area, objects.median_area, objects.max_area) == (20, 20, 20)


def test_objects_are_listed_in_the_order_of_the_classes(tmp_path: Path) -> None:
    def image(i: int) -> np.ndarray:
        return RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)

    def mask(i: int) -> np.ndarray:
        values = np.zeros((8, 8), np.uint8)
        values[:4] = 3 - i % 3  # the first masks hold the last class
        return values

    facts = index(folder(tmp_path, 12, image=image, mask=mask)).facts
    assert list(facts.objects) == list(facts.classes.names[1:])


def test_a_constant_channel_keeps_a_usable_sd(tmp_path: Path) -> None:
    def image(i: int) -> np.ndarray:
        return np.full((4, 4, 1), 7, np.float32)

    facts = index(folder(tmp_path, 3, image=image)).facts
    assert facts.std == (1.0,)
    assert facts.value_range == (7.0, 8.0)


@pytest.mark.parametrize(("levels", "spread"), [([7, 7, 7], 0.0), ([0, 90, 255], 1.0)])
def test_flat_images_differ_wholly_or_not_at_all(
    tmp_path: Path, levels: list[int], spread: float
) -> None:
    def image(i: int) -> np.ndarray:
        return np.full((16, 20, 3), levels[i % 3], np.uint8)

    facts = index(folder(tmp_path, image=image), test_fraction=0.0).facts
    assert facts.image_spread == pytest.approx(spread, abs=1e-12)


def test_grey_beside_rgb_is_three_channels(tmp_path: Path) -> None:
    def image(i: int) -> np.ndarray:
        return np.full((4, 4, 1 if i % 2 else 3), [0, 51, 102, 153][i], np.uint8)

    facts = index(folder(tmp_path, 4, image=image), split_by="order").facts
    assert facts.in_channels == 3
    assert facts.num_samples == {"train": 2, "val": 1, "test": 1}
    np.testing.assert_allclose(facts.mean, [0.1] * 3)


def test_images_of_many_channels_are_indexed(tmp_path: Path) -> None:
    def image(i: int) -> np.ndarray:
        return RNG.integers(0, 256, (9, 12, 6), dtype=np.uint8)

    facts = index(folder(tmp_path, 3, image=image)).facts
    assert facts.in_channels == 6
    assert len(facts.mean) == len(facts.std) == 6


def test_classes_of_held_out_masks_count_but_their_pixels_do_not(tmp_path: Path) -> None:
    def mask(i: int) -> np.ndarray:
        return np.full((16 + i, 20), 2 if i == 9 else i % 2, np.uint8)

    facts = index(folder(tmp_path, mask=mask), split_by="order").facts
    assert facts.classes.values == (0, 1, 2)
    assert facts.class_pixel_counts[2] == 0
    assert sum(facts.class_pixel_counts) == sum((16 + i) * 20 for i in range(6))


def test_void_pixels_are_counted_apart(tmp_path: Path) -> None:
    def mask(i: int) -> np.ndarray:
        return np.tile(np.array([0, 1, 2, 255, 255], np.uint8), (16 + i, 4))

    facts = index(folder(tmp_path, 5, mask=mask), test_fraction=0.0).facts
    assert facts.classes.ignore_values == (255,)
    counts = facts.class_pixel_counts
    assert counts[0] == counts[1] == counts[2] == facts.ignored_pixels // 2


def test_values_that_are_not_listed_go_to_other(tmp_path: Path) -> None:
    def mask(i: int) -> np.ndarray:
        return np.arange(400, dtype=np.uint16).reshape(20, 20)

    def image(i: int) -> np.ndarray:
        return RNG.integers(0, 256, (20, 20, 3), dtype=np.uint8)

    source = folder(tmp_path, 3, mask=mask, image=image)
    with pytest.raises(DatasetError, match=r"400 different values.*instances"):
        index(source)
    facts = index(source, values=[0, 1], other=1).facts
    assert facts.class_pixel_counts == (1, 399)


def test_equal_pictures_share_a_split_whatever_their_files(tmp_path: Path) -> None:
    twin = RNG.integers(0, 256, (16, 20, 3), dtype=np.uint8)

    def image(i: int) -> np.ndarray:
        return twin if i in (2, 7) else RNG.integers(0, 256, (16, 20, 3), dtype=np.uint8)

    source = folder(tmp_path, image=image)
    Image.fromarray(twin).save(source / "images" / "s7.png", compress_level=0)  # other bytes
    for seed in range(5):
        manifest = index(source, seed=seed)
        two, seven = (s for s in manifest.samples if s.sample_id in ("s2", "s7"))
        assert (two.split, two.group) == (seven.split, seven.group) == (two.split, "s2")
        assert two.content != seven.content
        assert "equal pictures in one split, once (s2 = s7)" in sentences(manifest)


def test_black_slices_tie_no_patients_together(tmp_path: Path) -> None:
    def image(i: int) -> np.ndarray:
        pixels = np.random.default_rng(i).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        return pixels if i % 4 else pixels * 0

    source = folder(tmp_path, 40, image=image)
    for role in ("images", "masks"):
        for i in range(40):
            (source / role / f"s{i}.png").rename(source / role / f"p{i // 4:02}_s{i % 4}.png")
    manifest = index(source, group_regex=r"^p\d+")
    assert all(sample.group == sample.sample_id[:3] for sample in manifest.samples)
    assert {sample.split for sample in manifest.samples} == {"train", "val", "test"}
    assert "equal pictures" not in sentences(manifest)


def test_facts_of_a_fold_are_those_of_the_other_folds(tmp_path: Path) -> None:
    def image(i: int) -> np.ndarray:
        return np.random.default_rng(i).integers(i, i + 100, (16, 20, 3), dtype=np.uint8)

    def mask(i: int) -> np.ndarray:
        drawn = np.zeros((16, 20), np.uint8)
        drawn[: i % 9] = 255
        drawn[9, :5] = 9
        return drawn

    source = folder(tmp_path, 14, image=image, mask=mask)
    manifest = index(source, num_folds=3, ignore_values=(9,))
    assert {sample.fold for sample in manifest.samples} == {0, 1, 2, None}
    for fold, facts in enumerate(manifest.facts.folds):
        train = [s for s in manifest.samples if s.fold not in (None, fold)]
        pixels = np.concatenate([read_image(s.image).reshape(-1, 3) for s in train]) / 255
        masks = np.concatenate([read_mask(s.mask).ravel() for s in train if s.mask])
        np.testing.assert_allclose(facts.mean, pixels.mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(facts.std, pixels.std(axis=0), rtol=1e-9)
        assert facts.class_pixel_counts == ((masks == 0).sum(), (masks == 255).sum())
        assert facts.ignored_pixels == (masks == 9).sum()
        assert facts.value_range == (0, 255)


def test_equal_pictures_in_several_given_splits_are_called_a_leak(tmp_path: Path) -> None:
    twin = RNG.integers(0, 256, (16, 20, 3), dtype=np.uint8)
    for split in ("train", "val"):
        folder(tmp_path / split, 2, image=lambda i: twin if i == 1 else twin[::-1] // 2)
    manifest = index(tmp_path)
    assert manifest.facts.num_samples == {"train": 2, "val": 2, "test": 0}
    assert "in several splits (a leak), 2 times" in sentences(manifest)


def test_the_fingerprint_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    source = folder(tmp_path / "a")
    before = index(source).facts.fingerprint
    source = source.rename(tmp_path / "b")
    assert index(source).facts.fingerprint == before
    assert index(source, seed=3).facts.fingerprint != before
    mask = read_mask(source / "masks" / "s4.png")
    mask[0, 0] = 255 - mask[0, 0]
    (source / "masks" / "s4.png").write_bytes(encode_png(mask))
    assert index(source).facts.fingerprint != before


def test_an_index_can_be_saved_and_loaded(tmp_path: Path) -> None:
    manifest = index(folder(tmp_path / "data"))
    manifest.save(tmp_path / "out")
    loaded = Manifest.load(tmp_path / "out")
    assert (loaded.facts, loaded.samples) == (manifest.facts, manifest.samples)


def test_progress_is_told_after_each_pair(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    index(folder(tmp_path, 5), on_progress=lambda done, total: calls.append((done, total)))
    assert calls == [(n, 5) for n in range(1, 6)]


def test_names_beside_the_data_are_used(tmp_path: Path) -> None:
    source = folder(tmp_path)
    (source / "classes.txt").write_text("soil\nplant\n")
    assert index(source).facts.classes.names == ("soil", "plant")
    assert index(source, class_names=["a", "b"]).facts.classes.names == ("a", "b")


# ---- bad input ----------------------------------------------------------------------------------


def test_every_problem_is_collected_into_one_error(tmp_path: Path) -> None:
    source = folder(tmp_path, 9)
    (source / "images" / "s1.png").write_bytes(b"")
    (source / "masks" / "s2.png").write_bytes((source / "masks" / "s2.png").read_bytes()[:40])
    (source / "masks" / "s3.png").write_bytes((source / "masks" / "s4.png").read_bytes())
    with pytest.raises(DatasetError) as caught:
        index(source)
    message = str(caught.value)
    assert "2 files cannot be read" in message
    assert "s1.png: is empty" in message
    assert "s2.png: is cut off" in message
    assert (
        "1 of 7 masks have another size than their image (s3: image 20x19, mask 20x20)" in message
    )
    assert "\n" not in message


def test_a_mask_of_the_picture_as_stored_is_explained(tmp_path: Path) -> None:
    source = folder(tmp_path, 2)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((16, 20, 3), np.uint8)).save(source / "images/s0.png", exif=exif)
    with pytest.raises(DatasetError, match=r"EXIF .* \(s0: image 16x20, mask 20x16\); --fix"):
        index(source)


def test_images_of_8_and_16_bits_have_no_common_scale(tmp_path: Path) -> None:
    def image(i: int) -> np.ndarray:
        return np.full((4, 4, 1), 9, np.uint16 if i == 1 else np.uint8)

    with pytest.raises(DatasetError, match=r"uint8 in 2, uint16 in 1 images \(s1 \(uint16\)"):
        index(folder(tmp_path, 3, image=image))


def test_values_outside_the_declared_classes_are_told_with_their_masks(tmp_path: Path) -> None:
    def mask(i: int) -> np.ndarray:
        return np.full((16 + i, 20), 5 if i == 3 else i % 2, np.uint8)

    source = folder(tmp_path, mask=mask)
    (source / "classes.txt").write_text("0 soil\n1 plant\n")
    with pytest.raises(DatasetError, match=r"380 pixels hold the mask values 5 \(in s3\)"):
        index(source)


def test_bad_options_are_user_errors(tmp_path: Path) -> None:
    source = folder(tmp_path, 4)
    for options in ({"val_fraction": 1.5}, {"ignore_values": [7]}, {"masks": "nowhere"}):
        with pytest.raises(UserError) as caught:
            index(source, **options)
        assert caught.value.exit_code == 2
    with pytest.raises(UserError, match="does not exist") as caught:
        index(tmp_path / "gone")
    assert caught.value.exit_code == 2


# ---- threads ------------------------------------------------------------------------------------


def test_threads_keep_the_order_and_only_few_items_under_way() -> None:
    taken = 0
    lock = threading.Lock()

    def items() -> Any:
        nonlocal taken
        for i in range(200):
            with lock:
                taken += 1
            yield i

    done = 0
    for result in in_threads(lambda i: i * i, items(), num_threads=3):
        assert result == done * done
        done += 1
        assert taken - done <= 12
    assert done == 200


def test_what_a_thread_raises_is_raised_here() -> None:
    def fail(i: int) -> int:
        if i == 5:
            raise MemoryError
        return i

    with pytest.raises(MemoryError):
        list(in_threads(fail, range(100), num_threads=2))


# ---- real data ----------------------------------------------------------------------------------


def test_camvid_has_eleven_named_classes_and_its_own_splits(real_data: RealData) -> None:
    manifest = index(real_data("camvid"))
    facts = manifest.facts
    assert facts.num_samples == {"train": 367, "val": 101, "test": 233}
    assert facts.classes.names[0] == "sky"
    assert facts.classes.names[-1] == "bicyclist"
    assert facts.classes.values == tuple(range(11))
    assert facts.classes.ignore_values == (11,)
    assert sum(facts.class_pixel_counts) + facts.ignored_pixels == 367 * 240 * 180


def test_wbc1_has_three_grey_classes_and_its_twins_share_a_split(real_data: RealData) -> None:
    for seed in range(3):
        manifest = index(real_data("wbc1"), seed=seed)
        assert manifest.facts.classes.values == (0, 128, 255)
        twins = [s for s in manifest.samples if s.sample_id in ("112", "139")]
        assert twins[0].split == twins[1].split
        assert twins[0].group == twins[1].group


def test_isbi_holds_out_its_last_slices(real_data: RealData) -> None:
    source = real_data("isbi_membrane") / "train"
    manifest = index(source, split_by="order", val_fraction=0.1, test_fraction=0.2)
    assert [s.sample_id for s in manifest.split("test")] == [str(n) for n in range(24, 30)]
    assert [s.sample_id for s in manifest.split("val")] == ["21", "22", "23"]
    facts = manifest.facts
    assert (facts.in_channels, facts.classes.values) == (1, (0, 255))
    share = facts.class_pixel_counts[0] / sum(facts.class_pixel_counts)
    assert 0.2 < share < 0.25  # membrane, the README says 22 %


def test_crackforest_is_found_by_naming_its_folders(real_data: RealData) -> None:
    facts = index(real_data("crackforest"), images="image", masks="masks_png").facts
    assert facts.classes.values == (0, 255)
    assert 0.015 < facts.class_pixel_counts[1] / sum(facts.class_pixel_counts) < 0.03


def test_fruits_and_nuts_keep_their_palette(real_data: RealData) -> None:
    facts = index(real_data("fruits_nuts"), format_name="plain").facts
    assert facts.classes.encoding == "palette"
    assert facts.classes.values == (0, 1, 2, 3)
    assert facts.classes.colors[1] == (128, 0, 0)


def test_superalloy_overlays_need_declared_values(real_data: RealData) -> None:
    source = real_data("nasa_super1")
    with pytest.raises(DatasetError, match=r"187 different colours.*--values"):
        index(source)
    facts = index(source, values=[(0, 0, 0), (0, 0, 255), (255, 0, 0)], other=0).facts
    shares = np.array(facts.class_pixel_counts) / sum(facts.class_pixel_counts)
    np.testing.assert_allclose(shares, [0.49, 0.49, 0.02], atol=0.01)


def test_nuclei_by_number_become_foreground(real_data: RealData) -> None:
    manifest = index(real_data("dsb2018_mini"))
    facts = manifest.facts
    assert (facts.classes.values, facts.classes.other) == ((0, 255), 1)
    assert "number" in sentences(manifest)
    share = facts.class_pixel_counts[1] / sum(facts.class_pixel_counts)
    assert 0.1 < share < 0.18


def test_one_file_an_object_gives_the_same_nuclei(real_data: RealData, tmp_path: Path) -> None:
    manifest = index(real_data("dsb2018_mini") / "stage1_layout")
    assert len(manifest.samples) == 9
    assert all(s.mask and s.mask.is_relative_to(cache_folder()) for s in manifest.samples)
    assert manifest.facts.classes.names == ("background", "foreground")
