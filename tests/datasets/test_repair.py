from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.datasets.exports.cases import blobs, colored_png, dataset, some_classes, state
from unet_pipeline.classes import Classes
from unet_pipeline.datasets.doctor import examine
from unet_pipeline.datasets.encoders import encode_png
from unet_pipeline.datasets.images import (
    read_image,
    read_mask,
)
from unet_pipeline.datasets.index import complete, find
from unet_pipeline.datasets.manifest import Manifest
from unet_pipeline.datasets.options import Options
from unet_pipeline.datasets.repair import Repairs, write_repaired
from unet_pipeline.datasets.scan import ScanStore
from unet_pipeline.errors import DatasetError

Saved = Callable[[tuple[int, int]], tuple[str, bytes]]
SIZE = (20, 33)


def saved(mode: str, kind: str, suffix: str, **options: Any) -> Saved:
    """A picture of a Pillow mode and format, with random pixels."""

    def picture(size: tuple[int, int]) -> tuple[str, bytes]:
        channels = len(mode) if mode != "P" else 1
        rng = np.random.default_rng(7)
        pixels = rng.integers(0, 256, (*size, channels), dtype=np.uint8).squeeze()
        file = io.BytesIO()
        image = Image.frombytes(mode, size[::-1], pixels.tobytes())
        if mode == "P":
            image.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
        image.save(file, kind, **options)
        return suffix, file.getvalue()

    return picture


def oriented(orientation: int, kind: str, suffix: str) -> Saved:
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = saved("RGB", kind, suffix, exif=exif)
    return lambda size: plain(size[::-1] if orientation >= 5 else size)


def alpha_tiff(size: tuple[int, int]) -> tuple[str, bytes]:
    file = io.BytesIO()
    pixels = np.random.default_rng(7).integers(0, 256, (*size, 4), dtype=np.uint8)
    tifffile.imwrite(file, pixels, photometric="rgb", extrasamples=["unassalpha"])
    return ".tif", file.getvalue()


def turned_tiff(size: tuple[int, int]) -> tuple[str, bytes]:
    file = io.BytesIO()
    pixels = np.random.default_rng(7).integers(0, 256, (*size[::-1], 5), dtype=np.uint8)
    tags = [(274, "H", 1, 8, True)]
    tifffile.imwrite(file, pixels, photometric="minisblack", planarconfig="contig", extratags=tags)
    return ".tif", file.getvalue()


def mended(root: Path, picture: Saved) -> tuple[Path, Repairs, Path]:
    """The original, the repairs and the copy of one image."""
    manifest = dataset(root, {"a": blobs(SIZE, 2)}, some_classes(2), picture=picture)
    repairs = write_repaired(manifest, root / "out", turned={})
    return manifest.samples[0].image, repairs, repairs.manifest.samples[0].image


SURPRISES: dict[str, tuple[Saved, str]] = {
    "EXIF of a JPEG": (oriented(6, "JPEG", ".jpg"), "images turned upright"),
    "EXIF of a PNG": (oriented(3, "PNG", ".png"), "images turned upright"),
    "EXIF of a WebP": (oriented(5, "WEBP", ".webp"), "images turned upright"),
    "orientation of a TIFF": (turned_tiff, "images turned upright"),
    "CMYK JPEG": (saved("CMYK", "JPEG", ".jpg"), "images converted to RGB"),
    "CMYK TIFF": (saved("CMYK", "TIFF", ".tif"), "images converted to RGB"),
    "RGBA PNG": (saved("RGBA", "PNG", ".png"), "images without their alpha channel"),
    "LA PNG": (saved("LA", "PNG", ".png"), "images without their alpha channel"),
    "transparent colour": (
        saved("P", "PNG", ".png", transparency=3),
        "images without their alpha channel",
    ),
    "transparent GIF": (
        saved("P", "GIF", ".gif", transparency=3),
        "images without their alpha channel",
    ),
    "WebP with alpha": (
        saved("RGBA", "WEBP", ".webp", lossless=True),
        "images without their alpha channel",
    ),
    "TIFF with alpha": (alpha_tiff, "images without their alpha channel"),
}


