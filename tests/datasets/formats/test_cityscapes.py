from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unet_pipeline.datasets.formats.cityscapes import FORMAT, LABEL_IDS
from unet_pipeline.datasets.formats.contract import Found, list_tree
from unet_pipeline.datasets.images import read_mask
from unet_pipeline.errors import DatasetError, UserError

# Name, label id and colour in the order of the train ids, as published (labels.py)
PUBLISHED = [
    ("road", 7, (128, 64, 128)), ("sidewalk", 8, (244, 35, 232)), ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)), ("fence", 13, (190, 153, 153)), ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)), ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)), ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)), ("person", 24, (220, 20, 60)), ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)), ("truck", 27, (0, 0, 70)), ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)), ("motorcycle", 32, (0, 0, 230)), ("bicycle", 33, (119, 11, 32)),
]  # fmt: skip


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def frame(
    root: Path,
    split: str,
    name: str,
    *,
    values: tuple[int, ...] | None = (7, 11, 0),
    kind: str = "gtFine",
    ids: str = "labelIds",
) -> None:
    """The image `name` (city_sequence_frame), and its mask unless there are no values."""
    city = name.split("_")[0]
    image = np.zeros((4, 6, 3), dtype=np.uint8)
    save(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", image)
    if values is not None:
        mask = np.resize(np.array(values, dtype=np.uint8), (4, 6))
        save(root / kind / split / city / f"{name}_{kind}_{ids}.png", mask)


def read(root: Path) -> Found:
    return FORMAT.read(list_tree(root), None, None)


def rows(found: Found) -> list[tuple[str, str | None, str | None]]:
    return [(pair.sample_id, pair.split, pair.group) for pair in found.pairs]


def test_splits_and_cities_are_those_of_the_folders(tmp_path: Path) -> None:
    frame(tmp_path, "train", "aachen_000000_000019")
    frame(tmp_path, "train", "zurich_000001_000019")
    frame(tmp_path, "val", "munster_000000_000019")
    reason = FORMAT.recognise(list_tree(tmp_path))
    assert reason is not None
    assert "leftImg8bit/train/aachen/" in reason
    found = read(tmp_path)
    assert rows(found) == [
        ("aachen_000000_000019", "train", "aachen"),
        ("munster_000000_000019", "val", "munster"),
        ("zurich_000001_000019", "train", "zurich"),
    ]
    mask = found.pairs[0].mask
    assert isinstance(mask, Path)
    assert mask.name == "aachen_000000_000019_gtFine_labelIds.png"
    assert found.findings == ()
    assert found.left_out == ()


def test_the_data_set_may_lie_in_folders_of_its_archives(tmp_path: Path) -> None:
    frame(tmp_path / "downloads", "train", "aachen_000000_000019")
    assert rows(read(tmp_path)) == [("aachen_000000_000019", "train", "aachen")]


def test_nineteen_classes_count_and_all_other_labels_are_void(tmp_path: Path) -> None:
    frame(tmp_path, "train", "aachen_000000_000019", values=tuple(range(34)))
    found = read(tmp_path)
    listed = found.class_list
    assert listed is not None
    assert listed.values is not None
    assert listed.colors is not None
    assert len(listed.names) == len(listed.values) == len(listed.colors) == 19
    rows_of_table = zip(listed.names, listed.values, listed.colors, strict=True)
    assert list(rows_of_table) == PUBLISHED
    assert not set(listed.values) & set(found.ignore_values)
    assert {*listed.values, *found.ignore_values} == {*range(34), 255}
    assert isinstance(found.pairs[0].mask, Path)
    assert set(np.unique(read_mask(found.pairs[0].mask))) <= {*listed.values, *found.ignore_values}


def test_train_ids_count_where_there_are_no_label_ids(tmp_path: Path) -> None:
    frame(tmp_path, "train", "aachen_000000_000019", ids="labelTrainIds", values=(0, 18, 255))
    found = read(tmp_path)
    assert found.class_list is not None
    assert found.class_list.values == tuple(range(19))
    assert found.class_list.names[18] == "bicycle"
    assert found.ignore_values == (255,)


def test_label_ids_go_before_train_ids_and_fine_before_coarse(tmp_path: Path) -> None:
    frame(tmp_path, "train", "aachen_000000_000019", kind="gtCoarse")
    frame(tmp_path, "train", "aachen_000000_000019", ids="labelTrainIds")
    frame(tmp_path, "train", "aachen_000000_000019")
    frame(tmp_path, "train_extra", "bayreuth_000000_000019", kind="gtCoarse")
    found = read(tmp_path)
    assert [str(p.mask).endswith("gtFine_labelIds.png") for p in found.pairs] == [True]
    assert any("1 image in train_extra/" in sentence for sentence in found.left_out)
    assert any("gtCoarse_labelIds.png" in sentence for sentence in found.left_out)
    assert found.findings == ()


def test_coarse_masks_count_where_there_are_no_fine_ones(tmp_path: Path) -> None:
    frame(tmp_path, "train", "aachen_000000_000019", kind="gtCoarse")
    frame(tmp_path, "train_extra", "bayreuth_000000_000019", kind="gtCoarse")
    assert [row[1] for row in rows(read(tmp_path))] == ["train", "train"]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (None, "left out: 1 image in test/, which have no masks"),
        ((0, 3), "left out: 1 image in test/, whose masks are nothing but void"),
    ],
)
def test_a_test_part_without_true_masks_is_left_out(
    tmp_path: Path, values: tuple[int, ...] | None, sentence: str
) -> None:
    frame(tmp_path, "train", "aachen_000000_000019")
    frame(tmp_path, "test", "berlin_000000_000019", values=values)
    found = read(tmp_path)
    assert [row[1] for row in rows(found)] == ["train"]
    assert found.left_out == (sentence,)
    assert found.findings == ()


