from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.datasets.exports.cases import (
    blobs,
    colored_png,
    dataset,
    facts,
    indices_of,
    pixels_of,
    read_back,
    some_classes,
    state,
)
from unet_pipeline.classes import default_colors
from unet_pipeline.datasets.encoders import encode_png
from unet_pipeline.datasets.exports import EXPORTS, export
from unet_pipeline.datasets.images import (
    read_image,
    read_mask,
)
from unet_pipeline.datasets.manifest import SPLITS, Manifest, Sample
from unet_pipeline.errors import DatasetError, UserError

SIZES = ((1, 1), (1, 9), (9, 1), (2, 3), (17, 33), (40, 31), (64, 64), (5, 5), (31, 8))
every_format = pytest.mark.parametrize("name", EXPORTS)


def a_dataset(root: Path, *, count: int = 4, void: bool = False) -> Manifest:
    masks = {
        f"case {k}": blobs(size, count, seed=k, void=void) for k, size in enumerate(SIZES, start=1)
    }
    masks["case 5"][:] = 0  # nothing but background, in val
    return dataset(root, masks, some_classes(count, void=void))


def agree(manifest: Manifest, folder: Path) -> None:
    """Assert that the readers find every image, mask and split of `manifest` in `folder`."""
    found = read_back(folder)
    assert not [f for f in found.findings if f.severity != "note"]
    assert {pair.sample_id: pair.split for pair in found.pairs} == {
        sample.sample_id: sample.split for sample in manifest.samples
    }
    samples = {sample.sample_id: sample for sample in manifest.samples}
    classes = manifest.facts.classes
    for pair in found.pairs:
        sample = samples[pair.sample_id]
        assert sample.mask is not None
        expected = np.asarray(Image.open(sample.mask)).astype(int) - 100
        expected[expected < 0] = 255
        np.testing.assert_array_equal(indices_of(pair, found, classes), expected)
        np.testing.assert_array_equal(pixels_of(pair.image), read_image(sample.image))


@every_format
def test_what_was_written_reads_back_the_same(name: str, tmp_path: Path) -> None:
    manifest = a_dataset(tmp_path)
    export(name, manifest, tmp_path / "out")
    agree(manifest, tmp_path / "out")


@pytest.mark.parametrize("name", [name for name in EXPORTS if name != "yolo"])
def test_void_stays_void(name: str, tmp_path: Path) -> None:
    manifest = a_dataset(tmp_path, void=True)
    export(name, manifest, tmp_path / "out")
    agree(manifest, tmp_path / "out")


@every_format
@pytest.mark.parametrize("void", [False, True])
@pytest.mark.parametrize("absent", [(2,), (4,), (1, 3), (2, 3, 4), (1, 2, 3, 4)])
def test_classes_without_pixels_survive(
    name: str, void: bool, absent: tuple[int, ...], tmp_path: Path
) -> None:
    masks = {f"case {k}": blobs((31, 24), 5, seed=k, void=void) for k in range(4)}
    for mask in masks.values():
        mask[np.isin(mask, absent)] = 0
        if name == "yolo":
            mask[mask == 255] = 0  # it has no place for void
    classes = some_classes(5, void=void)
    manifest = dataset(tmp_path, masks, classes)
    export(name, manifest, tmp_path / "out")
    agree(manifest, tmp_path / "out")
    found = read_back(tmp_path / "out")
    assert found.class_list is not None
    assert found.class_list.values is not None
    values = tuple(v for v in found.class_list.values if v != 255)  # plain lists void
    assert values == (0, 1, 2, 3, 4)
    assert found.class_list.names[:5] == classes.names


@every_format
def test_forty_classes_keep_their_names(name: str, tmp_path: Path) -> None:
    manifest = a_dataset(tmp_path, count=40)
    export(name, manifest, tmp_path / "out")
    agree(manifest, tmp_path / "out")


@every_format
def test_the_format_is_recognised_by_itself(name: str, tmp_path: Path) -> None:
    export(name, a_dataset(tmp_path), tmp_path / "out")
    assert read_back(tmp_path / "out").sentence.startswith(f"format {name} (")


def grey_png(size: tuple[int, int]) -> tuple[str, bytes]:
    return ".png", encode_png(blobs(size, 250))


def deep_png(size: tuple[int, int]) -> tuple[str, bytes]:
    return ".png", encode_png(blobs(size, 250).astype(np.uint16) * 257)


def deep_colors(size: tuple[int, int]) -> tuple[str, bytes]:
    pixels = np.stack([blobs(size, 250, seed=k) for k in range(3)], axis=2)
    return ".png", encode_png(pixels.astype(np.uint16) * 257)


def five_channels(size: tuple[int, int]) -> tuple[str, bytes]:
    file = io.BytesIO()
    pixels = np.stack([blobs(size, 250, seed=k) for k in range(5)], axis=2)
    tifffile.imwrite(file, pixels, photometric="minisblack", planarconfig="contig")
    return ".tif", file.getvalue()


