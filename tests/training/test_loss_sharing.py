"""Losses of one expression read a batch once, and each has the value that it has alone."""

from __future__ import annotations

import collections
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.training.loss_cases import ALL, VARIANTS, WEIGHTS, Options, case, value_and_gradient
from unet_pipeline.errors import UserError
from unet_pipeline.training.losses import LOSSES, contract, parse_loss
from unet_pipeline.training.losses.contract import Pixels

ALL_TOGETHER = " + ".join(LOSSES)


class Counted(TorchDispatchMode):
    """How often torch ran each operation inside the block, by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.calls[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


def total_and_gradient(expression: str, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.detach().requires_grad_()
    value = parse_loss(expression)(logits, target)
    return value.detach(), torch.autograd.grad(value, logits)[0]


# ---- once


@pytest.mark.parametrize(
    "expression",
    [
        "ce + dice",
        "dice + ce",
        "ce(label_smoothing=0.1) + 0.5*dice(class_weights=[1, 2, 3, 4]) + jaccard + mcc",
        ALL_TOGETHER,
    ],
)
def test_a_sum_computes_the_softmax_and_its_gradient_once(expression: str) -> None:
    logits, target = case()
    with Counted() as counted:
        total_and_gradient(expression, logits, target)
    assert counted.calls["_log_softmax"] == 1
    assert counted.calls["_log_softmax_backward_data"] == 1
    assert counted.calls["_softmax"] == 0


def test_a_sum_looks_for_strange_classes_and_for_void_once() -> None:
    with Counted() as counted:
        total_and_gradient("ce + dice + focal + jaccard", *case())
    assert counted.calls["aminmax"] == 1
    assert counted.calls["ne"] == 1


def test_the_default_loss_makes_no_map_of_the_truth() -> None:
    logits, target = case()
    with Counted() as counted:
        parse_loss("ce + dice")(logits, target)
    assert counted.calls["scatter_"] == counted.calls["scatter"] == 0
    assert counted.calls["scatter_add"] == 2  # overlap and size, into numbers of rows


def test_losses_of_regions_ask_the_other_processes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.Size] = []

    def twice(sums: Tensor) -> Tensor:
        asked.append(sums.shape)
        return 2 * sums

    monkeypatch.setattr(contract, "num_processes", lambda: 2)
    monkeypatch.setattr(contract, "all_reduce_sum", twice)
    logits, target = case()
    value, gradient = total_and_gradient("dice + jaccard + mcc", logits, target)
    assert asked == [torch.Size([3, 4])]
    monkeypatch.undo()
    # the other process has the same pixels; DistributedDataParallel would halve the gradient
    both = logits.repeat(2, 1, 1, 1), target.repeat(2, 1, 1)
    of_both = total_and_gradient("dice + jaccard + mcc", *both)
    torch.testing.assert_close(value, of_both[0])
    torch.testing.assert_close(gradient / 2, of_both[1][:3])


# ---- and the same


@ALL
def test_each_part_of_a_sum_is_what_the_loss_is_alone(name: str) -> None:
    logits, target = case()
    parts = parse_loss(ALL_TOGETHER).loss_parts(logits, target)
    assert list(parts) == list(LOSSES)
    assert torch.equal(parts[name], LOSSES[name](logits, target))


@VARIANTS
def test_the_gradient_of_a_sum_is_the_sum_of_the_gradients(name: str, options: Options) -> None:
    logits, target = case()
    logits = logits.double()
    written = ", ".join(f"{option}={value}" for option, value in options.items())
    beside = "1*dice(smooth=3) + 2*ce(class_weights=[1, 2, 3, 4])"
    value, gradient = total_and_gradient(f"{name}({written}) + {beside}", logits, target)
    alone = [
        value_and_gradient(name, logits, target, **options),
        value_and_gradient("dice", logits, target, smooth=3),
        value_and_gradient("ce", logits, target, class_weights=[1, 2, 3, 4]),
    ]
    for number, found in enumerate((value, gradient)):
        expected = alone[0][number] + alone[1][number] + 2 * alone[2][number]
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("ignored", [0.0, 0.3])
@pytest.mark.parametrize("expression", ["ce + dice", "focal + 0.5*jaccard + mse + lovasz"])
def test_the_gradient_of_a_sum_is_that_of_its_value(expression: str, ignored: float) -> None:
    logits, target = case(n=2, size=(2, 3), ignored=ignored)
    loss = parse_loss(expression)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), (logits.double().requires_grad_(),))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_ce_and_dice_equal_what_they_are_by_a_softmax_each_and_a_one_hot_truth(
    layout: torch.memory_format, weights: list[float] | None
) -> None:
    logits, target = case(n=4, size=(18, 24), ignored=0.03)
    target[target == 2] = 1  # a class that does not occur
    logits = logits.double().contiguous(memory_format=layout).requires_grad_()
    w = torch.tensor(weights or [1.0] * 4, dtype=torch.float64)
    valid = target != 255
    labels = torch.where(valid, target, 0)
    costs = F.cross_entropy(logits, labels, reduction="none")
    ce = (costs * w[labels] * valid).sum() / (w[labels] * valid).sum()
    truth = F.one_hot(labels, 4).movedim(-1, 1) * valid[:, None]
    p = logits.softmax(1) * valid[:, None]
    scores = (2 * (p * truth).sum((0, 2, 3)) + 1) / ((p + truth).sum((0, 2, 3)) + 1)
    w = w * (truth.sum((0, 2, 3)) > 0)
    expected = ce + ((1 - scores) * w).sum() / w.sum()
    of_expected = torch.autograd.grad(expected, logits)[0]
    value, gradient = total_and_gradient(
        f"ce(class_weights={weights}) + dice(class_weights={weights})", logits, target
    )
    torch.testing.assert_close(value, expected.detach(), rtol=1e-14, atol=0)
    torch.testing.assert_close(gradient, of_expected, rtol=1e-12, atol=1e-17)


def test_a_sum_of_low_precision_logits_is_computed_in_float32() -> None:
    logits, target = case()
    for dtype in (torch.bfloat16, torch.float16):
        coarse = logits.to(dtype)
        with torch.autocast("cpu", torch.bfloat16):
            value = parse_loss("ce + dice")(coarse, target)
        assert value.dtype == torch.float32
        assert torch.equal(value, parse_loss("ce + dice")(coarse.float(), target))


def test_a_sum_over_void_costs_nothing_and_teaches_nothing() -> None:
    void = torch.full((2, 4, 4, 4), float("nan")), torch.full((2, 4, 4), 255)
    value, gradient = total_and_gradient(ALL_TOGETHER, *void)
    assert value == 0
    assert (gradient == 0).all()


def test_a_class_of_more_pixels_than_float32_counts_one_by_one_has_its_size() -> None:
    # the fault it must not have: 2^24 + 1 is no float32, so that a sum of ones stops there
    height, width = 4100, 4200
    logits = torch.zeros(1, 1, 1, 1).expand(1, 1, height, width)
    target = torch.zeros(1, 1, 1, dtype=torch.uint8).expand(1, height, width)
    regions = Pixels(logits, target, 255).regions
    assert regions.true == regions.overlap == regions.predicted == height * width


# ---- losses from elsewhere, and other devices


def test_a_loss_that_is_a_plain_function_may_stand_in_a_sum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def largest(
        logits: Tensor, target: Tensor, *, ignore_index: int = 255, power: float = 1.0
    ) -> Tensor:
        """The largest logit of the pixels that count."""
        return logits.amax(1)[target != ignore_index].max() ** power

    monkeypatch.setitem(LOSSES, "largest", largest)
    logits, target = case()
    parts = parse_loss("ce + largest(power=2)").loss_parts(logits, target)
    assert torch.equal(parts["largest(power=2)"], largest(logits, target, power=2))
    assert torch.equal(parts["ce"], LOSSES["ce"](logits, target))


def test_targets_that_are_no_masks_are_refused_by_a_sum() -> None:
    logits, target = case(ignored=0)
    target[1, 2, 3] = 4
    with pytest.raises(UserError, match="the class index 4: use 0 to 3"):
        parse_loss("ce + dice")(logits, target)


@pytest.mark.parametrize(
    "name", [name for name in LOSSES if name not in {"border_ce", "lovasz"}] + ["ce + dice"]
)
def test_no_step_waits_for_a_gpu(name: str) -> None:
    # A fake tensor has no values: whatever would read one on the host raises. border_ce measures
    # distances there, and lovasz sorts as many pixels as count.
    with FakeTensorMode():
        logits = torch.zeros(2, 4, 5, 6, device="cuda", requires_grad=True)
        value = parse_loss(name)(logits, torch.zeros(2, 5, 6, dtype=torch.int64, device="cuda"))
    assert value.device.type == "cuda"
    assert value.shape == ()
