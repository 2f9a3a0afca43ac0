"""What is decided for the user: sensible for the data, and never against what was asked."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_pipeline.errors import UserError
from unet_pipeline.training.plan import Plan, make_plan
from unet_pipeline.training.situation import Asked, Situation

GIVEN: dict[str, Any] = {
    "train_sizes": [(180, 240)] * 100,
    "val_sizes": [(180, 240)] * 20,
    "device_type": "cpu",
    "num_cores": 2,
    "cached": True,
    "num_steps": lambda batch: None,
    "model": "unet",
}

PATCHES: dict[str, Any] = {"model": "lenet", "by_patches": True}


def plan(**changes: Any) -> Plan:
    given = GIVEN | changes
    asked = {field.name: given.pop(field.name) for field in fields(Asked) if field.name in given}
    return make_plan(Asked(**asked), Situation(**given))


def test_images_of_one_small_size_are_trained_whole() -> None:
    assert plan().image_size == (180, 240)


def test_large_images_are_cropped() -> None:
    assert plan(train_sizes=[(2000, 3000)] * 10).image_size == (256, 256)
    assert plan(train_sizes=[(2000, 3000)] * 10, device_type="cuda").image_size == (512, 512)


def test_mixed_sizes_take_the_median_in_steps_of_16() -> None:
    assert plan(train_sizes=[(88, 120), (100, 90), (120, 120)]).image_size == (112, 128)


def test_few_samples_or_large_crops_make_small_batches() -> None:
    assert plan(train_sizes=[(100, 120)] * 100).batch_size == 8
    assert plan().batch_size == 4
    assert plan(train_sizes=[(64, 64)] * 20).batch_size == 4
    assert plan(train_sizes=[(64, 64)]).batch_size == 1


def test_validation_of_many_or_large_images_is_rarer() -> None:
    assert plan().val_every == 1
    assert plan(val_sizes=[(180, 240)] * 1000).val_every == 34


def test_everything_decided_has_a_reason_and_a_value() -> None:
    made = plan()
    assert set(made.reasons) == set(made.values)
    assert all(made.reasons.values())


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("image_size", 64, (64, 64)),
        ("image_size", (32, 48), (32, 48)),
        ("batch_size", 3, 3),
        ("val_every", 7, 7),
        ("workers", 5, 5),
        ("window", 99, 99),
    ],
)
def test_what_was_asked_stands(name: str, value: Any, expected: Any) -> None:
    made = plan(**{name: value})
    assert getattr(made, name) == expected
    assert made.reasons[name] == "as asked"


def test_the_width_and_the_stem_that_were_asked_stand_and_other_networks_have_none() -> None:
    asked = {"base_channels": 8, "stem": 4, "depth": 2}
    assert plan(model_options=asked).model_options == asked | {"norm": "batch"}
    assert plan(model="smp:FPN/resnet18").model_options == {}
    of_the_paper = {"base_channels": 64, "stem": 1, "depth": 4, "norm": "batch"}
    assert plan(device_type="cuda").model_options == of_the_paper


@pytest.mark.parametrize(
    ("spread", "norm", "reason"),
    [
        (None, "batch", "usual"),
        (0.41, "batch", "below 60 %"),
        (0.91, "group", "91 % of the variance"),
    ],
)
def test_images_that_differ_much_are_normalised_each_by_itself(
    spread: float | None, norm: str, reason: str
) -> None:
    made = plan(image_spread=spread)
    assert (made.model_options["norm"], reason in made.reasons["norm"]) == (norm, True)
    asked = plan(image_spread=spread, model_options={"norm": "instance"})
    assert asked.model_options["norm"] == "instance"
    assert (
        plan(image_spread=spread, model_options={"base_channels": 12}).model_options["norm"]
        == "batch"
    )
    assert plan(image_spread=spread, sync_batchnorm=True).model_options["norm"] == "batch"
    assert "norm" not in plan(image_spread=spread, model="smp:FPN/resnet18").model_options


def test_what_was_asked_is_not_measured() -> None:
    def measure(*_: Any) -> float:
        raise AssertionError("a step was taken")

    asked = {"model_options": {"base_channels": 8}, "memory_format": "contiguous"}
    assert plan(**asked, measure=measure).model_options["stem"] == 2


# Seconds of a step as they go with the width, on machines of several speeds
def steps_of(seconds_at_16: float) -> Any:
    costs = {16: 1.0, 24: 1.8, 32: 2.8, 48: 5.6, 64: 9.5}
    return lambda options, size, batch, layout: seconds_at_16 * costs[options["base_channels"]]


@pytest.mark.parametrize(("seconds_at_16", "width"), [(0.05, 32), (0.1, 24), (0.2, 16), (2.0, 16)])
def test_a_budget_buys_the_widest_network_that_has_time_for_a_thousand_steps(
    seconds_at_16: float, width: int
) -> None:
    made = plan(budget_seconds=300, measure=steps_of(seconds_at_16))
    assert made.model_options["base_channels"] == width
    assert "steps of" in made.reasons["base_channels"]


def test_few_steps_that_are_asked_for_buy_a_wider_network() -> None:
    few = plan(budget_seconds=300, measure=steps_of(0.15), num_steps=lambda batch: 400)
    assert few.model_options["base_channels"] == 32


def test_epochs_without_a_budget_are_to_end_within_an_hour() -> None:
    of_steps = {"num_steps": lambda batch: 10_000}
    assert plan(measure=steps_of(0.1), **of_steps).model_options["base_channels"] == 32
    assert plan(measure=steps_of(0.3), **of_steps).model_options["base_channels"] == 16


@pytest.mark.parametrize(("seconds_at_16", "width"), [(0.1, 32), (2000.0, 16)])
def test_the_steps_that_are_foretold_are_no_more_than_epochs_allow(
    seconds_at_16: float, width: int
) -> None:
    made = plan(measure=steps_of(seconds_at_16), num_steps=lambda batch: 12)
    assert made.model_options["base_channels"] == width
    steps = 12 if width == 32 else 2  # an hour has time for two
    assert re.search(rf"\b{steps} steps of", made.reasons["base_channels"])


def test_a_width_that_is_slower_than_foretold_is_not_taken() -> None:
    measured: list[int] = []

    def measure(options: dict[str, Any], size: Any, batch: int, layout: str) -> float:
        measured.append(options["base_channels"])
        return {16: 0.05, 24: 0.1, 32: 9.0}[options["base_channels"]]

    given = {"budget_seconds": 300, "measure": measure, "memory_format": "channels_last"}
    assert plan(**given).model_options["base_channels"] == 24
    assert measured == [16, 32, 24]


@pytest.mark.parametrize(
    ("contiguous", "taken"),
    [(0.05, "contiguous"), (0.099, "channels_last"), (0.2, "channels_last")],
)
def test_the_layout_is_the_one_that_measures_faster(contiguous: float, taken: str) -> None:
    seconds = {"channels_last": 0.1, "contiguous": contiguous}

    def measure(options: dict[str, Any], size: Any, batch: int, layout: str) -> float:
        return seconds[layout]

    made = plan(budget_seconds=300, measure=measure)
    assert made.memory_format == taken
    assert f"{1000 * contiguous:.0f} first" in made.reasons["memory_format"]
    # Without a budget the same command is to give the same weights, to the last digit
    assert plan(measure=measure).memory_format == "channels_last"


def test_a_batch_that_memory_does_not_hold_is_halved_unless_it_was_asked_for() -> None:
    def measure(options: dict[str, Any], size: Any, batch: int, layout: str) -> float:
        return 0.1 if batch <= 5 and options["base_channels"] <= 48 else math.inf

    given = {"device_type": "cuda", "measure": measure}
    made = plan(**given)
    assert made.batch_size == 4
    assert made.model_options["base_channels"] == 48
    assert made.reasons["batch_size"] == "as many as the memory holds"
    assert plan(**given, batch_size=16).batch_size == 16
    assert plan(**given, num_processes=8).batch_size == 8


def test_every_process_has_a_sample_and_cores_are_shared() -> None:
    few = {"train_sizes": [(180, 240)] * 20, "device_type": "cuda", "num_cores": 16}
    assert plan(**few).batch_size == 5
    assert plan(**few, num_processes=8).batch_size == 8
    assert plan(**few).workers == 8
    assert plan(**few, local_processes=4).workers == 3


@pytest.mark.parametrize(
    ("class_pixels", "loss"),
    [
        ((500, 300, 200, 20), "ce(class_weights=sqrt) + dice"),
        ((900, 60, 40), "ce + dice"),  # rare beside background alone
        ((900, 100, 0, 90), "ce + dice"),  # a class that does not occur is not rare
        ((800, 100, 100), "ce + dice"),
        ((999, 1), "ce + dice"),
        ((), "ce + dice"),
    ],
)
def test_rare_classes_among_several_are_weighed(class_pixels: tuple[int, ...], loss: str) -> None:
    made = plan(class_pixels=class_pixels)
    assert made.loss == loss
    assert plan(class_pixels=class_pixels, **PATCHES).loss == "ce + dice"
    assert plan(class_pixels=class_pixels, loss="focal").reasons["loss"] == "as asked"


@pytest.mark.parametrize(
    ("loss", "balance"),
    [("ce", 0.5), ("ce(class_weights=balanced)", 0.0), ("ce(class_weights=[1, 2])", 0.0)],
)
def test_patches_are_drawn_as_classes_occur_where_the_loss_weighs_them(
    loss: str, balance: float
) -> None:
    assert plan(**PATCHES, loss=loss).balance == balance


def test_a_network_of_another_library_is_timed_like_the_unet() -> None:
    fast = {"measure": lambda *_: 0.05, "model": "smp:FPN/resnet18", "budget_seconds": 36_000}
    assert plan(**fast).transforms == "light"
    assert plan(**fast | {"budget_seconds": 60}).transforms == "flips"
    assert "38 times" in plan(**fast | {"budget_seconds": 60}).reasons["transforms"]
    # a patch network learns from a part of each crop: how long that takes is not measured
    assert "seldom" in plan(**fast | PATCHES).reasons["transforms"]


def test_few_passes_over_the_data_take_flips_and_more_take_more() -> None:
    # 100 samples, 4 a step
    step = {"measure": lambda options, size, batch, layout: 0.2, "memory_format": "contiguous"}
    assert plan(budget_seconds=150, **step).transforms == "flips"  # 600 steps
    assert "24 times" in plan(budget_seconds=150, **step).reasons["transforms"]
    assert plan(budget_seconds=300, **step).transforms == "light"  # 48 times
    assert plan(budget_seconds=300, num_steps=lambda batch: 200, **step).transforms == "flips"
    assert plan(num_steps=lambda batch: 50 * 100 / batch).transforms == "light"
    assert plan(num_steps=lambda batch: 10 * 100 / batch).transforms == "flips"
    assert plan(model="smp:FPN/resnet18", num_steps=lambda batch: 5).transforms == "flips"
    assert plan(budget_seconds=150, transforms="heavy", **step).reasons["transforms"] == "as asked"
    assert "not known" in plan().reasons["transforms"]


@pytest.mark.parametrize("limits", [{}, {"num_steps": lambda batch: 500 * 100 / batch}])
@pytest.mark.parametrize("model", ["unet", "smp:Unet/resnet18"])
def test_steps_that_are_not_timed_take_flips_on_a_cpu(model: str, limits: dict[str, Any]) -> None:
    """Epochs are no time: 40 s had 46 steps on CamVid, whatever `--epochs` allowed."""
    short = {"budget_seconds": 40, "model": model, **limits}
    assert plan(**short).transforms == "flips"
    assert "CPU" in plan(**short).reasons["transforms"]
    assert plan(**short, device_type="cuda").transforms == "light"
    few = short | {"device_type": "cuda", "num_steps": lambda batch: 10 * 100 / batch}
    assert plan(**few).transforms == "flips"


def test_precision_is_that_of_the_device_unless_asked_for() -> None:
    assert plan(autocast="bfloat16").amp
    assert "bfloat16" in plan(autocast="bfloat16").reasons["amp"]
    assert not plan().amp
    assert plan(amp=True).reasons["amp"] == "as asked"


@pytest.mark.parametrize(
    ("crop", "stem", "depth"),
    [
        ((180, 240), 2, 4),
        ((64, 64), 2, 4),
        ((48, 64), 2, 3),
        ((32, 32), 1, 4),
        ((16, 90), 1, 3),
        ((4, 4), 1, 1),
    ],
)
def test_the_depth_leaves_something_of_small_crops(
    crop: tuple[int, int], stem: int, depth: int
) -> None:
    made = plan(image_size=crop, model_options={"stem": stem})
    assert made.model_options["depth"] == depth


def test_the_stem_is_for_slow_devices_large_crops_and_objects_that_it_does_not_swallow() -> None:
    assert plan().model_options["stem"] == 2
    assert plan(device_type="cuda").model_options["stem"] == 1
    assert plan(train_sizes=[(96, 96)] * 9).model_options["stem"] == 2
    assert plan(train_sizes=[(48, 96)] * 9).model_options["stem"] == 1
    assert plan(model_options={"depth": 1}).model_options["stem"] == 1
    assert plan(object_area=500.0).model_options["stem"] == 2
    swallowed = plan(object_area=5.0)
    assert swallowed.model_options["stem"] == 1
    assert "5 pixels" in swallowed.reasons["stem"]


sizes = st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 5000)), min_size=1, max_size=20)


@settings(max_examples=50, deadline=None)
@given(train=sizes, val=sizes, device=st.sampled_from(["cpu", "cuda", "mps"]))
def test_any_sizes_give_a_plan_that_can_be_trained(
    train: list[tuple[int, int]], val: list[tuple[int, int]], device: str
) -> None:
    made = plan(train_sizes=train, val_sizes=val, device_type=device)
    assert min(made.image_size) >= 1
    assert max(made.image_size) <= 512
    assert made.batch_size >= 1
    assert made.val_every >= 1


# ---- patch networks


@pytest.mark.parametrize("model", ["lenet", "mlp"])
def test_patch_networks_learn_from_256_pixels_an_image_half_of_them_balanced(model: str) -> None:
    made = plan(model=model, by_patches=True)
    assert made.num_pixels == 256
    assert made.balance == 0.5
    assert made.model_options == {}
    assert set(made.reasons) == set(made.values)
    assert list(made.reasons) == list(made.values)
    assert made.values["num_pixels"] == 256
    assert made.values["balance"] == 0.5


def test_other_networks_have_no_pixels_and_no_balance() -> None:
    made = plan()
    assert made.num_pixels is None
    assert made.balance is None
    assert not {"num_pixels", "balance"} & set(made.values)
    # as a completed config of a U-Net has it, from which a run goes on
    assert plan(num_pixels=0) == made


def test_pixels_and_balance_that_were_asked_stand() -> None:
    made = plan(**PATCHES, num_pixels=32, balance=0.0)
    assert (made.num_pixels, made.balance) == (32, 0.0)
    assert made.reasons["num_pixels"] == made.reasons["balance"] == "as asked"
    made = plan(**PATCHES, num_pixels=0)  # every pixel, in one pass
    assert (made.num_pixels, made.balance) == (0, None)
    assert set(made.reasons) == set(made.values)


def test_a_plan_for_patches_given_back_is_the_same_plan() -> None:
    made = plan(**PATCHES)
    again = plan(**PATCHES, num_pixels=made.num_pixels, balance=made.balance)
    assert again.values == made.values


def test_few_pixels_cost_little_so_images_up_to_512_pixels_are_taken_whole() -> None:
    large = {"train_sizes": [(500, 512)] * 10}
    assert plan(**PATCHES, **large).image_size == (500, 512)
    assert plan(**large).image_size == (256, 256)
    assert plan(**PATCHES, **large, num_pixels=0).image_size == (256, 256)
    assert plan(**PATCHES, train_sizes=[(2000, 3000)] * 10).image_size == (512, 512)


@pytest.mark.parametrize("num_pixels", [None, 16, 4096])
def test_validation_of_whole_images_costs_below_a_tenth_of_training_on_few_pixels(
    num_pixels: int | None,
) -> None:
    made = plan(**PATCHES, num_pixels=num_pixels)
    trained = 100 * made.num_pixels * made.val_every
    validated = 20 * 180 * 240 / 3
    assert validated <= 0.1 * trained
    assert validated > 0.1 * trained * (made.val_every - 1) / made.val_every  # and no rarer
    assert made.val_every > plan().val_every
    assert plan(**PATCHES, num_pixels=0).val_every == plan().val_every


@pytest.mark.parametrize("model", ["unet", "smp:FPN/resnet18"])
@pytest.mark.parametrize("changes", [{"num_pixels": 64}, {"balance": 0.5}, {"balance": 0.0}])
def test_pixels_and_balance_are_refused_for_networks_of_whole_crops(
    model: str, changes: dict[str, Any]
) -> None:
    words = rf"training\.num_pixels and training\.balance .*mlp, lenet.*{model} learns from whole"
    with pytest.raises(UserError, match=words) as caught:
        plan(model=model, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("balance", [0.0, 0.5])
def test_balance_without_pixels_is_refused(balance: float) -> None:
    with pytest.raises(UserError, match=r"balance has no effect with num_pixels = 0") as caught:
        plan(**PATCHES, num_pixels=0, balance=balance)
    assert "\n" not in str(caught.value)


@settings(max_examples=50, deadline=None)
@given(train=sizes, val=sizes, num_pixels=st.none() | st.integers(0, 10_000))
def test_any_sizes_give_a_plan_for_patches(
    train: list[tuple[int, int]], val: list[tuple[int, int]], num_pixels: int | None
) -> None:
    made = plan(**PATCHES, train_sizes=train, val_sizes=val, num_pixels=num_pixels)
    assert 1 <= min(made.image_size) <= max(made.image_size) <= 512
    assert made.val_every >= 1
    assert (made.balance is None) == (made.num_pixels == 0)
