from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from tests.datasets.image_cases import chunk, raw_png, saved
from unet_pipeline.datasets import images
from unet_pipeline.datasets.encoders import encode_png
from unet_pipeline.datasets.images import (
    decode_mask,
    probe,
    read_image,
    read_mask,
    to_channels,
)
from unet_pipeline.errors import DatasetError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
SMOOTH = np.add.outer(np.arange(40), np.arange(60)).astype(np.uint8)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(data: bytes, name: str = "x.png") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


Write = Callable[..., Path]


# ---- images -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (saved(GREY), GREY[..., None]),
        (saved(RGB), RGB),
        (saved(np.dstack([RGB, GREY])), RGB),  # alpha dropped, hidden colours kept
        (saved(np.dstack([GREY, GREY]), format="PNG"), GREY[..., None]),
        (saved(GREY > 99), ((GREY > 99) * np.uint8(255))[..., None]),
        (saved(GREY, format="BMP"), GREY[..., None]),
        (saved(RGB, format="BMP"), RGB),
        (saved(RGB, format="WEBP", lossless=True), RGB),
        (saved(GREY, format="GIF"), GREY[..., None]),
        (saved(RGB, format="TIFF"), RGB),
        (raw_png([b"\x1b"], 4, 2, 0), np.array([[0, 85, 170, 255]], np.uint8)[..., None]),
        (raw_png([b"\x0f"], 2, 4, 0), np.array([[0, 255]], np.uint8)[..., None]),
    ],
    ids=[
        "grey",
        "rgb",
        "rgba",
        "la",
        "one_bit",
        "bmp",
        "bmp_rgb",
        "webp",
        "gif",
        "tiff",
        "two_bits",
        "four_bits",
    ],
)
def test_an_image_is_read_as_height_width_channels(
    write: Write, data: bytes, expected: np.ndarray
) -> None:
    image = read_image(write(data))
    np.testing.assert_array_equal(image, expected)
    assert image.dtype == np.uint8
    assert image.flags.writeable
    header = probe(write(data))
    assert (header.height, header.width, header.channels) == expected.shape


@pytest.mark.parametrize(
    ("color", "channels", "expected_channels"), [(0, 1, 1), (2, 3, 3), (4, 2, 1), (6, 4, 3)]
)
def test_sixteen_bits_are_kept(
    write: Write, color: int, channels: int, expected_channels: int
) -> None:
    values = RNG.integers(0, 65536, (3, 4, channels), dtype=np.uint16)
    values[0, 0, 0] = 300  # what Pillow clips to 255 and OpenCV shifts to 1
    rows = [row.astype(">u2").tobytes() for row in values]
    path = write(raw_png(rows, 4, 16, color))
    image = read_image(path)
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image, values[..., :expected_channels])
    assert tuple(probe(path)) == (4, 3, expected_channels)


def interlaced_png(pixels: np.ndarray, depth: int, color: int) -> bytes:
    """A PNG file in the seven passes of Adam7, of pixels (H, W, bytes of a pixel)."""
    height, width = pixels.shape[:2]
    size = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 1)
    starts = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2))
    rows = [
        b"\0" + row.tobytes()
        for x, y, step_x, step_y in (*starts, (0, 1, 1, 2))
        for row in pixels[y::step_y, x::step_x]
        if row.size
    ]
    parts = (chunk(b"IHDR", size), chunk(b"IDAT", zlib.compress(b"".join(rows))))
    return b"\x89PNG\r\n\x1a\n" + b"".join((*parts, chunk(b"IEND", b"")))


def test_interlaced_pictures_are_read(write: Write) -> None:
    np.testing.assert_array_equal(read_image(write(interlaced_png(RGB, 8, 2))), RGB)
    np.testing.assert_array_equal(read_mask(write(interlaced_png(GREY[..., None], 8, 0))), GREY)
    wide = RNG.integers(0, 65536, (11, 13), dtype=np.uint16)
    as_bytes = wide.astype(">u2").view(np.uint8).reshape(11, 13, 2)
    np.testing.assert_array_equal(read_image(write(interlaced_png(as_bytes, 16, 0)))[..., 0], wide)


