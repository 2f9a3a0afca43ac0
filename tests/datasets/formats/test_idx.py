from __future__ import annotations

import gzip
import os
import pickle
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from unet_pipeline.datasets.formats.contract import Found, list_tree
from unet_pipeline.datasets.formats.idx import FORMAT, IdxImage, IdxMask
from unet_pipeline.errors import DatasetError, UserError


def encode(array: np.ndarray, kind: int = 8) -> bytes:
    head = struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape)
    return head + array.astype(np.uint8).tobytes()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def pictures(count: int, seed: int = 0, shape: tuple[int, int] = (5, 7)) -> np.ndarray:
    """Dark pictures with a bright part each."""
    rng = np.random.default_rng(seed)
    array = rng.integers(0, 60, (count, *shape))
    array[:, 1:3, 2:5] = rng.integers(150, 256, (count, 2, 3))
    return array.astype(np.uint8)


def dataset(root: Path, *, gz: str = ".gz", train: int = 12, test: int = 4) -> None:
    for part, count in (("train", train), ("t10k", test)):
        write(root / f"{part}-images-idx3-ubyte{gz}", encode(pictures(count, seed=count)))
        write(root / f"{part}-labels-idx1-ubyte{gz}", encode(np.arange(count) % 3))


def read(root: Path) -> Found:
    return FORMAT.read(list_tree(root), None, None)


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_bright_pixels_take_the_class_of_their_picture(tmp_path: Path, gz: str) -> None:
    dataset(tmp_path, gz=gz)
    assert FORMAT.recognise(list_tree(tmp_path)) == (
        f"t10k-images-idx3-ubyte{gz} is a file of many pictures in MNIST's format"
    )
    found = read(tmp_path)
    assert Counter(p.split for p in found.pairs) == {"train": 12, "test": 4}
    assert [p.sample_id for p in found.pairs[10:14]] == [
        *("train/00010", "train/00011", "t10k/00000", "t10k/00001")
    ]
    truth = np.concatenate([pictures(12, seed=12), pictures(4, seed=4)])
    for pair, expected, label in zip(found.pairs, truth, [*range(12), *range(4)], strict=True):
        assert isinstance(pair.image, IdxImage)
        assert isinstance(pair.mask, IdxMask)
        image, mask = pair.image.pixels(), pair.mask.pixels()
        assert image.dtype == mask.dtype == np.uint8
        assert (image[..., 0] == expected).all()
        assert (mask == np.where(expected > 100, label % 3 + 1, 0)).all()
        assert image.flags.writeable
        assert mask.flags.writeable
    assert found.class_list is not None
    assert found.class_list.names == ("background", "0", "1", "2")
    assert found.class_list.values == (0, 1, 2, 3)


