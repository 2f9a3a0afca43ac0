from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from unet_pipeline.datasets import tiff
from unet_pipeline.datasets.formats.contract import Found, Pair
from unet_pipeline.datasets.pages import Page, StackedPages, count_pages, expand_pages
from unet_pipeline.errors import DatasetError, UserError

RNG = np.random.default_rng(5)
STACK = RNG.integers(0, 65536, (20, 33, 47), dtype=np.uint16)
LABELS = RNG.integers(0, 3, (20, 33, 47), dtype=np.uint8)
GIF_FRAMES = [np.full((9, 11), level, np.uint8) for level in (0, 90, 200)]


def stack(path: Path, array: np.ndarray = STACK, **options: object) -> Path:
    tifffile.imwrite(path, array, **{"photometric": "minisblack", **options})
    return path


def found(*pairs: Pair) -> Found:
    return Found(pairs, "2 pairs")


WRITERS: dict[str, dict[str, object]] = {
    "plain": {"metadata": None},
    "compressed": {"metadata": None, "compression": "zlib", "predictor": 2},
    "tiled": {"metadata": None, "tile": (16, 16)},
    "big": {"metadata": None, "bigtiff": True, "byteorder": ">"},
    "shaped": {},
    "imagej": {"imagej": True, "metadata": {"axes": "ZYX"}},
    "ome": {"ome": True, "metadata": {"axes": "TYX"}},
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_page_of_a_stack_is_a_picture(tmp_path: Path, writer: str) -> None:
    path = stack(tmp_path / "x.tif", **WRITERS[writer])
    assert count_pages(path) == 20
    for index in (0, 1, 13, 19):
        image = Page(path, index, as_mask=False).pixels()
        np.testing.assert_array_equal(image[..., 0], STACK[index])
        assert image.dtype == np.uint16
        assert image.dtype.isnative
    np.testing.assert_array_equal(StackedPages(path).pixels(), np.moveaxis(STACK, 0, 2))


def test_pictures_that_imagej_does_not_list_are_found(tmp_path: Path) -> None:
    # beyond 4 GB ImageJ writes one page, and the other pictures right behind it
    path = stack(tmp_path / "x.tif", imagej=True, metadata={"axes": "ZYX"})
    with tifffile.TiffFile(path) as opened:
        assert opened.series[0].dataoffset is not None
        data, first = bytearray(path.read_bytes()), opened.pages.first
        link = first.offset + 2 + 12 * len(first.tags)
    data[link : link + 4] = bytes(4)
    path.write_bytes(data)
    assert count_pages(path) == 20
    for index in (0, 13, 19):
        np.testing.assert_array_equal(Page(path, index, False).pixels()[..., 0], STACK[index])
    path.write_bytes(data[: first.dataoffsets[0] + 5 * first.nbytes])
    with pytest.raises(DatasetError, match=r"x.tif: holds no page 13"):  # the file is cut off
        Page(path, 13, as_mask=False).pixels()


def test_channels_and_overviews_are_no_pages(tmp_path: Path) -> None:
    for number, options in enumerate(
        (
            {"imagej": True, "metadata": {"axes": "CYX"}},
            {"ome": True, "metadata": {"axes": "CYX"}},
            {"planarconfig": "separate"},
        )
    ):
        assert count_pages(stack(tmp_path / f"{number}.tif", STACK[:3], **options)) == 1
    with tifffile.TiffWriter(tmp_path / "x.tif") as writer:
        for picture in STACK[:2]:
            writer.write(picture, photometric="minisblack", metadata=None)
            writer.write(picture[::2, ::2], subfiletype=1, metadata=None)
    assert count_pages(tmp_path / "x.tif") == 2
    np.testing.assert_array_equal(
        Page(tmp_path / "x.tif", 1, as_mask=False).pixels()[..., 0], STACK[1]
    )


def test_counting_reads_no_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stack(tmp_path / "x.tif", metadata=None)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("pixels were read")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", fail)
    monkeypatch.setattr(tiff, "_decode_page", fail)
    assert count_pages(path) == 20


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_frames_of_animations_are_pages(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    pictures = [Image.fromarray(frame) for frame in GIF_FRAMES]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    pictures[0].save(path, format=kind, save_all=True, append_images=pictures[1:], **lossless)
    assert count_pages(path) == 3
    for index, frame in enumerate(GIF_FRAMES):
        np.testing.assert_array_equal(Page(path, index, as_mask=False).pixels()[..., 0], frame)
        np.testing.assert_array_equal(Page(path, index, as_mask=True).pixels(), frame)
    assert StackedPages(path).pixels().shape == (9, 11, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF"])
def test_ordinary_files_have_one_page(tmp_path: Path, kind: str) -> None:
    Image.fromarray(GIF_FRAMES[0]).save(tmp_path / "x", format=kind)
    assert count_pages(tmp_path / "x") == 1
    np.save(tmp_path / "x.npy", STACK)
    assert count_pages(tmp_path / "x.npy") == 1


# ---- pairs --------------------------------------------------------------------------------------


def test_pages_become_samples_of_one_group_and_split(tmp_path: Path) -> None:
    image = stack(tmp_path / "i.tif", metadata=None)
    mask = stack(tmp_path / "m.tif", LABELS, metadata=None)
    single = tmp_path / "s.png"
    Image.fromarray(LABELS[0]).save(single)
    expanded = expand_pages(
        found(Pair("a/b", image, mask, "val"), Pair("c", single, single)), "samples"
    ).pairs
    assert [pair.sample_id for pair in expanded[:2]] == ["a/b/p0000", "a/b/p0001"]
    assert expanded[19].sample_id == "a/b/p0019"
    assert {(pair.split, pair.group) for pair in expanded[:20]} == {("val", "a/b")}
    assert expanded[20] == Pair("c", single, single)
    last = expanded[19]
    assert isinstance(last.image, Page)
    assert isinstance(last.mask, Page)
    np.testing.assert_array_equal(last.image.pixels()[..., 0], STACK[19])
    np.testing.assert_array_equal(last.mask.pixels(), LABELS[19])


def test_pages_become_channels(tmp_path: Path) -> None:
    image = stack(tmp_path / "i.tif", metadata=None)
    mask = stack(tmp_path / "m.tif", LABELS[0], metadata=None)
    (pair,) = expand_pages(found(Pair("a", image, mask)), "channels").pairs
    assert isinstance(pair.image, StackedPages)
    np.testing.assert_array_equal(pair.image.pixels(), np.moveaxis(STACK, 0, 2))
    assert pair.mask == mask


def test_pages_are_left_alone_unless_asked_for(tmp_path: Path) -> None:
    given = found(Pair("a", tmp_path / "gone.tif", tmp_path / "gone.tif"))
    assert expand_pages(given, "refuse") is given
    with pytest.raises(UserError, match="--pages samples: no image has several pages"):
        expand_pages(given, "samples")


def test_pages_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    image = stack(tmp_path / "i.tif", metadata=None)
    mask = stack(tmp_path / "m.tif", LABELS[:19], metadata=None)
    with pytest.raises(DatasetError, match=r"i.tif: has 20 pages, its mask .*m.tif has 19"):
        expand_pages(found(Pair("a", image, mask)), "samples")
    with pytest.raises(DatasetError, match=r"m.tif: a mask of 19 pages: with --pages channels"):
        expand_pages(found(Pair("a", image, mask)), "channels")
    with tifffile.TiffWriter(tmp_path / "x.tif") as writer:
        writer.write(STACK[0], metadata=None)
        writer.write(STACK[0, :20], metadata=None)
    with pytest.raises(DatasetError, match=r"x.tif: its pages differ"):
        StackedPages(tmp_path / "x.tif").pixels()


def test_digests_tell_pages_and_changed_files_apart(tmp_path: Path) -> None:
    path = stack(tmp_path / "x.tif", metadata=None)
    one = Page(path, 1, as_mask=False).digest()
    assert len(one) == 16
    assert one == Page(path, 1, as_mask=False).digest()
    assert one not in (Page(path, 2, as_mask=False).digest(), StackedPages(path).digest())
    stack(path, STACK[:, ::-1], metadata=None, compression="zlib")
    assert Page(path, 1, as_mask=False).digest() != one
    np.testing.assert_array_equal(Page(path, 1, False).pixels()[..., 0], STACK[1, ::-1])
    stack(path, STACK[:1], metadata=None)
    with pytest.raises(DatasetError, match="holds no page 1, counted from 0, of 1"):
        Page(path, 1, as_mask=False).pixels()


def test_a_damaged_page_is_one_line_with_its_number(tmp_path: Path) -> None:
    path = stack(tmp_path / "x.tif", metadata=None, compression="zlib", rowsperstrip=33)
    with tifffile.TiffFile(path) as opened:
        place = opened.pages[7].dataoffsets[0]
    data = bytearray(path.read_bytes())
    data[place : place + 30] = bytes(30)
    path.write_bytes(data)
    Page(path, 6, as_mask=False).pixels()
    with pytest.raises(DatasetError, match=r"x.tif, page 7: ") as caught:
        Page(path, 7, as_mask=False).pixels()
    assert "\n" not in str(caught.value)


def test_a_mask_page_that_cannot_be_values_alone_is_refused(tmp_path: Path) -> None:
    path = stack(tmp_path / "x.tif", LABELS.astype(np.int16) - 1, metadata=None)
    with pytest.raises(DatasetError, match=r"x.tif, page 3: holds -1"):
        Page(path, 3, as_mask=True).pixels()
