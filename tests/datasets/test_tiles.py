from __future__ import annotations

import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from unet_pipeline.datasets import images, raster, tiff
from unet_pipeline.datasets.array_files import Role
from unet_pipeline.datasets.encoders import encode_png
from unet_pipeline.datasets.file_kind import file_kind
from unet_pipeline.datasets.findings import Finding
from unet_pipeline.datasets.formats.contract import Found, Pair
from unet_pipeline.datasets.images import (
    decode_mask,
    read_bytes,
    read_image,
    read_mask,
)
from unet_pipeline.datasets.pages import Page
from unet_pipeline.datasets.tiles import cut_into_tiles, offsets
from unet_pipeline.errors import DatasetError, UserError

HEIGHT, WIDTH = 101, 83
SHAPE = (HEIGHT, WIDTH)


def noise(*shape: int, dtype: Any = np.uint8, high: int = 256, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def plain_mask(path: Path, shape: tuple[int, int] = SHAPE) -> Path:
    path.write_bytes(encode_png(noise(*shape, high=3)))
    return path


def cut(pair: Pair, folder: Path, *, size: int = 32, overlap: float = 0.0) -> tuple[Pair, ...]:
    return cut_into_tiles(Found((pair,), "one pair"), folder, size=size, overlap=overlap).pairs


def place(pair: Pair) -> tuple[int, int]:
    match = re.fullmatch(r".*/r(\d{4,})_c(\d{4,})", pair.sample_id)
    assert match
    return int(match[1]), int(match[2])


def joined(tiles: tuple[Pair, ...], role: Role) -> np.ndarray:
    """The picture that the tiles show; every pixel is seen, and tiles agree where they overlap."""
    read: Callable[[Path], np.ndarray] = read_image if role == "image" else read_mask
    parts = [(place(tile), read(getattr(tile, role))) for tile in tiles]
    height = max(y + part.shape[0] for (y, _), part in parts)
    width = max(x + part.shape[1] for (_, x), part in parts)
    first = parts[0][1]
    # a mask of 16 bits is read as 8 where its values are small
    dtype = np.uint16 if role == "mask" else first.dtype
    canvas = np.zeros((height, width, *first.shape[2:]), dtype)
    seen = np.zeros((height, width), bool)
    for (y, x), part in parts:
        assert role == "mask" or part.dtype == dtype
        here = np.s_[y : y + part.shape[0], x : x + part.shape[1]]
        assert (canvas[here][seen[here]] == part[seen[here]]).all()
        canvas[here] = part
        seen[here] = True
    assert seen.all()
    return canvas


# ---- where tiles lie ----------------------------------------------------------------------------


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("length", [1, 31, 32, 33, 64, 100, 257])
def test_tiles_cover_a_side_and_none_reaches_beyond(length: int, overlap: float) -> None:
    starts = offsets(length, 32, overlap)
    assert starts == sorted(set(starts))
    assert starts[0] == 0
    if length <= 32:
        assert starts == [0]
        return
    assert starts[-1] + 32 == length
    steps = np.diff(starts)
    assert (32 - steps >= round(32 * overlap)).all()  # neighbours share at least that
    assert (steps[:-1] == 32 - round(32 * overlap)).all()


def test_tiles_are_named_by_their_place_and_keep_split_and_group(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(encode_png(noise(70, 40, 3)))
    mask = plain_mask(tmp_path / "m.png", (70, 40))
    steps: list[tuple[int, int]] = []
    found = cut_into_tiles(
        Found(
            (Pair("d/a", image, mask, "val"), Pair("b", image, mask, "train", "p1")), "two pairs"
        ),
        tmp_path / "out",
        size=32,
        overlap=0.25,
        on_progress=lambda done, total: steps.append((done, total)),
    )
    assert steps == [(1, 2), (2, 2)]
    names = [f"r{y:04d}_c{x:04d}" for y in (0, 24, 38) for x in (0, 8)]
    assert [p.sample_id for p in found.pairs] == [
        f"{k}/{name}" for k in ("d/a", "b") for name in names
    ]
    assert {(p.split, p.group) for p in found.pairs[:6]} == {("val", "d/a")}
    assert {(p.split, p.group) for p in found.pairs[6:]} == {("train", "p1")}
    assert found.pairs[1].image == tmp_path / "out" / "images" / "d" / "a" / "r0000_c0008.png"
    assert found.pairs[1].mask == tmp_path / "out" / "masks" / "d" / "a" / "r0000_c0008.png"
    assert all(read_image(p.image).shape == (32, 32, 3) for p in found.pairs)  # type: ignore[arg-type]
    assert found.sentence == (
        "two pairs; cut into 12 tiles of 32x32 pixels that share 0.25 with their neighbours"
    )
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_an_image_smaller_than_a_tile_stays_whole(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(encode_png(noise(20, 70)))
    tiles = cut(Pair("a", image, plain_mask(tmp_path / "m.png", (20, 70))), tmp_path / "out")
    assert [read_image(t.image).shape for t in tiles] == [(20, 32, 1)] * 3  # type: ignore[arg-type]
    (tile,) = cut(Pair("a", image, tmp_path / "m.png"), tmp_path / "two", size=100)
    assert (joined((tile,), "image") == read_image(image)).all()


# ---- pixels of images ---------------------------------------------------------------------------


def save_tiff(path: Path, array: np.ndarray, **options: Any) -> None:
    tifffile.imwrite(path, array, **({"photometric": "minisblack"} | options))


def turned_jpeg(path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    # stored sideways: upright it is as high and as wide as the others
    Image.fromarray(noise(WIDTH, HEIGHT, 3)).save(path, exif=exif.tobytes())


def pages_as_channels(path: Path) -> None:
    with tifffile.TiffWriter(path) as writer:
        for channel in noise(4, *SHAPE, dtype=np.uint16, high=65536):
            writer.write(channel, photometric="minisblack", compression="zlib", metadata=None)


CASES: dict[str, Callable[[Path], object]] = {
    "grey8.png": lambda p: p.write_bytes(encode_png(noise(*SHAPE))),
    "rgb8.png": lambda p: p.write_bytes(encode_png(noise(*SHAPE, 3))),
    "rgb16.png": lambda p: p.write_bytes(
        encode_png(noise(*SHAPE, 3, dtype=np.uint16, high=65536))
    ),
    "turned.jpg": turned_jpeg,
    "palette.png": lambda p: p.write_bytes(
        encode_png(noise(*SHAPE, high=4), [(0, 0, 0), (9, 9, 9), (200, 0, 0), (0, 0, 7)] * 64)
    ),
    "tiled.tif": lambda p: save_tiff(p, noise(*SHAPE), tile=(16, 32), compression="zlib"),
    "strips.tif": lambda p: save_tiff(
        p, noise(*SHAPE, dtype=np.uint16, high=65536), rowsperstrip=7, compression="lzw",
        predictor=True,
    ),
    "raw.tif": lambda p: save_tiff(p, noise(*SHAPE, 3), photometric="rgb"),
    "raw_tiles.tif": lambda p: save_tiff(p, noise(*SHAPE, 3), photometric="rgb", tile=(16, 16)),
    "big_endian.tif": lambda p: save_tiff(
        p, noise(*SHAPE, dtype=np.uint16, high=65536), byteorder=">"
    ),
    "big.tif": lambda p: save_tiff(
        p, noise(*SHAPE), bigtiff=True, tile=(32, 16), compression="zlib"
    ),
    "float.tif": lambda p: save_tiff(
        p, noise(*SHAPE).astype(np.float32) / 7, tile=(16, 16), compression="zlib", predictor=3
    ),
    "float64.tif": lambda p: save_tiff(p, noise(*SHAPE).astype(np.float64) / 7),
    "int32.tif": lambda p: save_tiff(p, noise(*SHAPE).astype(np.int32) - 9, rowsperstrip=9,
                                     compression="zlib"),
    "five.tif": lambda p: save_tiff(
        p, noise(*SHAPE, 5), planarconfig="contig", tile=(16, 16), compression="zlib"
    ),
    "five_planes.tif": lambda p: save_tiff(
        p, noise(5, *SHAPE), planarconfig="separate", tile=(16, 16), compression="zlib"
    ),
    "five_raw_planes.tif": lambda p: save_tiff(p, noise(5, *SHAPE), planarconfig="separate"),
    "five_pages.tif": lambda p: save_tiff(p, noise(5, *SHAPE), compression="zlib"),
    "five_raw_pages.tif": lambda p: save_tiff(p, noise(5, *SHAPE)),
    "rows_as_pages.tif": lambda p: save_tiff(p, noise(*SHAPE, 5), compression="zlib"),
    "imagej.tif": lambda p: tifffile.imwrite(
        p, noise(3, *SHAPE, dtype=np.uint16, high=65536), imagej=True, metadata={"axes": "CYX"}
    ),
    "rgba.tif": lambda p: save_tiff(
        p, noise(*SHAPE, 4), photometric="rgb", extrasamples=["unassalpha"], tile=(16, 16),
        compression="zlib",
    ),
    "infrared.tif": lambda p: save_tiff(
        p, noise(*SHAPE, 4), photometric="rgb", extrasamples=["unspecified"], rowsperstrip=10,
        compression="zlib",
    ),
    "white_is_zero.tif": lambda p: save_tiff(
        p, noise(*SHAPE), photometric="miniswhite", rowsperstrip=10, compression="zlib"
    ),
    "one_bit.tif": lambda p: save_tiff(
        p, noise(*SHAPE, high=2).astype(bool), rowsperstrip=10, compression="zlib"
    ),
    "colors.tif": lambda p: save_tiff(
        p, noise(*SHAPE), photometric="palette", rowsperstrip=10, compression="zlib",
        colormap=noise(3, 256, dtype=np.uint16, high=65536),
    ),
    "jpeg.tif": lambda p: save_tiff(
        p, noise(*SHAPE, 3), photometric="ycbcr", tile=(16, 16), compression="jpeg"
    ),
    "cmyk.tif": lambda p: Image.merge(
        "CMYK", [Image.fromarray(noise(*SHAPE, seed=k)) for k in range(4)]
    ).save(p),
    "packed.tif": lambda p: Image.fromarray(noise(*SHAPE)).save(p, compression="packbits"),
    "grey.npy": lambda p: np.save(p, noise(*SHAPE, dtype=np.uint16, high=65536)),
    "channels.npy": lambda p: np.save(p, noise(*SHAPE, 7).astype(np.float32)),
    "front.npy": lambda p: np.save(p, noise(4, *SHAPE)),
    "fortran.npy": lambda p: np.save(p, np.asfortranarray(noise(*SHAPE, 3))),
    "big_endian.npy": lambda p: np.save(p, noise(*SHAPE, dtype=">u2", high=65536)),
    "flags.npy": lambda p: np.save(p, noise(*SHAPE, high=2).astype(bool)),
    "array.npz": lambda p: np.savez(p, image=noise(*SHAPE, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_tiles_of_an_image_are_its_pixels(tmp_path: Path, name: str) -> None:
    image = tmp_path / name
    CASES[name](image)
    whole = read_image(image)
    assert whole.shape[:2] == SHAPE
    tiles = cut(Pair("a", image, plain_mask(tmp_path / "m.png")), tmp_path / "out", overlap=0.3)
    back = joined(tiles, "image")
    assert back.dtype == whole.dtype
    assert (back == whole).all()
    assert {t.image.suffix for t in tiles} == {  # type: ignore[union-attr]
        ".png" if whole.dtype != np.float32 and whole.shape[2] in (1, 3) else ".tif"
    }


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("options", [{}, {"tile": (16, 16), "compression": "zlib"}])
def test_a_turned_tiff_is_cut_upright(
    tmp_path: Path, orientation: int, options: dict[str, Any]
) -> None:
    image = tmp_path / "a.tif"
    tag = [(274, "H", 1, orientation, True)]
    save_tiff(image, noise(*SHAPE, 3), photometric="rgb", extratags=tag, **options)
    whole = read_image(image)
    mask = plain_mask(tmp_path / "m.png", whole.shape[:2])
    assert (joined(cut(Pair("a", image, mask), tmp_path / "out"), "image") == whole).all()


def test_segments_that_are_left_out_are_zero(tmp_path: Path) -> None:
    image = tmp_path / "a.tif"
    tile = noise(32, 32, high=200) + 1
    tifffile.imwrite(image, iter([tile, None, tile, None]), shape=(64, 64), dtype=np.uint8,
                     tile=(32, 32), compression="zlib", photometric="minisblack")  # fmt: skip
    tiles = cut(Pair("a", image, plain_mask(tmp_path / "m.png", (64, 64))), tmp_path / "out")
    whole = read_image(image)
    assert whole[:, :32].all()
    assert not whole[:, 32:].any()
    assert (joined(tiles, "image") == whole).all()


def test_what_was_made_is_cut_too(tmp_path: Path) -> None:
    stack, masks = tmp_path / "s.tif", tmp_path / "t.tif"
    save_tiff(stack, noise(3, *SHAPE), metadata=None)
    save_tiff(masks, noise(3, *SHAPE, high=3), metadata=None)
    pair = Pair("s/p0001", Page(stack, 1, as_mask=False), Page(masks, 1, as_mask=True), None, "s")
    tiles = cut(pair, tmp_path / "out")
    assert (joined(tiles, "image")[..., 0] == noise(3, *SHAPE)[1]).all()
    assert (joined(tiles, "mask") == noise(3, *SHAPE, high=3)[1]).all()
    assert {t.group for t in tiles} == {"s"}


# ---- values of masks ----------------------------------------------------------------------------


def two_halves(low: int, high: int, dtype: Any) -> np.ndarray:
    """Small values above, and one large one below."""
    mask = noise(*SHAPE, high=low).astype(dtype)
    mask[-5:] = high
    return mask


def rgb_mask() -> np.ndarray:
    """Black above, red and blue below: tiles of one colour must not become grey by chance."""
    mask = np.zeros((*SHAPE, 3), np.uint8)
    mask[50:] = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)[noise(HEIGHT - 50, WIDTH, high=2)]
    return mask


def bits(path: Path, depth: int) -> None:
    """A grey PNG of 1, 2 or 4 bits, made by hand: Pillow writes no others than 1."""
    values = noise(*SHAPE, high=2**depth)
    spread = ((values[..., None] >> np.arange(depth)[::-1]) & 1).reshape(HEIGHT, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(spread, axis=1))
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in chunks
        )
    )


VOC_LIKE = [(k % 7 * 30, k % 5 * 40, k % 3 * 80) for k in range(256)]
MASKS: dict[str, Callable[[Path], object]] = {
    "grey.png": lambda p: p.write_bytes(encode_png(noise(*SHAPE, high=3))),
    "palette.png": lambda p: p.write_bytes(encode_png(noise(*SHAPE, high=256), VOC_LIKE)),
    "short_palette.png": lambda p: p.write_bytes(encode_png(noise(*SHAPE, high=3), VOC_LIKE[:3])),
    "one_bit.png": lambda p: bits(p, 1),
    "two_bits.png": lambda p: bits(p, 2),
    "four_bits.png": lambda p: bits(p, 4),
    "numbers.png": lambda p: p.write_bytes(encode_png(two_halves(3, 5000, np.uint16))),
    "colors.png": lambda p: p.write_bytes(encode_png(rgb_mask())),
    "grey.tif": lambda p: save_tiff(p, noise(*SHAPE, high=3), tile=(16, 16), compression="zlib"),
    "one_bit.tif": lambda p: save_tiff(
        p, noise(*SHAPE, high=2).astype(bool), rowsperstrip=10, compression="zlib"
    ),
    "numbers.tif": lambda p: save_tiff(p, two_halves(3, 5000, np.uint16), byteorder=">"),
    "palette.tif": lambda p: save_tiff(
        p, noise(*SHAPE), photometric="palette", rowsperstrip=10, compression="zlib",
        colormap=np.array(VOC_LIKE, np.uint16).T * 257,
    ),
    "colors.tif": lambda p: save_tiff(
        p, rgb_mask(), photometric="rgb", tile=(16, 16), compression="zlib"
    ),
    "whole_floats.tif": lambda p: save_tiff(p, noise(*SHAPE, high=4).astype(np.float32)),
    "int64.npy": lambda p: np.save(p, noise(*SHAPE, high=4, dtype=np.int64)),
    "numbers.npy": lambda p: np.save(p, two_halves(3, 5000, ">u2")),
}  # fmt: skip


@pytest.mark.parametrize("name", MASKS)
def test_the_tiles_of_a_mask_are_its_values(tmp_path: Path, name: str) -> None:
    image, mask = tmp_path / "i.png", tmp_path / name
    image.write_bytes(encode_png(noise(*SHAPE, 3)))
    MASKS[name](mask)
    whole = decode_mask(read_bytes(mask), source=name)
    tiles = cut(Pair("a", image, mask), tmp_path / "out", size=40)
    if "colors" in name:  # tiles of black alone are read as grey
        tiles = tuple(t for t in tiles if place(t)[0] > 50)
        assert (joined_below(tiles) == whole.values[61:]).all()
    else:
        assert (joined(tiles, "mask") == whole.values).all()
    for tile in tiles:
        part = decode_mask(read_bytes(tile.mask), source="tile")  # type: ignore[arg-type]
        assert part.encoding == whole.encoding
        assert file_kind(read_bytes(tile.mask)).bits in (  # type: ignore[arg-type]
            (16,) if "numbers" in name else (1, 2, 4, 8)
        )
        if whole.palette is not None:
            assert part.palette is not None
            used = np.unique(part.values)
            assert (part.palette[used] == whole.palette[used]).all()


def joined_below(tiles: tuple[Pair, ...]) -> np.ndarray:
    """The rows of the last band of tiles, with their colours."""
    canvas = np.zeros((40, WIDTH, 3), np.uint8)
    for tile in tiles:
        x = place(tile)[1]
        canvas[:, x : x + 40] = read_mask(tile.mask)  # type: ignore[arg-type]
    return canvas


def jpeg_mask(path: Path) -> None:
    Image.fromarray(noise(*SHAPE, high=2) * np.uint8(255)).save(path)


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("m.jpg", jpeg_mask, r"compression blurs values \(JPEG\).* run --fix first"),
        (
            "m.tif",
            lambda p: save_tiff(
                p, noise(*SHAPE, 3), photometric="ycbcr", tile=(16, 16), compression="jpeg"
            ),
            "compression blurs values",
        ),
        ("m.npy", lambda p: np.save(p, noise(*SHAPE, high=3).astype(int) - 1), "-1 for void"),
        ("v.tif", lambda p: save_tiff(p, two_halves(3, -1, np.int16)), "-1 for void"),
        ("f.tif", lambda p: save_tiff(p, noise(*SHAPE) / np.float32(3)), "must hold whole numbers"),
        (
            "s.png",
            lambda p: plain_mask(p, (HEIGHT, WIDTH + 1)),
            "is 83x101 pixels, its mask .*84x101",
        ),
        ("t.tif", lambda p: save_tiff(p, noise(3, *SHAPE), metadata=None), r"holds 3 pages"),
        ("c.npy", lambda p: p.write_bytes(b"\x93NUMPY\1\0v\0" + b"x" * 80), "cannot be decoded"),
        ("gone.png", lambda p: None, "no such file"),
    ],
)
def test_a_mask_that_tiles_cannot_keep_is_refused_in_one_line(
    tmp_path: Path, name: str, make: Callable[[Path], object], message: str
) -> None:
    image, mask = tmp_path / "i.png", tmp_path / name
    image.write_bytes(encode_png(noise(*SHAPE, 3)))
    make(mask)
    with pytest.raises(DatasetError, match=message) as caught:
        cut(Pair("a", image, mask), tmp_path / "out")
    assert str(mask) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_ends_early_is_named(tmp_path: Path) -> None:
    for name, make in (("a.tif", save_tiff), ("a.npy", np.save)):
        image = tmp_path / name
        make(image, noise(*SHAPE))
        image.write_bytes(image.read_bytes()[:-40])
        with pytest.raises(DatasetError, match=re.escape(str(image))) as caught:
            cut(Pair("a", image, plain_mask(tmp_path / "m.png")), tmp_path / "out")
        assert "\n" not in str(caught.value)


def test_options_that_cannot_be_and_findings_stop_before_any_work(tmp_path: Path) -> None:
    found = Found((), "none")
    for size, overlap in ((0, 0.0), (32, 1.0), (32, -0.1)):
        with pytest.raises(UserError, match=f"tiles of {size} pixels"):
            cut_into_tiles(found, tmp_path / "out", size=size, overlap=overlap)
    fault = Finding("unpaired-images", "error", "3 images have no mask", remedy="add them")
    with pytest.raises(DatasetError, match="3 images have no mask; add them"):
        cut_into_tiles(Found((), "x", findings=(fault,)), tmp_path / "out", size=9, overlap=0.0)
    assert not (tmp_path / "out").exists()


# ---- huge files ---------------------------------------------------------------------------------


def test_only_what_is_decoded_whole_has_to_be_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tiled.tif", "raw.tif", "five_pages.tif", "grey.npy", "grey8.png"):
        CASES[name](tmp_path / name)
    mask = plain_mask(tmp_path / "m.png", SHAPE)
    save_tiff(tmp_path / "m.tif", read_mask(mask))
    for module in (images, raster, tiff):
        monkeypatch.setattr(module, "MAX_PIXELS", 1000)
    for name in ("tiled.tif", "raw.tif", "five_pages.tif", "grey.npy"):
        assert cut(Pair(name, tmp_path / name, tmp_path / "m.tif"), tmp_path / "out")
    with pytest.raises(DatasetError, match=r"claims 83x101 pixels, more than the 1000"):
        cut(Pair("p", tmp_path / "grey8.png", tmp_path / "m.tif"), tmp_path / "out")


MEASURE = """
import re, sys
from pathlib import Path
from unet_pipeline.datasets.formats.contract import Found, Pair
from unet_pipeline.datasets.tiles import cut_into_tiles

def peak():  # of this program alone: getrusage counts its parent's too
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

small, huge = Path(sys.argv[1]), Path(sys.argv[2])
for path in (small, huge):
    before = peak()
    found = Found((Pair(path.stem, path, path),), "")
    found = cut_into_tiles(found, path.parent / "o", size=512, overlap=0.0)
print(before, peak() - before, len(found.pairs))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak")
def test_memory_does_not_grow_with_the_image(tmp_path: Path) -> None:
    height, width, tile = 4_096, 12_000, 256
    count = -(-height // tile) * -(-width // tile)
    blocks = (np.full((tile, tile), k % 251, np.uint8) for k in range(count))
    tifffile.imwrite(tmp_path / "huge.tif", blocks, shape=(height, width), dtype=np.uint8,
                     tile=(tile, tile), compression="zlib", photometric="minisblack")  # fmt: skip
    save_tiff(tmp_path / "small.tif", noise(600, 600), tile=(256, 256), compression="zlib")
    output = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / "small.tif", tmp_path / "huge.tif"],
        check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    before, used, num_tiles = map(int, output.stdout.split())
    assert num_tiles == 8 * 24
    assert before > 2**24  # what the libraries take: the measure is one
    assert used < height * width / 4
    last = tmp_path / "o" / "images" / "huge" / f"r{height - 512:05d}_c{width - 512:05d}.png"
    assert read_image(last)[-1, -1, 0] == (count - 1) % 251
