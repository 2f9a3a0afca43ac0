from __future__ import annotations

import io
import re
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from unet_pipeline.datasets.images import probe, read_image, read_mask
from unet_pipeline.datasets.raster import channel_axis
from unet_pipeline.errors import DatasetError

RNG = np.random.default_rng(1)
GREY = RNG.integers(0, 256, (33, 47), dtype=np.uint8)
RGB = RNG.integers(0, 256, (33, 47, 3), dtype=np.uint8)
RGBA = np.dstack([RGB, GREY])
FIVE = RNG.integers(0, 65536, (33, 47, 5), dtype=np.uint16)


def tiff(path: Path, array: np.ndarray, **options: object) -> Path:
    tifffile.imwrite(path / "x.tif", array, **options)
    return path / "x.tif"


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("layout", [{}, {"tile": (16, 16)}, {"rowsperstrip": 5}])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_every_storage_gives_the_same_pixels(
    tmp_path: Path, compression: str | None, layout: dict[str, object], byteorder: str
) -> None:
    for array, options in (
        (GREY, {}),
        (RGB, {"photometric": "rgb"}),
        (FIVE, {"photometric": "minisblack", "planarconfig": "contig"}),
        (FIVE.astype(np.float32), {"photometric": "minisblack", "planarconfig": "contig"}),
    ):
        path = tiff(
            tmp_path, array, compression=compression, byteorder=byteorder, **layout, **options
        )
        expected = array.reshape(33, 47, -1)
        image = read_image(path)
        np.testing.assert_array_equal(image, expected)
        assert image.dtype == array.dtype
        assert image.dtype.isnative
        assert tuple(probe(path)) == (47, 33, expected.shape[2])


def test_big_tiff_and_a_predictor_are_read(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_image(tiff(tmp_path, RGB, bigtiff=True)), RGB)
    path = tiff(tmp_path, FIVE, compression="zlib", predictor=2, planarconfig="contig")
    np.testing.assert_array_equal(read_image(path), FIVE)


def test_channels_may_lie_in_planes(tmp_path: Path) -> None:
    planes = np.moveaxis(FIVE, 2, 0)
    for options in (
        {"planarconfig": "separate", "photometric": "minisblack"},
        {},  # five pages of one shape, as tifffile writes an array (C, H, W)
        {"imagej": True, "metadata": {"axes": "CYX"}},
        {"ome": True, "metadata": {"axes": "CYX"}},
    ):
        path = tiff(tmp_path, planes, **options)
        np.testing.assert_array_equal(read_image(path), FIVE, err_msg=str(options))
        assert tuple(probe(path)) == (47, 33, 5)


def test_a_stack_of_pictures_is_refused(tmp_path: Path) -> None:
    planes = np.moveaxis(FIVE, 2, 0)
    for options in (
        {"metadata": None},
        {"imagej": True, "metadata": {"axes": "ZYX"}},
        {"ome": True, "metadata": {"axes": "TYX"}},
    ):
        path = tiff(tmp_path, planes, **options)
        for read in (read_image, read_mask, probe):
            with pytest.raises(DatasetError, match=r"x.tif: holds 5 pages.*--pages samples"):
                read(path)


