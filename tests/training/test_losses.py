"""Losses: hand values, independent references, gradients, and the contract of every entry."""

from __future__ import annotations

import math

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unet_pipeline.errors import UserError
from unet_pipeline.training.losses import LOSSES, cross_entropy, dice, parse_loss

ALL = pytest.mark.parametrize("name", list(LOSSES))


def case(
    seed: int = 0, n: int = 3, k: int = 4, size: tuple[int, int] = (5, 7), ignored: float = 0.2
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, k, *size, generator=generator)
    target = torch.randint(k, (n, *size), generator=generator)
    target[torch.rand(target.shape, generator=generator) < ignored] = 255
    return logits, target


# ---- every entry of the catalogue


@ALL
def test_a_perfect_prediction_costs_almost_nothing_and_the_opposite_much(name: str) -> None:
    _, target = case(ignored=0)
    perfect = 20 * F.one_hot(target, 4).movedim(-1, 1).float()
    assert LOSSES[name](perfect, target).item() == pytest.approx(0, abs=1e-3)
    assert LOSSES[name](-perfect, target).item() > 0.9


@ALL
def test_the_gradient_is_that_of_the_value(name: str) -> None:
    logits, target = case(n=2, k=3, size=(2, 3))
    logits = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, target), (logits,))


@ALL
@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e30])
def test_what_an_ignored_pixel_holds_changes_neither_value_nor_gradient(
    name: str, garbage: float
) -> None:
    clean, target = case()
    clean.requires_grad_()
    spoilt = torch.where((target == 255)[:, None], garbage, clean.detach()).requires_grad_()
    values = [LOSSES[name](logits, target) for logits in (clean, spoilt)]
    for value in values:
        value.backward()
    assert torch.equal(values[0], values[1])
    assert clean.grad is not None
    assert spoilt.grad is not None
    assert torch.equal(clean.grad, spoilt.grad)
    assert (spoilt.grad.movedim(1, -1)[target == 255] == 0).all()
    assert (spoilt.grad.movedim(1, -1)[target != 255] != 0).any()


@ALL
def test_ignoring_pixels_equals_leaving_them_out(name: str) -> None:
    logits, target = case(n=1, size=(1, 40), ignored=0.3)
    valid = target[0, 0] != 255
    expected = LOSSES[name](logits[..., valid], target[..., valid])
    torch.testing.assert_close(LOSSES[name](logits, target), expected)


@ALL
def test_a_batch_of_void_costs_nothing_and_teaches_nothing(name: str) -> None:
    logits = torch.full((2, 3, 4, 4), math.nan, requires_grad=True)
    value = LOSSES[name](logits, torch.full((2, 4, 4), 255))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


@ALL
def test_another_ignore_index_is_honoured(name: str) -> None:
    logits, target = case()
    renamed = torch.where(target == 255, -1, target)
    assert torch.equal(LOSSES[name](logits, target), LOSSES[name](logits, renamed, ignore_index=-1))


@ALL
def test_the_order_of_images_and_of_pixels_does_not_matter(name: str) -> None:
    logits, target = case()
    expected = LOSSES[name](logits, target)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(LOSSES[name](logits[order], target[order]), expected)
    torch.testing.assert_close(LOSSES[name](logits.flip(2, 3), target.flip(1, 2)), expected)


@ALL
def test_the_order_of_classes_does_not_matter(name: str) -> None:
    logits, target = case()
    order = torch.tensor([2, 0, 3, 1])  # new class c is old class order[c]
    renamed = torch.where(target == 255, 255, order.argsort()[target.clamp_max(3)])
    expected = LOSSES[name](logits, target)
    torch.testing.assert_close(LOSSES[name](logits[:, order], renamed), expected)


@ALL
def test_repeating_the_batch_changes_nothing(name: str) -> None:
    logits, target = case()
    options = {"smooth": 0.0} if name == "dice" else {}
    expected = LOSSES[name](logits, target, **options)
    twice = LOSSES[name](logits.repeat(2, 1, 1, 1), target.repeat(2, 1, 1), **options)
    torch.testing.assert_close(twice, expected)


@ALL
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_logits_are_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    logits, target = case()
    coarse = logits.to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        value = LOSSES[name](coarse, target)
    assert value.dtype == torch.float32
    assert torch.equal(value, LOSSES[name](coarse.float(), target))


@ALL
def test_a_gradient_step_lowers_it(name: str) -> None:
    logits, target = case()
    logits.requires_grad_()
    before = LOSSES[name](logits, target)
    before.backward()
    assert logits.grad is not None
    assert LOSSES[name]((logits - logits.grad).detach(), target) < before


@ALL
def test_one_pixel_is_enough(name: str) -> None:
    value = LOSSES[name](torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.int64))
    assert value.shape == ()
    assert value.isfinite()