def float_array(size: tuple[int, int]) -> tuple[str, bytes]:
    file = io.BytesIO()
    np.save(file, blobs(size, 250).astype(np.float32) / 7)
    return ".npy", file.getvalue()


def jpeg(size: tuple[int, int]) -> tuple[str, bytes]:
    file = io.BytesIO()
    Image.fromarray(read_png(colored_png(size)[1])).save(file, "JPEG", quality=60)
    return ".JPG", file.getvalue()


def read_png(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@every_format
@pytest.mark.parametrize(
    "picture", [grey_png, deep_png, deep_colors, five_channels, float_array, jpeg]
)
def test_images_of_all_kinds_keep_their_pixels(name: str, picture, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    masks = {f"s{k}": blobs((20 + k, 18), 3, seed=k) for k in range(4)}
    manifest = dataset(tmp_path, masks, some_classes(3), picture=picture)
    export(name, manifest, tmp_path / "out")
    agree(manifest, tmp_path / "out")


@pytest.mark.parametrize("name", ["coco", "yolo", "plain"])
def test_images_are_copied_byte_for_byte(name: str, tmp_path: Path) -> None:
    masks = {f"s{k}": blobs((20, 18), 3, seed=k) for k in range(3)}
    manifest = dataset(tmp_path, masks, some_classes(3), picture=jpeg)
    export(name, manifest, tmp_path / "out")
    written = sorted(p.read_bytes() for p in (tmp_path / "out").rglob("*.jpg"))
    assert written == sorted(sample.image.read_bytes() for sample in manifest.samples)
    copies = {p.stat().st_ino for p in (tmp_path / "out").rglob("*.jpg")}
    assert copies.isdisjoint(sample.image.stat().st_ino for sample in manifest.samples)


@every_format
def test_an_image_turned_by_exif_is_written_upright(name: str, tmp_path: Path) -> None:
    def turned(size: tuple[int, int]) -> tuple[str, bytes]:
        exif = Image.Exif()
        exif[0x0112] = 6
        file = io.BytesIO()
        stored = read_png(colored_png((size[1], size[0]))[1])
        Image.fromarray(stored).save(file, "JPEG", exif=exif)
        return ".jpg", file.getvalue()

    masks = {f"s{k}": blobs((20, 33), 3, seed=k) for k in range(3)}
    manifest = dataset(tmp_path, masks, some_classes(3), picture=turned)
    export(name, manifest, tmp_path / "out")
    agree(manifest, tmp_path / "out")
    pictures = [p for p in (tmp_path / "out").rglob("*") if p.suffix in (".jpg", ".png")]
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.getexif().get(0x0112, 1) == 1
            assert picture.size == (33, 20)


@every_format
def test_ids_with_folders_give_files_of_their_own(name: str, tmp_path: Path) -> None:
    ids = ["a/1", "b/1", "b/c/1", "a_1", "val/2", "train/2", "masks/2", "Ünïcode/x y", "b/C/1"]
    masks = {sample_id: blobs((12, 14), 3, seed=k) for k, sample_id in enumerate(ids)}
    manifest = dataset(tmp_path, masks, some_classes(3))
    export(name, manifest, tmp_path / "out")
    found = read_back(tmp_path / "out")
    wanted = sorted((s.split, masks[s.sample_id].tobytes()) for s in manifest.samples)
    got = sorted(
        (pair.split, indices_of(pair, found, manifest.facts.classes).astype(np.uint8).tobytes())
        for pair in found.pairs
    )
    assert got == wanted


@every_format
def test_one_split_alone_is_written(name: str, tmp_path: Path) -> None:
    masks = {f"s{k}": blobs((20, 18), 3, seed=k) for k in range(3)}
    manifest = dataset(tmp_path, masks, some_classes(3), splits=dict.fromkeys(masks, "train"))
    export(name, manifest, tmp_path / "out")
    assert len(read_back(tmp_path / "out").pairs) == 3


@pytest.mark.parametrize("name", ["coco", "plain"])
@pytest.mark.parametrize("void", [False, True])
@pytest.mark.parametrize(
    "names",
    [
        ("road", "car", "tree"),
        ("Background", "car", "tree"),
        ("road", "_background_", "tree"),
        ("road", "car", "background"),
    ],
)
def test_names_and_indices_of_classes_survive_wherever_the_background_is(
    name: str, names: tuple[str, ...], void: bool, tmp_path: Path
) -> None:
    classes = some_classes(3, names=names, void=void)
    masks = {f"case {k}": blobs((31, 24), 3, seed=k, void=void) for k in range(3)}
    masks["case 1"][:] = names.index(next((n for n in names if "ackground" in n), "road"))
    manifest = dataset(tmp_path, masks, classes)
    export(name, manifest, tmp_path / "out")
    agree(manifest, tmp_path / "out")
    found = read_back(tmp_path / "out")
    assert found.class_list is not None
    assert found.class_list.names[:3] == names
    assert found.class_list.values is not None
    assert found.class_list.values[:3] == (0, 1, 2)


@pytest.mark.parametrize("name", ["yolo", "nnunet"])
def test_a_class_called_background_is_the_background(name: str, tmp_path: Path) -> None:
    classes = some_classes(3, names=("road", "Background", "tree"))
    mask = np.array([[0, 0, 1, 2], [1, 1, 2, 2]], dtype=np.uint8)
    manifest = dataset(tmp_path, {"s": mask, "t": mask[::-1]}, classes)
    export(name, manifest, tmp_path / "out")
    found = read_back(tmp_path / "out")
    assert found.class_list is not None
    assert found.class_list.names == ("background", "road", "tree")
    pair = next(pair for pair in found.pairs if pair.sample_id == "s")
    values = pair.mask.pixels() if not isinstance(pair.mask, Path) else read_png(
        pair.mask.read_bytes()
    )  # fmt: skip
    np.testing.assert_array_equal(values, [[1, 1, 0, 2], [0, 0, 2, 2]])


@pytest.mark.parametrize("name", ["coco", "yolo", "nnunet"])
def test_a_name_that_is_lost_is_logged(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    classes = some_classes(2, names=("road", "car"))
    manifest = dataset(tmp_path, {"s": blobs((9, 9), 2), "t": blobs((9, 8), 2)}, classes)
    export(name, manifest, tmp_path / "out")
    assert "class 0, 'road', becomes the background" in caplog.text


@every_format
def test_progress_counts_samples(name: str, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    manifest = a_dataset(tmp_path)
    export(name, manifest, tmp_path / "out", on_progress=lambda *call: calls.append(call))
    assert calls == [(done, len(SIZES)) for done in range(1, len(SIZES) + 1)]


@every_format
def test_the_source_is_not_touched(name: str, tmp_path: Path) -> None:
    manifest = a_dataset(tmp_path, void=True)
    before = state(tmp_path / "source")
    export(name, manifest, tmp_path / "out")
    assert state(tmp_path / "source") == before


@every_format
def test_samples_without_masks_are_refused(name: str, tmp_path: Path) -> None:
    manifest = a_dataset(tmp_path)
    bare = replace(manifest.samples[1], mask_file=None)
    manifest = replace(manifest, samples=(manifest.samples[0], bare))
    with pytest.raises(DatasetError, match=r"1 samples have no mask \(case 2\)"):
        export(name, manifest, tmp_path / "out")


@every_format
def test_a_failed_export_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    manifest = a_dataset(tmp_path)
    mask = manifest.samples[-1].mask
    assert mask is not None
    mask.write_bytes(b"no mask")
    with pytest.raises(DatasetError, match="_mask"):
        export(name, manifest, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_interrupted_export_leaves_what_was_there_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(manifest: Manifest, folder: Path, on_progress: object) -> None:
        (folder / "labels").mkdir()
        (folder / "labels" / "a.txt").touch()
        (folder / "data.yaml").touch()
        raise KeyboardInterrupt

    monkeypatch.setitem(EXPORTS, "yolo", EXPORTS["yolo"]._replace(write=write))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").touch()
    with pytest.raises(KeyboardInterrupt):
        export("yolo", a_dataset(tmp_path), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    manifest = a_dataset(tmp_path)
    sample = replace(manifest.samples[0], width=50)
    with pytest.raises(DatasetError, match=r"is 1x1 pixels, its image 50x1"):
        export("plain", replace(manifest, samples=(sample,)), tmp_path / "out")


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    manifest = a_dataset(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").touch()
    export("plain", manifest, tmp_path / "out")
    with pytest.raises(UserError, match="is not empty"):
        export("plain", manifest, tmp_path / "out")


def test_an_unknown_format_is_refused_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'coco'"):
        export("cocos", a_dataset(tmp_path), tmp_path / "out")


@pytest.mark.slow
@every_format
def test_real_photos_with_real_masks_read_back_the_same(
    name: str, tmp_path: Path, real_data: Callable[[str], Path]
) -> None:
    """18 photos of 800x600 with 165 objects of three kinds, many with holes."""
    source = real_data("fruits_nuts")
    palette = default_colors(4)
    classes = some_classes(4, values=(0, 1, 2, 3), colors=palette, encoding="palette")
    samples = []
    for number, mask in enumerate(sorted((source / "masks_palette").glob("*.png"))):
        image = source / "images" / f"{mask.stem}.jpg"
        split = SPLITS[number % 3]
        samples.append(Sample(mask.stem, image, mask, split, mask.stem, 800, 600))
    assert len(samples) == 18
    manifest = Manifest(source, facts(samples, classes), tuple(samples))
    export(name, manifest, tmp_path / "out")
    found = read_back(tmp_path / "out")
    assert len(found.pairs) == 18
    for pair in found.pairs:
        expected = read_mask(source / "masks_palette" / f"{pair.sample_id}.png")
        np.testing.assert_array_equal(indices_of(pair, found, classes), expected)