def test_a_test_part_with_classes_in_its_masks_is_kept(tmp_path: Path) -> None:
    frame(tmp_path, "train", "aachen_000000_000019")
    frame(tmp_path, "test", "berlin_000000_000019", values=(0, LABEL_IDS[0]))
    assert [row[1] for row in rows(read(tmp_path))] == ["train", "test"]


def test_images_and_masks_without_a_partner_are_errors(tmp_path: Path) -> None:
    frame(tmp_path, "train", "aachen_000000_000019")
    frame(tmp_path, "train", "aachen_000001_000019", values=None)
    frame(tmp_path, "train", "aachen_000002_000019")
    folder = tmp_path / "leftImg8bit" / "train" / "aachen"
    (folder / "aachen_000002_000019_leftImg8bit.png").unlink()
    found = read(tmp_path)
    assert len(found.pairs) == 1
    assert [(f.code, f.count) for f in found.findings] == [
        ("unpaired-images", 1),
        ("unpaired-masks", 1),
    ]
    assert found.findings[0].examples[0].endswith("aachen_000001_000019_leftImg8bit.png")


def test_masks_of_a_part_that_was_not_downloaded_are_left_out(tmp_path: Path) -> None:
    frame(tmp_path, "train", "aachen_000000_000019")
    frame(tmp_path, "val", "munster_000000_000019")
    folder = tmp_path / "leftImg8bit" / "val" / "munster"
    (folder / "munster_000000_000019_leftImg8bit.png").unlink()
    found = read(tmp_path)
    assert found.left_out == ("left out: 1 mask in val/, which have no images",)
    assert found.findings == ()


def test_other_folders_are_not_recognised(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", np.zeros((2, 2), dtype=np.uint8))
    assert FORMAT.recognise(list_tree(tmp_path)) is None
    with pytest.raises(DatasetError, match="gtFine_labelIds"):
        read(tmp_path)
    frame(tmp_path, "train", "aachen_000000_000019")
    with pytest.raises(UserError, match="without --images"):
        FORMAT.read(list_tree(tmp_path), None, "gtFine")


def test_a_frame_in_several_splits_has_an_id_in_each(tmp_path: Path) -> None:
    frame(tmp_path, "train", "aachen_000000_000019")
    frame(tmp_path, "train", "aachen_000001_000019")
    frame(tmp_path, "val", "aachen_000000_000019")
    assert rows(read(tmp_path)) == [
        ("train/aachen_000000_000019", "train", "aachen"),
        ("val/aachen_000000_000019", "val", "aachen"),
        ("train/aachen_000001_000019", "train", "aachen"),
    ]