# ---- cross-entropy


def test_cross_entropy_of_equal_logits_is_the_logarithm_of_the_number_of_classes() -> None:
    _, target = case()
    assert cross_entropy(torch.zeros(3, 4, 5, 7), target).item() == pytest.approx(math.log(4))


def test_cross_entropy_has_the_value_worked_out_by_hand() -> None:
    # softmax of (0, log 3) is (1/4, 3/4): the true class 1 has p = 3/4, the true class 0 p = 1/4
    logits = torch.tensor([0.0, math.log(3)]).reshape(1, 2, 1, 1).expand(1, 2, 1, 3)
    target = torch.tensor([[[1, 0, 255]]])
    expected = (-math.log(3 / 4) - math.log(1 / 4)) / 2
    assert cross_entropy(logits, target).item() == pytest.approx(expected)
    weighted = (-3 * math.log(3 / 4) - math.log(1 / 4)) / 4
    assert cross_entropy(logits, target, class_weights=[1, 3]).item() == pytest.approx(weighted)
    smooth = (-0.9 * math.log(3 / 4) - 0.1 * math.log(1 / 4)) / 2
    smooth += (-0.9 * math.log(1 / 4) - 0.1 * math.log(3 / 4)) / 2
    assert cross_entropy(logits, target, label_smoothing=0.2).item() == pytest.approx(smooth)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0, 0.0]])
def test_cross_entropy_equals_the_formula_written_out_in_numpy(
    smoothing: float, weights: list[float] | None
) -> None:
    logits, target = case(ignored=0.3)
    x, y = logits.double().movedim(1, -1).numpy(), target.numpy()
    minus_log_p = np.log(np.exp(x).sum(-1, keepdims=True)) - x
    w = np.array(weights or [1.0] * 4)
    total = scale = 0.0
    for row, label in zip(minus_log_p.reshape(-1, 4), y.ravel(), strict=True):
        if label != 255:
            total += (1 - smoothing) * w[label] * row[label] + smoothing / 4 * (w * row).sum()
            scale += w[label]
    value = cross_entropy(logits, target, label_smoothing=smoothing, class_weights=weights)
    assert value.item() == pytest.approx(total / scale, rel=1e-5)


def test_weighted_cross_entropy_of_pixels_without_weight_is_zero() -> None:
    logits, target = torch.randn(1, 2, 3, 3, requires_grad=True), torch.zeros(1, 3, 3).long()
    value = cross_entropy(logits, target, class_weights=[0, 1])
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


# ---- dice


def test_dice_has_the_value_worked_out_by_hand() -> None:
    # p(1) = 3/4 everywhere; truth: one pixel of class 1, two of class 0
    logits = torch.tensor([0.0, math.log(3)]).reshape(1, 2, 1, 1).expand(1, 2, 1, 3)
    target = torch.tensor([[[1, 0, 0]]])
    dice_0 = (2 * (2 / 4) + 1) / (3 / 4 + 2 + 1)
    dice_1 = (2 * (3 / 4) + 1) / (9 / 4 + 1 + 1)
    assert dice(logits, target).item() == pytest.approx(1 - (dice_0 + dice_1) / 2)
    plain = (2 * (2 / 4) / (3 / 4 + 2) + 2 * (3 / 4) / (9 / 4 + 1)) / 2
    assert dice(logits, target, smooth=0).item() == pytest.approx(1 - plain)


@given(seed=st.integers(0, 10**6), k=st.integers(2, 6), smooth=st.sampled_from([0.0, 1.0, 7.5]))
@settings(max_examples=15, deadline=None)
def test_dice_equals_that_of_another_library_where_every_class_occurs(
    seed: int, k: int, smooth: float
) -> None:
    logits, target = case(seed, k=k, ignored=0.2)
    target[0].view(-1)[:k] = torch.arange(k)
    # its formula is (overlap + s) / (half the sizes + s): its s is half of ours
    reference = smp.losses.DiceLoss("multiclass", ignore_index=255, smooth=smooth / 2)
    torch.testing.assert_close(dice(logits, target, smooth=smooth), reference(logits, target))


def test_dice_of_a_wrong_prediction_does_not_shrink_with_classes_that_are_absent() -> None:
    # the fault it must not have: three classes, two of them absent, scored 1/3 of what is due
    target = torch.zeros(1, 8, 8, dtype=torch.int64)
    for num_classes in (2, 3, 11):
        wrong = torch.zeros(1, num_classes, 8, 8)
        wrong[:, 1] = 20
        assert dice(wrong, target, smooth=0).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("expression", ["dice", "ce + dice"])
