"""Which images are found, and that nothing of the user's is overwritten."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from unet_pipeline.errors import DatasetError, UserError
from unet_pipeline.inference import collect_inputs, plan_outputs, read_pixels
from unet_pipeline.inference.inputs import INDEX_NAME, natural_key


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"x")


def found(*sources: str, output: str = "out") -> list[str]:
    return [match.relative.as_posix() for match in collect_inputs(sources, output=Path(output))]


def planned(*sources: str, output: str = "out", save=("mask",)) -> list[str]:
    inputs = collect_inputs(sources, output=Path(output))
    jobs = plan_outputs(inputs, Path(output), save)
    return [path.as_posix() for job in jobs for path in job.outputs.values()]


def test_a_folder_is_searched_deep_in_natural_order_for_any_case_of_extension(place):
    touch("in/img10.png", "in/img2.PNG", "in/sub/deep/a.Tiff", "in/img1.jpeg", "in/notes.txt")
    assert found("in") == ["img1.jpeg", "img2.PNG", "img10.png", "sub/deep/a.Tiff"]


def test_hidden_files_and_folders_are_skipped(place):
    touch("in/a.png", "in/.b.png", "in/.cache/c.png", "in/._a.png")
    assert found("in") == ["a.png"]


def test_files_are_taken_as_they_are_named(place):
    touch("x/a.png", "scan")
    assert found("x/a.png", "scan") == ["scan", "a.png"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("data/*.png", ["a.png"]),
        ("data/**/*.png", ["a.png", "s/b.png", "s/t/c.png"]),
        ("data/**", ["a.png", "d.jpg", "s/b.png", "s/t/c.png"]),
        ("data/*", ["a.png", "d.jpg", "s/b.png", "s/t/c.png"]),
        ("data/s*/**/*.png", ["s/b.png", "s/t/c.png"]),
        ("d?ta/[ad].*", ["data/a.png", "data/d.jpg"]),
        ("./data/../data/*.png", ["a.png"]),
    ],
)
def test_globs_are_mirrored_from_the_folder_before_their_first_wildcard(place, pattern, expected):
    touch("data/a.png", "data/s/b.png", "data/s/t/c.png", "data/d.jpg", "data/e.txt")
    assert found(pattern) == expected


def test_a_name_with_brackets_that_exists_is_a_file_and_no_glob(place):
    touch("a[1].png")
    assert found("a[1].png") == ["a[1].png"]


def test_each_image_counts_once_however_it_is_named(place):
    touch("in/a.png", "in/s/b.png")
    Path("alias").symlink_to("in")
    assert found("in", "in/a.png", "./in/../in/*.png", "alias") == ["a.png", "s/b.png"]


def test_linked_folders_are_followed_and_loops_end(place):
    touch("elsewhere/b.png", "in/a.png")
    Path("in/link").symlink_to(place / "elsewhere")
    Path("in/loop").symlink_to(place / "in")
    assert found("in") == ["a.png", "link/b.png"]


def test_an_output_folder_inside_the_input_is_never_read(place):
    touch("in/a.png", "in/out/a.png", "in/out/s/b.png", "in/sub/c.png")
    Path("in/results").symlink_to(place / "in" / "out")
    assert found("in", output="in/out") == ["a.png", "sub/c.png"]
    assert found("in/**", output="in/out") == ["a.png", "sub/c.png"]
    assert found("in/*", output="in/out") == ["a.png", "sub/c.png"]
    assert found("in/*/*", output="in/out") == ["sub/c.png"]
    touch(f"in/out/{INDEX_NAME}")
    assert planned("in", output="in/out") == ["in/out/a.png", "in/out/sub/c.png"]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["missing"], "missing: no such file or folder"),
        (["missing/*.png"], r"missing/\*.png: holds no images"),
        (["empty"], r"empty: holds no images; files ending in \.png, \.jpg"),
        (["in", "empty"], "empty: holds no images"),
        ([], "no images to predict"),
        (["bad\0name"], "no such file"),
    ],
)
def test_sources_without_images_are_refused(place, sources, message):
    touch("in/a.png", "empty/a.txt", "empty/.hidden.png")
    with pytest.raises(UserError, match=message):
        found(*sources)


def test_reading_the_output_folder_itself_is_refused(place):
    touch("in/a.jpg")
    for sources, output in ((["in"], "in"), (["in"], "./in/../in"), (["in/*.jpg"], "in")):
        with pytest.raises(UserError, match="choose another --output"):
            planned(*sources, output=output)


def test_outputs_mirror_the_tree(place):
    touch("in/a.b.tif", "in/s/c.png", "x.png")
    assert planned("in", "x.png", save=("mask", "overlay", "color", "probabilities")) == [
        "out/a.b.png", "out/a.b_overlay.png", "out/a.b_color.png", "out/a.b_probabilities.npy",
        "out/s/c.png", "out/s/c_overlay.png", "out/s/c_color.png", "out/s/c_probabilities.npy",
        "out/x.png", "out/x_overlay.png", "out/x_color.png", "out/x_probabilities.npy",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "save"),
    [
        (["in/a.png", "in/a.jpg"], ["mask"]),
        (["in/a.png", "in/a.PNG"], ["mask"]),
        (["in/a.png", "in/a_color.tif"], ["mask", "color"]),
        (["in/x.jpg", "in/x.png/y.jpg"], ["mask"]),
    ],
)
def test_two_images_with_one_output_are_refused_by_name(place, names, save):
    touch(*names)
    with pytest.raises(UserError, match="would both write") as error:
        planned("in", save=save)
    for name in names:
        assert name in str(error.value)


def test_equal_names_from_two_folders_are_refused(place):
    touch("a/x.png", "b/x.png")
    with pytest.raises(UserError, match=r"a/x.png and b/x.png would both write out/x.png"):
        planned("a", "b")


@pytest.mark.parametrize(
    ("source", "output"),
    [("a.png", "."), ("sub/a.png", "sub"), ("link/a.png", "sub"), ("sub/a.png", "link")],
)
def test_an_input_is_never_overwritten(place, source, output):
    touch("a.png", "sub/a.png")
    Path("link").symlink_to("sub")
    with pytest.raises(UserError, match="would overwrite the image"):
        planned(source, output=output)


def test_results_never_land_among_the_images(place):
    touch("data/images/images/a.jpg", "data/images/b.jpg")
    with pytest.raises(UserError, match="among the images"):
        planned("data/images", output="data")


def test_a_folder_of_images_inside_the_output_folder_is_fine(place):
    touch("data/images/a.jpg")
    assert planned("data/images", output="data") == ["data/a.png"]


def test_files_that_no_prediction_has_written_are_not_replaced(place):
    touch("in/a.jpg", "in/b.jpg", "masks/a.png", "masks/b.png")  # the user's own ground truth
    with pytest.raises(UserError, match=r"masks/a.png and 1 more exist, and no earlier prediction"):
        planned("in", output="masks")
    touch(f"masks/{INDEX_NAME}")
    assert planned("in", output="masks") == ["masks/a.png", "masks/b.png"]


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (["masks"], "unknown --save kind 'masks': did you mean 'mask'"),
        ([], "name some of mask, color, overlay, probabilities"),
        (["mask", "mask"], "named twice"),
    ],
)
def test_kinds_that_are_none_are_refused(place, save, message):
    touch("in/a.png")
    with pytest.raises(UserError, match=message):
        planned("in", save=save)


def test_names_that_are_no_text_are_found(place):
    name = os.fsdecode(b"in/\xff\n[b]=.png")
    touch(name)
    assert found("in") == [name.removeprefix("in/")]


def test_natural_order_is_total():
    names = ["b", "a10", "a2", "A2", "a02", "a2b", "", "10", "9"]
    backwards = names[::-1]
    assert sorted(names, key=natural_key) == sorted(backwards, key=natural_key)
    assert sorted(["10", "9", "x"], key=natural_key) == ["9", "10", "x"]


def test_pixels_are_read_as_the_model_takes_them(place, make_segmenter):
    card = make_segmenter(in_channels=3).card
    Image.fromarray(np.full((4, 5), 9, dtype=np.uint8)).save("grey.png")
    Image.fromarray(np.full((4, 5), 999, dtype=np.uint16)).save("deep.png")

    assert read_pixels(Path("grey.png"), card).tolist() == [[[9, 9, 9]] * 5] * 4
    with pytest.raises(DatasetError, match="holds uint16 pixels, but the model was trained on uin"):
        read_pixels(Path("deep.png"), card)


def grey_files(*names: str) -> None:
    for name in names:
        Image.fromarray(np.full((4, 5), 9, dtype=np.uint8)).save(name)


@pytest.mark.parametrize("in_channels", [2, 3, 4])
def test_a_file_of_one_channel_by_its_name_is_no_image_of_several(
    place, make_segmenter, in_channels
):
    card = make_segmenter(in_channels=in_channels).card
    names = [f"a_b_{channel:04}.png" for channel in range(in_channels)]
    grey_files(*names)
    for name in names:
        with pytest.raises(DatasetError) as error:
            read_pixels(Path(name), card)
        assert str(error.value) == (
            f"{name}: is by its name one of the channels of a_b, but the model takes all "
            f"{in_channels} in one file: save a_b_0000.png to {names[-1]} as one .npy or TIFF of "
            f"height x width x {in_channels}, or give images of their own other names"
        )


@pytest.mark.parametrize(
    "names",
    [
        ["clip_0000.png", "clip_0001.png"],
        ["clip_0000.png", "clip_0001.png", "clip_0002.png", "clip_0003.png"],
        ["clip_0001.png", "clip_0002.png", "clip_0003.png"],
        ["clip_000.png", "clip_001.png", "clip_002.png"],
        ["0000.png", "0001.png", "0002.png"],
    ],
)
def test_numbered_grey_images_that_are_no_channels_are_images(place, make_segmenter, names):
    card = make_segmenter(in_channels=3).card
    grey_files(*names)
    for name in names:
        assert read_pixels(Path(name), card).shape == (4, 5, 3)


def test_numbered_images_of_all_channels_are_images(place, make_segmenter):
    grey_files("a_0000.png", "a_0001.png", "a_0002.png")
    Image.new("RGB", (5, 4)).save("a_0001.png")
    assert read_pixels(Path("a_0001.png"), make_segmenter(in_channels=3).card).shape == (4, 5, 3)
    assert read_pixels(Path("a_0000.png"), make_segmenter().card).shape == (4, 5, 1)


def test_a_stack_is_told_what_predict_can_do_with_it(place, make_segmenter):
    tifffile.imwrite("stack.tif", np.zeros((20, 64, 64), np.uint8), photometric="minisblack")
    with pytest.raises(DatasetError, match="save each page as a file of its own") as caught:
        read_pixels(Path("stack.tif"), make_segmenter().card)
    assert "--pages" not in str(caught.value)
