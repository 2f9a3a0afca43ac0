"""Every file read once: what is kept of it, in which order, and what a broken one does."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
from PIL import Image

from unet_pipeline.datasets import scan as scan_module
from unet_pipeline.datasets import scan_pixels
from unet_pipeline.datasets.encoders import encode_png
from unet_pipeline.datasets.formats import Pair
from unet_pipeline.datasets.images import (
    MaskPixels,
    decode_image,
    decode_mask,
)
from unet_pipeline.datasets.mask_objects import count_objects, count_pixels, find_runs
from unet_pipeline.datasets.scan import BadPair, PairScan, scan_pair, scan_pairs
from unet_pipeline.datasets.scan_pixels import FileKind, read_part, scan_image, scan_mask
from unet_pipeline.datasets.scan_store import ScanStore
from unet_pipeline.datasets.scan_workers import Question, Workers
from unet_pipeline.errors import DatasetError, ResourceError


@dataclass(frozen=True)
class Drawn:
    """A mask that no file holds."""

    source: str
    value: int

    def digest(self) -> bytes:
        return hashlib.blake2b(bytes([self.value]), digest_size=16).digest()

    def pixels(self) -> Any:
        if self.value == 13:
            raise DatasetError(f"{self.source}: cannot be drawn")
        return np.full((4, 5), self.value, np.uint8)


def write_pairs(folder: Path, count: int, *, side: int = 40) -> list[Pair]:
    pairs = []
    for number in range(count):
        rng = np.random.default_rng(number)
        image, mask = folder / f"{number}.jpg", folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(image)
        mask.write_bytes(encode_png(rng.integers(0, 3, (side, side)).astype(np.uint8)))
        pairs.append(Pair(str(number), image, mask))
    return pairs


def read_all(pairs: list[Pair], folder: Path, **options: Any) -> list[PairScan | BadPair]:
    with ScanStore(folder) as store:
        return list(scan_pairs(pairs, store=store, **options))


def one(pair: Pair) -> PairScan:
    scan = scan_pair(pair)
    assert isinstance(scan, PairScan)
    return scan


# ---- images -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_sums_and_ends_are_those_of_numpy(dtype: str, channels: int) -> None:
    rng = np.random.default_rng(channels)
    image = (rng.random((31, 45, channels)) * (200 if dtype == "uint8" else 60_000)).astype(dtype)
    scan, _ = scan_image(image, b"", FileKind("png"))
    wide = image.astype(np.float64)
    assert (scan.low, scan.high) == (image.min(), image.max())
    np.testing.assert_allclose(scan.sums, wide.sum(axis=(0, 1)), rtol=1e-12)
    np.testing.assert_allclose(scan.squares, (wide**2).sum(axis=(0, 1)), rtol=1e-12)
    assert (scan.height, scan.width, scan.channels, scan.dtype) == (31, 45, channels, dtype)


def test_sums_of_16_bits_are_exact_where_float32_is_not() -> None:
    image = np.full((5000, 4000, 1), 65_535, np.uint16)  # more pixels than 2**24
    image[0, 0] = 65_534
    scan, picture = scan_image(image, b"", FileKind("png"))
    assert scan.sums == (65_535.0 * image.size - 1,)
    assert picture.histogram.tolist() == [[1] + [0] * 254 + [image.size - 1]]


def test_the_histogram_of_8_bits_counts_levels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    _, picture = scan_image(image, b"", FileKind("png"))
    expected = [np.bincount(image[..., c].ravel(), minlength=256) for c in range(3)]
    np.testing.assert_array_equal(picture.histogram, expected)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_the_histogram_of_others_runs_from_the_lowest_to_the_highest_value(dtype: str) -> None:
    image = (np.random.default_rng(0).random((20, 30, 2)) * 5000 + 100).astype(dtype)
    scan, picture = scan_image(image, b"", FileKind("png"))
    steps = np.rint((image.astype(float) - scan.low) / (scan.high - scan.low) * 255).astype(int)
    expected = [np.bincount(steps[..., c].ravel(), minlength=256) for c in range(2)]
    np.testing.assert_array_equal(picture.histogram, expected)


def test_more_channels_than_opencv_knows() -> None:
    image = np.random.default_rng(0).integers(0, 9, (3, 4, 600), dtype=np.uint8)
    scan, _ = scan_image(image, b"", FileKind("npy"))
    assert scan.sums == tuple(image.sum(axis=(0, 1)).tolist())


def test_equal_pixels_have_one_digest_whatever_their_files(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 41, 3), dtype=np.uint8)
    mask = tmp_path / "mask.png"
    mask.write_bytes(encode_png(np.zeros((37, 41), np.uint8)))
    digests = set()
    for suffix in ("png", "bmp", "tif", "webp"):
        path = tmp_path / f"image.{suffix}"
        Image.fromarray(pixels).save(path, **({"lossless": True} if suffix == "webp" else {}))
        digests.add(one(Pair("a", path, mask)).image.picture)
    assert len(digests) == 1


def test_pictures_with_the_same_values_elsewhere_differ_in_their_digest() -> None:
    digests = set()
    for place in range(64 * 64):
        image = np.zeros((64, 64, 1), np.uint8)
        image.flat[place] = 200
        digests.add(scan_image(image, b"", FileKind("png"))[0].picture)
    assert len(digests) == 64 * 64


def photo(seed: int, side: int = 200) -> Any:
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(0, 1, (side, side, 3)), (0, 0), side / 20)
    return np.clip(128 + noise * 50 / noise.std(), 0, 255).astype(np.uint8)


def hash_of(image: Any) -> int:
    return scan_image(np.ascontiguousarray(image), b"", FileKind("png"))[0].phash


def test_a_picture_changed_a_little_keeps_its_perceptual_hash() -> None:
    for seed in range(10):
        image = photo(seed)
        brighter = np.clip(image.astype(float) * 1.1 + 8, 0, 255).astype(np.uint8)
        smaller = cv2.resize(image, (131, 97), interpolation=cv2.INTER_AREA)
        jpeg = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], 1)
        wide = image.astype(np.uint16) * 200
        for changed in (brighter, smaller, jpeg, wide):
            assert (hash_of(image) ^ hash_of(changed)).bit_count() <= 6


def test_other_pictures_have_other_perceptual_hashes() -> None:
    hashes = [hash_of(photo(seed)) for seed in range(30)]
    nearest = min((a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i])
    assert nearest > 10


def test_a_flat_picture_has_no_perceptual_hash() -> None:
    assert hash_of(np.full((50, 60, 3), 7, np.uint8)) == 0


def test_the_thumbnail_is_the_mean_of_cells() -> None:
    image = photo(3, 256)
    _, picture = scan_image(image, b"", FileKind("png"))
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float64)
    expected = grey.reshape(16, 16, 16, 16).mean(axis=(1, 3))
    assert np.abs(picture.thumbnail - expected).max() <= 2


# ---- masks --------------------------------------------------------------------------------------


def by_opencv(mask: Any) -> dict[int, tuple[int, int, int, int]]:
    found = {}
    for value in np.unique(mask[mask > 0]).tolist():
        here = (mask == value).astype(np.uint8)
        count, _, stats, _ = cv2.connectedComponentsWithStats(here, connectivity=8)
        sizes = np.sort(stats[1:, cv2.CC_STAT_AREA]).tolist()
        found[value] = (count - 1, sizes[0], sizes[(len(sizes) - 1) // 2], sizes[-1])
    return found


def test_objects_are_those_of_opencv() -> None:
    rng = np.random.default_rng(0)
    for _ in range(400):
        shape = rng.integers(1, 14, 2)
        mask = rng.integers(0, rng.integers(2, 5), shape).astype(np.uint8)
        assert count_objects(find_runs(mask)) == by_opencv(mask), mask


def test_objects_of_a_real_mask_are_those_of_opencv(real_data: Callable[[str], Path]) -> None:
    for path in sorted((real_data("camvid") / "trainannot").iterdir())[:5]:
        mask = decode_mask(path.read_bytes(), source="").values
        runs = find_runs(mask)
        assert count_objects(runs) == by_opencv(mask)
        values, counts = np.unique(mask, return_counts=True)
        assert [part.tolist() for part in count_pixels(runs)] == [values.tolist(), counts.tolist()]


def test_objects_of_colours_are_under_the_packed_colour() -> None:
    mask = np.zeros((4, 6, 3), np.uint8)
    mask[0, :2], mask[2, 3:], mask[3, 0] = (255, 0, 1), (255, 0, 1), (0, 9, 0)
    scan = scan_mask(MaskPixels(mask))
    assert scan.objects == {0xFF0001: (2, 2, 2, 3), 0x000900: (1, 1, 1, 1)}
    assert scan.counts == {0: 18, 0xFF0001: 5, 0x000900: 1}


def test_many_values_have_no_objects() -> None:
    few, many = np.arange(32, dtype=np.uint8)[None], np.arange(33, dtype=np.uint8)[None]
    assert len(scan_mask(MaskPixels(few)).objects or {}) == 31
    assert scan_mask(MaskPixels(many)).objects is None


def test_an_empty_mask_has_no_objects() -> None:
    assert scan_mask(MaskPixels(np.zeros((3, 3), np.uint8))).objects == {}


def test_palette_and_kept_values_come_back() -> None:
    palette = np.random.default_rng(0).integers(0, 256, (256, 3), dtype=np.uint8)
    scan = scan_mask(MaskPixels(np.array([[3, 3, 250]], np.uint8), palette))
    assert scan.palette == {3: tuple(palette[3].tolist()), 250: tuple(palette[250].tolist())}
    frequent = np.repeat(np.arange(600, dtype=np.uint16), 2)
    wide = scan_mask(MaskPixels(np.append(frequent, np.uint16(999))[None]), (999,))
    assert (wide.counts[999], wide.num_values, len(wide.counts)) == (1, 601, 513)
    assert wide.wide


# ---- what the head of a file says ---------------------------------------------------------------


def saved(path: Path, picture: Image.Image, **options: Any) -> Path:
    picture.save(path, **options)
    return path


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    return block


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_the_orientation_and_the_stored_size_are_told(tmp_path: Path, suffix: str) -> None:
    image = Image.fromarray(photo(1, 64)[:, :40])
    path = saved(tmp_path / f"a.{suffix}", image, exif=exif(6))
    mask = saved(tmp_path / "m.png", Image.new("L", (64, 40)))
    scan = one(Pair("a", path, mask)).image
    assert (scan.orientation, scan.stored_size) == (6, (64, 40))
    assert (scan.height, scan.width) == (40, 64)
    assert scan.kind == {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix)


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_that_is_opaque_says_nothing(tmp_path: Path, suffix: str, mode: str) -> None:
    if (suffix, mode) == ("webp", "LA"):
        pytest.skip("WebP has no grey")
    picture = Image.new(mode, (30, 20), (9, 255) if mode == "LA" else (9, 9, 9, 255))
    picture.putpixel((0, 0), (1, 255) if mode == "LA" else (1, 2, 3, 255))
    mask = saved(tmp_path / "m.png", Image.new("L", (30, 20)))
    path = saved(tmp_path / f"opaque.{suffix}", picture)
    assert not one(Pair("a", path, mask)).image.alpha
    picture.putpixel((3, 4), (0, 254) if mode == "LA" else (0, 0, 0, 254))
    path = saved(
        tmp_path / f"clear.{suffix}", picture, **({"exact": True} if suffix == "webp" else {})
    )
    assert one(Pair("a", path, mask)).image.alpha


def test_a_transparent_palette_colour_is_alpha_where_it_is_used(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).convert("P")
    image = saved(tmp_path / "i.png", Image.new("L", (2, 2)))
    for transparent, expected in ((1, True), (5, False)):
        path = saved(tmp_path / f"{transparent}.png", picture, transparency=transparent)
        assert one(Pair("a", image, path)).mask.alpha is expected


def test_bits_are_those_of_the_file(tmp_path: Path) -> None:
    image = saved(tmp_path / "i.png", Image.new("L", (8, 4)))
    one_bit = saved(tmp_path / "1.png", Image.new("1", (8, 4)))
    wide = tmp_path / "16.png"
    wide.write_bytes(encode_png(np.ones((4, 8), np.uint16)))
    bilevel = saved(tmp_path / "1.tif", Image.new("1", (8, 4)))
    array = tmp_path / "a.npy"
    np.save(array, np.ones((4, 8), np.uint16))
    seen = [
        (scan.bits, scan.wide, scan.kind)
        for path in (one_bit, wide, bilevel, array)
        for scan in [one(Pair("a", image, path)).mask]
    ]
    assert seen == [
        (1, False, "png"), (16, True, "png"), (1, False, "tiff"), (16, True, "npy"),
    ]  # fmt: skip


# ---- pairs --------------------------------------------------------------------------------------


def test_scans_come_in_the_order_of_the_pairs(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path, 30, side=8)
    seen: list[tuple[int, int]] = []
    scans = read_all(pairs, tmp_path / "cache", on_progress=lambda *at: seen.append(at))
    assert [scan.pair for scan in scans] == pairs
    assert seen == [(done, 30) for done in range(1, 31)]
    assert scans == [scan_pair(pair) for pair in pairs]


def test_processes_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = write_pairs(tmp_path, 40)
    pairs[20].mask.write_bytes(b"not a picture")  # type: ignore[union-attr]
    alone = read_all(pairs, tmp_path / "first")
    monkeypatch.setattr(scan_module, "_TRIAL_S", 0)
    monkeypatch.setattr(scan_module, "_WORTHWHILE_S", 0)
    monkeypatch.setattr(scan_module, "_num_cores", lambda: 2)
    started: list[int] = []
    monkeypatch.setattr(
        scan_module, "Workers", lambda *given: started.append(given[0]) or Workers(*given)
    )
    assert read_all(pairs, tmp_path / "second") == alone
    assert started == [2]


def test_both_broken_files_of_a_pair_are_named(tmp_path: Path) -> None:
    good = write_pairs(tmp_path, 1)[0]
    broken, empty = tmp_path / "broken.jpg", tmp_path / "empty.png"
    broken.write_bytes(good.image.read_bytes()[:200])  # type: ignore[union-attr]
    empty.touch()
    pairs = [
        Pair("a", broken, empty),
        good,
        Pair("b", good.image, empty),
        Pair("c", broken, good.mask),
    ]
    scans = read_all(pairs, tmp_path / "cache")
    both, fine, mask, image = scans
    assert isinstance(both, BadPair)
    assert str(broken) in str(both.image)
    assert str(empty) in str(both.mask)
    assert len(both.reasons) == 2
    assert isinstance(fine, PairScan)
    assert isinstance(mask, BadPair)
    assert (mask.image, len(mask.reasons)) == (None, 1)
    assert isinstance(image, BadPair)
    assert (image.mask, len(image.reasons)) == (None, 1)


def test_what_is_made_is_scanned_and_remembered(tmp_path: Path, monkeypatch: Any) -> None:
    image = write_pairs(tmp_path, 1)[0].image
    pairs = [Pair("a", image, Drawn("x.json", 2)), Pair("b", image, Drawn("y.json", 13))]
    first, bad = read_all(pairs, tmp_path / "cache")
    assert isinstance(first, PairScan)
    assert (first.mask.counts, first.mask.kind) == ({2: 20}, "made")
    assert isinstance(bad, BadPair)
    assert bad.reasons == ("y.json: cannot be drawn",)
    monkeypatch.setattr(Drawn, "pixels", lambda self: pytest.fail("was drawn again"))
    assert read_all(pairs[:1], tmp_path / "cache") == [first]


def test_too_little_memory_is_one_clear_error(tmp_path: Path, monkeypatch: Any) -> None:
    pair = write_pairs(tmp_path, 1)[0]

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(scan_pixels, "decode_image", fail)
    with pytest.raises(ResourceError, match=r"0\.jpg: there is not enough memory"):
        scan_pair(pair)


# ---- worker processes ---------------------------------------------------------------------------


def test_a_killed_worker_is_one_clear_error(tmp_path: Path) -> None:
    pair = write_pairs(tmp_path, 1)[0]
    assert isinstance(pair.image, Path)
    with Workers(1, (), []) as workers:
        assert not isinstance(workers.ask([Question("image", pair.image)])[0], str)
        (child,) = psutil.Process().children()
        child.kill()
        child.wait()
        with pytest.raises(ResourceError, match=r"was killed while it read .*0\.jpg"):
            workers.ask([Question("image", pair.image)])


def test_an_error_in_a_worker_is_raised_here(tmp_path: Path) -> None:
    with Workers(1, (), []) as workers, pytest.raises(AttributeError):
        workers.ask([Question("image", "neither path nor made")])  # type: ignore[arg-type]


_SCRIPT = """
import sys
from pathlib import Path
from unet_pipeline.datasets import scan
from unet_pipeline.datasets.scan_store import ScanStore
scan._TRIAL_S = scan._WORTHWHILE_S = 0
scan._num_cores = lambda: 2
folder = Path(sys.argv[1])
pairs = [scan.Pair(str(n), folder / "0.jpg", folder / "0.png") for n in range(10**5)]
with ScanStore(folder / "cache") as store:
    store.recall = lambda path, topic: None
    for done, _ in enumerate(scan.scan_pairs(pairs, store=store)):
        if done == 200:
            print("reading", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of a terminal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_parent(tmp_path: Path, number: signal.Signals) -> None:
    write_pairs(tmp_path, 1)
    # A script without `if __name__ == "__main__"`, as people write them
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, script, tmp_path],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, start_new_session=True,
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"reading\n"
        children = psutil.Process(parent.pid).children()
        assert len(children) == 2
        if number == signal.SIGINT:
            os.killpg(parent.pid, number)  # as a terminal does
        else:
            parent.send_signal(number)
        parent.wait(timeout=10)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def test_a_worker_recognises_equal_content(tmp_path: Path) -> None:
    pair = write_pairs(tmp_path, 1)[0]
    copy = tmp_path / "copy.jpg"
    copy.write_bytes(pair.image.read_bytes())  # type: ignore[union-attr]
    with ScanStore(tmp_path / "cache") as store:
        list(scan_pairs([pair], store=store))
        store.flush()
        with Workers(1, (), store.paths) as workers:
            (answer,) = workers.ask([Question("image", copy)])
    assert not isinstance(answer, str)
    assert not answer.decoded


