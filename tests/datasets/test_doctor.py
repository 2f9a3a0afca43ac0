"""A zoo of damaged datasets: each fault alone is found and named, and the clean ones are clean."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from unet_pipeline import cli

Zoo = Callable[[Path], None]
SIDE = 64


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def picture(seed: int, channels: int = 3, side: int = SIDE) -> np.ndarray:
    """Soft blobs with a little noise, unlike every other seed's."""
    rng = np.random.default_rng([seed, 1])
    coarse = rng.integers(0, 256, (5, 5, channels), dtype=np.uint8)
    soft = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    noise = rng.integers(-6, 7, (side, side, channels))
    return np.clip(soft.reshape(side, side, channels).astype(int) + noise, 0, 255).astype(np.uint8)


def mask(seed: int, values: tuple[int, ...] = (0, 128, 255), side: int = SIDE) -> np.ndarray:
    """A disc and a box on a ground."""
    rng = np.random.default_rng([seed, 2])
    canvas = np.full((side, side), values[0], np.uint8)
    corner = rng.integers(4, 20, 2)
    canvas[corner[0] : corner[0] + 20, corner[1] : corner[1] + 20] = values[-1]
    center = (int(rng.integers(36, 50)), int(rng.integers(36, 50)))
    cv2.circle(canvas, center, 9, values[len(values) // 2], -1)
    return canvas


def save(path: Path, pixels: np.ndarray, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.squeeze()).save(path, **options)


def clean(root: Path, number: int = 12, suffix: str = ".png") -> None:
    """images/ and masks/ of `number` pairs in which nothing is wrong."""
    for i in range(number):
        save(root / "images" / f"{i:02d}{suffix}", picture(i))
        save(root / "masks" / f"{i:02d}.png", mask(i))


def clean_splits(root: Path) -> None:
    for split, numbers in (("train", range(8)), ("val", range(8, 12))):
        for i in numbers:
            save(root / split / "images" / f"{i:02d}.png", picture(i))
            save(root / split / "masks" / f"{i:02d}.png", mask(i))


def check(source: Path, *options: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    capsys.readouterr()
    code = cli.run(["prepare", str(source), "--check", "--json", *options])
    out, err = capsys.readouterr()
    return code, (json.loads(out) if out else err)


# ---- clean ones ---------------------------------------------------------------------------------


def _coco(root: Path, change: Callable[[dict[str, Any]], None] | None = None) -> None:
    images, annotations = [], []
    for i in range(10):
        save(root / "images" / f"{i:02d}.png", picture(i))
        images.append({"id": i, "file_name": f"{i:02d}.png", "width": SIDE, "height": SIDE})
        for k, x in ((1, 5 + i), (2, 35)):
            ring = [x, 10, x + 15, 10, x + 15, 30, x, 30]
            annotations.append(
                {"id": 2 * i + k, "image_id": i, "category_id": k, "iscrowd": 0, "area": 300,
                 "bbox": [x, 10, 15, 20], "segmentation": [ring]}
            )  # fmt: skip
    tree = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "debris"}],
    }
    if change is not None:
        change(tree)
    (root / "annotations.json").write_text(json.dumps(tree))


