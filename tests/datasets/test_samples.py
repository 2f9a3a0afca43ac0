"""The embedded data: deterministic, leak-free, consistent, quick to make."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from unet_pipeline.datasets import samples
from unet_pipeline.datasets.images import read_image, read_mask
from unet_pipeline.datasets.samples import CLASS_NAMES, draw_scene, split_digits, write_scenes
from unet_pipeline.errors import ResourceError, UserError

NUM_SCENES = 40


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes") / "digits", num_scenes=NUM_SCENES)


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_the_layout_is_splits_of_images_and_masks_with_a_list_of_names(scenes: Path) -> None:
    assert {path.name for path in scenes.iterdir()} == {"train", "val", "test", "classes.txt"}
    names: list[str] = []
    for split, count in (("train", 28), ("val", 6), ("test", 6)):
        images = sorted(path.name for path in (scenes / split / "images").iterdir())
        assert images == sorted(path.name for path in (scenes / split / "masks").iterdir())
        assert len(images) == count
        names += images
    assert len(set(names)) == NUM_SCENES
    lines = (scenes / "classes.txt").read_text().splitlines()
    assert lines[:2] == ["0 background", "1 zero"]
    assert lines == [f"{index} {name}" for index, name in enumerate(CLASS_NAMES)]


def test_images_are_rgb_of_odd_sizes_with_a_grey_mask_of_the_same_size(scenes: Path) -> None:
    sizes = set()
    for path in sorted((scenes / "train" / "images").iterdir()):
        image, mask = read_image(path), read_mask(scenes / "train" / "masks" / path.name)
        assert image.dtype == np.uint8
        assert image.shape == (*mask.shape, 3)
        assert all(90 <= side <= 140 for side in mask.shape)
        header = (scenes / "train" / "masks" / path.name).read_bytes()[24:26]
        assert tuple(header) == (8, 0)  # 8 bits, grey
        sizes.add(mask.shape)
    assert len(sizes) > 20
    assert any(height % 2 and width % 2 and height != width for height, width in sizes)


def test_every_class_occurs_and_background_is_most_of_it(scenes: Path) -> None:
    masks = [read_mask(path) for path in sorted(scenes.glob("*/masks/*.png"))]
    counts = np.bincount(np.concatenate([mask.ravel() for mask in masks]), minlength=11)
    assert len(counts) == len(CLASS_NAMES) == 11
    assert counts.min() > 0
    assert 0.8 < counts[0] / counts.sum() < 0.95


def test_the_same_seed_writes_the_same_bytes_and_another_seed_other_pictures(
    scenes: Path, tmp_path: Path
) -> None:
    again = write_scenes(tmp_path / "again", num_scenes=NUM_SCENES)
    assert digest(again) == digest(scenes)
    other = write_scenes(tmp_path / "other", num_scenes=NUM_SCENES, seed=1)
    pictures = {name: value for name, value in digest(scenes).items() if name.endswith(".png")}
    assert not set(pictures.values()) & set(digest(other).values())


def test_a_scene_does_not_depend_on_how_many_there_are(scenes: Path, tmp_path: Path) -> None:
    few = write_scenes(tmp_path / "few", num_scenes=7)
    for kind in ("images", "masks"):
        for path in (few / "train" / kind).iterdir():
            assert path.read_bytes() == (scenes / "train" / kind / path.name).read_bytes()


def test_no_handwritten_digit_is_in_two_splits_and_none_is_lost() -> None:
    pools = split_digits(0)
    seen = {split: {digit.tobytes() for digit in digits} for split, (digits, _) in pools.items()}
    assert not seen["train"] & seen["val"]
    assert not seen["train"] & seen["test"]
    assert not seen["val"] & seen["test"]
    assert sum(len(labels) for _, labels in pools.values()) == 1797
    for digits, labels in pools.values():
        assert digits.shape == (len(labels), 8, 8)
        assert set(labels.tolist()) == set(range(10))
    assert len(pools["train"][1]) == pytest.approx(0.7 * 1797, abs=10)


def test_the_scenes_of_a_split_are_drawn_from_its_own_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools: list[np.ndarray] = []

    def remember(
        rng: np.random.Generator, digits: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        pools.append(digits)
        return draw_scene(rng, digits, labels)

    monkeypatch.setattr(samples, "draw_scene", remember)
    write_scenes(tmp_path / "digits", num_scenes=3)  # one scene a split
    for pool, (digits, _) in zip(pools, split_digits(0).values(), strict=True):
        np.testing.assert_array_equal(pool, digits)


def test_ink_lies_where_the_mask_says(scenes: Path) -> None:
    # the edge of a digit in the image is the edge in the mask: shifting the mask loses contrast
    gains = []
    for path in sorted((scenes / "train" / "images").iterdir()):
        image = read_image(path).mean(axis=2)
        mask = read_mask(scenes / "train" / "masks" / path.name) > 0

        def contrast(mask: np.ndarray, image: np.ndarray = image) -> float:
            inside = mask[2:-2, 2:-2]
            near = sum(np.roll(mask, (a, b), (0, 1)) for a in (-2, 0, 2) for b in (-2, 0, 2)) > 0
            ring = near[2:-2, 2:-2] & ~inside
            core = image[2:-2, 2:-2]
            return abs(core[inside].mean() - core[ring].mean())

        shifted = [np.roll(mask, shift, (0, 1)) for shift in ((2, 0), (-2, 0), (0, 2), (0, -2))]
        gains.append(contrast(mask) > np.mean([contrast(other) for other in shifted]))
    assert np.mean(gains) > 0.8


def test_digits_keep_apart_and_can_be_told_from_their_ground() -> None:
    digits, labels = split_digits(0)["train"]
    for seed in range(10):
        image, mask = draw_scene(np.random.default_rng(seed), digits, labels)
        assert image.std() > 5
        # two digits never touch: no pixel has a neighbour of another digit
        for ahead, behind in ((mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])):
            assert not ((ahead != behind) & (ahead > 0) & (behind > 0)).any()


def test_the_folder_may_exist_but_a_split_in_it_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    write_scenes(tmp_path, num_scenes=3)
    before = digest(tmp_path)
    with pytest.raises(UserError, match="holds train already: choose a new folder"):
        write_scenes(tmp_path, num_scenes=3, seed=5)
    assert digest(tmp_path) == before


def test_three_scenes_make_one_of_each_split_and_two_are_refused(tmp_path: Path) -> None:
    write_scenes(tmp_path / "three", num_scenes=3)
    assert len(list((tmp_path / "three").glob("*/images/*.png"))) == 3
    with pytest.raises(UserError, match="num_scenes = 2"):
        write_scenes(tmp_path / "two", num_scenes=2)
    with pytest.raises(UserError, match="seed = -1"):
        write_scenes(tmp_path / "two", num_scenes=3, seed=-1)
    assert not (tmp_path / "two").exists()


def test_what_goes_wrong_half_way_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(ResourceError, match="no space left"):
        write_scenes(tmp_path / "digits", num_scenes=3)
    assert list((tmp_path / "digits").iterdir()) == []