def test_the_threshold_is_that_of_otsu_over_all_pictures(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    every = []
    for part, mean in (("train", 60), ("t10k", 190)):
        array = np.clip(rng.normal(mean, 30, (20, 8, 8)), 0, 255).astype(np.uint8)
        write(tmp_path / f"{part}-images-idx3-ubyte", encode(array))
        write(tmp_path / f"{part}-labels-idx1-ubyte", encode(np.zeros(20)))
        every.append(array)
    flat = np.concatenate(every).reshape(1, -1)
    expected, _ = cv2.threshold(flat, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    found = read(tmp_path)
    assert {p.mask.threshold for p in found.pairs} == {int(expected)}  # type: ignore[union-attr]
    assert f"pixels brighter than {int(expected)} of 255 (Otsu's threshold" in found.sentence


def test_names_come_from_a_class_file_that_fits(tmp_path: Path) -> None:
    dataset(tmp_path)
    (tmp_path / "classes.txt").write_text("shirt\nbag\nboot\n")
    found = read(tmp_path)
    assert found.class_list is not None
    assert found.class_list.names == ("background", "shirt", "bag", "boot")
    assert found.left_out == ()
    (tmp_path / "classes.txt").write_text("shirt\nbag\n")
    found = read(tmp_path)
    assert found.class_list is not None
    assert found.class_list.names == ("background", "0", "1", "2")
    assert found.left_out == ("left out: classes.txt, 2 names for 3 labels (without a background)",)


def test_the_digest_tells_pictures_labels_and_thresholds_apart(tmp_path: Path) -> None:
    same = np.repeat(pictures(1), 3, axis=0)
    write(tmp_path / "train-images-idx3-ubyte", encode(same))
    write(tmp_path / "train-labels-idx1-ubyte", encode(np.array([4, 4, 5])))
    a, b, c = read(tmp_path).pairs
    assert a.image.digest() == b.image.digest() == c.image.digest()  # type: ignore[union-attr]
    assert a.mask.digest() == b.mask.digest() != c.mask.digest()  # type: ignore[union-attr]
    assert isinstance(a.mask, IdxMask)
    other = IdxMask(a.mask.images, a.mask.labels, 0, a.mask.threshold + 1)
    assert len({a.mask.digest(), other.digest(), a.image.digest()}) == 3  # type: ignore[union-attr]
    assert len(a.mask.digest()) == 16


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    dataset(tmp_path)
    image = read(tmp_path).pairs[0].image
    assert isinstance(image, IdxImage)
    before = image.digest()
    write(image.path, encode(pictures(12, seed=99)))
    os.utime(image.path, ns=(1, 1))
    assert image.digest() != before
    write(image.path, encode(pictures(3)))
    os.utime(image.path, ns=(2, 2))
    with pytest.raises(DatasetError, match="holds 3 entries now, entry 11 is wanted"):
        IdxImage(image.path, 11).pixels()
    image.path.unlink()
    with pytest.raises(DatasetError, match="cannot be read"):
        image.pixels()


def test_what_is_made_crosses_to_other_processes(tmp_path: Path) -> None:
    dataset(tmp_path)
    pair = read(tmp_path).pairs[3]
    copy = pickle.loads(pickle.dumps(pair))
    assert copy == pair
    assert (copy.mask.pixels() == pair.mask.pixels()).all()  # type: ignore[union-attr]
    assert pair.mask.source == (  # type: ignore[union-attr]
        f"{tmp_path}/train-labels-idx1-ubyte.gz, picture 3"
    )


IMAGES = "train-images-idx3-ubyte.gz"
LABELS = "train-labels-idx1-ubyte.gz"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (IMAGES, encode(pictures(12))[:-1], r"is cut off \(its head claims 420 bytes"),
        (IMAGES, encode(pictures(12)) + b"x", "holds more than it claims"),
        (IMAGES, encode(pictures(12))[:9], "is cut off"),
        (IMAGES, b"\x89PNG" + bytes(30), "is no IDX file: it begins with 89 50 4e 47"),
        (IMAGES, encode(pictures(12), kind=13), "type 0x0d in 3 dimensions"),
        (IMAGES, encode(np.zeros(12)), "type 0x08 in 1 dimensions"),
        (IMAGES, struct.pack(">HBB3I", 0, 8, 3, 2**31, 2**31, 2**31), "claims .* bytes"),
        (IMAGES, encode(np.full((12, 4, 4), 7)), "all pictures have the value 7 everywhere"),
        (IMAGES, encode(pictures(11)), "holds 12 labels for the 11 pictures of train-images"),
        (LABELS, encode(np.array([254] * 12)), "holds the label 254; labels from 0 to 253"),
    ],
)
def test_damage_is_named_in_one_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    write(tmp_path / IMAGES, encode(pictures(12)))
    write(tmp_path / LABELS, encode(np.arange(12)))
    write(tmp_path / name, content)
    with pytest.raises(DatasetError, match=message) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_torn_archive_is_named(tmp_path: Path) -> None:
    dataset(tmp_path)
    path = tmp_path / IMAGES
    whole = path.read_bytes()
    for content in (whole[:-20], whole[:60] + bytes(40) + whole[100:], b"\x1f\x8b" + bytes(50)):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=r"train-images-idx3-ubyte\.gz: cannot be unpacked"):
            read(tmp_path)


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no file is called \.\.\.-images-idx3-ubyte"):
        read(tmp_path)
    dataset(tmp_path / "a")
    (tmp_path / "a" / LABELS).unlink()
    with pytest.raises(DatasetError, match="train-images has no train-labels beside it"):
        read(tmp_path / "a")
    for name in ("letters-train", "digits-train"):
        write(tmp_path / "b" / f"{name}-images-idx3-ubyte", encode(pictures(3)))
        write(tmp_path / "b" / f"{name}-labels-idx1-ubyte", encode(np.zeros(3)))
    with pytest.raises(DatasetError, match="holds digits-train, letters-train: which of them"):
        read(tmp_path / "b")
    dataset(tmp_path / "c" / "one")
    dataset(tmp_path / "c" / "two")
    with pytest.raises(DatasetError, match="are of several datasets"):
        read(tmp_path / "c")
    with pytest.raises(UserError, match="takes the folder"):
        FORMAT.read(list_tree(tmp_path / "c" / "one" / IMAGES), None, None)
    assert FORMAT.recognise(list_tree(tmp_path / "c" / "one" / IMAGES)) is None


def test_packed_and_unpacked_copies_count_once(tmp_path: Path) -> None:
    dataset(tmp_path / "MNIST" / "raw")
    dataset(tmp_path / "MNIST" / "raw", gz="")
    found = read(tmp_path)
    assert len(found.pairs) == 16
    assert all(p.image.path.suffix == "" for p in found.pairs)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "train", "test"), [("mnist10k", 10_000, 10_000), ("fashion900", 700, 200)]
)
def test_real_files_are_read(
    real_data: Callable[[str], Path], name: str, train: int, test: int
) -> None:
    root = real_data(name)
    found = read(root)
    assert Counter(p.split for p in found.pairs) == {"train": train, "test": test}
    with gzip.open(root / "t10k-labels-idx1-ubyte.gz") as file:
        labels = file.read()[8:]
    with gzip.open(root / "t10k-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read()[16:], np.uint8).reshape(-1, 28, 28)
    for index in range(0, test, 37):
        pair = found.pairs[train + index]
        mask = pair.mask.pixels()  # type: ignore[union-attr]
        assert set(np.unique(mask)) <= {0, labels[index] + 1}
        assert (pair.image.pixels()[..., 0] == images[index]).all()  # type: ignore[union-attr]
        assert images[index][mask > 0].min() > images[index][mask == 0].max()
