"""What `--param` means: choices and ranges typed by their settings; each error is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from unet_pipeline.config import TrainConfig, load_config
from unet_pipeline.datasets.manifest import DatasetFacts, Manifest
from unet_pipeline.errors import UserError
from unet_pipeline.stages.search_space import (
    Choices,
    Param,
    Span,
    assign,
    check_space,
    name_of,
    num_combinations,
    parse_space,
    with_plan,
)


def parse(*texts: str) -> tuple[Param, ...]:
    return parse_space(texts, load_config())


@pytest.fixture(scope="module")
def facts(scenes: Path) -> DatasetFacts:
    return Manifest.load(scenes).facts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("training.loss=ce,dice,ce+dice", ("ce", "dice", "ce+dice")),
        (
            "training.loss=ce(class_weights=balanced, label_smoothing=0.1),dice",
            ("ce(class_weights=balanced, label_smoothing=0.1)", "dice"),
        ),
        ("training.batch_size=4,8", (4, 8)),
        ("optimizer.lr=1e-3,0.01", (1e-3, 1e-2)),
        ("runtime.amp=on,off", ("on", "off")),
        ("training.image_size=64,48x64", (64, "48x64")),
        ("model.bilinear=true,false", (True, False)),
        ("model.norm=batch,group", ("batch", "group")),
        ("optimizer.freeze_encoder=yes,no", (True, False)),
    ],
)
def test_choices_have_the_type_of_their_setting(text: str, expected: tuple[object, ...]) -> None:
    (param,) = parse(text)
    assert isinstance(param, Choices)
    assert param.values == expected
    assert [type(value) for value in param.values] == [type(value) for value in expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer.lr=1e-4:1e-2:log", Span("optimizer.lr", 1e-4, 1e-2, log=True)),
        ("optimizer.weight_decay=0:0.1", Span("optimizer.weight_decay", 0, 0.1)),
        ("model.base_channels=8:32", Span("model.base_channels", 8, 32, whole=True)),
        ("model.base_channels=8:32:log", Span("model.base_channels", 8, 32, log=True, whole=True)),
        ("training.batch_size=4:15:4", Span("training.batch_size", 4, 12, step=4, whole=True)),
        ("training.ema_decay=0.5:0.9:0.1", Span("training.ema_decay", 0.5, 0.9, step=0.1)),
    ],
)
def test_ranges_are_whole_or_not_as_their_setting_is(text: str, expected: Span) -> None:
    assert parse(text) == (expected,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer.lrr=1,2", "optimizer adamw has no option 'lrr': did you mean 'lr'?"),
        ("training.batchsize=1,2", "did you mean 'training.batch_size'?"),
        ("modell.depth=2,3", "unknown setting 'modell.depth'"),
        ("optimizer.momentum=0.1:0.9", "optimizer adamw has no option 'momentum'"),
        ("model.dept=2,3", "did you mean 'depth'?"),
        ("optimizer.lr", "write it as NAME=a,b,c or NAME=LOW:HIGH"),
        ("optimizer.lr=", "write it as NAME=a,b,c or NAME=LOW:HIGH"),
        ("optimizer.lr=0.1", "one value is nothing to compare"),
        ("optimizer.lr=0.1,0.10", "0.1 is there twice"),
        ("optimizer.lr=0.1,,0.2", "an empty value between the commas"),
        ("optimizer.lr=-1,1", "should be greater than 0"),
        ("optimizer.lr=a:b", "'a' is no number"),
        ("optimizer.lr=1:nan", "'nan' is no number"),
        ("optimizer.lr=0:1", "optimizer.lr = '0': input should be greater than 0"),
        ("optimizer.weight_decay=0:1:log", "a logarithmic range begins above 0, not at 0"),
        ("optimizer.lr=2:1", "the range ends at 1, where it should be above 2"),
        ("optimizer.lr=1:2:3", "a step of 3 does not lead from 1 to 2"),
        ("optimizer.lr=1:2:log:3", "a range is LOW:HIGH, LOW:HIGH:log or LOW:HIGH:STEP"),
        ("training.batch_size=2:4.5", "takes whole numbers, not 4.5"),
        ("training.batch_size=2,x", "should be a valid integer"),
        ("model.bilinear=2,3", "takes true or false, not '2'"),
        ("model.depth=2,x", "takes whole numbers, not 'x'"),
        ("data.fold=0,1", "cannot be swept: all trials see the same data"),
        ("output.experiment=a,b", "cannot be swept: it says where runs go"),
        ("training.budget_seconds=1:2", "cannot be swept: trials share the --budget"),
    ],
)
def test_what_cannot_be_swept_is_told_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text)
    assert message in str(caught.value)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_setting_is_swept_once_and_something_is() -> None:
    with pytest.raises(UserError, match=r"optimizer\.lr is swept twice"):
        parse("optimizer.lr=1,2", "optimizer.lr=3:4")
    with pytest.raises(UserError, match="needs something to try"):
        parse()


def test_options_belong_to_the_component_that_is_swept_wherever_it_stands() -> None:
    momentum, name = parse("optimizer.momentum=0.8:0.9", "optimizer.name=sgd,rmsprop")
    assert momentum == Span("optimizer.momentum", 0.8, 0.9)
    assert name == Choices("optimizer.name", ("sgd", "rmsprop"))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["training.loss=ce,dicee"], "training.loss=dicee: .*did you mean 'dice'"),
        (["model.name=unet,unett"], "model.name=unett: unknown model 'unett'"),
        (["model.name=unet,otsu"], "model otsu has nothing to train"),
        (["schedule.name=cosine,cosin"], "did you mean 'cosine'"),
        (["model.depth=2,0"], "model.depth=0: "),
        (["training.loss=ce,ce(class_weights=[1, 2])"], "training.loss=ce.class_weights"),
        (
            ["optimizer.name=sgd,adamw", "optimizer.momentum=0:0.9"],
            "optimizer.name=adamw: optimizer adamw has no option 'momentum'",
        ),
    ],
)
def test_each_value_is_tried_on_the_catalogues_before_anything_runs(
    texts: list[str], message: str, facts: DatasetFacts
) -> None:
    with pytest.raises(UserError, match=message):
        check_space(parse(*texts), load_config(), facts)


def test_a_space_that_works_passes(facts: DatasetFacts) -> None:
    texts = ["model.name=unet,mlp", "training.loss=ce,dice", "transforms.name=flips,light"]
    check_space(parse(*texts), load_config(), facts)


def test_another_component_leaves_the_options_of_the_former_behind() -> None:
    given = {"optimizer.name": "sgd", "optimizer.momentum": 0.5, "optimizer.lr": 0.1}
    config = assign(load_config(overrides=given), {"optimizer.name": "adam"})
    assert config.optimizer.options == {}
    assert config.optimizer.lr == 0.1
    assert assign(load_config(overrides=given), {"optimizer.name": "sgd"}).optimizer.options == {
        "momentum": 0.5
    }


def test_what_a_plan_decides_is_shared_by_all_trials_but_not_what_is_swept() -> None:
    planned = load_config(
        overrides={"training.batch_size": 8, "training.loss": "ce", "model.depth": 3}
    )
    shared = with_plan(TrainConfig(), planned, parse("training.loss=ce,dice"))
    assert (shared.training.batch_size, shared.training.loss) == (8, None)
    assert shared.model.options == {"depth": 3}
    assert with_plan(TrainConfig(), planned, parse("model.name=unet,mlp")) == TrainConfig()


def test_combinations_are_counted_where_there_is_an_end_to_them() -> None:
    assert num_combinations(parse("training.loss=ce,dice", "model.depth=2:4")) == 6
    assert num_combinations(parse("training.ema_decay=0.5:0.9:0.1")) == 5
    assert num_combinations(parse("optimizer.lr=0.1:0.2", "model.depth=2:4")) is None


def test_the_name_of_a_trial_says_its_values() -> None:
    values = {
        "training.loss": "ce + 0.5*dice",
        "optimizer.lr": 0.0031234,
        "model.bilinear": True,
        "model.name": "smp:FPN/resnet18",
    }
    assert name_of(values) == "ce+0.5-dice-lr0.00312-bilineartrue-smp-FPN-resnet18"