def test_a_palette_image_gives_its_colours_and_a_grey_palette_one_channel(write: Write) -> None:
    colours = [(10, 20, 30), (40, 50, 60), (70, 80, 90)]
    indices = np.array([[0, 1], [2, 0]], np.uint8)
    path = write(encode_png(indices, colours))
    np.testing.assert_array_equal(read_image(path), np.array(colours, np.uint8)[indices])
    assert probe(path).channels == 3
    path = write(encode_png(indices, [(9, 9, 9), (4, 4, 4), (200, 200, 200)]))
    np.testing.assert_array_equal(read_image(path)[..., 0], [[9, 4], [200, 9]])
    assert probe(path).channels == 1


def test_a_cmyk_jpeg_becomes_rgb(write: Write) -> None:
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    file = io.BytesIO()
    cmyk.save(file, format="JPEG", quality=95)
    image = read_image(write(file.getvalue(), "x.jpg"))
    assert image.shape == (16, 16, 3)
    assert image[..., 0].min() > 200
    assert image[..., 1:].max() < 60


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_images_are_upright(write: Write, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(SMOOTH).save(file, format=kind, exif=exif)
    path = write(file.getvalue())
    with Image.open(io.BytesIO(file.getvalue())) as opened:
        # Pillow turns TIFF files by itself, and would turn them twice
        expected = np.asarray(opened if kind == "TIFF" else ImageOps.exif_transpose(opened))
    np.testing.assert_array_equal(read_image(path)[..., 0], expected)
    header = probe(path)
    assert (header.height, header.width) == expected.shape


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03",
        b"Exif\0\0garbage",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0\0\0\0\0",
    ],
    ids=["cut", "garbage", "orientation_9"],
)
def test_damaged_exif_means_upright(write: Write, exif: bytes) -> None:
    file = io.BytesIO()
    Image.fromarray(SMOOTH).save(file, format="JPEG", exif=exif, dpi=(72, 72))
    assert read_image(write(file.getvalue())).shape == (40, 60, 1)


def test_the_content_decides_not_the_name(write: Write) -> None:
    np.testing.assert_array_equal(read_image(write(saved(RGB), "x.jpg")), RGB)
    np.testing.assert_array_equal(read_image(write(saved(RGB), "no_extension")), RGB)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (GREY, GREY[..., None]),
        (RGB, RGB),
        (np.moveaxis(RGB, 2, 0), RGB),
        (RGB.astype(np.uint16) * 200, RGB.astype(np.uint16) * 200),
        (RGB.astype(np.float64) / 7, (RGB.astype(np.float64) / 7).astype(np.float32)),
        (RGB.astype(np.int16) - 100, (RGB.astype(np.int16) - 100).astype(np.float32)),
        (RGB > 99, (RGB > 99) * np.uint8(255)),
        (RGB.astype(">u2"), RGB.astype(np.uint16)),
        (RNG.random((16, 20, 30), dtype=np.float32), None),
    ],
    ids=[
        "hw",
        "hwc",
        "chw",
        "uint16",
        "float64",
        "int16",
        "bool",
        "big_endian",
        "sixteen_channels",
    ],
)
def test_arrays_are_images_too(
    tmp_path: Path, array: np.ndarray, expected: np.ndarray | None
) -> None:
    path = tmp_path / "x.npy"
    np.save(path, array)
    expected = np.moveaxis(array, 0, 2) if expected is None else expected
    image = read_image(path)
    np.testing.assert_array_equal(image, expected)
    assert image.dtype == expected.dtype
    assert image.dtype.isnative
    assert tuple(probe(path)) == (expected.shape[1], expected.shape[0], expected.shape[2])


# ---- files that are no images -------------------------------------------------------------------

