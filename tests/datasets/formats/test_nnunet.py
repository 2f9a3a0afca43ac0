from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unet_pipeline.datasets.formats.contract import Found, list_tree
from unet_pipeline.datasets.formats.nnunet import FORMAT
from unet_pipeline.datasets.formats.stacked_channels import StackedChannels
from unet_pipeline.errors import DatasetError, UserError

FACTS: dict[str, Any] = {
    "channel_names": {"0": "phase"},
    "labels": {"background": 0, "cell": 1, "wall": 2},
    "numTraining": 2,
    "file_ending": ".png",
}


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)
    return path


def facts(root: Path, **changes: Any) -> None:
    content = {key: value for key, value in (FACTS | changes).items() if value is not None}
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(content))


def case(
    root: Path,
    name: str,
    *,
    channels: int = 1,
    end: str = "Tr",
    label: bool = True,
    ending: str = ".png",
) -> None:
    for channel in range(channels):
        pixels = np.full((4, 6), 10 * channel + 1, dtype=np.uint8)
        save(root / f"images{end}" / f"{name}_{channel:04d}{ending}", pixels)
    if label:
        mask = np.resize(np.array([0, 1, 2], dtype=np.uint8), (4, 6))
        save(root / f"labels{end}" / f"{name}{ending}", mask)


def read(root: Path) -> Found:
    return FORMAT.read(list_tree(root), None, None)


def splits(found: Found) -> dict[str, str | None]:
    return {pair.sample_id: pair.split for pair in found.pairs}


def codes(found: Found) -> list[tuple[str, str, int]]:
    return [(f.code, f.severity, f.count) for f in found.findings]


@pytest.mark.parametrize("ending", [".png", ".tif", ".bmp", ".npy"])
def test_images_of_one_channel_are_paired_by_case(tmp_path: Path, ending: str) -> None:
    root = tmp_path / "nnUNet_raw" / "Dataset120_Cells"
    facts(root, file_ending=ending)
    case(root, "c10", ending=ending)
    case(root, "c2", ending=ending)
    reason = FORMAT.recognise(list_tree(tmp_path))
    assert reason is not None
    assert "nnUNet_raw/Dataset120_Cells/dataset.json" in reason
    found = read(tmp_path)
    assert splits(found) == {"c2": None, "c10": None}
    assert [p.sample_id for p in found.pairs] == ["c2", "c10"]
    assert found.pairs[0].image == root / "imagesTr" / f"c2_0000{ending}"
    assert found.pairs[0].mask == root / "labelsTr" / f"c2{ending}"
    assert found.class_list is not None
    assert found.class_list.names == ("background", "cell", "wall")
    assert found.class_list.values == (0, 1, 2)
    assert found.ignore_values == ()
    assert found.findings == ()
    assert found.left_out == ()


def test_files_of_one_case_are_stacked_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    facts(tmp_path, channel_names={"0": "T1", "1": "T2", "2": "FLAIR"})
    case(tmp_path, "a", channels=3)
    found = read(tmp_path)
    image = found.pairs[0].image
    assert isinstance(image, StackedChannels)
    pixels = image.pixels()
    assert pixels.shape == (4, 6, 3)
    assert pixels.dtype == np.uint8
    assert pixels[0, 0].tolist() == [1, 11, 21]
    assert image.source.endswith("a_0000.png (and 2 channels beside it)")
    assert pickle.loads(pickle.dumps(image)) == image
    former = image.digest()
    assert image.digest() == former
    save(tmp_path / "imagesTr" / "a_0002.png", np.full((4, 6), 99, dtype=np.uint8))
    assert image.digest() != former


def test_channels_of_other_sizes_or_in_colour_are_refused_by_name(tmp_path: Path) -> None:
    facts(tmp_path, channel_names={"0": "T1", "1": "T2"})
    case(tmp_path, "a", channels=2)
    image = read(tmp_path).pairs[0].image
    assert isinstance(image, StackedChannels)
    save(tmp_path / "imagesTr" / "a_0001.png", np.zeros((4, 5), dtype=np.uint8))
    with pytest.raises(DatasetError, match=r"a_0001\.png: is 5x4 pixels, but a_0000\.png is 6x4"):
        image.pixels()
    save(tmp_path / "imagesTr" / "a_0001.png", np.zeros((4, 6, 3), dtype=np.uint8))
    with pytest.raises(DatasetError, match=r"a_0001\.png: holds 3 channels"):
        image.pixels()