@pytest.mark.parametrize("surprise", SURPRISES)
def test_images_become_what_training_sees(surprise: str, tmp_path: Path) -> None:
    picture, change = SURPRISES[surprise]
    original, repairs, copy = mended(tmp_path, picture)
    expected = read_image(original)
    assert repairs.counts[change] == 1
    assert copy.suffix == (".png" if expected.shape[2] in (1, 3) else ".tif")
    np.testing.assert_array_equal(read_image(copy), expected)
    if copy.suffix == ".png":  # as every other program sees it, too
        with Image.open(copy) as shown:
            assert shown.mode == ("RGB" if expected.shape[2] == 3 else "L")
            assert 0x0112 not in shown.getexif()
            np.testing.assert_array_equal(np.asarray(shown), expected.squeeze())


@pytest.mark.parametrize(
    "picture",
    [
        *(colored_png, saved("L", "PNG", ".png"), saved("RGB", "JPEG", ".jpeg")),
        *(saved("P", "PNG", ".png"), saved("P", "GIF", ".gif"), saved("RGB", "BMP", ".bmp")),
        *(saved("RGB", "WEBP", ".webp"), saved("RGB", "TIFF", ".tiff")),
        oriented(1, "JPEG", ".jpg"),
    ],
)
def test_images_without_surprises_are_copied_byte_for_byte(picture: Saved, tmp_path: Path) -> None:
    original, repairs, copy = mended(tmp_path, picture)
    assert copy.read_bytes() == original.read_bytes()
    assert copy.stat().st_ino != original.stat().st_ino
    assert copy.suffix == original.suffix
    assert repairs.counts == {"masks written as indexed PNG": 1, "files copied as they are": 1}


def repaired_mask(root: Path, data: bytes, suffix: str, classes: Classes) -> tuple[Repairs, Path]:
    manifest = dataset(root, {"a": blobs(SIZE, 2)}, some_classes(2))
    (sample,) = manifest.samples
    path = root / f"mask{suffix}"
    path.write_bytes(data)
    sample = replace(sample, mask_file=path)
    facts = manifest.facts.model_copy(update={"classes": classes})
    manifest = replace(manifest, samples=(sample,), facts=facts)
    repairs = write_repaired(manifest, root / "out", turned={})
    copy = repairs.manifest.samples[0].mask
    assert copy == root / "out" / "masks" / "a.png"
    return repairs, copy


def test_coloured_masks_become_indices_in_these_colours(tmp_path: Path) -> None:
    colors = ((0, 0, 0), (200, 10, 20), (0, 90, 255))
    classes = some_classes(3, values=colors, colors=colors, encoding="rgb")
    mask = blobs(SIZE, 3)
    data = encode_png(np.array(colors, dtype=np.uint8)[mask])
    repairs, copy = repaired_mask(tmp_path, data, ".png", classes)
    np.testing.assert_array_equal(read_mask(copy), mask)
    with Image.open(copy) as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(
            np.asarray(picture.convert("RGB")), np.array(colors, np.uint8)[mask]
        )
    kept = repairs.manifest.facts.classes
    assert kept.values == (0, 1, 2)
    assert kept.encoding == "palette"
    np.testing.assert_array_equal(kept.to_indices(read_mask(copy), source=""), mask)


def test_masks_of_jpeg_are_snapped(tmp_path: Path) -> None:
    mask = np.kron(blobs((3, 5), 2), np.ones((16, 16), np.uint8))[: SIZE[0], : SIZE[1]]
    file = io.BytesIO()
    Image.fromarray(mask * 255).save(file, "JPEG", quality=75)
    classes = some_classes(2, values=(0, 255), snap=True)
    repairs, copy = repaired_mask(tmp_path, file.getvalue(), ".jpg", classes)
    assert repairs.counts["masks snapped to the nearest class"] == 1
    assert not repairs.manifest.facts.classes.snap
    np.testing.assert_array_equal(read_mask(copy), mask)