JPEG = saved(SMOOTH, format="JPEG")
PNG = saved(SMOOTH)


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"\0" * 500, "none of the formats"),
        (b"<html>not found</html>", "none of the formats"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS pointer"),
        (JPEG[: len(JPEG) * 9 // 10], "cut off"),
        (JPEG[: len(JPEG) // 2] + b"\xff\xd9", "cannot be decoded"),
        (saved(SMOOTH, format="JPEG", progressive=True)[:-40], "cut off"),
        (PNG[: len(PNG) // 2], "cut off"),
        (PNG[:20], "cut off"),
        (PNG[:-12], "cut off"),
        (flipped(PNG, PNG.index(b"IDAT") + 30), "wrong checksum"),
        (raw_png([b"\0"], 10**6, 8, 0, height=10**6), "claims 1000000x1000000"),
        (raw_png([b"\0"], 2**31 - 1, 8, 0, height=2**31 - 1), "claims"),
        (raw_png([b""], 0, 8, 0, height=4), "claims 0x4"),
        (raw_png([b"\0" * 4], 4, 16, 0, height=9), "damaged"),
        (saved(SMOOTH, format="BMP")[:500], "cannot be decoded"),
        (saved(SMOOTH, format="GIF")[:200], "cannot be decoded"),
        (saved(SMOOTH, format="WEBP")[:40], "cannot be decoded"),
        (b"\x93NUMPY\x01\0", "cannot be decoded"),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(write: Write, data: bytes, words: str) -> None:
    path = write(data)
    for read in (read_image, read_mask):
        with pytest.raises(DatasetError, match=words) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 4


def test_half_a_picture_is_refused_whatever_another_library_has_set(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    path = write(JPEG[: len(JPEG) // 2] + b"\xff\xd9")
    with pytest.raises(DatasetError):
        read_image(path)


def test_animations_are_refused_with_what_to_do(write: Write) -> None:
    frames = [Image.fromarray(SMOOTH), Image.fromarray(SMOOTH[::-1])]
    for kind in ("GIF", "PNG", "WEBP"):
        file = io.BytesIO()
        frames[0].save(file, format=kind, save_all=True, append_images=frames[1:])
        with pytest.raises(DatasetError, match=r"animation.*--pages samples.*--pages channels"):
            read_image(write(file.getvalue()))


def test_a_text_chunk_that_explodes_is_refused(write: Write) -> None:
    bomb = chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 2**26))
    with pytest.raises(DatasetError):
        read_image(write(raw_png([b"\0" * 4], 4, 8, 0, bomb)))


@pytest.mark.timeout(20)
def test_a_pipe_a_device_and_a_folder_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for name in ("pipe", "zero", "folder", "gone", "loop"):
        for read in (read_image, probe):
            with pytest.raises(DatasetError, match=f"{name}.png"):
                read(tmp_path / f"{name}.png")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file"):
        read_image(tmp_path / "gone.png")


def test_names_that_are_not_utf8_can_be_read(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    try:
        path.write_bytes(saved(RGB))
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    np.testing.assert_array_equal(read_image(path), RGB)


def test_a_file_larger_than_the_limit_is_refused(write: Write) -> None:
    path = write(saved(np.zeros((4, 4), np.uint8)))
    with pytest.raises(DatasetError, match="more than the 10"), images.open_regular(path, limit=10):
        pass
    with images.open_regular(path, limit=None) as file:
        assert file.read() == path.read_bytes()


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    for bad in (np.nan, np.inf, 1e300):
        np.save(tmp_path / "x.npy", np.array([[0.0, bad]]))
        with pytest.raises(DatasetError, match="1 values are not finite"):
            read_image(tmp_path / "x.npy")


def test_a_pickle_in_an_array_file_is_never_loaded(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "executed"),)

    np.save(tmp_path / "x.npy", np.array([[Evil()]], dtype=object), allow_pickle=True)
    with pytest.raises(DatasetError, match="Python objects"):
        read_image(tmp_path / "x.npy")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("array", [np.zeros((2, 2), "c8"), np.zeros((2, 2), "S3")])
def test_arrays_of_other_things_than_numbers_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(DatasetError, match=r"x.npy: .* numbers of type"):
        read_image(tmp_path / "x.npy")
    with pytest.raises(DatasetError, match=r"x.npy: .* numbers of type"):
        read_mask(tmp_path / "x.npy")


@pytest.mark.parametrize("shape", [(4,), (0, 3), (30, 100, 100), (2, 3, 4, 5)])
def test_arrays_of_other_shapes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "x.npy", np.zeros(shape, np.uint8))
    with pytest.raises(DatasetError, match=r"shape"):
        read_image(tmp_path / "x.npy")


# ---- masks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (saved(GREY > 99), GREY > 99),  # one bit: 0 and 1, as ids
        (raw_png([b"\x1b"], 4, 2, 0), [[0, 1, 2, 3]]),
        (raw_png([b"\x0f"], 2, 4, 0), [[0, 15]]),
        (raw_png([b"\x1b"], 4, 2, 3, chunk(b"PLTE", bytes(range(12)))), [[0, 1, 2, 3]]),
        (raw_png([b"\x80"], 2, 1, 3, chunk(b"PLTE", bytes(6))), [[1, 0]]),
        (encode_png(np.array([[0, 1, 255]], np.uint8), [(9, 8, 7)] * 256), [[0, 1, 255]]),
        (saved(np.dstack([GREY, GREY, GREY])), GREY),  # R = G = B is one channel
        (saved(np.dstack([GREY, GREY, GREY, GREY])), GREY),
        (saved(np.array([[0, 300, 600]], np.uint16)), [[0, 300, 600]]),
        (saved(RGB), RGB),
        (saved(np.dstack([RGB, GREY])), RGB),
    ],
    ids=[
        "1",
        "2",
        "4",
        "palette2",
        "palette1",
        "palette",
        "grey_rgb",
        "grey_rgba",
        "16",
        "rgb",
        "rgba",
    ],
)
def test_a_mask_has_the_values_of_its_file(write: Write, data: bytes, expected: object) -> None:
    mask = read_mask(write(data))
    np.testing.assert_array_equal(mask, expected)
    assert mask.dtype in (np.uint8, np.uint16)


def test_a_palette_mask_gives_its_colours_where_colours_are_asked_for(write: Write) -> None:
    colours = [(10, 20, 30), (40, 50, 60)]
    path = write(encode_png(np.array([[0, 1]], np.uint8), colours))
    np.testing.assert_array_equal(read_mask(path), [[0, 1]])
    np.testing.assert_array_equal(read_mask(path, encoding="palette"), [[0, 1]])
    np.testing.assert_array_equal(read_mask(path, encoding="rgb"), [colours])
    path = write(saved(np.array([[False, True]])))
    np.testing.assert_array_equal(read_mask(path, encoding="rgb"), [[[0] * 3, [255] * 3]])


def test_masks_are_turned_like_images(write: Write) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = write(saved(SMOOTH, exif=exif))
    np.testing.assert_array_equal(read_mask(path), read_image(path)[..., 0])
    assert read_mask(path).shape == (60, 40)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0.0, 3.0]]), np.array([[0, 3]], np.uint8)),
        (np.array([[0, 3]], np.int64), np.array([[0, 3]], np.uint8)),
        (np.array([[False, True]]), np.array([[0, 1]], np.uint8)),
        (np.array([[0, 700]], np.int32), np.array([[0, 700]], np.uint16)),
    ],
)
def test_whole_numbers_of_any_type_are_mask_values(
    tmp_path: Path, array: np.ndarray, expected: np.ndarray
) -> None:
    np.save(tmp_path / "m.npy", array)
    mask = read_mask(tmp_path / "m.npy")
    np.testing.assert_array_equal(mask, expected)
    assert mask.dtype == expected.dtype


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0, 7, -1]], np.int8), np.array([[0, 7, 255]], np.uint8)),
        (np.array([[0.0, 254.0, -1.0]]), np.array([[0, 254, 255]], np.uint8)),
        (np.array([[0, 255, -1]]), np.array([[0, 255, 65535]], np.uint16)),
        (np.array([[-1, -1]]), np.array([[255, 255]], np.uint8)),
    ],
)
def test_minus_one_is_void_and_becomes_a_value_that_nothing_else_has(
    tmp_path: Path, array: np.ndarray, expected: np.ndarray
) -> None:
    np.save(tmp_path / "m.npy", array)
    mask = decode_mask((tmp_path / "m.npy").read_bytes(), source="m")
    np.testing.assert_array_equal(mask.values, expected)
    assert mask.values.dtype == expected.dtype
    assert mask.void
    np.testing.assert_array_equal(read_mask(tmp_path / "m.npy"), expected)


