"""What every loss of the catalogue keeps: gradients, void pixels, invariances, identities."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.training.loss_cases import (
    ALL,
    ONLY_WITH,
    OTHER_VALUES,
    VARIANTS,
    WEIGHTS,
    Options,
    case,
    close,
    options_of,
    value_and_gradient,
    with_option,
)
from unet_pipeline.errors import UserError
from unet_pipeline.training.losses import (
    LOSSES,
    NEED_MAPS,
    ce,
    dice,
    parse_loss,
)
from unet_pipeline.training.losses.contract import over_processes

# ---- gradients and options


@VARIANTS
def test_the_gradient_is_that_of_the_value(name: str, options: Options) -> None:
    logits, target = case(n=2, k=4, size=(2, 2))
    logits = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, target, **options), (logits,))


@ALL
def test_every_option_has_an_effect(name: str) -> None:
    logits, target = case()
    for option, default in options_of(name).items():
        others = ONLY_WITH.get((name, option), {})
        assert OTHER_VALUES[option] != default
        changed = LOSSES[name](logits, target, **others, **{option: OTHER_VALUES[option]})
        close(changed, LOSSES[name](logits, target, **others), unless=True)


@pytest.mark.parametrize(("name", "option"), ONLY_WITH)
def test_an_option_that_would_have_no_effect_is_refused(name: str, option: str) -> None:
    with pytest.raises(UserError, match=f"{name}: {option} = .* no effect with log_input"):
        LOSSES[name](*case(), **{option: OTHER_VALUES[option]})


@ALL
def test_a_gradient_step_lowers_it(name: str) -> None:
    logits, target = case()
    before, gradient = value_and_gradient(name, logits, target)
    assert LOSSES[name](logits - gradient, target) < before


# ---- ignored pixels


@ALL
@pytest.mark.parametrize("ignore_index", [255, -1, 0])
def test_what_an_ignored_pixel_holds_changes_neither_value_nor_gradient(
    name: str, ignore_index: int
) -> None:
    clean, target = case()
    if ignore_index == 0:  # a class may be the one that is ignored
        target[target == 255] = 1
    else:
        target[target == 255] = ignore_index
    ignored = target == ignore_index
    value, gradient = value_and_gradient(name, clean, target, ignore_index=ignore_index)
    assert (gradient.movedim(1, -1)[ignored] == 0).all()
    assert (gradient.movedim(1, -1)[~ignored] != 0).any()
    for garbage in (math.nan, math.inf, -math.inf, 1e30):
        spoilt = torch.where(ignored[:, None], garbage, clean)
        of_spoilt = value_and_gradient(name, spoilt, target, ignore_index=ignore_index)
        assert torch.equal(of_spoilt[0], value)
        assert torch.equal(of_spoilt[1], gradient)


@VARIANTS
def test_garbage_below_ignored_pixels_is_harmless_with_any_option(
    name: str, options: Options
) -> None:
    clean, target = case()
    spoilt = torch.where((target == 255)[:, None], math.nan, clean)
    expected = value_and_gradient(name, clean, target, **options)
    assert all(
        torch.equal(a, b)
        for a, b in zip(value_and_gradient(name, spoilt, target, **options), expected, strict=True)
    )


@ALL
def test_ignoring_pixels_equals_leaving_them_out(name: str) -> None:
    logits, target = case(n=1, size=(1, 40), ignored=0.3)
    valid = target[0, 0] != 255
    expected = LOSSES[name](logits[..., valid], target[..., valid])
    # to leave pixels out of a map brings the others closer
    close(LOSSES[name](logits, target), expected, unless=name in NEED_MAPS)


@VARIANTS
def test_a_batch_of_void_costs_nothing_and_teaches_nothing(name: str, options: Options) -> None:
    logits = torch.full((2, 4, 4, 4), math.nan)
    value, gradient = value_and_gradient(name, logits, torch.full((2, 4, 4), 255), **options)
    assert value.item() == 0
    assert (gradient == 0).all()


@ALL
def test_another_ignore_index_is_honoured(name: str) -> None:
    logits, target = case()
    renamed = torch.where(target == 255, -1, target)
    assert torch.equal(LOSSES[name](logits, target), LOSSES[name](logits, renamed, ignore_index=-1))


# ---- invariances, and the losses that are known not to have them

SMOOTHED = {"dice", "jaccard", "tversky", "focal_tversky"}  # smooth is a number of pixels
NOT_PIXEL_MEANS = {*SMOOTHED, "lovasz", "mcc", "topk", "ohem", "border_ce"}
NOT_OF_DIFFERENCES = {"bce", "soft_margin", "poisson_nll"}  # a logit counts by itself


def test_the_exceptions_are_losses() -> None:
    assert LOSSES.keys() >= NOT_PIXEL_MEANS | NOT_OF_DIFFERENCES | NEED_MAPS


@ALL
def test_the_order_of_images_and_flips_do_not_matter(name: str) -> None:
    logits, target = case()
    expected = LOSSES[name](logits, target)
    order = torch.tensor([2, 0, 1])
    close(LOSSES[name](logits[order], target[order]), expected)
    for axis in (1, 2):
        close(LOSSES[name](logits.flip(axis + 1), target.flip(axis)), expected)


@ALL
def test_the_order_of_pixels_does_not_matter_but_for_maps(name: str) -> None:
    values, expected = [], []
    for seed in range(3):
        logits, target = case(seed)
        order = torch.randperm(target.numel(), generator=torch.Generator().manual_seed(seed))
        rows = logits.movedim(1, -1).flatten(0, 2)[order]
        shuffled = rows.view(*target.shape, -1).movedim(-1, 1)
        values.append(LOSSES[name](shuffled, target.flatten()[order].view_as(target)))
        expected.append(LOSSES[name](logits, target))
    close(torch.stack(values), torch.stack(expected), unless=name in NEED_MAPS)


@ALL
@pytest.mark.parametrize("order", [[0, 2, 3, 1], [2, 0, 3, 1]], ids=["foreground", "all"])
def test_the_order_of_classes_does_not_matter_but_for_the_background_of_maps(
    name: str, order: list[int]
) -> None:
    logits, target = case()
    new = torch.tensor(order)  # new class c is old class order[c]
    renamed = torch.where(target == 255, 255, new.argsort()[target.clamp_max(3)])
    for weights in (
        [{}, {"class_weights": WEIGHTS}] if name in with_option("class_weights") else [{}]
    ):
        moved = {option: [weight[c] for c in order] for option, weight in weights.items()}
        value = LOSSES[name](logits[:, new], renamed, **moved)
        expected = LOSSES[name](logits, target, **weights)
        close(value, expected, unless=name in NEED_MAPS and order[0] != 0)


@ALL
def test_repeating_the_batch_changes_nothing_but_for_the_smooth(name: str) -> None:
    logits, target = case()
    twice = logits.repeat(2, 1, 1, 1), target.repeat(2, 1, 1)
    close(LOSSES[name](*twice), LOSSES[name](logits, target), unless=name in SMOOTHED)
    if name in SMOOTHED:
        close(LOSSES[name](*twice, smooth=0.0), LOSSES[name](logits, target, smooth=0.0))
        close(LOSSES[name](*twice, smooth=2.0), LOSSES[name](logits, target, smooth=1.0))


def test_the_smoothed_losses_are_those_with_the_option() -> None:
    assert set(with_option("smooth")) == SMOOTHED


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in LOSSES),
        *((name, {"class_weights": WEIGHTS}) for name in with_option("class_weights")),
    ],
)
def test_the_loss_of_a_batch_is_the_mean_of_its_parts_where_it_is_one_of_pixels(
    name: str, options: Options
) -> None:
    weights = torch.tensor(options.get("class_weights", [1.0] * 4))
    values, expected = [], []
    for seed in range(3):
        logits, target = case(seed)
        total, scale = torch.tensor(0.0), torch.tensor(0.0)
        for part in (slice(0, 1), slice(1, 3)):
            labels = target[part][target[part] != 255]
            share = weights[labels].sum()
            total += share * LOSSES[name](logits[part], target[part], **options)
            scale += share
        values.append(total / scale)
        expected.append(LOSSES[name](logits, target, **options))
    close(torch.stack(values), torch.stack(expected), unless=name in NOT_PIXEL_MEANS)


@ALL
def test_a_constant_added_to_the_logits_of_a_pixel_changes_nothing_where_classes_compete(
    name: str,
) -> None:
    logits, target = case()
    constants = 3 * torch.randn(3, 1, 5, 7, generator=torch.Generator().manual_seed(1))
    expected = LOSSES[name](logits, target)
    close(LOSSES[name](logits + constants, target), expected, unless=name in NOT_OF_DIFFERENCES)


# ---- identities

Call = tuple[str, Options]
IDENTITIES: list[tuple[Call, Call]] = [
    (("soft_margin", {}), ("bce", {})),
    (("kl_div", {}), ("ce", {})),
    (("focal", {"gamma": 0}), ("ce", {})),
    (("focal_tversky", {"gamma": 1}), ("tversky", {})),
    (("tversky", {"alpha": 0.5, "beta": 0.5, "smooth": 1.5}), ("dice", {"smooth": 3})),
    (("tversky", {"alpha": 1, "beta": 1}), ("jaccard", {})),
    (("multilabel_margin", {}), ("multi_margin", {})),
    (("topk", {"fraction": 1}), ("ce", {})),
    (("ohem", {"min_fraction": 1}), ("ce", {})),
    (("ohem", {"threshold": 1e-9, "min_fraction": 0.5}), ("topk", {"fraction": 0.5})),
    (("border_ce", {"w0": 0}), ("ce", {})),
]


@pytest.mark.parametrize(
    ("left", "right"), IDENTITIES, ids=[f"{a}-{b}" for (a, _), (b, _) in IDENTITIES]
)
def test_two_losses_that_are_the_same_by_definition_are(left: Call, right: Call) -> None:
    both = left[0] in with_option("class_weights") and right[0] in with_option("class_weights")
    for options in ({}, {"class_weights": WEIGHTS}) if both else ({},):
        for seed in range(3):
            logits, target = case(seed, size=(6, 6), ignored=0)
            target[:, ::3, ::3] = 255  # 96 pixels are left, and a half of them is a whole number
            value, gradient = value_and_gradient(left[0], logits, target, **left[1], **options)
            expected = value_and_gradient(right[0], logits, target, **right[1], **options)
            torch.testing.assert_close(value, expected[0])
            torch.testing.assert_close(gradient, expected[1])


def test_kl_div_is_the_cross_entropy_less_the_entropy_of_the_smoothed_truth() -> None:
    logits, target = case()
    entropy = -(0.775 * math.log(0.775) + 3 * 0.075 * math.log(0.075))  # 1 - e + e/4, and e/4
    value = LOSSES["kl_div"](logits, target, label_smoothing=0.3)
    close(value, ce(logits, target, label_smoothing=0.3) - entropy)


def test_poisson_nll_at_the_best_common_factor_of_its_rates_is_cross_entropy_plus_one() -> None:
    logits, target = case()
    value = LOSSES["poisson_nll"](logits.log_softmax(1), target)
    close(value, ce(logits, target) + 1)
    for factor in (0.9, 1.1):
        other = LOSSES["poisson_nll"](logits.log_softmax(1) + math.log(factor), target)
        assert other > value + 1e-3


@pytest.mark.parametrize("name", with_option("class_weights"))
def test_only_the_ratios_of_class_weights_count_but_for_the_map(name: str) -> None:
    logits, target = case()
    loss = functools.partial(LOSSES[name], logits, target)
    close(loss(class_weights=[1.0] * 4), loss())
    added = name == "border_ce"  # its weights are added to those of the gaps
    close(loss(class_weights=[3.0] * 4), loss(), unless=added)
    ones, twos = WEIGHTS, [2 * weight for weight in WEIGHTS]
    close(loss(class_weights=twos), loss(class_weights=ones), unless=added)
    if added:
        close(loss(class_weights=twos, w0=20.0), loss(class_weights=ones, w0=10.0))


@pytest.mark.parametrize("name", with_option("class_weights"))
def test_a_batch_of_classes_without_weight_costs_nothing_and_teaches_nothing(name: str) -> None:
    logits, target = torch.randn(1, 2, 3, 3), torch.zeros(1, 3, 3, dtype=torch.int64)
    value, gradient = value_and_gradient(name, logits, target, class_weights=[0, 1])
    assert value.item() == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("name", with_option("label_smoothing"))
def test_smoothing_brings_no_pixel_back_whose_class_has_no_weight(name: str) -> None:
    # the fault it must not have: 4096 pixels of weight 0 beside one of weight 1 cost 367 times as
    # much, because their smoothed terms were counted and their weights were not
    logits, target = torch.randn(1, 2, 64, 64), torch.zeros(1, 64, 64, dtype=torch.int64)
    options: Options = {"class_weights": [0, 1], "label_smoothing": 0.1}
    assert LOSSES[name](logits, target, **options).item() == 0
    target[0, 5, 7] = 1
    alone = LOSSES[name](
        logits[..., 5:6, 7:8], target[..., 5:6, 7:8], label_smoothing=options["label_smoothing"]
    )
    close(LOSSES[name](logits, target, **options), alone)


def test_a_process_that_is_alone_has_its_own_sums() -> None:
    sums = torch.ones(3, requires_grad=True)
    assert over_processes(sums) is sums  # tests/test_distributed.py has the other case


# ---- numbers that are narrow, extreme, few or many


@VARIANTS
def test_low_precision_logits_are_computed_in_float32(name: str, options: Options) -> None:
    logits, target = case()
    for dtype in (torch.bfloat16, torch.float16):
        coarse = logits.to(dtype)
        with torch.autocast("cpu", torch.bfloat16):
            value = LOSSES[name](coarse, target, **options)
        assert value.dtype == torch.float32
        assert torch.equal(value, LOSSES[name](coarse.float(), target, **options))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_focal_of_sure_pixels_has_a_finite_gradient_for_any_gamma(gamma: float) -> None:
    _, target = case(ignored=0)
    for scale in (0, 10, 17, 100):
        sure = scale * F.one_hot(target, 4).movedim(-1, 1).float()
        _, gradient = value_and_gradient("focal", sure, target, gamma=gamma)
        assert gradient.isfinite().all()


@ALL
def test_any_number_of_classes_and_a_single_pixel_are_enough(name: str) -> None:
    for k in (2, 3, 150):
        for size in ((1, 1), (1, 3), (4, 1)):
            value, gradient = value_and_gradient(name, *case(n=1, k=k, size=size, ignored=0))
            assert value.shape == ()
            assert value.isfinite()
            assert gradient.isfinite().all()
            assert gradient.shape == (1, k, *size)


@ALL
def test_logits_may_lie_in_memory_in_any_order(name: str) -> None:
    logits, target = case()
    value, gradient = value_and_gradient(name, logits, target)
    transposed = logits.transpose(2, 3).contiguous().transpose(2, 3)
    every_other = logits.repeat_interleave(2, dim=3)[..., ::2]
    last = logits.contiguous(memory_format=torch.channels_last)
    for other in (transposed, every_other, last):
        assert not other.is_contiguous()
        of_other = value_and_gradient(name, other, target)
        torch.testing.assert_close(of_other[0], value)
        torch.testing.assert_close(of_other[1], gradient)


# ---- what segmentation-models-pytorch does, and ours must not: why we have our own


@pytest.mark.parametrize("name", ["dice", "jaccard", "tversky", "focal_tversky"])
def test_a_wrong_prediction_does_not_cost_less_for_classes_that_are_absent(name: str) -> None:
    target = torch.zeros(1, 8, 8, dtype=torch.int64)
    theirs: dict[str, Callable[[str], nn.Module]] = {
        "dice": smp.losses.DiceLoss,
        "jaccard": smp.losses.JaccardLoss,
        "tversky": smp.losses.TverskyLoss,
        "focal_tversky": smp.losses.TverskyLoss,
    }
    for num_classes in (2, 3, 11):
        wrong = torch.zeros(1, num_classes, 8, 8)
        wrong[:, 1] = 20
        assert LOSSES[name](wrong, target, smooth=0).item() == pytest.approx(1, abs=1e-6)
        share = theirs[name]("multiclass")(wrong, target).item()
        assert share == pytest.approx(1 / num_classes, abs=1e-6)


def test_their_focal_of_void_is_nan() -> None:
    logits, void = case()[0], torch.full((3, 5, 7), 255)
    assert smp.losses.FocalLoss("multiclass", ignore_index=255)(logits, void).isnan()
    assert LOSSES["focal"](logits, void) == 0


def test_their_lovasz_of_void_is_no_scalar_and_raises_on_float64() -> None:
    logits, target = case()
    theirs = smp.losses.LovaszLoss("multiclass", ignore_index=255)
    assert theirs(logits, torch.full((3, 5, 7), 255)).shape == (0, 4)
    with pytest.raises(RuntimeError, match="same dtype"):
        theirs(logits.double(), target)


def test_their_mcc_knows_two_classes_and_no_ignored_pixel() -> None:
    assert list(inspect.signature(smp.losses.MCCLoss).parameters) == ["eps"]
    p = torch.tensor([[[0.1, 0.2, 0.7, 0.4, 0.9, 0.2]]])
    target = torch.tensor([[[0, 1, 1, 0, 1, 255]]])
    other = torch.where(target == 255, 1 - p, p)
    assert smp.losses.MCCLoss()(p, target) != smp.losses.MCCLoss()(other, target)


# ---- cross-entropy


def test_cross_entropy_of_equal_logits_is_the_logarithm_of_the_number_of_classes() -> None:
    _, target = case()
    assert ce(torch.zeros(3, 4, 5, 7), target).item() == pytest.approx(math.log(4))


def test_cross_entropy_has_the_value_worked_out_by_hand() -> None:
    # softmax of (0, log 3) is (1/4, 3/4): the true class 1 has p = 3/4, the true class 0 p = 1/4
    logits = torch.tensor([0.0, math.log(3)]).reshape(1, 2, 1, 1).expand(1, 2, 1, 3)
    target = torch.tensor([[[1, 0, 255]]])
    expected = (-math.log(3 / 4) - math.log(1 / 4)) / 2
    assert ce(logits, target).item() == pytest.approx(expected)
    weighted = (-3 * math.log(3 / 4) - math.log(1 / 4)) / 4
    assert ce(logits, target, class_weights=[1, 3]).item() == pytest.approx(weighted)
    smooth = (-0.9 * math.log(3 / 4) - 0.1 * math.log(1 / 4)) / 2
    smooth += (-0.9 * math.log(1 / 4) - 0.1 * math.log(3 / 4)) / 2
    assert ce(logits, target, label_smoothing=0.2).item() == pytest.approx(smooth)


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
            total += w[label] * ((1 - smoothing) * row[label] + smoothing / 4 * row.sum())
            scale += w[label]
    value = ce(logits, target, label_smoothing=smoothing, class_weights=weights)
    assert value.item() == pytest.approx(total / scale, rel=1e-5)


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


@pytest.mark.parametrize("expression", ["dice", "ce + dice"])
def test_an_image_without_foreground_still_presses_the_foreground_down(expression: str) -> None:
    logits = torch.zeros(1, 2, 8, 8)
    logits[:, 1] = 3  # foreground everywhere, where the truth is all background
    logits.requires_grad_()
    parse_loss(expression)(logits, torch.zeros(1, 8, 8, dtype=torch.int64)).backward()
    assert logits.grad is not None
    assert (logits.grad[:, 1] > 0).all()
    assert (logits.grad[:, 0] < 0).all()


# ---- what cannot be a mask


@ALL
@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        ((1, 3, 2, 2), [[[0, 1]]], "(N, K, H, W) and class indices (N, H, W)"),
        ((1, 3, 1, 2), [[[0, 1]], [[0, 1]]], "(N, K, H, W) and class indices (N, H, W)"),
        ((2, 3), [0, 1], "(N, K, H, W)"),
        ((1, 3, 1, 2), [[[0, 3]]], "the class index 3: use 0 to 2"),
        ((1, 3, 1, 2), [[[-1, 0]]], "the class index -1"),
        ((1, 3, 1, 2), [[[0.0, 1.0]]], "class indices are whole numbers"),
        ((0, 3, 1, 2), torch.zeros(0, 1, 2), "the batch is empty"),
    ],
)
def test_targets_that_are_no_masks_of_the_logits_are_refused_in_one_line(
    name: str, logits: tuple[int, ...], target: object, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        LOSSES[name](torch.zeros(logits), torch.as_tensor(target))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@ALL
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_masks_may_hold_any_whole_numbers(name: str, dtype: torch.dtype) -> None:
    logits, target = case()
    assert torch.equal(LOSSES[name](logits, target.to(dtype)), LOSSES[name](logits, target))
