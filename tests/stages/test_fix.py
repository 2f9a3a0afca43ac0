"""prepare --fix: a repaired copy, the source as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.stages import sources
from tests.stages.conftest import TINY
from unet_pipeline import cli
from unet_pipeline.datasets.images import read_image
from unet_pipeline.datasets.manifest import Manifest

ORIENTATION = 0x0112


def broken(root: Path) -> Path:
    """Twelve scenes with one fault each of four kinds, in s00 to s03; the masks are 0/1/2."""
    sources.plain(root, range(12))
    stored = np.rot90(sources.image_of(0))  # to be turned clockwise by whoever shows it
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    (root / "images" / "s00.png").unlink()
    sources.save(root / "images" / "s00.jpg", stored, exif=exif, quality=95)
    sources.save(root / "masks" / "s00.png", np.rot90(sources.mask_of(0)))
    (root / "masks" / "s01.png").unlink()
    cut = root / "images" / "s02.png"
    cut.write_bytes(cut.read_bytes()[:300])
    sources.save(root / "masks" / "s03.png", sources.mask_of(3)[:, :30])
    return root


def test_the_source_is_not_touched_and_what_is_written_trains(
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = broken(Path("cells"))
    before = sources.snapshot(source)
    sources.prepare(source, "--fix", "-o", "mended")
    out, err = capsys.readouterr()
    assert out == "mended\n"
    assert "left out or mended: 1 of 12 images has no mask" in err
    assert "left out or mended: 1 file cannot be read" in err
    assert "masks turned as the orientation of their image says: 1" in err
    assert sources.snapshot(source) == before
    masks = sources.masks_in(Path("mended"))
    assert set(masks) == {"s00", *(sources.name(n) for n in range(4, 12))}
    for name, mask in masks.items():
        np.testing.assert_array_equal(mask, sources.mask_of(int(name[1:])))
    assert (sources.train("mended") / "best.safetensors").is_file()


def test_an_image_is_upright_and_its_mask_turned_with_it() -> None:
    sources.prepare(broken(Path("cells")), "--fix", "-o", "mended")
    (sample,) = [s for s in Manifest.load(Path("mended")).samples if s.image.stem == "s00"]
    with Image.open(sample.image) as image:
        assert ORIENTATION not in image.getexif()
        assert image.size == (sources.WIDTH, sources.HEIGHT)
    away = np.abs(read_image(sample.image).astype(int) - sources.image_of(0))
    assert away.mean() < 20  # JPEG; turned the wrong way round it is far more
    np.testing.assert_array_equal(sources.masks_in(Path("mended"))["s00"], sources.mask_of(0))


def test_masks_of_jpeg_hold_classes_alone() -> None:
    source = sources.plain(Path("cells"))
    for n in range(8):
        (source / "masks" / f"{sources.name(n)}.png").unlink()
        white = np.where(sources.mask_of(n) == 1, 255, 0).astype(np.uint8)
        sources.save(source / "masks" / f"{sources.name(n)}.jpg", white, quality=80)
    sources.prepare(source, "--fix", "-o", "mended")
    for sample in Manifest.load(Path("mended")).samples:
        assert sample.mask is not None
        with Image.open(sample.mask) as mask:
            assert mask.format == "PNG"
            assert mask.mode == "P"
            values = np.asarray(mask)
        wanted = sources.mask_of(int(sample.image.stem[1:])) == 1
        assert set(np.unique(values)) == {0, 1}
        assert (values == wanted).mean() > 0.99


def test_a_second_run_changes_nothing_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    source = broken(Path("cells"))
    sources.prepare(source, "--fix", "-o", "mended")
    before = sources.snapshot(Path("mended"))
    around = {path.name for path in Path().iterdir()}
    capsys.readouterr()
    sources.prepare(source, "--fix", "-o", "mended")
    assert "holds this repaired copy already: nothing to do" in capsys.readouterr().err
    after = sources.snapshot(Path("mended"))
    folder = str(Path("mended"))  # its own time changes with the lock of the run
    assert {k: v for k, v in after.items() if k != folder} == {
        k: v for k, v in before.items() if k != folder
    }
    assert {path.name for path in Path().iterdir()} == around


def test_a_copy_of_other_data_is_not_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    sources.prepare(broken(Path("cells")), "--fix", "-o", "mended")
    sources.plain(Path("others"), range(20, 28))
    before = sources.contents(Path("mended"))
    arguments = ["prepare", "others", "--fix", "-o", "mended"]
    assert "holds a prepared dataset" in sources.error_of(capsys, arguments, 2)
    assert sources.contents(Path("mended")) == before


def test_a_list_of_classes_that_is_there_is_not_overwritten(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sources.plain(Path("cells"))
    Path("mended").mkdir()
    Path("mended/classes.txt").write_text("mine")
    arguments = ["prepare", "cells", "--fix", "-o", "mended"]
    assert "holds classes.txt already" in sources.error_of(capsys, arguments, 2)
    assert sources.contents(Path("mended")) == {"classes.txt": b"mine"}


def test_a_fix_of_the_copy_writes_the_same_files() -> None:
    sources.prepare(broken(Path("cells")), "--fix", "-o", "one/mended")
    sources.prepare("one/mended", "--fix", "-o", "two/mended")
    one, two = (sources.contents(Path(folder, "mended")) for folder in ("one", "two"))
    for files in (one, two):
        del files["report.html"]  # tells what was found, which is less the second time
    assert two == one


def test_what_cannot_be_repaired_leaves_nothing_behind(
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = sources.plain(Path("soft"))
    for n in range(8):
        gradient = (np.arange(32 * 40).reshape(32, 40) * 7 + n).astype(np.uint8)
        sources.save(source / "masks" / f"{sources.name(n)}.png", gradient)
    message = sources.error_of(capsys, ["prepare", "soft", "--fix", "-o", "mended"], 4)
    assert "cannot be repaired by itself" in message
    assert "too many to be classes" in message
    assert not Path("mended").exists() or not list(Path("mended").iterdir())


def test_classes_that_only_val_has_are_not_said_to_be_mended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for n in range(6):
        split, mask = ("train", sources.mask_of(n) * 0) if n < 4 else ("val", sources.mask_of(n))
        sources.save(Path("cells", split, "images", f"{n}.png"), sources.image_of(n))
        sources.save(Path("cells", split, "masks", f"{n}.png"), mask)
    message = sources.error_of(capsys, ["prepare", "cells", "--fix", "-o", "mended"], 4)
    assert "cannot be repaired by itself" in message
    assert "no pixel in train" in message
    assert not Path("mended").exists()


def test_a_source_without_a_good_pair_leaves_nothing_behind(
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = sources.plain(Path("cut"), range(3))
    for path in (source / "images").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    message = sources.error_of(capsys, ["prepare", "cut", "--fix", "-o", "mended"], 4)
    assert "no usable pair" in message
    assert not Path("mended").exists() or not list(Path("mended").iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--export", "coco"], "--fix and --export each write a copy"),
        (["--tile", "16"], "--fix and --tile each write a copy"),
    ],
)
def test_two_kinds_of_copy_are_two_runs(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sources.plain(Path("cells"))
    assert words in sources.error_of(capsys, ["prepare", "cells", "--fix", *options], 2)
    assert not Path("data").exists()


def test_the_folds_of_a_repaired_copy_can_be_trained_on() -> None:
    sources.prepare(broken(Path("cells")), "--fix", "-o", "mended", "--folds", "3")
    assert len(Manifest.load(Path("mended")).facts.folds) == 3
    arguments = ["train", "--data", "mended", "--fold", "1", "--dry-run", *TINY]
    assert cli.run(arguments) == 0


def test_a_dataset_that_is_no_copy_is_refused_before_any_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources.prepare(sources.plain(Path("cells")), "-o", "out")
    monkeypatch.setattr("unet_pipeline.stages.prepare.find_data", None)
    error = sources.error_of(capsys, ["prepare", "cells", "--fix", "-o", "out"], 2)
    assert "out holds a prepared dataset" in error


def test_the_log_of_a_copy_names_what_stays(capsys: pytest.CaptureFixture[str]) -> None:
    sources.prepare(broken(Path("cells")), "--fix", "-o", "mended")
    report = Path("mended", "report.html")
    assert f"report: {report}" in capsys.readouterr().err
    sources.prepare(Path("cells"), "--fix", "-o", "mended")
    again = capsys.readouterr().err
    assert "report:" not in again
    assert "indexed PNG" not in again


def test_masks_of_one_class_are_not_said_to_be_mended(capsys: pytest.CaptureFixture[str]) -> None:
    source = sources.plain(Path("cells"))
    for path in (source / "masks").iterdir():
        sources.save(path, np.zeros((sources.HEIGHT, sources.WIDTH), np.uint8))
    (source / "classes.txt").write_text("0 ground\n1 cell\n")
    error = sources.error_of(capsys, ["prepare", "cells", "--fix", "-o", "mended"], 4)
    assert "cannot be repaired by itself" in error
