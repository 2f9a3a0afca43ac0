"""Weights of classes: rules by hand and by scikit-learn, and how they reach the losses."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from unet_pipeline.errors import UserError
from unet_pipeline.training.losses import LOSSES, ce, parse_loss
from unet_pipeline.training.losses.class_weights import (
    Rule,
    weights_as_tensor,
    weights_by_rule,
)

WEIGHED = [n for n, loss in LOSSES.items() if "class_weights" in inspect.signature(loss).parameters]
RULES = pytest.mark.parametrize("rule", ["balanced", "sqrt"])


def case() -> tuple[Tensor, Tensor]:
    """Three classes and, 255, ignored pixels."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(3, (2, 4, 5), generator=generator)
    target[:, 0] = 255
    return torch.randn(2, 3, 4, 5, generator=generator), target


# ---- rules


def test_balanced_weights_have_the_value_worked_out_by_hand() -> None:
    # 100 pixels, 2 classes: 100 / (2 * 75) and 100 / (2 * 25)
    assert weights_by_rule("balanced", [75, 25]) == pytest.approx([2 / 3, 2])
    assert weights_by_rule("sqrt", [75, 25]) == pytest.approx([math.sqrt(2 / 3), math.sqrt(2)])
    assert weights_by_rule("balanced", [7, 7, 7]) == weights_by_rule("sqrt", [7, 7, 7]) == [1] * 3


@given(counts=st.lists(st.integers(1, 500), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_balanced_weights_are_those_of_scikit_learn(counts: list[int]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    expected = compute_class_weight("balanced", classes=np.arange(len(counts)), y=labels)
    weights = weights_by_rule("balanced", counts)
    assert weights == pytest.approx(expected.tolist())
    assert weights_by_rule("sqrt", counts) == pytest.approx(np.sqrt(expected).tolist())


def test_balanced_classes_count_alike_in_sum() -> None:
    counts = [10**10, 12345, 1]
    weights = weights_by_rule("balanced", counts)
    sums = [weight * count for weight, count in zip(weights, counts, strict=True)]
    assert sums == pytest.approx([sums[0]] * 3)
    assert sum(sums) == pytest.approx(sum(counts))


def test_an_absent_class_weighs_as_the_rarest_one_and_changes_no_other() -> None:
    assert weights_by_rule("balanced", [75, 0, 25]) == pytest.approx([2 / 3, 2, 2])
    assert weights_by_rule("balanced", [0, 75, 25, 0]) == pytest.approx([2, 2 / 3, 2, 2])
    assert weights_by_rule("sqrt", [0, 5]) == [1, 1]


@RULES
@pytest.mark.parametrize("counts", [[0, 0, 0], []])
def test_masks_without_any_class_are_refused(rule: Rule, counts: list[int]) -> None:
    with pytest.raises(UserError, match=f"^class_weights={rule}: .* no class at all$"):
        weights_by_rule(rule, counts)


# ---- as tensors


def test_weights_take_the_type_of_the_logits_and_none_stays_none() -> None:
    logits = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
    weights = weights_as_tensor([1, 0.1, 2], logits, label="ce")
    assert weights is not None
    assert weights.dtype == torch.float64
    assert weights.tolist() == [1, 0.1, 2]
    assert weights_as_tensor(None, logits, label="ce") is None


def test_a_pixel_weighs_what_its_true_class_does() -> None:
    target = torch.tensor([[[0, 2, 1, 255]]])
    logits = torch.zeros(1, 3, 1, 4)
    logits[0, 1] = math.log(2)  # p = (1/4, 1/2, 1/4) everywhere
    costs = [2 * (1 - p) for p in (1 / 4, 1 / 4, 1 / 2)]
    expected = (5 * costs[0] + 7 * costs[1] + 6 * costs[2]) / 18
    assert LOSSES["l1"](logits, target, class_weights=[5, 6, 7]).item() == pytest.approx(expected)
    assert LOSSES["l1"](logits, target).item() == pytest.approx(sum(costs) / 3)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 2], "ce: class_weights has 2 numbers for 3 classes"),
        ([], "ce: class_weights has 0 numbers for 3 classes"),
        ([1, -1, 1], "[1, -1, 1]: use numbers >= 0"),
        ([1, math.nan, 1], "use numbers >= 0"),
        ([1, math.inf, 1], "none above 1e30"),
        ([1, 1e39, 1], "none above 1e30"),  # infinite in float32
        ([0, 0, 0], "not all of them 0"),
        ([0, 1e-50, 0], "not all of them 0"),  # 0 in float32
    ],
)
def test_a_list_that_does_not_fit_is_refused_in_one_line(
    weights: list[float], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        weights_as_tensor(weights, torch.zeros(1, 3, 1, 1), label="ce")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_largest_and_the_smallest_weights_do_not_overflow_over_many_pixels() -> None:
    logits, target = torch.zeros(1, 2, 1000, 1000), torch.zeros(1, 1000, 1000, dtype=torch.int64)
    for weight in (1e30, 1e-30):
        value = ce(logits, target, class_weights=[weight, 0])
        assert value.item() == pytest.approx(math.log(2), rel=1e-5)


# ---- in expressions


@pytest.mark.parametrize("name", WEIGHED)
@pytest.mark.parametrize("rule", ["balanced", "'balanced'", '"balanced"'])
def test_balanced_weights_are_those_of_the_pixel_counts(name: str, rule: str) -> None:
    logits, target = case()
    loss = parse_loss(f"{name}(class_weights={rule})", class_pixel_counts=[60, 30, 10])
    expected = LOSSES[name](logits, target, class_weights=[100 / 180, 100 / 90, 100 / 30])
    torch.testing.assert_close(loss(logits, target), expected)


def test_the_square_root_of_balanced_weights_is_a_rule_too() -> None:
    logits, target = case()
    loss = parse_loss("dice + ce(class_weights=sqrt)", class_pixel_counts=[4, 1, 1])
    expected = ce(logits, target, class_weights=[math.sqrt(0.5), math.sqrt(2), math.sqrt(2)])
    torch.testing.assert_close(loss.loss_parts(logits, target)["ce(class_weights=sqrt)"], expected)


@pytest.mark.parametrize("name", WEIGHED)
def test_a_rule_without_pixel_counts_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"class_weights=balanced needs the pixel counts") as caught:
        parse_loss(f"{name}(class_weights=balanced)", num_classes=3)
    assert name in str(caught.value)
    with pytest.raises(UserError, match=f"^{name}: class_weights=sqrt needs the pixel counts"):
        LOSSES[name](*case(), class_weights="sqrt")


def test_pixel_counts_of_another_number_of_classes_are_found_before_the_first_batch() -> None:
    with pytest.raises(UserError, match="2 numbers for 3 classes"):
        parse_loss("ce(class_weights=balanced)", num_classes=3, class_pixel_counts=[75, 25])


def test_pixel_counts_change_nothing_that_asks_for_no_rule() -> None:
    logits, target = case()
    expected = parse_loss("ce + dice")(logits, target)
    counted = parse_loss("ce + dice", class_pixel_counts=[1, 2, 3])(logits, target)
    assert torch.equal(counted, expected)