def test_masks_with_other_values_lose_them(tmp_path: Path) -> None:
    classes = some_classes(2, values=(0, 9), other=1)
    _, copy = repaired_mask(tmp_path, encode_png(blobs(SIZE, 5)), ".png", classes)
    np.testing.assert_array_equal(read_mask(copy), blobs(SIZE, 5) > 0)


def test_indexed_masks_of_class_indices_are_copied_byte_for_byte(tmp_path: Path) -> None:
    classes = some_classes(2, values=(0, 1), encoding="palette")
    data = encode_png(blobs(SIZE, 2), [(9, 9, 9), (1, 2, 3)])
    repairs, copy = repaired_mask(tmp_path, data, ".png", classes)
    assert copy.read_bytes() == data
    assert repairs.counts == {"files copied as they are": 2}


def test_indexed_masks_of_other_values_are_written_anew(tmp_path: Path) -> None:
    classes = some_classes(2, values=(1, 2), encoding="palette")
    data = encode_png(blobs(SIZE, 2) + np.uint8(1), [(9, 9, 9), (1, 2, 3), (4, 5, 6)])
    _, copy = repaired_mask(tmp_path, data, ".png", classes)
    np.testing.assert_array_equal(read_mask(copy), blobs(SIZE, 2))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_drawn_over_the_stored_picture_is_turned_with_it(
    orientation: int, tmp_path: Path
) -> None:
    stored = np.zeros(SIZE, dtype=np.uint8)
    stored[2:9, 3:20] = 1
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(stored * 255).save(file, "JPEG", exif=exif)
    manifest = dataset(
        tmp_path, {"a": stored}, some_classes(2), picture=lambda _: (".jpg", file.getvalue())
    )
    sample = replace(manifest.samples[0], width=SIZE[0], height=SIZE[1])
    manifest = replace(manifest, samples=(sample,))
    repairs = write_repaired(manifest, tmp_path / "out", turned={"a": orientation})
    copy = repairs.manifest.samples[0]
    assert copy.mask is not None
    np.testing.assert_array_equal(read_mask(copy.mask), read_image(copy.image)[..., 0] > 127)
    assert repairs.counts["masks turned as the orientation of their image says"] == 1


def test_a_mask_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    manifest = dataset(tmp_path, {"a": blobs(SIZE, 2)}, some_classes(2))
    with pytest.raises(DatasetError, match=r"is 20x33 pixels, its image 33x20"):
        write_repaired(manifest, tmp_path / "out", turned={"a": 6})


def test_splits_groups_and_folds_stay(tmp_path: Path) -> None:
    masks = {f"s{k}": blobs((9 + k, 8), 3, seed=k) for k in range(6)}
    manifest = dataset(tmp_path, masks, some_classes(3))
    samples = tuple(
        replace(sample, group=f"g{k % 2}", fold=k % 3) for k, sample in enumerate(manifest.samples)
    )
    copy = write_repaired(replace(manifest, samples=samples), tmp_path / "out", turned={}).manifest
    kept = [(s.sample_id, s.split, s.group, s.fold, s.width, s.height) for s in copy.samples]
    assert kept == [(s.sample_id, s.split, s.group, s.fold, s.width, s.height) for s in samples]
    assert copy.root == tmp_path / "out"


# ---- a whole dataset, as `prepare --fix` takes it -----------------------------------------------