def test_a_255_of_the_file_itself_is_not_said_to_be_void() -> None:
    assert not decode_mask(saved(np.array([[0, 255]], np.uint8)), source="m").void


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array([[0.0, 0.5]]), "1 pixels do not \\(0.5"),
        (np.array([[0.0, np.nan]]), "1 pixels do not"),
        (np.array([[0, -1, -2]]), "mask value -2"),
        (np.array([[0, -1, 65535]]), "-1 \\(void\\) beside 65535"),
        (np.array([[0, 70000]]), "mask value 70000"),
        (np.zeros((9, 9, 5), np.uint8) + np.arange(5, dtype=np.uint8), "5 channels"),
        (RGB.astype(np.uint16) * 9, "3 channels \\(uint16\\)"),
    ],
)
def test_what_is_no_mask_is_refused(tmp_path: Path, array: np.ndarray, words: str) -> None:
    np.save(tmp_path / "m.npy", array)
    with pytest.raises(DatasetError, match=words):
        read_mask(tmp_path / "m.npy")


def test_blurring_formats_are_known() -> None:
    assert decode_mask(JPEG, source="m").lossy
    assert decode_mask(saved(SMOOTH, format="WEBP"), source="m").lossy
    assert not decode_mask(saved(SMOOTH, format="WEBP", lossless=True), source="m").lossy
    assert not decode_mask(PNG, source="m").lossy


