"""Run folders: new ones get new names, none is overwritten."""

from __future__ import annotations

import csv
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from unet_pipeline.errors import ResourceError, UserError
from unet_pipeline.training import run_folder as runs


def test_runs_are_numbered_within_their_experiment(tmp_path: Path) -> None:
    names = [
        runs.create_run_folder(tmp_path, "cells", None, stem="unet-ce + dice").name
        for _ in range(2)
    ]
    assert names == ["unet-ce+dice-0001", "unet-ce+dice-0002"]
    assert runs.create_run_folder(tmp_path, "roads", None, stem="unet").name == "unet-0001"


def test_a_name_that_exists_is_refused_and_its_run_untouched(tmp_path: Path) -> None:
    folder = runs.create_run_folder(tmp_path, "cells", "mine", stem="unet")
    (folder / "file").write_text("kept")
    with pytest.raises(UserError, match="--resume"):
        runs.create_run_folder(tmp_path, "cells", "mine", stem="unet")
    assert (folder / "file").read_text() == "kept"


def test_runs_that_start_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(
            pool.map(
                lambda _: runs.create_run_folder(tmp_path, "cells", None, stem="unet"), range(16)
            )
        )
    assert len(set(folders)) == 16


def test_a_folder_that_cannot_be_made_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises((UserError, ResourceError), match="file"):
        runs.create_run_folder(tmp_path / "file", "cells", None, stem="unet")


@pytest.mark.parametrize("name", ["../../outside", "a/b", "..", "-rf", "naïve name", ""])
def test_a_name_never_leaves_the_folder(name: str, tmp_path: Path) -> None:
    folder = runs.create_run_folder(tmp_path, name, None, stem=name)
    assert folder.parent.parent == tmp_path
    assert not folder.name.startswith(("-", "."))
    with pytest.raises(UserError, match="use letters"):
        runs.create_run_folder(tmp_path, "cells", name, stem="x")


def test_a_name_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "cells" / "taken").mkdir(parents=True)
    for name, message in (
        ("../x", "use letters"),
        ("a/b", "use letters"),
        ("taken", "choose another --run-name"),
        ("x" * 300, "File name too long; choose another"),
    ):
        for refuse in (runs.check_run_folder, partial(runs.create_run_folder, stem="unet")):
            with pytest.raises(UserError, match=message) as caught:
                refuse(tmp_path, "cells", name)
            assert caught.value.exit_code == 2
    runs.check_run_folder(tmp_path, "roads", "free")
    runs.check_run_folder(tmp_path, "roads", None)
    assert [path.name for path in tmp_path.iterdir()] == ["cells"]
    assert [path.name for path in (tmp_path / "cells").iterdir()] == ["taken"]


def test_a_long_loss_makes_no_name_that_is_too_long(tmp_path: Path) -> None:
    weights = f"ce(class_weights={[0.125] * 60})"
    one, two = (
        runs.create_run_folder(tmp_path, "cells", None, stem=f"unet-{weights}") for _ in range(2)
    )
    assert one.name.startswith("unet-ce-class_weights-0.125")
    assert (one.name[-5:], two.name[-5:]) == ("-0001", "-0002")


def test_the_run_folder_of_a_model_is_found(tmp_path: Path) -> None:
    (tmp_path / runs.CONFIG_NAME).touch()
    assert runs.find_run_folder(tmp_path) is None  # a config alone may belong to anything
    (tmp_path / runs.BEST_NAME).touch()
    assert runs.find_run_folder(tmp_path) == tmp_path
    assert runs.find_run_folder(tmp_path / runs.BEST_NAME) == tmp_path
    assert runs.find_run_folder(tmp_path.parent / "model.safetensors") is None


def test_history_rows_with_different_figures_share_one_table(tmp_path: Path) -> None:
    runs.write_history(tmp_path, [{"epoch": 0, "a": 1.0}, {"epoch": 1, "a": 2.0, "b": 3.0}])
    with (tmp_path / runs.HISTORY_NAME).open() as file:
        rows = list(csv.DictReader(file))
    assert rows == [{"epoch": "0", "a": "1.0", "b": ""}, {"epoch": "1", "a": "2.0", "b": "3.0"}]