def test_a_colour_picture_in_one_file_is_an_image(tmp_path: Path) -> None:
    facts(tmp_path, channel_names={"0": "R", "1": "G", "2": "B"})
    case(tmp_path, "a")
    save(tmp_path / "imagesTr" / "a_0000.png", np.zeros((4, 6, 3), dtype=np.uint8))
    found = read(tmp_path)
    assert found.pairs[0].image == tmp_path / "imagesTr" / "a_0000.png"
    assert found.findings == ()


def test_a_missing_channel_is_an_error(tmp_path: Path) -> None:
    facts(tmp_path, channel_names={"0": "T1", "1": "T2"})
    case(tmp_path, "a", channels=2)
    case(tmp_path, "b", channels=1)
    found = read(tmp_path)
    assert splits(found) == {"a": None}
    assert codes(found) == [("missing-channels", "error", 1)]
    assert found.findings[0].examples == ("imagesTr/b_0000.png",)


def test_grey_pictures_where_several_channels_are_declared_lack_them_all(tmp_path: Path) -> None:
    facts(tmp_path, channel_names={"0": "T1", "1": "T2"})
    case(tmp_path, "a")
    case(tmp_path, "b")
    assert codes(read(tmp_path)) == [("missing-channels", "error", 2)]


def test_channels_beyond_the_declared_ones_are_left_out(tmp_path: Path) -> None:
    facts(tmp_path)
    case(tmp_path, "a", channels=2)
    found = read(tmp_path)
    assert found.pairs[0].image == tmp_path / "imagesTr" / "a_0000.png"
    assert len(found.left_out) == 1
    assert "imagesTr/a_0001.png" in found.left_out[0]


def test_images_and_labels_without_a_partner_are_errors(tmp_path: Path) -> None:
    facts(tmp_path)
    case(tmp_path, "a")
    case(tmp_path, "b", label=False)
    case(tmp_path, "c")
    (tmp_path / "imagesTr" / "c_0000.png").unlink()
    found = read(tmp_path)
    assert splits(found) == {"a": None}
    assert codes(found) == [("unpaired-images", "error", 1), ("unpaired-masks", "error", 1)]
    assert found.findings[0].examples == ("imagesTr/b_0000.png",)
    assert found.findings[1].examples == ("labelsTr/c.png",)


def test_images_without_the_number_of_a_channel_are_left_out(tmp_path: Path) -> None:
    facts(tmp_path)
    case(tmp_path, "a")
    save(tmp_path / "imagesTr" / "b.png", np.zeros((4, 6), dtype=np.uint8))
    found = read(tmp_path)
    assert "left out: 1 image without the number of a channel" in found.left_out[0]
    (tmp_path / "imagesTr" / "a_0000.png").unlink()
    with pytest.raises(DatasetError, match=r"imagesTr: holds no files \*_0000\.png"):
        read(tmp_path)


def test_the_ignore_label_is_void(tmp_path: Path) -> None:
    facts(tmp_path, labels={"background": 0, "cell": 1, "ignore": 2})
    case(tmp_path, "a")
    found = read(tmp_path)
    assert found.class_list is not None
    assert found.class_list.names == ("background", "cell")
    assert found.class_list.values == (0, 1)
    assert found.ignore_values == (2,)


def test_version_one_is_read(tmp_path: Path) -> None:
    facts(
        tmp_path,
        channel_names=None,
        file_ending=None,
        modality={"0": "phase", "1": "fluorescence"},
        labels={"2": "wall", "0": "background", "1": "cell"},
    )
    case(tmp_path, "a", channels=2)
    found = read(tmp_path)
    assert found.class_list is not None
    assert found.class_list.names == ("background", "cell", "wall")
    assert found.class_list.values == (0, 1, 2)
    assert isinstance(found.pairs[0].image, StackedChannels)


def test_labelled_test_images_are_the_test_split(tmp_path: Path) -> None:
    facts(tmp_path)
    case(tmp_path, "a")
    case(tmp_path, "b", end="Ts")
    case(tmp_path, "a", end="Ts")
    found = read(tmp_path)
    assert splits(found) == {"a": "train", "b": "test", "imagesTs/a": "test"}


def test_test_images_without_labels_are_left_out(tmp_path: Path) -> None:
    facts(tmp_path)
    case(tmp_path, "a")
    case(tmp_path, "b", end="Ts", label=False)
    found = read(tmp_path)
    assert splits(found) == {"a": None}
    assert found.left_out == ("left out: 1 case of imagesTs/, without labels",)
    assert found.findings == ()