def _labelme(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for i in range(10):
        save(root / f"{i:02d}.png", picture(i))
        shapes = [
            {"label": "cell", "shape_type": "polygon",
             "points": [[5 + i, 10], [25 + i, 10], [25 + i, 30], [5 + i, 30]]}
        ]  # fmt: skip
        (root / f"{i:02d}.json").write_text(
            json.dumps({"version": "5.0.1", "flags": {}, "shapes": shapes,
                        "imagePath": f"{i:02d}.png", "imageData": None,
                        "imageHeight": SIDE, "imageWidth": SIDE})
        )  # fmt: skip


def _yolo(root: Path) -> None:
    for i in range(10):
        save(root / "images" / f"{i:02d}.png", picture(i))
        (root / "labels").mkdir(exist_ok=True)
        x = (5 + i) / SIDE
        (root / "labels" / f"{i:02d}.txt").write_text(
            f"0 {x} 0.1 {x + 0.3} 0.1 {x + 0.3} 0.5 {x} 0.5\n"
        )
    (root / "data.yaml").write_text("path: .\ntrain: images\nval: images\nnames: [cell]\n")


def _objects(root: Path) -> None:
    for i in range(10):
        save(root / f"id{i:02d}" / "images" / f"id{i:02d}.png", picture(i))
        for n, x in enumerate((5 + i, 40)):
            canvas = np.zeros((SIDE, SIDE), np.uint8)
            canvas[10:30, x : x + 15] = 255
            save(root / f"id{i:02d}" / "masks" / f"{n}.png", canvas)


def _table(root: Path, rows: Callable[[int], str] = lambda i: "") -> None:
    clean(root)
    lines = [f"images/{i:02d}.png,masks/{i:02d}.png{rows(i)}" for i in range(12)]
    header = "image,mask" + (",group,split" if rows(0) else "")
    (root / "pairs.csv").write_text("\n".join([header, *lines]) + "\n")


def _floats(root: Path) -> None:
    for i in range(8):
        (root / "images").mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(root / "images" / f"{i}.tif", picture(i, 1)[..., 0] / np.float32(255))
        save(root / "masks" / f"{i}.png", mask(i))


def _deep(root: Path) -> None:
    for i in range(8):
        (root / "images").mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(root / "images" / f"{i}.tif", picture(i, 1)[..., 0].astype(np.uint16) * 16)
        save(root / "masks" / f"{i}.png", mask(i))


def _upright_jpegs(root: Path) -> None:
    for i in range(8):
        save(root / "images" / f"{i}.jpg", picture(i), quality=92)
        save(root / "masks" / f"{i}.png", mask(i))


CLEAN: dict[str, Zoo] = {
    "plain": clean,
    "split folders": clean_splits,
    "coco": _coco,
    "labelme": _labelme,
    "yolo": _yolo,
    "objects": _objects,
    "table": _table,
    "table of groups": lambda root: _table(root, lambda i: f",g{i},{'val' if i > 8 else 'train'}"),
    "floats": _floats,
    "12 bits": _deep,
    "jpeg images": _upright_jpegs,
}
WITH_SPLITS = ("split folders", "table of groups")


@pytest.mark.parametrize("name", CLEAN)
def test_nothing_is_reported_of_a_clean_dataset(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    CLEAN[name](tmp_path / "zoo")
    fractions = () if name in WITH_SPLITS else ("--val", "0.3")
    code, result = check(tmp_path / "zoo", *fractions, capsys=capsys)
    assert code == 0
    told = [f for f in result["findings"] if f["severity"] != "note"]
    assert told == []
    assert result["ok"]


# ---- faults -------------------------------------------------------------------------------------


def _bytes(root: Path, relative: str, change: Callable[[bytes], bytes]) -> None:
    clean(root)
    path = root / relative
    path.write_bytes(change(path.read_bytes()))


def _exif(root: Path, orientation: int, *, turn: bool) -> None:
    """Photos that lie on their side as stored; masks drawn over them as stored."""
    clean(root, 8)
    for i in (0, 1):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = picture(i, side=96)[:SIDE]
        (root / "images" / f"{i:02d}.png").unlink()
        save(root / "images" / f"{i:02d}.jpg", stored, exif=exif)
        drawn = np.zeros(stored.shape[:2], np.uint8)
        drawn[:20, :40] = 255
        drawn[40:50, 50:60] = 128
        save(root / "masks" / f"{i:02d}.png", drawn if turn else np.rot90(drawn))


def _given_splits(root: Path, change: Callable[[Path], None]) -> None:
    clean_splits(root)
    change(root)


def _replace(root: Path, relative: str, pixels: np.ndarray, **options: Any) -> None:
    clean(root)
    for old in (root / relative).parent.glob(Path(relative).stem + ".*"):
        old.unlink()
    save(root / relative, pixels, **options)


def _masks(root: Path, change: Callable[[int], np.ndarray], suffix: str = ".png") -> None:
    clean(root)
    shutil.rmtree(root / "masks")
    for i in range(12):
        save(root / "masks" / f"{i:02d}{suffix}", change(i))


def _noise_colors(i: int) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def _soft(i: int) -> np.ndarray:
    return cv2.GaussianBlur(mask(i, (0, 255)), (9, 9), 3)


def _soft_edges(i: int) -> np.ndarray:
    """Drawn larger, and made smaller by averaging: grey along the edges alone."""
    large = mask(i, (0, 255), side=2 * SIDE)
    return cv2.resize(large, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def _noisy_colors(i: int) -> np.ndarray:
    noise = np.random.default_rng(i).integers(-3, 4, (SIDE, SIDE, 3))
    colors = np.array([[0, 0, 0], [200, 30, 0]])[mask(i, (0, 1))] + noise
    return np.clip(colors, 0, 255).astype(np.uint8)


def _with_alpha(pixels: np.ndarray) -> np.ndarray:
    alpha = np.full((*pixels.shape[:2], 1), 255, np.uint8)
    alpha[10:20, 10:20] = 0
    return np.concatenate(
        [np.broadcast_to(pixels.reshape(SIDE, SIDE, -1), (SIDE, SIDE, 3)), alpha], 2
    )


def _tiny_class(i: int) -> np.ndarray:
    drawn = mask(i, (0, 255))
    drawn[0, 0] = 7 if i < 12 else 0
    return drawn


def _labels(root: Path, relative: str, text: str) -> None:
    _yolo(root)
    (root / "labels" / relative).write_text(text)


def _only_in_train(root: Path) -> None:
    for path in (root / "val" / "masks").iterdir():
        drawn = np.array(Image.open(path).copy())
        drawn[drawn == 128] = 0
        save(path, drawn)


def _brighter(root: Path, source: str, target: str) -> None:
    with Image.open(root / f"{source}.png") as opened:
        pixels = np.asarray(opened).astype(int)
    save(root / f"{target}.png", np.clip(pixels * 0.9 + 12, 0, 255).astype(np.uint8))


def _nan_image(root: Path) -> None:
    _floats(root)
    pixels = picture(0, 1)[..., 0].astype(np.float32)
    pixels[3, 3] = np.nan
    tifffile.imwrite(root / "images" / "0.tif", pixels)


def _mixed_ranges(root: Path) -> None:
    _floats(root)
    tifffile.imwrite(root / "images" / "0.tif", picture(0, 1)[..., 0].astype(np.float32))


def _stack(root: Path) -> None:
    clean(root)
    (root / "images" / "00.png").unlink()
    tifffile.imwrite(
        root / "images" / "00.tif", np.stack([picture(i, 1)[..., 0] for i in range(20)]),
        photometric="minisblack",
    )  # fmt: skip


def _animation(root: Path) -> None:
    clean(root)
    (root / "images" / "00.png").unlink()
    frames = [Image.fromarray(picture(i)) for i in range(3)]
    frames[0].save(root / "images" / "00.gif", save_all=True, append_images=frames[1:])


def _drop(key: str, place: int) -> Callable[[dict[str, Any]], None]:
    def change(tree: dict[str, Any]) -> None:
        del tree[key][place]

    return change


def _set(place: int, key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(tree: dict[str, Any]) -> None:
        tree["annotations"][place][key] = value

    return change


def _set_image(place: int, key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["images"][place][key] = value

    return change


def _wide(root: Path, relative: str) -> None:
    """An image of 96x64 that its annotations give as 64x96."""
    save(root / relative, picture(3, side=96)[:SIDE])
    path = next(root.glob("*.json"))
    content = json.loads(path.read_text())
    content["images"][3] |= {"width": SIDE, "height": 96}
    path.write_text(json.dumps(content))


def _numpy_mask(root: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    clean(root)
    (root / "masks" / "00.png").unlink()
    np.save(root / "masks" / "00.npy", change(mask(0).astype(np.int32)))


def _patients(root: Path) -> None:
    for patient in range(5):
        for part in range(4):
            name = f"patient{patient:02d}_slice{part:02d}.png"
            seed = patient * 10 + part
            save(root / "images" / name, picture(seed))
            save(root / "masks" / name, mask(seed))


def _copy(source: str, target: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / source, root / target)

    return change


def _both(*changes: Callable[[Path], None]) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        for one in changes:
            one(root)

    return change


def _write(relative: str, data: bytes | str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        clean(root)
        (root / relative).write_bytes(data.encode() if isinstance(data, str) else data)

    return change


def _overlapping(root: Path) -> None:
    _objects(root)
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    canvas[15:35, 8:20] = 255
    save(root / "id00" / "masks" / "9.png", canvas)


def _broken_labelme(root: Path) -> None:
    _labelme(root)
    (root / "03.json").write_text('{"shapes": [')


def _lost_labelme_image(root: Path) -> None:
    _labelme(root)
    (root / "03.png").unlink()


def _crossing_groups(root: Path) -> None:
    _table(root, lambda i: f",g{i % 3},{'val' if i > 8 else 'train'}")


def _missing_in_table(root: Path) -> None:
    _table(root)
    (root / "masks" / "03.png").unlink()


def _dangling(root: Path) -> None:
    clean(root)
    (root / "images" / "00.png").unlink()
    (root / "images" / "00.png").symlink_to(root / "nowhere.png")


def _pipe(root: Path) -> None:
    clean(root)
    (root / "images" / "00.png").unlink()
    os.mkfifo(root / "images" / "00.png")


def _flip(data: bytes) -> bytes:
    place = data.index(b"IDAT") + 20
    return data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]


# name: (what is done, options, code of the finding, exit code, what an example names)
FAULTS: dict[str, tuple[Zoo, tuple[str, ...], str, int, str]] = {
    "image without mask": (
        lambda r: (clean(r), (r / "masks/03.png").unlink()), (), "unpaired-images", 4, "03.png"),
    "mask without image": (
        lambda r: (clean(r), (r / "images/03.png").unlink()), (), "unpaired-masks", 4, "03.png"),
    "PNG cut off": (
        lambda r: _bytes(r, "images/03.png", lambda d: d[: len(d) // 2]), (),
        "unreadable-files", 4, "03.png"),
    "PNG without its end": (
        lambda r: _bytes(r, "images/03.png", lambda d: d[:-12]), (),
        "unreadable-files", 4, "03.png"),
    "PNG with a flipped byte": (
        lambda r: _bytes(r, "images/03.png", _flip), (), "unreadable-files", 4, "03.png"),
    "mask cut off": (
        lambda r: _bytes(r, "masks/03.png", lambda d: d[: len(d) // 2]), (),
        "unreadable-files", 4, "masks/03.png"),
    "JPEG cut off": (
        lambda r: (clean(r, suffix=".jpg"), (r / "images/03.jpg").write_bytes(
            (r / "images/03.jpg").read_bytes()[:900])), (), "unreadable-files", 4, "03.jpg"),
    "file of no bytes": (_write("images/03.png", b""), (), "unreadable-files", 4, "0 bytes"),
    "text named PNG": (_write("images/03.png", "hello"), (), "unreadable-files", 4, "03.png"),
    "web page named PNG": (
        _write("images/03.png", "<html></html>"), (), "unreadable-files", 4, "03.png"),
    "Git LFS pointer": (
        _write("images/03.png", "version https://git-lfs.github.com/spec/v1\n"), (),
        "unreadable-files", 4, "git lfs pull"),
    "broken link": (_dangling, (), "unreadable-files", 4, "no such file"),
    "named pipe": (_pipe, (), "unreadable-files", 4, "not a regular file"),
    "NaN in an image": (_nan_image, (), "unreadable-files", 4, "0.tif"),
    "stack without --pages": (_stack, (), "unreadable-files", 4, "--pages"),
    "animation without --pages": (_animation, (), "unreadable-files", 4, "00.gif"),
    "fractions in a mask": (
        lambda r: _numpy_mask(r, lambda m: m + 0.5), (), "unreadable-files", 4, "whole numbers"),
    "negative mask values": (
        lambda r: _numpy_mask(r, lambda m: m - 7), (), "unreadable-files", 4, "-7"),
    "mask of another size": (
        lambda r: _replace(r, "masks/03.png", mask(3)[:50]), (), "other-sizes", 4, "64x50"),
    "mask transposed": (
        lambda r: (_replace(r, "masks/03.png", np.vstack([mask(3)] * 2)),
                   save(r / "images/03.png", np.hstack([picture(3)] * 2))), (),
        "masks-transposed", 4, "mask 64x128"),
    "mask drawn before EXIF": (
        lambda r: _exif(r, 6, turn=True), (), "masks-not-turned", 4, "00: image 64x96"),
    "upside down by EXIF": (
        lambda r: _exif(r, 3, turn=True), (), "exif-orientation", 0, "00"),
    "values outside the class list": (
        lambda r: (clean(r), (r / "classes.txt").write_text("0 ground\n255 cell\n")), (),
        "mask-values", 4, ""),
    "values outside --values": (clean, ("--values", "0,255"), "mask-values", 4, ""),
    "soft masks": (lambda r: _masks(r, _soft), (), "mask-values", 4, ""),
    "photographs as masks": (lambda r: _masks(r, _noise_colors), (), "mask-values", 4, ""),
    "the images again as masks": (lambda r: _masks(r, picture), (), "mask-values", 4, ""),
    "masks of 0 and 1 beside masks of 0 and 255": (
        lambda r: _masks(r, lambda i: mask(i, (0, 1 if i % 2 else 255))), (),
        "mask-values", 4, "--values 0,1 --other 1"),
    "three grey levels beside 0, 1, 2": (
        lambda r: _masks(r, lambda i: mask(i, (0, 1, 2) if i % 2 else (0, 128, 255))), (),
        "mask-values", 4, "two encodings"),
    "a mistyped value that holds all the foreground": (
        lambda r: _masks(r, lambda i: mask(i, (0, 255))), ("--values", "0,1"),
        "mask-values", 4, "255"),
    "nothing but void": (
        lambda r: (_masks(r, lambda i: mask(i) * 0 + 255),
                   (r / "classes.txt").write_text("0 ground\n1 cell\n255 void\n")), (),
        "void-masks", 4, "12 of 12"),
    "nothing but one of the declared classes": (
        lambda r: (_masks(r, lambda i: mask(i) * 0),
                   (r / "classes.txt").write_text("0 ground\n1 cell\n")), (),
        "absent-classes", 4, "cell"),
    "soft edges": (
        lambda r: _masks(r, _soft_edges), (), "soft-edges", 0, "--values 0,255"),
    "soft edges, snapped": (
        lambda r: _masks(r, _soft_edges), ("--values", "0,255"), "soft-edges", 0, "snapped"),
    "noise on two colours": (
        lambda r: _masks(r, _noisy_colors), (), "mask-values", 4, "--values 0/0/0,"),
    "noise on two colours, all but two given to background": (
        lambda r: _masks(r, _noisy_colors), ("--values", "0/0/0,200/30/0", "--other", "0"),
        "soft-edges", 0, "without --other"),
    "JPEG masks": (
        lambda r: _masks(r, mask, ".jpg"), (), "jpeg-masks", 0, ""),
    "one JPEG mask": (
        lambda r: _replace(r, "masks/03.jpg", mask(3), quality=80), (), "jpeg-masks", 0, ""),
    "alpha in an image": (
        lambda r: _replace(r, "images/03.png", _with_alpha(picture(3))), (),
        "alpha-in-images", 0, "03"),
    "alpha in a mask": (
        lambda r: _replace(r, "masks/03.png", _with_alpha(mask(3))), (), "alpha-in-masks", 0, "03"),
    "an empty mask": (
        lambda r: _replace(r, "masks/03.png", mask(3) * 0), (), "empty-masks", 0, "03"),
    "a full mask": (
        lambda r: _replace(r, "masks/03.png", mask(3) * 0 + 255), (), "full-masks", 0, "03"),
    "a void mask": (
        lambda r: _replace(r, "masks/03.png", mask(3) * 0 + 9), ("--ignore-values", "9"),
        "void-masks", 0, "03"),
    "all masks of one class": (
        lambda r: _masks(r, lambda i: mask(i) * 0), (), "mask-values", 4, ""),
    "a rare class": (lambda r: _masks(r, _tiny_class), (), "rare-classes", 0, "class_7"),
    "a class absent from val": (
        lambda r: _given_splits(r, _only_in_train), (), "classes-absent-from-val", 0, "class_128"),
    "a class that never occurs": (
        lambda r: (clean(r), (r / "classes.txt").write_text("0 ground\n128 a\n200 b\n255 c\n")), (),
        "absent-classes", 0, "b"),
    "channels mixed": (
        lambda r: (clean(r), (r / "images/03.png").unlink(),
                   np.save(r / "images/03.npy", picture(3, 5))), (), "mixed-channels", 4, "03"),
    "grey among colour": (
        lambda r: _replace(r, "images/03.png", picture(3, 1)), (), "mixed-grey-and-color", 0, "03"),
    "16 bits among 8": (
        lambda r: (clean(r), (r / "images/03.png").unlink(),
                   tifffile.imwrite(r / "images/03.tif", picture(3).astype(np.uint16) * 99)), (),
        "mixed-depths", 4, "03"),
    "ranges mixed": (_mixed_ranges, (), "mixed-ranges", 0, "0"),
    "a flat image": (
        lambda r: _replace(r, "images/03.png", picture(3) * 0), (), "flat-images", 0, "03"),
    "an image of another scale": (
        lambda r: (_replace(r, "images/03.png", picture(3, side=300)),
                   save(r / "masks/03.png", mask(3, side=300))), (), "outlier-sizes", 0, "300x300"),
    "one picture twice": (
        lambda r: (clean(r), _both(_copy("images/03.png", "images/c.png"),
                                   _copy("masks/03.png", "masks/c.png"))(r)), (),
        "duplicates", 0, "03 = c"),
    "one picture, two masks": (
        lambda r: (clean(r), _both(_copy("images/03.png", "images/c.png"),
                                   _copy("masks/04.png", "masks/c.png"))(r)), (),
        "contradicting-masks", 0, "03 = c"),
    "one picture in two splits": (
        lambda r: _given_splits(r, _both(_copy("train/images/03.png", "val/images/c.png"),
                                         _copy("train/masks/03.png", "val/masks/c.png"))), (),
        "duplicates-cross-splits", 0, "03 = c"),
    "one picture, brighter": (
        lambda r: (clean(r), _brighter(r, "images/03", "images/c"),
                   _copy("masks/03.png", "masks/c.png")(r)), ("--group-regex", "^(03|c|.*)$"),
        "near-duplicates", 0, "03 ~ c"),
    "one picture, brighter, in two splits": (
        lambda r: _given_splits(r, _both(
            lambda q: _brighter(q, "train/images/03", "val/images/c"),
            _copy("train/masks/03.png", "val/masks/c.png"))), (),
        "near-duplicates-cross-splits", 0, "03 ~ c"),
    "patients in the names": (_patients, (), "probable-groups", 0, "patient"),
    "groups that cross splits": (_crossing_groups, (), "groups-cross-splits", 0, "g0"),
    "names that no group fits": (
        lambda r: (_patients(r), save(r / "images/odd.png", picture(99)),
                   save(r / "masks/odd.png", mask(99))), ("--group-regex", r"(patient\d+)"),
        "ungrouped", 0, "odd"),
    "hidden file": (_write("images/.DS_Store", b"x"), (), "hidden-files", 0, ".DS_Store"),
    "foreign file": (_write("images/notes.docx", b"x"), (), "foreign-files", 0, "notes.docx"),
    "unfinished download": (
        _write("images/13.png.part", b"x"), (), "foreign-files", 0, "13.png.part"),
    "COCO image missing": (
        lambda r: (_coco(r), (r / "images/03.png").unlink()), (), "missing-images", 4, "03.png"),
    "COCO gives another size": (
        lambda r: _coco(r, _set_image(3, "height", 640)), (), "other-sizes", 4,
        "03: image 64x64, 64x640 by annotations.json"),
    "COCO swaps width and height": (
        lambda r: (_coco(r), _wide(r, "images/03.png")), (), "other-sizes", 4,
        "width and height in the annotations"),
    "COCO polygon of two corners": (
        lambda r: _coco(r, _set(3, "segmentation", [[1, 1, 5, 5]])), (),
        "broken-shapes", 0, ""),
    "COCO unknown category": (
        lambda r: _coco(r, _set(3, "category_id", 77)), (), "unknown-categories", 0, "77"),
    "COCO box alone": (
        lambda r: _coco(r, _set(3, "segmentation", [])), (), "no-segmentation", 0, ""),
    "labelme file cut off": (_broken_labelme, (), "unreadable-annotations", 4, "03.json"),
    "labelme image missing": (_lost_labelme_image, (), "missing-images", 4, "03"),
    "YOLO class out of range": (
        lambda r: _labels(r, "03.txt", "5 0.1 0.1 0.5 0.1 0.5 0.5\n"), (),
        "unknown-categories", 0, "03.txt"),
    "YOLO outline of one corner": (
        lambda r: _labels(r, "03.txt", "0 0.1 0.1\n0 0.1 0.1 0.5 0.1 0.3 0.3\n"), (),
        "broken-shapes", 0, "03.txt"),
    "YOLO labels without image": (
        lambda r: _labels(r, "99.txt", "0 0.1 0.1 0.5 0.1 0.5 0.5\n"), (),
        "unpaired-labels", 4, "99.txt"),
    "table names a missing mask": (_missing_in_table, (), "missing-masks", 4, "03.png"),
    "objects that overlap": (_overlapping, (), "overlapping-objects", 0, "id00"),
}  # fmt: skip


def test_the_zoo_holds_at_least_forty_faults() -> None:
    assert len(FAULTS) >= 40


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_alone_is_found_and_named(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build, options, wanted, exit_code, example = FAULTS[name]
    build(tmp_path / "zoo")
    code, result = check(tmp_path / "zoo", *options, capsys=capsys)
    assert code == exit_code, result
    findings = {f["code"]: f for f in result["findings"]}
    assert wanted in findings, sorted(findings)
    finding = findings[wanted]
    assert finding["count"] >= 1
    text = " ".join([finding["message"], *finding["examples"], finding["remedy"]])
    assert example in text, text
    if finding["severity"] != "note":
        assert finding["remedy"]
    assert (finding["severity"] == "error") == (exit_code == 4)
    # nothing else is an error
    assert [f["code"] for f in result["findings"] if f["severity"] == "error"] in ([], [wanted])