def test_an_image_without_foreground_still_presses_the_foreground_down(expression: str) -> None:
    logits = torch.zeros(1, 2, 8, 8)
    logits[:, 1] = 3  # foreground everywhere, where the truth is all background
    logits.requires_grad_()
    parse_loss(expression)(logits, torch.zeros(1, 8, 8, dtype=torch.int64)).backward()
    assert logits.grad is not None
    assert (logits.grad[:, 1] > 0).all()
    assert (logits.grad[:, 0] < 0).all()


# ---- expressions


def test_an_expression_is_the_weighted_sum_of_its_parts() -> None:
    logits, target = case()
    loss = parse_loss("ce(label_smoothing=0.1) + 0.5*dice + 2*(dice(smooth=0) + ce)")
    parts = loss.loss_parts(logits, target)
    assert list(parts) == ["ce(label_smoothing=0.1)", "dice", "dice(smooth=0)", "ce"]
    expected = cross_entropy(logits, target, label_smoothing=0.1) + dice(logits, target) / 2
    expected += 2 * dice(logits, target, smooth=0) + 2 * cross_entropy(logits, target)
    torch.testing.assert_close(loss(logits, target), expected)
    torch.testing.assert_close(loss.total(parts), expected)
    assert torch.equal(parts["ce"], cross_entropy(logits, target))


@pytest.mark.parametrize("expression", ["dice", " dice ", "1*dice", "(dice)", "dice*1.0", "dice()"])
def test_one_loss_can_be_written_in_many_ways(expression: str) -> None:
    logits, target = case()
    torch.testing.assert_close(parse_loss(expression)(logits, target), dice(logits, target))


def test_weights_of_parentheses_multiply() -> None:
    terms = parse_loss("ce + 2*(0.25*dice)").terms
    assert [(term.name, term.weight) for term in terms] == [("ce", 1.0), ("dice", 0.5)]


def test_class_weights_reach_the_loss_through_an_expression() -> None:
    logits, target = case()
    expected = cross_entropy(logits, target, class_weights=[1, 2, 3, 4])
    value = parse_loss("ce(class_weights=[1, 2, 3, 4])", num_classes=4)(logits, target)
    assert torch.equal(value, expected)


def test_the_ignore_index_of_a_run_reaches_every_term() -> None:
    logits, target = case()
    renamed = torch.where(target == 255, 254, target)
    value = parse_loss("ce + dice", ignore_index=254)(logits, renamed)
    assert torch.equal(value, parse_loss("ce + dice")(logits, target))


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("dise", "unknown loss 'dise': did you mean 'dice'?"),
        ("ce + focl", "unknown loss 'focl'"),
        ("ce(label_smoothin=0.1)", "no option 'label_smoothin': did you mean 'label_smoothing'?"),
        ("ce(label_smoothing='much')", "label_smoothing = 'much'"),
        ("ce(ignore_index=3)", "ignore_index comes from the data"),
        ("ce(0.1)", "written by its name: ce(label_smoothing=...)"),
        ("ce(**{'smooth': 1})", "cannot read the loss"),
        ("ce + ce", "twice; write 2*ce"),
        ("ce - dice", "cannot read the loss 'ce - dice' at 'ce - dice'"),
        ("ce * dice", "cannot read the loss"),
        ("0*ce", "weight 0: use a positive number"),
        ("-1*ce", "at '-1*ce'"),
        ("1e999*ce", "weight inf"),
        ("True*ce", "cannot read the loss"),
        ("2", "cannot read the loss"),
        ("", "cannot read the loss ''"),
        ("ce +", "cannot read the loss"),
        ("ce; dice", "cannot read the loss"),
        ("ce(label_smoothing=__import__('os').getpid())", "cannot read the loss"),
        ("().__class__", "cannot read the loss"),
        ("losses.ce()", "cannot read the loss"),
        ("ce\0", "cannot read the loss"),
        ("(" * 900 + "ce" + ")" * 90, "cannot read the loss"),
        ("-" * 990 + "ce", "cannot read the loss"),
        ("ce" + " + dice" * 1000, "characters"),
    ],
)
def test_what_is_no_loss_is_refused_in_one_line(expression: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_loss(expression)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("ce(label_smoothing=1)", "label_smoothing = 1.0"),
        ("ce(label_smoothing=-0.1)", "label_smoothing = -0.1"),
        ("dice(smooth=-1)", "smooth = -1.0"),
        ("ce(class_weights=[1, 2])", "2 numbers for 3 classes"),
        ("ce(class_weights=[1, -2, 1])", "use numbers >= 0"),
        ("ce(class_weights=[0, 0, 0])", "not all of them 0"),
        ("ce(class_weights=[1, 2, 1e999])", "use numbers >= 0"),
    ],
)
def test_options_out_of_range_are_found_before_the_first_batch(
    expression: str, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        parse_loss(expression, num_classes=3)
    assert message in str(caught.value)
