"""prepare --check: everything is said, nothing is written."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.stages import sources
from unet_pipeline import cli
from unet_pipeline.classes import Classes
from unet_pipeline.datasets.class_checks import absent_classes, rare_classes
from unet_pipeline.datasets.encoders import encode_png
from unet_pipeline.datasets.formats import object_masks
from unet_pipeline.datasets.images import decode_mask
from unet_pipeline.datasets.manifest import SAMPLES_FILE


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = cli.run(["prepare", *arguments, "--check", "--json"])
    return code, json.loads(capsys.readouterr().out)


def codes_of(summary: dict[str, Any]) -> set[str]:
    return {finding["code"] for finding in summary["findings"]}


def damaged(root: Path) -> Path:
    """One image without a mask, and one that is cut off."""
    sources.plain(root)
    (root / "masks" / "s00.png").unlink()
    cut = root / "images" / "s01.png"
    cut.write_bytes(cut.read_bytes()[:200])
    return root


def test_a_check_writes_nothing_but_the_cache(capsys: pytest.CaptureFixture[str]) -> None:
    for source, code in ((sources.coco(Path("good")), 0), (damaged(Path("bad")), 4)):
        before = sources.snapshot(Path.cwd())
        assert cli.run(["prepare", str(source), "--check"]) == code
        assert sources.snapshot(Path.cwd()) == before
    assert any(Path(os.environ["UNET_CACHE_DIR"]).iterdir())


def test_a_sound_source_says_that_it_can_be_trained_on(capsys: pytest.CaptureFixture[str]) -> None:
    sources.plain(Path("cells"))
    assert cli.run(["prepare", "cells", "--check"]) == 0
    out, err = capsys.readouterr()
    assert "0 errors, 0 warnings: it can be trained on" in out
    assert "3 mask values" in out
    assert "splits: " in out
    assert "error" not in err


def test_errors_are_findings_on_stdout_and_one_line_on_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = str(damaged(Path("cells")))
    assert cli.run(["prepare", source, "--check"]) == 4
    out, err = capsys.readouterr()
    assert "[unpaired-images]" in out
    assert "[unreadable-files]" in out
    assert "s00.png" in out
    assert "-> " in out
    (line,) = [text for text in err.splitlines() if text.startswith("error: ")]
    assert "cells: 2 errors" in line
    assert "unpaired-images" in line
    assert "unreadable-files" in line


def test_json_has_the_same_keys_for_sound_and_for_damaged_sources(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sources.plain(Path("good"))
    damaged(Path("bad"))
    code, good = as_json(capsys, "good")
    assert (code, good["ok"]) == (0, True)
    code, bad = as_json(capsys, "bad")
    assert (code, bad["ok"]) == (4, False)
    keys = {"source", "ok", "findings", "mask_values", "num_pairs", "facts"}
    assert set(good) == set(bad) == keys
    assert {"unpaired-images", "unreadable-files"} <= codes_of(bad)
    for finding in (*good["findings"], *bad["findings"]):
        assert set(finding) == {"code", "severity", "message", "count", "examples", "remedy"}
    assert good["num_pairs"] == 8
    assert bad["num_pairs"] == 6
    pixels = {row["value"]: row["pixels"] for row in good["mask_values"]}
    assert pixels == dict(enumerate(sources.expected_pixels().values()))


def test_json_keeps_its_keys_where_the_masks_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    sources.plain(Path("soft"))
    for n in range(8):
        gradient = np.arange(32 * 40).reshape(32, 40) * 7 + n
        sources.save(Path("soft/masks") / f"s{n:02d}.png", gradient.astype(np.uint8))
    code, summary = as_json(capsys, "soft")
    assert code == 4
    assert codes_of(summary) >= {"mask-values"}
    assert summary["facts"] is None
    assert {row["taken_for"] for row in summary["mask_values"]} == {"?"}


@pytest.mark.parametrize("make", [sources.plain, damaged, sources.coco])
def test_a_second_run_says_the_same(
    make: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(make(Path("data")))
    runs = []
    for _ in range(2):
        code = cli.run(["prepare", source, "--check"])
        runs.append((code, capsys.readouterr().out))
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        (["--output", "out"], "--output"),
        (["--fix"], "--fix"),
        (["--export", "coco"], "--export"),
        (["--tile", "32"], "--tile"),
        (["--overlap", "0.5"], "--overlap"),
        (["--num-scenes", "9"], "--num-scenes"),
    ],
)
def test_options_that_write_are_refused(
    options: list[str], flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sources.plain(Path("cells"))
    message = sources.error_of(capsys, ["prepare", "cells", "--check", *options], 2)
    assert flag in message
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "needs a SOURCE"),
        (["absent"], 2, "absent does not exist"),
        (["torchvision:OxfordIIITPet"], 2, "fetched by `unet prepare`"),
        (["empty"], 4, "empty"),
    ],
)
def test_there_must_be_something_to_look_at(
    arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    assert words in sources.error_of(capsys, ["prepare", *arguments, "--check"], code)


def test_masks_of_objects_are_decoded_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sources.objects(Path("cells"))
    around = np.zeros((sources.HEIGHT, sources.WIDTH), np.uint8)
    around[:4] = around[20:] = 255
    around[sources.mask_of(0) == 1] = 255
    sources.save(source / "s00" / "masks" / "9.png", around)
    decoded: list[str] = []

    def decode(data: bytes, *, source: str) -> Any:
        decoded.append(source)
        return decode_mask(data, source=source)

    monkeypatch.setattr(object_masks, "decode_mask", decode)
    _, first = as_json(capsys, "cells")
    assert len(decoded) == len(set(decoded)) == 17
    _, second = as_json(capsys, "cells")
    assert len(decoded) == 17
    assert second == first
    (finding,) = [f for f in first["findings"] if f["code"] == "overlapping-objects"]
    claimed = np.stack([around > 0, sources.mask_of(0) == 1, sources.mask_of(0) == 2]).sum(axis=0)
    assert finding["message"].startswith(f"{(claimed > 1).sum()} pixels belong to several objects")
    assert finding["examples"] == ["s00"]


def test_remedies_fit_data_with_its_own_splits(capsys: pytest.CaptureFixture[str]) -> None:
    def remedies(*options: str) -> dict[str, str]:
        _, summary = as_json(capsys, "cells", *options)
        return {finding["code"]: finding["remedy"] for finding in summary["findings"]}

    for n in range(8):
        part = ("train", "val")[n == 7]
        image = np.kron(sources.image_of(n % 7)[::4, ::4], np.ones((8, 8, 1), np.uint8))
        mask = np.kron(sources.mask_of(n), np.ones((2, 2), np.uint8))
        sources.save(Path("cells", part, "images", f"{n}.png"), image - (n == 7) * (image // 9))
        sources.save(Path("cells", part, "masks", f"{n}.png"), mask * (mask < 2) if n else mask)
    told = remedies()
    for code in ("near-duplicates-cross-splits", "classes-absent-from-val"):
        assert "in samples.csv of the prepared dataset" in told[code]
        assert "--" not in told[code]


def test_remedies_fit_data_that_is_divided_here() -> None:
    classes = Classes(names=("a", "b"), colors=((0, 0, 0), (9, 9, 9)), values=(0, 1))
    (finding,) = absent_classes([{0: 9, 1: 3}, {0: 4}], ["train", "val"], classes, fixed={"test"})
    assert finding.remedy.startswith("another --seed")
    (finding,) = absent_classes([{0: 9, 1: 3}, {0: 4}], ["train", "val"], classes, fixed={"val"})
    assert "move some to val in samples.csv" in finding.remedy


@pytest.mark.parametrize(("share", "codes"), [(9, ["rare-classes"]), (11, [])])
def test_a_class_is_rare_below_a_thousandth(share: int, codes: list[str]) -> None:
    classes = Classes(names=("a", "b"), colors=((0, 0, 0), (9, 9, 9)), values=(0, 1))
    found = rare_classes([{0: 10_000 - share, 1: share}], classes)
    assert [finding.code for finding in found] == codes


def test_a_prepared_dataset_is_checked_with_the_splits_of_its_table(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sources.prepare(sources.coco(Path("cells")), "-o", "out")
    before = sources.snapshot(Path("out"))
    code, summary = as_json(capsys, "out")
    assert code == 0
    assert summary["facts"]["classes"]["names"] == list(sources.CLASSES)
    assert sources.snapshot(Path("out")) == before
    table = Path("out") / SAMPLES_FILE
    table.write_text(table.read_text().replace(",train,", ",val,", 2))
    code, edited = as_json(capsys, "out")
    assert code == 0
    moved = {name: n - summary["facts"]["num_samples"][name]
             for name, n in edited["facts"]["num_samples"].items()}  # fmt: skip
    assert moved == {"train": -2, "val": 2, "test": 0}


def test_a_prepared_dataset_without_train_samples_is_no_bug(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sources.prepare(sources.plain(Path("cells")), "-o", "out")
    table = Path("out") / SAMPLES_FILE
    table.write_text(table.read_text().replace(",train,", ",val,"))
    message = sources.error_of(capsys, ["prepare", "out", "--check"], 4)
    assert "none to train on" in message


def test_a_former_division_is_what_the_check_shows(capsys: pytest.CaptureFixture[str]) -> None:
    sources.prepare(sources.plain(Path("cells")), "-o", "old", "--test", "0.6", "--val", "0.2")
    _, fresh = as_json(capsys, "cells")
    _, kept = as_json(capsys, "cells", "--splits-from", "old")
    former = list(sources.splits_in(Path("old")).values())
    assert kept["facts"]["num_samples"] == {
        split: former.count(split) for split in ("train", "val", "test")
    }
    assert kept["facts"]["num_samples"] != fresh["facts"]["num_samples"]


def test_of_many_mask_values_those_with_most_pixels_are_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = sources.plain(Path("cells"))
    for n in range(8):
        mask = sources.mask_of(n) * 100
        mask[0, :] = np.arange(n, n + sources.WIDTH) * 5
        sources.save(source / "masks" / f"{sources.name(n)}.png", mask)
    options = ["--values", "0,100,200", "--other", "0", "--class-names", "ground,cell,debris"]
    assert cli.run(["prepare", "cells", "--check", *options]) == 0
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    shown = [int(row[1]) for row in rows if row[1].strip().isdigit()]
    assert shown == sorted(shown)
    assert len(shown) == 40
    assert {0, 100, 200} <= set(shown)
    assert rows[-1][5].strip() == "7 more"


def test_a_source_that_is_nothing_is_a_finding_in_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("empty").mkdir()
    assert cli.run(["prepare", "empty", "--check", "--json"]) == 4
    result = json.loads(capsys.readouterr().out)
    assert [f["code"] for f in result["findings"]] == ["not-recognised"]
    assert not result["ok"]


def test_one_image_alone_cannot_be_trained_on_and_it_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sources.plain(Path("cells"), range(1))
    assert cli.run(["prepare", "cells", "--check"]) == 4  # as `unet train` ends
    out, err = capsys.readouterr()
    assert "[empty-splits]" in out
    assert "it cannot be trained on yet" in out.splitlines()[-1]
    assert "it cannot be trained on yet (empty-splits)" in err
    assert not as_json(capsys, "cells")[1]["ok"]


def test_classes_that_only_val_has_are_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    for split, value in (("train", 0), ("val", 255)):
        for n in range(3):
            pixels = np.random.default_rng([n, value]).integers(0, 256, (40, 40, 3), dtype=np.uint8)
            mask = np.zeros((40, 40), np.uint8)
            mask[:9] = value
            for name, array in (("images", pixels), ("masks", mask)):
                folder = Path("cells", split, name)
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{n}.png").write_bytes(encode_png(array))
    assert cli.run(["prepare", "cells", "--check"]) == 4
    assert "classes-absent-from-train" in capsys.readouterr().err


def test_names_of_groups_are_seen_where_only_val_is_drawn(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for n in range(16):
        split = "test" if n < 4 else "train"
        name = f"patient{n // 4:02d}_slice{n % 4:02d}.png"
        sources.save(Path("cells", split, "images", name), sources.image_of(n))
        sources.save(Path("cells", split, "masks", name), sources.mask_of(n))
    assert cli.run(["prepare", "cells", "--check"]) == 0
    assert "[probable-groups]" in capsys.readouterr().out


def test_shares_are_of_all_pixels_where_not_all_values_are_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = sources.plain(Path("cells"))
    for n in range(8):
        pixels = np.random.default_rng(n).integers(0, 60, (32, 40, 3), dtype=np.uint8)
        pixels[:16] = (7, 8, 9)
        sources.save(source / "masks" / f"{sources.name(n)}.png", pixels)
    assert cli.run(["prepare", "cells", "--check"]) == 4
    out = capsys.readouterr().out
    assert re.search(r"^more than \d+ mask values", out, re.M)
    row = next(line for line in out.splitlines() if " 7/8/9 " in line)
    assert "50.0" in row


def test_splits_from_a_dataset_that_knows_no_sample_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sources.prepare(sources.plain(Path("cells")), "-o", "old")
    for n in range(20, 26):
        sources.save(Path("others/images") / f"o{n}.png", sources.image_of(n))
        sources.save(Path("others/masks") / f"o{n}.png", sources.mask_of(n))
    for how in (["--check"], ["-o", "new"]):
        arguments = ["prepare", "others", "--splits-from", "old", *how]
        error = sources.error_of(capsys, arguments, 2)
        assert "--splits-from old: it knows none of the 6 samples of others" in error
    assert not Path("new").exists()
    sources.plain(Path("cells"), range(8, 10))
    assert cli.run(["prepare", "cells", "--splits-from", "old", "-o", "new"]) == 0
    assert "--splits-from knows 8 of 10 samples" in capsys.readouterr().err