# ---- channels ------------------------------------------------------------------------------------


def test_grey_becomes_rgb_by_repeating() -> None:
    image = to_channels(GREY[..., None], 3, "x")
    np.testing.assert_array_equal(image, np.dstack([GREY] * 3))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_rgb_becomes_grey_by_its_luma(dtype: type) -> None:
    grey = to_channels(RGB.astype(dtype), 1, "x")
    assert grey.shape == (5, 7, 1)
    assert grey.dtype == dtype
    luma = RGB @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(grey[..., 0], luma, atol=1)
    equal = np.dstack([GREY] * 3).astype(dtype)
    exact = 0 if dtype is not np.float32 else 1e-6
    np.testing.assert_allclose(to_channels(equal, 1, "x")[..., 0], GREY, rtol=exact)


def test_alpha_is_dropped_and_other_channels_are_refused() -> None:
    rgba = np.dstack([RGB, GREY])
    np.testing.assert_array_equal(to_channels(rgba, 3, "x"), RGB)
    np.testing.assert_array_equal(to_channels(rgba, 1, "x"), to_channels(RGB, 1, "x"))
    np.testing.assert_array_equal(to_channels(np.dstack([GREY, GREY]), 1, "x")[..., 0], GREY)
    assert to_channels(rgba, 4, "x") is rgba
    for have, want in ((5, 3), (3, 4), (1, 5)):
        with pytest.raises(DatasetError, match=f"pic: an image of {have} channels where {want}"):
            to_channels(np.zeros((2, 2, have), np.uint8), want, "pic")


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP"]))
def test_damage_anywhere_gives_an_image_or_a_dataset_error(place: int, kind: str) -> None:
    whole = saved(SMOOTH, format=kind)
    damaged = flipped(whole, place % len(whole))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own about odd tags
        try:
            image = images.decode_image(damaged, source="x")
        except DatasetError as error:
            assert str(error).startswith("x: ")  # noqa: PT017  either outcome is right
        else:
            assert image.ndim == 3