def messy(root: Path) -> Path:
    """images/ and masks/ with one of everything that is mended; classes 0, 50, 100 and void 255."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    (root / "classes.txt").write_text("0 ground\n50 tree\n100 house\n255 void\n200 never\n")
    pictures = {
        "plain": saved("RGB", "JPEG", ".jpg"),
        "side": oriented(6, "JPEG", ".jpg"),
        "stored": oriented(8, "JPEG", ".jpg"),
        "alpha": saved("RGBA", "PNG", ".png"),
        "ink": saved("CMYK", "JPEG", ".jpg"),
        **{f"more{k}": colored_png for k in range(8)},
    }
    for name, picture in pictures.items():
        mask = np.array([0, 50, 100, 255], dtype=np.uint8)[rng.integers(0, 4, SIZE)]
        suffix, data = picture(SIZE)
        stored = mask.T[:, ::-1] if name == "stored" else mask
        (root / "images" / f"{name}{suffix}").write_bytes(data)
        (root / "masks" / f"{name}.png").write_bytes(encode_png(stored))
    return root


def diagnosed(source: Path, output: Path) -> tuple[Manifest, Mapping[str, int]]:
    """The dataset of the good pairs of `source`, and which masks are to be turned."""
    options = Options(
        ignore_values=(), class_names=None, values=None, other=None, split_by="random",
        val_fraction=0.2, test_fraction=0.2, seed=0, group_regex=None, num_folds=None,
        value_range="auto",
    )  # fmt: skip
    found = find(source, format_name="auto", images=None, masks=None, pages="refuse")
    with ScanStore() as store:
        diagnosis = examine(found, source=source, name="d", options=options, store=store)
    return complete(diagnosis, output, output.with_name("made")), diagnosis.turned


def repair(source: Path, output: Path) -> Repairs:
    manifest, turned = diagnosed(source, output)
    return write_repaired(manifest, output, turned=turned)


def digests(root: Path) -> dict[str, str]:
    return {name: digest for name, (digest, _) in state(root).items()}


def test_the_originals_are_not_touched(tmp_path: Path) -> None:
    source = messy(tmp_path / "source")
    before = state(source)
    repair(source, tmp_path / "out")
    assert state(source) == before


def test_the_counts_say_what_was_done(tmp_path: Path) -> None:
    assert repair(messy(tmp_path / "source"), tmp_path / "out").counts == {
        "images turned upright": 2,
        "images without their alpha channel": 1,
        "images converted to RGB": 1,
        "masks turned as the orientation of their image says": 1,
        "masks written as indexed PNG": 13,
        "files copied as they are": 9,
    }


def test_a_copy_repaired_again_is_the_same_byte_for_byte(tmp_path: Path) -> None:
    first = repair(messy(tmp_path / "source"), tmp_path / "first")
    again = repair(tmp_path / "first", tmp_path / "second")
    assert digests(tmp_path / "first") == digests(tmp_path / "second")
    assert again.counts == {"files copied as they are": 2 * len(first.manifest.samples)}


def test_the_same_source_gives_the_same_copy(tmp_path: Path) -> None:
    source = messy(tmp_path / "source")
    one, other = repair(source, tmp_path / "one"), repair(source, tmp_path / "other")
    one.manifest.save(tmp_path / "one")
    other.manifest.save(tmp_path / "other")
    assert digests(tmp_path / "one") == digests(tmp_path / "other")


def test_the_manifest_of_the_copy_says_what_a_reader_of_the_copy_finds(tmp_path: Path) -> None:
    copy = repair(messy(tmp_path / "source"), tmp_path / "out").manifest
    read, _ = diagnosed(tmp_path / "out", tmp_path / "second")
    assert copy.facts.classes.model_dump(exclude={"colors"}) == read.facts.classes.model_dump(
        exclude={"colors"}
    )
    contents = {sample.sample_id: sample.content for sample in read.samples}
    assert {sample.sample_id: sample.content for sample in copy.samples} == contents


def test_the_copy_is_a_dataset_that_can_be_saved_and_loaded(tmp_path: Path) -> None:
    copy = repair(messy(tmp_path / "source"), tmp_path / "out").manifest
    copy.save(tmp_path / "out")
    loaded = Manifest.load(tmp_path / "out")
    assert loaded.facts == copy.facts
    assert loaded.samples == copy.samples
