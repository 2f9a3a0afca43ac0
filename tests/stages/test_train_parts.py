"""train with other parts: patch networks, initializers, losses that know the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

import unet_pipeline as up
from tests.stages.conftest import TINY
from unet_pipeline import cli
from unet_pipeline.config import load_config
from unet_pipeline.training.checkpoints import load_state

PATCHES = ["--image-size", "64", "--batch-size", "4", "--device", "cpu", "--tracking", "off",
           "--set", "training.num_pixels=16"]  # fmt: skip
SMALL: dict[str, Any] = {
    "model.base_channels": 4,
    "model.depth": 2,
    "training.image_size": 64,
    "training.max_steps": 2,
    "output.tracking": "off",
}


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_state(folder)["network"]
    return state


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("name", ["mlp", "lenet"])
def test_a_patch_network_trains_evaluates_and_predicts_like_any_other(
    scenes: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["train", "--data", str(scenes), "--model", name, "--epochs", "2", *PATCHES]
    assert cli.run(train) == 0
    run = Path(capsys.readouterr().out.strip())
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert settings["training"]["num_pixels"] == 16
    assert settings["training"]["balance"] == 0.5
    assert up.load_model(run).card.network == name
    assert cli.run(["evaluate", "--model", str(run), "--tracking", "off"]) == 0
    images = str(scenes / "test" / "images")
    assert cli.run(["predict", images, "--model", str(run), "--output", "masks"]) == 0
    assert len(list(Path("masks").glob("*.png"))) == 3


@pytest.mark.parametrize("name", ["mlp", "lenet"])
def test_a_patch_network_resumes_to_the_bit_with_any_number_of_workers(
    scenes: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # a constant rate, so that the limit of the first part does not bend it
    train = ["train", "--data", str(scenes), "--model", name, *PATCHES, "--set",
             "schedule.name=constant", "--set", "schedule.warmup_fraction=0"]  # fmt: skip
    folders = []
    for arguments in (["--max-steps", "6"], ["--max-steps", "3", "-j", "2"]):
        assert cli.run([*train, *arguments]) == 0
        folders.append(Path(capsys.readouterr().out.strip()))
    whole, parts = folders
    assert not same(weights_of(whole), weights_of(parts))
    # 14 samples in batches of 4: the third step is within the first epoch
    assert cli.run(["train", "--resume", str(parts), "--max-steps", "6"]) == 0
    assert same(weights_of(whole), weights_of(parts))


def test_a_patch_network_may_learn_from_whole_crops(scenes: Path) -> None:
    arguments = ["train", "--data", str(scenes), "--model", "lenet", "--max-steps", "2",
                 "--loss", "border_ce", "--image-size", "32", "--device", "cpu", "--tracking",
                 "off", "--set", "training.num_pixels=0"]  # fmt: skip
    assert cli.run(arguments) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "mlp", "--loss", "border_ce"], "border_ce looks at whole masks"),
        (["--set", "training.num_pixels=9"], "unet learns from whole crops"),
        (["--set", "training.balance=1"], "unet learns from whole crops"),
        (["--model", "mlp", "--set", "training.num_pixels=0", "--set", "training.balance=1"],
         "no effect"),
        (["--model", "mlp", "--device", "cpu", "--amp", "on"], "--amp on has no effect"),
        (["--model", "mlpp"], "did you mean 'mlp'"),
        (["--model", "mlp", "--set", "model.patch_size=0"], "patch_size = 0"),
        (["--initializer", "kaiming"], "did you mean 'kaiming_"),
        (["--initializer", "xavier_normal", "--set", "initializer.gian=2"], "'gain'"),
        (["--initializer", "default", "--set", "initializer.gain=2"], "no option 'gain'"),
        (["--loss", "triplet_margin"], "it compares embeddings"),
        (["--loss", "cross_entropy"], "is called 'ce' here"),
        (["--loss", "ce(class_weights=[1,2])"], "2 numbers for 11 classes"),
        (["--loss", "ce(class_weights=fair)"], "class_weights"),
    ],
)  # fmt: skip
def test_parts_that_cannot_be_are_one_line(
    scenes: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["train", "--data", str(scenes), *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("error: ") == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lr", "inf"], "optimizer.lr = inf: input should be a finite number"),
        (["--set", "optimizer.encoder_lr_factor=.inf"], "should be a finite number"),
        (["--set", "optimizer.encoder_lr_factor=0.5"], "encoder_lr_factor = 0.5 has no effect"),
        (["--set", "optimizer.weight_decay=.inf"], "optimizer adamw: weight_decay = inf"),
        (["--set", "optimizer.name=sgd", "--set", "optimizer.momentum=0"], "nesterov needs"),
        (["--set", "schedule.warmup_fraction=2"], "warmup_fraction"),
        (["--run-name", "../x"], "run name '../x': use letters"),
        (["--run-name", "a/b"], "run name 'a/b': use letters"),
        (["--run-name", "x" * 300], "File name too long; choose another"),
        (["--output", "x" * 300], "File name too long; choose another"),
    ],
)
def test_what_train_refuses_the_plan_refuses_too(
    scenes: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for dry in ([], ["--dry-run"]):
        assert cli.run(["train", "--data", str(scenes), *TINY, *arguments, *dry]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("error: ") == 1


def test_a_name_that_is_taken_is_refused_by_the_plan(
    scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("runs/digits/mine").mkdir(parents=True)
    arguments = ["train", "--data", str(scenes), *TINY, "--run-name", "mine", "--dry-run"]
    assert cli.run(arguments) == 2
    assert "a run runs/digits/mine exists" in capsys.readouterr().err


def test_the_initializer_draws_the_weights_that_training_begins_with(scenes: Path) -> None:
    frozen = SMALL | {"data.path": str(scenes), "optimizer.lr": 1e-12}
    constant = {"initializer.name": "constant", "initializer.value": 0.25}
    run = up.train(load_config(overrides=frozen | constant))
    for name, weight in weights_of(run.folder).items():
        if weight.ndim == 4:
            torch.testing.assert_close(weight, torch.full_like(weight, 0.25), msg=name)
    config = load_config(run.folder / "config.yaml")
    assert config.initializer.options == {"value": 0.25, "bias": 0.0}


def test_the_default_initializer_is_no_initializer(scenes: Path) -> None:
    plain = SMALL | {"data.path": str(scenes)}
    one = up.train(load_config(overrides=plain))
    other = up.train(load_config(overrides=plain | {"initializer.name": "default"}))
    assert same(weights_of(one.folder), weights_of(other.folder))
    third = up.train(load_config(overrides=plain | {"initializer.name": "orthogonal"}))
    assert not same(weights_of(one.folder), weights_of(third.folder))


def test_an_initializer_without_effect_is_refused(
    scenes: Path, session_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--data", str(scenes), "--weights", str(session_run), "--initializer",
                 "orthogonal", "--device", "cpu"]  # fmt: skip
    assert cli.run(arguments) == 2
    assert "--initializer orthogonal has no effect" in capsys.readouterr().err


def test_a_loss_that_balances_classes_is_not_balanced_twice(scenes: Path) -> None:
    given = {"data.path": str(scenes), "model.name": "mlp", "output.tracking": "off",
             "training.max_steps": 1, "training.loss": "ce(class_weights=sqrt)"}  # fmt: skip
    run = up.train(load_config(overrides=given))
    assert run.folder.name == "mlp-ce-0001"  # without the options of its loss
    settings = load_config(run.folder / "config.yaml").training
    assert (settings.num_pixels, settings.balance) == (256, 0.0)
    plain = up.train(load_config(overrides=given | {"model.name": "unet", "training.loss": "ce"}))
    settings = load_config(plain.folder / "config.yaml").training
    assert (settings.num_pixels, settings.balance) == (None, None)


def test_balanced_weights_come_from_the_training_masks(scenes: Path) -> None:
    facts = yaml.safe_load((scenes / "dataset.yaml").read_text())
    counts = facts["class_pixel_counts"]
    weights = [sum(counts) / (11 * count) for count in counts]
    given = SMALL | {"data.path": str(scenes)}
    by_rule = up.train(load_config(overrides=given | {
        "training.loss": "ce(class_weights=balanced)"}))  # fmt: skip
    by_hand = up.train(load_config(overrides=given | {
        "training.loss": f"ce(class_weights={weights})"}))  # fmt: skip
    for name, weight in weights_of(by_rule.folder).items():
        torch.testing.assert_close(weight, weights_of(by_hand.folder)[name], msg=name)


def test_a_compiled_network_trains_to_the_same_weights_under_the_same_names(
    scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The compiler's own front and no C++: seconds in place of a minute
    compile_network = torch.nn.Module.compile
    compiled: list[torch.nn.Module] = []

    def quickly(self: torch.nn.Module) -> None:
        compiled.append(self)
        compile_network(self, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", quickly)
    common = ["train", "--data", str(scenes), "--max-steps", "3", "--tracking", "off", *TINY]
    assert cli.run([*common, "--run-name", "plain"]) == 0
    assert cli.run([*common, "--run-name", "compiled", "--set", "runtime.compile=true"]) == 0
    assert len(compiled) == 1
    plain, other = (load_state(Path("runs/digits", n))["network"] for n in ("plain", "compiled"))
    assert list(plain) == list(other)
    for name, weight in plain.items():
        torch.testing.assert_close(weight, other[name])


def test_an_encoder_may_stay_as_it_is_or_learn_slowly(scenes: Path) -> None:
    network = ["--model", "smp:Unet/resnet18", "--image-size", "64", "--batch-size", "4"]
    common = ["train", "--data", str(scenes), "--max-steps", "2", "--tracking", "off", *network,
              "--device", "cpu", "--amp", "off"]  # fmt: skip
    assert cli.run([*common, "--run-name", "start", "--lr", "1e-30"]) == 0
    for name, assignment in (
        ("frozen", "freeze_encoder=true"),
        ("slow", "encoder_lr_factor=1e-20"),
    ):
        asked = ["--weights", "runs/digits/start", "--set", f"optimizer.{assignment}", "--set",
                 "optimizer.weight_decay=0"]  # fmt: skip
        assert cli.run([*common, "--run-name", name, *asked]) == 0
        start, end = (load_state(Path("runs/digits", n))["network"] for n in ("start", name))
        moved = {k: not torch.allclose(start[k], end[k], atol=1e-7) for k in start
                 if "running" not in k and "batches" not in k}  # fmt: skip
        assert not any(m for k, m in moved.items() if ".encoder." in k), name
        assert all(m for k, m in moved.items() if "segmentation_head" in k), name


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_an_encoder_of_random_weights_is_not_frozen(
    scenes: Path, dry: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--data", str(scenes), "--model", "smp:Unet/resnet18", "--device", "cpu",
                 "--set", "optimizer.freeze_encoder=true", *dry]  # fmt: skip
    assert cli.run(arguments) == 2
    err = capsys.readouterr().err
    assert err.count("error: ") == 1
    assert "freeze_encoder would keep random weights" in err
    assert "model.encoder_weights=imagenet" in err
    assert not Path("runs").exists()


def test_a_run_with_a_frozen_encoder_is_resumed(scenes: Path) -> None:
    common = ["train", "--data", str(scenes), "--image-size", "64", "--batch-size", "4",
              "--device", "cpu", "--amp", "off", "--tracking", "off", "--model",
              "smp:Unet/resnet18"]  # fmt: skip
    assert cli.run([*common, "--max-steps", "1", "--run-name", "start"]) == 0
    frozen = ["--weights", "runs/digits/start", "--set", "optimizer.freeze_encoder=true"]
    assert cli.run([*common, "--max-steps", "1", "--run-name", "frozen", *frozen]) == 0
    folder = Path("runs/digits/frozen")
    before = weights_of(folder)
    assert cli.run(["train", "--resume", str(folder), "--max-steps", "2"]) == 0
    after = weights_of(folder)
    assert all(torch.equal(before[k], after[k]) for k in before if ".encoder." in k)
    assert not same(before, after)


def test_a_network_without_an_encoder_has_none_to_freeze(
    scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frozen = ["--set", "optimizer.freeze_encoder=true"]
    assert cli.run(["train", "--data", str(scenes), *TINY, *frozen]) == 2
    assert "no encoder to freeze" in capsys.readouterr().err


def test_deep_supervision_trains_and_predicts_like_any_other(scenes: Path) -> None:
    deep = ["--set", "model.deep_supervision=true", "--set", "training.micro_batch=2"]
    assert cli.run(["train", "--data", str(scenes), "--max-steps", "3", "--tracking", "off",
                    "--run-name", "deep", *TINY, *deep]) == 0  # fmt: skip
    assert cli.run(["evaluate", "--model", "runs/digits/deep", "--tracking", "off"]) == 0


def test_the_first_picture_shows_what_augmentation_makes_of_samples(session_run: Path) -> None:
    with Image.open(session_run / "samples" / "augmentation" / "000000.png") as picture:
        assert picture.width > 4 * 64
