"""What is decided for the user: sensible for the data, and never against what was asked."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_pipeline.training.plan import Plan, make_plan

GIVEN: dict[str, Any] = {
    "train_sizes": [(180, 240)] * 100,
    "val_sizes": [(180, 240)] * 20,
    "device_type": "cpu",
    "num_cores": 2,
    "cached": True,
    "budget_seconds": None,
    "model": "unet",
    "model_options": {},
}


def plan(**changes: Any) -> Plan:
    return make_plan(**(GIVEN | changes))


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
    assert plan(val_sizes=[(180, 240)] * 1000).val_every == 17


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


def test_the_width_that_was_asked_stands_and_other_networks_have_none() -> None:
    assert plan(model_options={"base_channels": 8}).model_options == {"base_channels": 8}
    assert plan(model="smp:FPN/resnet18").model_options == {}
    assert plan(device_type="cuda").model_options == {"base_channels": 64}


def test_a_long_budget_buys_a_wider_network_on_a_cpu() -> None:
    assert plan(budget_seconds=180).model_options == {"base_channels": 16}
    assert plan(budget_seconds=3600).model_options == {"base_channels": 32}


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