def test_the_first_fold_gives_train_and_val(tmp_path: Path) -> None:
    facts(tmp_path)
    for name in ("a", "b", "c"):
        case(tmp_path, name)
    folds = [{"train": ["a"], "val": ["b", "gone"]}, {"train": ["b"], "val": ["a"]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    found = read(tmp_path)
    assert splits(found) == {"a": "train", "b": "val"}
    assert found.left_out == (
        "fold 0 of 2 in splits_final.json gives train and val; the other is left out",
        "left out: 1 case that this fold does not name (c)",
    )
    assert codes(found) == [("missing-images", "error", 1)]
    assert found.findings[0].examples == ("gone",)
    (tmp_path / "splits_final.json").write_text('{"train": []}')
    with pytest.raises(DatasetError, match=r"splits_final\.json: is no list of folds"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("count", "sentences"),
    [
        (1, ()),
        (5, ("fold 0 of 5 in splits_final.json gives train and val; the other 4 are left out",)),
    ],
)
def test_what_is_said_of_folds_is_which_of_how_many(
    tmp_path: Path, count: int, sentences: tuple[str, ...]
) -> None:
    facts(tmp_path)
    names = [f"c{k}" for k in range(count + 1)]
    for name in names:
        case(tmp_path, name)
    folds = [
        {"train": [n for n in names if n != name], "val": [name]} for name in names[1 : count + 1]
    ]
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    found = read(tmp_path)
    assert splits(found) == dict.fromkeys(names, "train") | {"c1": "val"}
    assert found.left_out == sentences


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"background": 0, "tumour": [1, 2]}}, r"label 'tumour' is a region, \[1, 2\]"),
        ({"labels": {"background": 0, "cell": 0.5}}, r"label 'cell' is 0\.5; use a whole number"),
        ({"labels": None}, 'has no "labels"'),
        ({"file_ending": ".nii.gz"}, r"files are \.nii\.gz, and volumes .* save their slices"),
        ({"file_ending": ".nrrd"}, r"files are \.nrrd"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_reason(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    facts(tmp_path, **changes)
    case(tmp_path, "a")
    with pytest.raises(DatasetError, match=rf"dataset\.json: .*{message}"):
        read(tmp_path)


def test_volumes_are_refused_where_no_ending_is_declared(tmp_path: Path) -> None:
    facts(tmp_path, file_ending=None)
    for path in ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"):
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_bytes(b"\x1f\x8b")
    with pytest.raises(DatasetError, match=r"files are \.nii\.gz"):
        read(tmp_path)


def test_a_broken_dataset_json_is_named(tmp_path: Path) -> None:
    facts(tmp_path)
    case(tmp_path, "a")
    (tmp_path / "dataset.json").write_text("{")
    assert FORMAT.recognise(list_tree(tmp_path)) is not None
    with pytest.raises(DatasetError, match=r"dataset\.json: is no valid JSON"):
        read(tmp_path)


def test_several_data_sets_and_named_folders_are_refused(tmp_path: Path) -> None:
    for name in ("Dataset001_A", "Dataset002_B"):
        facts(tmp_path / name)
        case(tmp_path / name, "a")
    with pytest.raises(DatasetError, match="several data sets, Dataset001_A, Dataset002_B"):
        read(tmp_path)
    with pytest.raises(UserError, match="without --images"):
        FORMAT.read(list_tree(tmp_path / "Dataset001_A"), "imagesTr", None)


def test_other_folders_are_not_recognised(tmp_path: Path) -> None:
    facts(tmp_path)
    save(tmp_path / "images" / "a.png", np.zeros((2, 2), dtype=np.uint8))
    assert FORMAT.recognise(list_tree(tmp_path)) is None
    with pytest.raises(DatasetError, match=r"no dataset\.json beside"):
        read(tmp_path)


def test_a_case_in_both_splits_of_a_fold_is_an_error_as_in_the_lists_of_others(
    tmp_path: Path,
) -> None:
    facts(tmp_path)
    for name in ("a", "b", "c"):
        case(tmp_path, name)
    folds = [{"train": ["a", "b"], "val": ["a", "c"]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    found = read(tmp_path)
    assert codes(found) == [("in-several-splits", "error", 1)]
    assert found.findings[0].examples == ("a",)
