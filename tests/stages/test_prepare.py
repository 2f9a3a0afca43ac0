"""prepare: what lands in the output folder, and that the source is only read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import unet_pipeline as up
from tests.stages import sources
from unet_pipeline import cli
from unet_pipeline.datasets.manifest import Manifest


def write_pairs(folder: Path, *, count: int = 8, values: tuple[int, ...] = (0, 255)) -> Path:
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for n in range(count):
        image = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        mask = rng.choice(np.array(values, dtype=np.uint8), (20, 24))
        Image.fromarray(image).save(folder / "images" / f"{n}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{n}.png")
    return folder


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_plain_folder_becomes_a_manifest_that_refers_to_its_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_pairs(tmp_path / "cells")
    before = snapshot(source)
    assert cli.run(["prepare", str(source)]) == 0
    assert capsys.readouterr().out == "data/cells\n"
    assert snapshot(source) == before
    written = {path.name for path in Path("data/cells").iterdir()}
    assert written == {"dataset.yaml", "samples.csv", "report.html"}
    manifest = Manifest.load(Path("data/cells"))
    assert manifest.facts.name == "cells"
    assert manifest.facts.classes.values == (0, 255)
    assert all(sample.image.is_file() for sample in manifest.samples)


def test_the_embedded_scenes_need_no_source(scenes: Path) -> None:
    facts = Manifest.load(scenes).facts
    assert facts.classes.num_classes == 11
    assert facts.name == "digits"
    assert sum(facts.num_samples.values()) == 20


def test_json_tells_the_facts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_pairs(tmp_path / "cells")
    assert cli.run(["prepare", str(source), "--json", "--class-names", "back,cell"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["classes"]["names"] == ["back", "cell"]
    assert facts["folder"] == "data/cells"


def test_options_reach_the_index(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "stack", count=10, values=(0, 7, 9))
    arguments = ["prepare", str(source), "-o", "out", "--ignore-values", "9", "--split-by", "order",
                 "--val", "0.1", "--test", "0.2"]  # fmt: skip
    assert cli.run(arguments) == 0
    manifest = Manifest.load(Path("out"))
    assert manifest.facts.classes.values == (0, 7)
    assert manifest.facts.classes.ignore_values == (9,)
    assert [sample.split for sample in manifest.samples] == [*["train"] * 7, "val", *["test"] * 2]


def test_from_python_it_is_the_same_stage(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "cells")
    config = up.load_config(overrides={"data.path": str(source)}, kind=up.PrepareConfig)
    assert up.prepare(config).folder == Path("data/cells")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["absent"], 2, "absent does not exist"),
        (["cells/images/0.png"], 2, "is a file"),
        (["cells", "-o", "cells"], 2, "lies in the source"),
        (["cells", "-o", "cells/out"], 2, "lies in the source"),
        (["empty"], 4, ".png"),
        (["cells", "--masks", "nowhere"], 2, "nowhere"),
        (["cells", "--num-scenes", "9"], 2, "--num-scenes is for the sample data"),
        (["cells", "--ignore-values", "red"], 2, "mask value 'red'"),
        (["cells", "--class-names", "one,two,three"], 2, "3"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(Path("cells"))
    Path("empty").mkdir()
    before = snapshot(Path.cwd())
    assert cli.run(["prepare", *arguments]) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert snapshot(Path.cwd()) == before


def test_a_prepared_dataset_is_never_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    write_pairs(Path("cells"))
    assert cli.run(["prepare", "cells"]) == 0
    before = snapshot(Path("data"))
    assert cli.run(["prepare", "cells"]) == 2
    assert "holds a prepared dataset: --update brings it" in capsys.readouterr().err
    assert snapshot(Path("data")) == before


def test_the_seed_of_the_scenes_can_be_chosen() -> None:
    for seed in ("0", "1"):
        arguments = ["prepare", "-o", seed, "--num-scenes", "4", "--seed", seed]
        assert cli.run(arguments) == 0
    one, other = (Manifest.load(Path(seed)).facts.fingerprint for seed in ("0", "1"))
    assert one != other


def test_scenes_that_were_interrupted_can_be_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from unet_pipeline.stages import prepare as stage

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(stage, "examine", interrupted)
        assert cli.run(["prepare", "--num-scenes", "4"]) == 130
    assert cli.run(["prepare", "--num-scenes", "4"]) == 0


def test_a_named_output_names_the_dataset(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "train")
    assert cli.run(["prepare", str(source), "-o", "membranes"]) == 0
    assert Manifest.load(Path("membranes")).facts.name == "membranes"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--val", "0.3"], "--val has no effect"),
        (["--test", "0.3"], "--test has no effect"),
        (["--split-by", "order"], "--split-by has no effect"),
    ],
)
def test_options_about_splits_that_the_data_has_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val"):
        write_pairs(Path("cells") / split, count=3)
    for command in (["prepare", "cells"], ["prepare", "cells", "--check"]):
        assert cli.run([*command, *options]) == 2
        assert message in capsys.readouterr().err
        assert not Path("data/cells").exists()


def test_a_refused_run_leaves_no_folder_behind() -> None:
    write_pairs(Path("cells"))
    assert cli.run(["prepare", "cells", "--values", "0,7"]) == 4
    assert not Path("data/cells").exists()


def test_names_that_are_no_utf_8_are_prepared(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "cells")
    for folder in ("images", "masks"):
        (source / folder / "0.png").rename(source / folder / os.fsdecode(b"gr\xf6\xdfe.png"))
    assert cli.run(["prepare", str(source)]) == 0
    ids = [sample.sample_id for sample in Manifest.load(Path("data/cells")).samples]
    assert os.fsdecode(b"gr\xf6\xdfe") in ids
    assert b"gr\xf6\xdfe" in Path("data/cells/samples.csv").read_bytes()
    for name in ("coco", "yolo", "nnunet", "plain"):
        assert cli.run(["prepare", str(source), "--export", name, "-o", name]) == 0
    assert cli.run(["prepare", str(source), "--fix", "-o", "fixed"]) == 0


def test_a_broken_folder_name_does_not_break_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    source = write_pairs(Path("cells"))
    for folder in ("images", "masks"):
        (source / folder / "0.png").rename(source / folder / "a\nb.png")
    (source / "images" / "1.png").write_bytes(b"")
    assert cli.run(["prepare", "cells"]) == 4
    err = capsys.readouterr().err
    assert "a\nb" not in err
    assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1


def test_folds_of_a_prepared_dataset_stay_when_it_is_written_anew() -> None:
    write_pairs(Path("cells"), count=12)
    assert cli.run(["prepare", "cells", "--folds", "3"]) == 0
    assert cli.run(["prepare", "data/cells", "--fix", "-o", "fixed"]) == 0
    before, after = (Manifest.load(Path(p)) for p in ("data/cells", "fixed"))
    assert [(s.sample_id, s.fold, s.split) for s in after.samples] == [
        (s.sample_id, s.fold, s.split) for s in before.samples
    ]
    assert len(after.facts.folds) == 3


def test_another_division_of_a_dataset_with_folds_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_pairs(Path("cells"), count=12)
    assert cli.run(["prepare", "cells", "--folds", "3"]) == 0
    arguments = ["prepare", "data/cells", "--fix", "-o", "fixed", "--splits-from"]
    for former in ("does/not/exist", "data/cells"):
        assert cli.run([*arguments, former]) == 2
        assert "--splits-from has no effect on data/cells" in capsys.readouterr().err
    assert not Path("fixed").exists()


def test_folds_that_are_there_are_not_said_to_be_made(capsys: pytest.CaptureFixture[str]) -> None:
    write_pairs(Path("cells"), count=12)
    assert cli.run(["prepare", "cells", "--folds", "3", "--val", "0.3"]) == 0
    capsys.readouterr()
    assert cli.run(["prepare", "data/cells", "--check"]) == 0
    assert "leave --folds out" not in capsys.readouterr().out
    assert cli.run(["prepare", "data/cells", "--check", "--folds", "4"]) == 0
    assert "leave --folds out" in capsys.readouterr().out
    assert cli.run(["prepare", "data/cells", "--fix", "-o", "fixed"]) == 0
    assert "leave --folds out" not in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--val", "0.3"], ["--test", "0"], ["--split-by", "order"]])
def test_the_sample_data_has_its_own_splits(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["prepare", "--num-scenes", "4", *options]) == 2
    assert f"{options[0]} has no effect" in capsys.readouterr().err
    assert not Path("data").exists()


@pytest.mark.parametrize("options", [["-o", "out"], ["--check"], ["--fix", "-o", "out"]])
def test_a_fold_to_train_on_is_no_matter_of_prepare(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(Path("cells"))
    assert cli.run(["prepare", "cells", "--set", "data.fold=3", *options]) == 2
    assert "data.fold has no effect" in capsys.readouterr().err
    assert not Path("out").exists()


def test_tiles_are_not_exported_in_one_step(capsys: pytest.CaptureFixture[str]) -> None:
    write_pairs(Path("cells"))
    assert cli.run(["prepare", "cells", "--tile", "16", "--export", "coco"]) == 2
    assert "prepare first" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--group-regex", "s"], "--group-regex 's' (data.group_regex) makes one group of all"),
        (["--val", "0", "--test", "0"], "--val 0 (data.val_fraction) holds none out: leave it out"),
    ],
)
def test_an_option_that_empties_a_split_is_named(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = sources.plain(Path("cells"), range(8))
    assert cli.run(["prepare", str(source), "-o", "out", *options]) == 0
    assert words in capsys.readouterr().err
    keys = {"--group-regex": "group_regex", "--val": "val_fraction", "--test": "test_fraction"}
    pairs = zip(options[::2], options[1::2], strict=True)
    settings = [part for flag, v in pairs for part in ("--set", f"data.{keys[flag]}={v}")]
    assert cli.run(["train", "--data", str(source), "--plan", *settings]) == 4
    assert words in capsys.readouterr().err


def test_an_output_with_too_long_a_name_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    source = sources.plain(Path("cells"), range(4))
    assert cli.run(["prepare", str(source), "-o", "x" * 300]) == 2
    err = capsys.readouterr().err
    assert "the name is too long; choose a shorter one" in err
    assert "internal error" not in err