# ---- real data ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "images", "masks"),
    [
        ("camvid", "train/*.png", "trainannot/*.png"),
        ("wbc1", "images/*.bmp", "masks/*.png"),
        ("isbi_membrane", "train/image/*.png", "train/label/*.png"),
        ("dsb2018_mini", "images/*.png", "masks_instance_u16/*.png"),
    ],
)
def test_real_folders_are_read_as_decoders_do(
    real_data: Callable[[str], Path], tmp_path: Path, name: str, images: str, masks: str
) -> None:
    root = real_data(name)
    sides = (sorted(root.glob(pattern))[:6] for pattern in (images, masks))
    pairs = [Pair(a.stem, a, b) for a, b in zip(*sides, strict=True)]
    for pair, scan in zip(pairs, read_all(pairs, tmp_path), strict=True):
        assert isinstance(scan, PairScan)
        assert isinstance(pair.image, Path)
        assert isinstance(pair.mask, Path)
        image = decode_image(pair.image.read_bytes(), source="")
        mask = decode_mask(pair.mask.read_bytes(), source="").values
        assert scan.image.sums == tuple(image.sum(axis=(0, 1), dtype=np.int64).tolist())
        assert sum(scan.mask.counts.values()) == mask.shape[0] * mask.shape[1]
        assert scan.image.phash


def test_little_is_kept_of_a_pair(tmp_path: Path) -> None:
    scan = one(write_pairs(tmp_path, 1)[0])
    pieces = [
        scan, scan.content, scan.image, scan.image.key, scan.image.picture, scan.image._numbers,
        scan.mask, scan.mask._numbers,
    ]  # fmt: skip
    assert sum(map(sys.getsizeof, pieces)) < 800
    other = one(write_pairs(tmp_path, 2)[1])
    assert scan.image._form is other.image._form
    assert scan.mask._form is other.mask._form


def test_reading_is_free_of_the_clock(tmp_path: Path) -> None:
    """What is read of a file depends on its content alone."""
    pair = write_pairs(tmp_path, 1)[0]
    assert isinstance(pair.image, Path)
    first = read_part("image", pair.image, (), lambda *_: None)
    time.sleep(0.02)
    pair.image.touch()
    second = read_part("image", pair.image, (), lambda *_: None)
    assert not isinstance(first, str)
    assert not isinstance(second, str)
    assert (first.key, first.record) == (second.key, second.record)
    assert first.stamp != second.stamp