def test_overviews_are_no_second_picture(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(RGB, photometric="rgb", metadata=None)
        writer.write(RGB[::2, ::2], photometric="rgb", subfiletype=1, metadata=None)
    np.testing.assert_array_equal(read_image(path), RGB)


def test_alpha_is_dropped_and_a_fourth_channel_of_data_is_kept(tmp_path: Path) -> None:
    path = tiff(tmp_path, RGBA, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(read_image(path), RGB)
    assert probe(path).channels == 3
    path = tiff(tmp_path, RGBA, photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(read_image(path), RGBA)
    assert probe(path).channels == 4


def test_a_palette_gives_colours_or_indices(tmp_path: Path) -> None:
    colormap = RNG.integers(0, 256, (3, 256)).astype(np.uint16) * 257
    path = tiff(tmp_path, GREY, photometric="palette", colormap=colormap)
    np.testing.assert_array_equal(read_image(path), (colormap.T // 257)[GREY])
    np.testing.assert_array_equal(read_mask(path), GREY)
    assert probe(path).channels == 3


def test_white_may_be_zero(tmp_path: Path) -> None:
    path = tiff(tmp_path, GREY, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(path)[..., 0], 255 - GREY)


@pytest.mark.parametrize("compression", ["raw", "group4", "tiff_lzw"])
def test_one_bit_is_black_and_white_or_zero_and_one(tmp_path: Path, compression: str) -> None:
    bits = GREY > 99
    Image.fromarray(bits).save(tmp_path / "x.tif", compression=compression)
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif")[..., 0], bits * np.uint8(255))
    np.testing.assert_array_equal(read_mask(tmp_path / "x.tif"), bits)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate"])
@pytest.mark.parametrize(
    "array", [GREY, RGB, GREY.astype(np.uint16) * 200, GREY.astype(np.float32) / 7]
)
def test_common_compressions_are_read_without_loss(
    tmp_path: Path, compression: str, array: np.ndarray
) -> None:
    Image.fromarray(array).save(tmp_path / "x.tif", compression=compression)
    image = read_image(tmp_path / "x.tif")
    np.testing.assert_array_equal(image, array.reshape(33, 47, -1))
    assert image.dtype == array.dtype


def test_sixteen_bit_colour_with_lzw_keeps_its_bits(tmp_path: Path) -> None:
    wide = RGB.astype(np.uint16) * 200
    data = cv2.imencode(".tif", wide[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])[1]
    (tmp_path / "x.tif").write_bytes(data)
    with tifffile.TiffFile(tmp_path / "x.tif") as opened:
        assert opened.pages[0].compression == tifffile.COMPRESSION.LZW
    image = read_image(tmp_path / "x.tif")
    np.testing.assert_array_equal(image, wide)
    assert image.dtype == np.uint16
    (tmp_path / "x.tif").write_bytes(bytes(data)[: len(data) // 2])
    with pytest.raises(DatasetError, match=r"x.tif: "):
        read_image(tmp_path / "x.tif")


def test_jpeg_inside_a_tiff_is_known_to_blur(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    Image.fromarray(np.dstack([smooth] * 3)).save(tmp_path / "x.tif", compression="jpeg")
    image = read_image(tmp_path / "x.tif")
    assert image.shape == (64, 64, 3)
    assert np.abs(image[..., 0].astype(int) - smooth).mean() < 5


def test_a_codec_that_is_missing_is_named_with_what_to_do(tmp_path: Path) -> None:
    # The tag alone is enough: the file says LZW of five channels
    data = bytearray(tiff(tmp_path, FIVE, planarconfig="contig", compression="zlib").read_bytes())
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as opened:
        offset = opened.pages[0].tags["Compression"].valueoffset
    data[offset : offset + 2] = (5).to_bytes(2, "little")
    (tmp_path / "x.tif").write_bytes(data)
    program = f"""
import sys
sys.modules["imagecodecs"] = None  # as where it is not installed
from pathlib import Path
from unet_pipeline.datasets.images import read_image
from unet_pipeline.errors import DatasetError
try:
    read_image(Path({str(tmp_path / "x.tif")!r}))
except DatasetError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert re.search(r"5 channels, 16 bits, compressed by LZW.*imagecodecs", done.stdout)


def test_signed_and_wide_numbers_become_floats(tmp_path: Path) -> None:
    scan = GREY.astype(np.int16) - 1000  # as in computed tomography
    image = read_image(tiff(tmp_path, scan))
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image[..., 0], scan)
    np.testing.assert_array_equal(read_mask(tiff(tmp_path, GREY.astype(np.int32))), GREY)
    with pytest.raises(DatasetError, match="mask value -1000"):
        read_mask(tiff(tmp_path, np.array([[0, -1000]], np.int16)))


@pytest.mark.parametrize("dtype", [np.uint32, np.int32, np.float64])
def test_wide_numbers_become_float32(tmp_path: Path, dtype: type) -> None:
    image = read_image(tiff(tmp_path, GREY.astype(dtype) * 1000, tile=(16, 16), compression="zlib"))
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image[..., 0], GREY * 1000.0)


def test_a_value_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    image = GREY.astype(np.float32)
    image[3, 4] = np.nan
    with pytest.raises(DatasetError, match="1 values are not finite"):
        read_image(tiff(tmp_path, image))


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, compression: str | None) -> None:
    whole = tiff(tmp_path, RGB, compression=compression, rowsperstrip=8).read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 200, 10):
        (tmp_path / "x.tif").write_bytes(whole[:length])
        with pytest.raises(DatasetError, match=r"x.tif: "):
            read_image(tmp_path / "x.tif")


def test_a_strip_that_holds_too_little_is_refused(tmp_path: Path) -> None:
    path = tiff(tmp_path, GREY, compression="zlib", rowsperstrip=33)
    with tifffile.TiffFile(path) as opened:
        offset, count = opened.pages[0].dataoffsets[0], opened.pages[0].databytecounts[0]
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = zlib.compress(bytes(99)).ljust(count, b"\0")
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"x.tif: "):
        read_image(path)


@pytest.mark.timeout(20)
def test_a_directory_that_points_at_itself_ends(tmp_path: Path) -> None:
    path = tiff(tmp_path, GREY, metadata=None)
    data = bytearray(path.read_bytes())
    first = int.from_bytes(data[4:8], "little")
    num_tags = int.from_bytes(data[first : first + 2], "little")
    link = first + 2 + 12 * num_tags
    data[link : link + 4] = first.to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(DatasetError, match="goes round in a circle"):
        read_image(path)


def test_a_claim_beyond_all_memory_is_refused(tmp_path: Path) -> None:
    path = tiff(tmp_path, GREY, metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as opened:
        opened.pages[0].tags["ImageWidth"].overwrite(2**31 - 1)
        opened.pages[0].tags["ImageLength"].overwrite(2**31 - 1)
    with pytest.raises(DatasetError, match="claims 2147483647x2147483647"):
        read_image(path)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((40, 50, 3), 2), ((3, 40, 50), 0), ((40, 50, 1), 2), ((16, 20, 20), 0), ((4, 4, 4), 2)],
)
def test_the_small_end_holds_the_channels(shape: tuple[int, ...], axis: int) -> None:
    assert channel_axis(shape) == axis


@pytest.mark.parametrize("shape", [(17, 100, 100), (100, 100), (2, 3, 4, 5), (100, 100, 90)])
def test_other_shapes_are_no_picture(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="no picture"):
        channel_axis(shape)
