"""The fifteen losses: formulas written out, torch's own classes, gradients, and every refusal."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from unet_pipeline.catalogue import complete
from unet_pipeline.errors import UserError
from unet_pipeline.training.losses.criteria import CRITERIA

Options = dict[str, Any]


def uniform(g: Generator, *shape: int, low: float = -2, high: float = 2) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=g, dtype=torch.float64)


def signs(g: Generator, *shape: int) -> Tensor:
    """+1 and -1, both of them there."""
    drawn = 2.0 * torch.randint(2, shape, generator=g).double() - 1
    drawn.view(-1)[:2] = torch.tensor([1.0, -1.0])
    return drawn


# ---- inputs, in float64


def probabilities(g: Generator, options: Options) -> tuple[Tensor, ...]:
    return uniform(g, 4, 3, low=0.01, high=0.99), uniform(g, 4, 3, low=0, high=1)


def values(g: Generator, options: Options) -> tuple[Tensor, ...]:
    return uniform(g, 4, 3), uniform(g, 4, 3)


def rates(g: Generator, options: Options) -> tuple[Tensor, ...]:
    low = -2 if options.get("log_input", True) else 0.1
    target = torch.tensor([0.0, 1.0, 2.0, 3.0, 9.0, 0.5], dtype=torch.float64)
    return uniform(g, 6, low=low, high=3), target


def distributions(g: Generator, options: Options) -> tuple[Tensor, ...]:
    target = uniform(g, 4, 3).log_softmax(1)
    if not options.get("log_target", False):
        target = target.exp()
        target[0] = torch.tensor([0, 1, 0])
    return uniform(g, 4, 3).log_softmax(1), target


def classes(g: Generator, options: Options) -> tuple[Tensor, ...]:
    return uniform(g, 6, 4), torch.tensor([0, 3, 1, 1, 2, 0])


def classes_with_ignored(g: Generator, options: Options) -> tuple[Tensor, ...]:
    target = torch.tensor([0, 3, 1, 1, 2, 0])
    target[2] = options.get("ignore_index", -100)
    return uniform(g, 6, 4), target


def label_sets(g: Generator, options: Options) -> tuple[Tensor, ...]:
    target = torch.tensor([[3, 0, -1, -1], [1, -1, 0, 2], [-1, 1, 2, 3], [0, 1, 2, 3]])
    return uniform(g, 4, 4), target


def scores_with_signs(g: Generator, options: Options) -> tuple[Tensor, ...]:
    return uniform(g, 4, 3), signs(g, 4, 3)


def ranked(g: Generator, options: Options) -> tuple[Tensor, ...]:
    return uniform(g, 5, 2), uniform(g, 5, 2), signs(g, 5, 2)


def pairs(g: Generator, options: Options) -> tuple[Tensor, ...]:
    return uniform(g, 8, 3), uniform(g, 8, 3), signs(g, 8)


def triplets(g: Generator, options: Options) -> tuple[Tensor, ...]:
    return uniform(g, 8, 3), uniform(g, 8, 3), uniform(g, 8, 3)


def sequences(g: Generator, options: Options) -> tuple[Tensor, ...]:
    """Four steps, three classes; the last target, (a, a), needs three steps."""
    a, b = (label for label in range(3) if label != options.get("blank", 0))
    steps = 2 if options.get("zero_infinity", False) else 3
    target = torch.tensor([[a, b], [b, 99], [a, a]])  # what lies behind a target is not read
    lengths = torch.tensor([4, 3, steps]), torch.tensor([2, 1, 2])
    return uniform(g, 4, 3, 3).log_softmax(2), target, *lengths


# ---- formulas, element by element, from numpy arrays


def bce(x: Any, y: Any) -> Any:
    return -(y * np.log(x) + (1 - y) * np.log(1 - x))


def smooth_l1(x: Any, y: Any, beta: float = 1.0) -> Any:
    d = np.abs(x - y)
    return np.where(d < beta, d**2 / (2 * beta), d - beta / 2)


def poisson_nll(
    x: Any, y: Any, log_input: bool = True, full: bool = False, eps: float = 1e-8
) -> Any:
    loss = np.exp(x) - y * x if log_input else x - y * np.log(x + eps)
    for i, count in enumerate(y):
        if full and count > 1:
            loss[i] += count * math.log(count) - count + math.log(2 * math.pi * count) / 2
    return loss


def kl_div(x: Any, y: Any, log_target: bool = False) -> Any:
    y = np.exp(y) if log_target else y
    return y * (np.log(np.where(y > 0, y, 1)) - x)


def cross_entropy(
    x: Any,
    y: Any,
    class_weights: list[float] | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
) -> Any:
    w = class_weights or [1.0] * x.shape[1]
    losses = []
    for row, label in zip(x, y, strict=True):
        minus_log_p = np.log(np.exp(row).sum()) - row
        loss = 0.0
        if label != ignore_index:
            loss = (1 - label_smoothing) * w[label] * minus_log_p[label]
            loss += label_smoothing / len(row) * (w * minus_log_p).sum()
        losses.append(loss)
    return np.array(losses)


def multi_margin(
    x: Any, y: Any, p: int = 1, margin: float = 1.0, class_weights: list[float] | None = None
) -> Any:
    w = class_weights or [1.0] * x.shape[1]
    return np.array(
        [
            sum(
                w[t] * max(0, margin - row[t] + row[c]) ** p / len(row)
                for c in range(len(row))
                if c != t
            )
            for row, t in zip(x, y, strict=True)
        ]
    )


def multilabel_margin(x: Any, y: Any) -> Any:
    losses = []
    for row, labels in zip(x, y, strict=True):
        true = list(itertools.takewhile(lambda label: label >= 0, labels))
        others = [c for c in range(len(row)) if c not in true]
        losses.append(sum(max(0, 1 - row[t] + row[c]) for t in true for c in others) / len(row))
    return np.array(losses)


def cosine_embedding(a: Any, b: Any, y: Any, margin: float = 0.0) -> Any:
    cosine = (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.where(y == 1, 1 - cosine, np.maximum(0, cosine - margin))


def triplet_margin(
    a: Any,
    b: Any,
    c: Any,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
) -> Any:
    def d(u: Any, v: Any) -> Any:
        return (np.abs(u - v + eps) ** p).sum(1) ** (1 / p)

    far = np.minimum(d(a, c), d(b, c)) if swap else d(a, c)
    return np.maximum(0, d(a, b) - far + margin)


def ctc(
    x: Any,
    y: Any,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    zero_infinity: bool = False,
) -> Any:
    """By brute force: the probabilities of all alignments that collapse to the target, summed."""
    losses = []
    for n, (steps, length) in enumerate(zip(input_lengths, target_lengths, strict=True)):
        probability = 0.0
        for alignment in itertools.product(range(x.shape[2]), repeat=steps):
            collapsed = [label for label, _ in itertools.groupby(alignment) if label != blank]
            if collapsed == list(y[n, :length]):
                probability += math.exp(sum(x[t, n, label] for t, label in enumerate(alignment)))
        losses.append(-math.log(probability) if probability else 0.0 if zero_infinity else math.inf)
    return np.array(losses)


# ---- what "mean" is


def per_element(losses: Any, inputs: tuple[Any, ...], options: Options) -> float:
    return float(losses.sum() / losses.size)


def per_weight(losses: Any, inputs: tuple[Any, ...], options: Options) -> float:
    w = options.get("class_weights") or [1.0] * inputs[0].shape[1]
    ignored = options.get("ignore_index", -100)
    return float(losses.sum() / sum(w[label] for label in inputs[1] if label != ignored))


def per_label(losses: Any, inputs: tuple[Any, ...], options: Options) -> float:
    return float((losses / inputs[3]).sum() / losses.size)


@dataclass(frozen=True)
class Case:
    torch_class: Callable[..., nn.Module]
    inputs: Callable[[Generator, Options], tuple[Tensor, ...]]
    formula: Callable[..., Any]
    options: tuple[Options, ...] = ()
    """Each option at another value than its default."""
    mean: Callable[[Any, tuple[Any, ...], Options], float] = per_element
    num_differentiable: int = 1


WEIGHTS = [0.5, 2.0, 0.0, 1.5]
CASES: dict[str, Case] = {
    "bce": Case(nn.BCELoss, probabilities, bce),
    "cross_entropy": Case(
        nn.CrossEntropyLoss,
        classes_with_ignored,
        cross_entropy,
        (
            {"class_weights": WEIGHTS},
            {"label_smoothing": 0.3},
            {"ignore_index": 1},
            {"class_weights": WEIGHTS, "label_smoothing": 0.3, "ignore_index": 0},
        ),
        per_weight,
    ),
    "l1": Case(nn.L1Loss, values, lambda x, y: np.abs(x - y)),
    "mse": Case(nn.MSELoss, values, lambda x, y: (x - y) ** 2),
    "smooth_l1": Case(nn.SmoothL1Loss, values, smooth_l1, ({"beta": 0.3}, {"beta": 2.5})),
    "poisson_nll": Case(
        nn.PoissonNLLLoss,
        rates,
        poisson_nll,
        ({"log_input": False}, {"full": True}, {"log_input": False, "full": True, "eps": 0.5}),
    ),
    "kl_div": Case(nn.KLDivLoss, distributions, kl_div, ({"log_target": True},)),
    "margin_ranking": Case(
        nn.MarginRankingLoss,
        ranked,
        lambda a, b, y, margin=0.0: np.maximum(0, -y * (a - b) + margin),
        ({"margin": 0.7},),
        num_differentiable=2,
    ),
    "multilabel_margin": Case(nn.MultiLabelMarginLoss, label_sets, multilabel_margin),
    "soft_margin": Case(
        nn.SoftMarginLoss, scores_with_signs, lambda x, y: np.log(1 + np.exp(-y * x))
    ),
    "multi_margin": Case(
        nn.MultiMarginLoss,
        classes,
        multi_margin,
        (
            {"p": 2},
            {"margin": 0.4},
            {"class_weights": WEIGHTS},
            {"p": 2, "margin": 1.7, "class_weights": WEIGHTS},
        ),
    ),
    "triplet_margin": Case(
        nn.TripletMarginLoss,
        triplets,
        triplet_margin,
        ({"margin": 0.3}, {"p": 1.0}, {"p": 3.0}, {"eps": 0.1}, {"swap": True}),
        num_differentiable=3,
    ),
    "hinge_embedding": Case(
        nn.HingeEmbeddingLoss,
        scores_with_signs,
        lambda x, y, margin=1.0: np.where(y == 1, x, np.maximum(0, margin - x)),
        ({"margin": 0.3},),
    ),
    "cosine_embedding": Case(
        nn.CosineEmbeddingLoss,
        pairs,
        cosine_embedding,
        ({"margin": 0.2}, {"margin": -0.5}),
        num_differentiable=2,
    ),
    "ctc": Case(nn.CTCLoss, sequences, ctc, ({"blank": 2}, {"zero_infinity": True}), per_label),
}

ALL = pytest.mark.parametrize("name", list(CASES))
VARIANTS = pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(name, options, id=f"{name}-{options}" if options else name)
        for name, case in CASES.items()
        for options in ({}, *case.options)
    ],
)


def inputs_of(name: str, options: Options, seed: int = 0) -> tuple[Tensor, ...]:
    return CASES[name].inputs(torch.Generator().manual_seed(seed), options)


def options_of(name: str) -> Options:
    """The options of a loss and their defaults, without `reduction`."""
    parameters = inspect.signature(CRITERIA[name].function).parameters.values()
    return {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name != "reduction"
    }


# ---- the tables


def test_there_are_fifteen_and_each_has_a_case() -> None:
    assert list(CASES) == list(CRITERIA)
    assert len(CRITERIA) == 15


@ALL
def test_every_option_is_tried_at_another_value_than_its_default(name: str) -> None:
    tried = {key for options in CASES[name].options for key in options}
    assert tried == set(options_of(name))
    for options in CASES[name].options:
        assert all(value != options_of(name)[key] for key, value in options.items())


@ALL
def test_run_time_things_are_positional_and_have_no_default(name: str) -> None:
    for parameter in inspect.signature(CRITERIA[name].function).parameters.values():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            assert parameter.default is parameter.empty
            assert parameter.annotation == "Tensor"


@ALL
def test_the_options_can_be_checked_by_name_and_a_reduction_must_be_one(name: str) -> None:
    known = complete(CRITERIA[name].function, {}, label=name)
    reduction = "batchmean" if name == "kl_div" else "mean"
    assert known == {**options_of(name), "reduction": reduction}
    with pytest.raises(UserError, match="reduction = 'men'"):
        complete(CRITERIA[name].function, {"reduction": "men"}, label=name)


@ALL
def test_the_docstring_says_what_goes_in_how_it_is_reduced_and_shows_an_example(name: str) -> None:
    criterion = CRITERIA[name]
    assert criterion.function.__name__ == name
    doc = inspect.getdoc(criterion.function) or ""
    opening = doc.splitlines()[0]
    assert opening.endswith((".", ":"))
    assert criterion.inputs in doc.lower().split("input:")[1].split("target")[0]
    assert "Target:" in doc or "there is no target" in doc
    assert "reduction:" in doc
    assert ">>>" in doc
    assert "Raises `UserError`" in doc
    for option in options_of(name):
        assert option in doc.split(">>>")[0], option


@ALL
def test_what_can_train_on_masks_has_its_form_for_it_and_the_others_a_reason(name: str) -> None:
    from unet_pipeline.training.losses import LOSSES

    criterion = CRITERIA[name]
    if criterion.dense is None:
        assert "mask" in criterion.reason
        assert name not in LOSSES
    else:
        assert criterion.dense in LOSSES
        assert criterion.reason == ""


# ---- values


@VARIANTS
@pytest.mark.parametrize("seed", [0, 1])
def test_it_equals_the_formula_written_out(name: str, options: Options, seed: int) -> None:
    inputs = inputs_of(name, options, seed)
    losses = CRITERIA[name].function(*inputs, reduction="none", **options)
    expected = CASES[name].formula(*(tensor.numpy() for tensor in inputs), **options)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-9, atol=1e-11)


@VARIANTS
def test_the_reductions_agree(name: str, options: Options) -> None:
    function, inputs = CRITERIA[name].function, inputs_of(name, options)
    losses = function(*inputs, reduction="none", **options).numpy()
    total = function(*inputs, reduction="sum", **options)
    mean = function(*inputs, reduction="mean", **options)
    assert total.shape == mean.shape == ()
    assert total.item() == pytest.approx(losses.sum())
    arrays = tuple(tensor.numpy() for tensor in inputs)
    assert mean.item() == pytest.approx(CASES[name].mean(losses, arrays, options))
    if name != "kl_div":
        assert torch.equal(function(*inputs, **options), mean)


@VARIANTS
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_equals_the_class_of_torch(
    name: str, options: Options, reduction: str, dtype: torch.dtype
) -> None:
    theirs = {key: value for key, value in options.items() if key != "class_weights"}
    if "class_weights" in options:
        theirs["weight"] = torch.tensor(options["class_weights"], dtype=dtype)
    if name == "kl_div" and reduction == "mean":
        reduction = "batchmean"  # torch warns of its "mean"; ours is tested against "none"
    module = CASES[name].torch_class(reduction=reduction, **theirs)
    for seed in range(3):
        inputs = tuple(
            tensor.to(dtype) if tensor.is_floating_point() else tensor
            for tensor in inputs_of(name, options, seed)
        )
        value = CRITERIA[name].function(*inputs, reduction=reduction, **options)
        torch.testing.assert_close(value, module(*inputs))


@VARIANTS
def test_the_gradient_is_that_of_the_value(name: str, options: Options) -> None:
    inputs = inputs_of(name, options)
    n = CASES[name].num_differentiable
    differentiable = tuple(tensor.clone().requires_grad_() for tensor in inputs[:n])

    def value(*tensors: Tensor) -> Tensor:
        # the gradient of ctc in torch is that through log_softmax, which changes no value here
        if name == "ctc":
            tensors = tuple(tensor.log_softmax(2) for tensor in tensors)
        return CRITERIA[name].function(*tensors, *inputs[n:], **options)

    assert torch.autograd.gradcheck(value, differentiable)


# ---- odd cases


def run(name: str, *inputs: Any, **options: Any) -> Any:
    """The value as a number or nested lists, of inputs written as such, in float64 or int64."""
    tensors = [
        item if isinstance(item, Tensor) else torch.from_numpy(np.array(item)) for item in inputs
    ]
    return CRITERIA[name].function(*tensors, **options).tolist()


def test_bce_of_a_certain_error_is_100() -> None:
    assert run("bce", [0.0, 1.0], [1.0, 0.0], reduction="none") == [100, 100]
    assert run("bce", [0.0, 1.0], [0, 1]) == 0


def test_soft_margin_stays_finite_where_torch_overflows() -> None:
    scores = torch.tensor([-1000.0, 1000.0], requires_grad=True)
    target = torch.tensor([1.0, 1.0])
    # the day this fails, torch's own can be called
    assert torch.isinf(nn.SoftMarginLoss()(scores, target))
    value = CRITERIA["soft_margin"].function(scores, target, reduction="sum")
    assert value.item() == 1000
    assert torch.autograd.grad(value, scores)[0].tolist() == [-1, 0]


def test_soft_margin_is_bce_of_the_sigmoid() -> None:
    scores, target = inputs_of("soft_margin", {})
    expected = CRITERIA["bce"].function(scores.sigmoid(), (target + 1) / 2)
    torch.testing.assert_close(CRITERIA["soft_margin"].function(scores, target), expected)


def test_smooth_l1_times_beta_is_the_huber_loss() -> None:
    x, y = inputs_of("smooth_l1", {})
    value = 0.3 * CRITERIA["smooth_l1"].function(x, y, beta=0.3)
    torch.testing.assert_close(value, nn.HuberLoss(delta=0.3)(x, y))


def test_l1_of_equal_values_has_no_gradient() -> None:
    x = torch.ones(3, requires_grad=True)
    value = CRITERIA["l1"].function(x, torch.ones(3))
    assert torch.autograd.grad(value, x)[0].tolist() == [0, 0, 0]


def test_the_default_of_kl_div_is_the_divergence_of_a_sample() -> None:
    x, y = inputs_of("kl_div", {})
    losses = CRITERIA["kl_div"].function(x, y, reduction="none")
    torch.testing.assert_close(CRITERIA["kl_div"].function(x, y), losses.sum(1).mean())
    assert CRITERIA["kl_div"].function(y[1:].log(), y[1:]).item() == pytest.approx(0, abs=1e-12)


def test_kl_div_of_the_impossible_is_infinite_and_undefined_where_the_truth_agrees() -> None:
    losses = run("kl_div", [[-math.inf, -math.inf]], [[1.0, 0.0]], reduction="none")
    assert losses[0][0] == math.inf
    assert math.isnan(losses[0][1])


def test_cross_entropy_takes_maps_and_bytes_and_is_the_mean_over_positions() -> None:
    g = torch.Generator().manual_seed(0)
    logits, target = uniform(g, 2, 3, 4, 5), torch.randint(3, (2, 4, 5), generator=g)
    flat = run("cross_entropy", logits.movedim(1, -1).reshape(-1, 3), target.reshape(-1))
    for dtype in (torch.int64, torch.int32, torch.uint8):
        assert run("cross_entropy", logits, target.to(dtype)) == pytest.approx(flat)


def test_cross_entropy_of_ignored_targets_alone_is_nan_in_the_mean_and_zero_in_the_sum() -> None:
    inputs = [[0.0, 1.0]], [-100]
    assert math.isnan(run("cross_entropy", *inputs))
    assert run("cross_entropy", *inputs, reduction="sum") == 0


def test_multilabel_margin_of_no_class_and_of_all_classes_is_zero_and_twice_counts_twice() -> None:
    scores = [[1.0, 2.0, 4.0]] * 4
    target = [[-1, 0, 1], [0, 1, 2], [2, -1, -1], [0, 0, -1]]
    assert run("multilabel_margin", scores, target, reduction="none") == pytest.approx(
        [0, 0, 0, 2 * (2 + 4) / 3]
    )


def test_cosine_embedding_of_a_zero_vector_has_cosine_0_and_one_pair_needs_no_batch() -> None:
    assert run("cosine_embedding", [[0.0, 0.0]] * 2, [[1.0, 2.0]] * 2, [1, -1]) == 0.5
    assert run("cosine_embedding", [3.0, 4.0], [4.0, 3.0], 1) == pytest.approx(1 - 24 / 25)


def test_triplet_margin_of_equal_vectors_has_a_finite_gradient() -> None:
    x = torch.ones(1, 3, requires_grad=True)
    value = CRITERIA["triplet_margin"].function(x, x, x)
    assert torch.autograd.grad(value, x)[0].isfinite().all()


def test_ctc_of_targets_in_one_row_equals_that_of_padded_ones() -> None:
    log_probs, target, steps, lengths = inputs_of("ctc", {})
    row = torch.cat([labels[:n] for labels, n in zip(target, lengths.tolist(), strict=True)])
    expected = run("ctc", log_probs, target, steps, lengths)
    assert run("ctc", log_probs, row, steps, lengths) == expected


def test_ctc_of_an_input_too_short_is_infinite_or_with_zero_infinity_zero_without_gradient() -> (
    None
):
    log_probs, target, steps, lengths = inputs_of("ctc", {"zero_infinity": True})
    losses = run("ctc", log_probs, target, steps, lengths, reduction="none")
    assert [math.isinf(loss) for loss in losses] == [False, False, True]
    log_probs.requires_grad_()
    value = CRITERIA["ctc"].function(log_probs, target, steps, lengths, zero_infinity=True)
    assert value.isfinite()
    (gradient,) = torch.autograd.grad(value, log_probs)
    assert (gradient[:, 2] == 0).all()
    assert (gradient[:, :2] != 0).any()


def test_ctc_of_an_empty_target_is_that_of_blanks_alone() -> None:
    log_probs = torch.tensor([[[0.5, 0.5]], [[0.25, 0.75]]]).log()
    value = run("ctc", log_probs, torch.zeros(1, 0, dtype=torch.int64), [2], [0])
    assert value == pytest.approx(math.log(8))  # the mean divides by 1, not by 0


@ALL
def test_the_gradient_of_a_batch_is_finite_in_float32(name: str) -> None:
    inputs = inputs_of(name, {})
    first = inputs[0].float().requires_grad_()
    others = (x.float() if x.is_floating_point() else x for x in inputs[1:])
    (gradient,) = torch.autograd.grad(CRITERIA[name].function(first, *others), first)
    assert gradient.isfinite().all()
    assert (gradient != 0).any()


@pytest.mark.parametrize("name", ["bce", "l1", "mse", "smooth_l1", "poisson_nll", "soft_margin"])
def test_the_mean_over_nothing_is_nan_and_the_sum_zero(name: str) -> None:
    empty = torch.zeros(0)
    assert math.isnan(run(name, empty, empty))
    assert run(name, empty, empty, reduction="sum") == 0


# ---- refusals

NAN = math.nan
TWO_ROWS = [[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]]
LOG_HALVES = torch.full((3, 2, 2), 0.5).log()  # three steps, two samples, the blank and one label


@pytest.mark.parametrize(
    ("name", "inputs", "options", "message"),
    [
        ("bce", ([0.5, 1.5], [0.0, 1.0]), {}, "bce: 1.5 is no probability: use numbers in [0, 1]"),
        ("bce", ([0.5, -0.25], [0.0, 1.0]), {}, "bce: -0.25 is no probability"),
        ("bce", ([0.5, NAN], [0.0, 1.0]), {}, "bce: nan is no probability"),
        ("bce", ([0.5, 0.5], [0.0, 2.0]), {}, "bce: the target holds 2: use numbers in [0, 1]"),
        ("bce", ([0.5, 0.5], [-1, 1]), {}, "bce: the target holds -1"),
        ("bce", ([[0.5]] * 2, [0.0, 1.0]), {}, "probabilities (2, 1), target (2,): reshape"),
        ("l1", ([[0.5]] * 2, [0.0, 1.0]), {}, "l1: unequal shapes values (2, 1), target (2,)"),
        ("mse", ([0.5, 0.5], 1.0), {}, "mse: unequal shapes values (2,), target ()"),
        ("smooth_l1", ([[0.5]], [0.5]), {}, "smooth_l1: unequal shapes"),
        ("smooth_l1", ([0.5], [0.5]), {"beta": 0}, "smooth_l1: beta = 0: use a positive number"),
        ("smooth_l1", ([0.5], [0.5]), {"beta": -1}, "beta = -1"),
        ("smooth_l1", ([0.5], [0.5]), {"beta": NAN}, "beta = nan"),
        ("poisson_nll", ([[0.5]], [1.0]), {}, "poisson_nll: unequal shapes"),
        ("poisson_nll", ([0.5], [-1.0]), {}, "the target holds -1: use counts of 0 or more"),
        ("poisson_nll", ([-0.5], [1.0]), {"log_input": False}, "rates hold -0.5: use rates of 0"),
        ("poisson_nll", ([0.5], [1.0]), {"eps": 0}, "poisson_nll: eps = 0"),
        ("kl_div", ([[-1.0]], [-1.0]), {}, "kl_div: unequal shapes"),
        ("kl_div", ([[0.25, 0.75]], [[0.0, 1.0]]), {}, "kl_div: 0.25 is no log-probability: give"),
        ("kl_div", ([[-1.0]], [[-0.5]]), {}, "holds -0.5: use probabilities, or log_target=True"),
        ("kl_div", ([[-1.0]], [[1.5]]), {}, "the target holds 1.5"),
        ("kl_div", ([[-1.0]], [[0.5]]), {"log_target": True}, "log_target: 0.5 is no log-prob"),
        ("cross_entropy", (TWO_ROWS, [0, 3]), {}, "the target holds 3: use 0 to 2, the classes"),
        ("cross_entropy", (TWO_ROWS, [0, -1]), {}, "cross_entropy: the target holds -1"),
        ("cross_entropy", (TWO_ROWS, [0, -100]), {"ignore_index": 0}, "the target holds -100"),
        ("cross_entropy", (TWO_ROWS, [0]), {}, "logits (2, 3) and target (1,): use (N, K, ...)"),
        ("cross_entropy", ([0.0, 1.0], 1), {}, "logits (2,) and target ()"),
        ("cross_entropy", (TWO_ROWS, [0.0, 1.0]), {}, "float64: use class indices, integers"),
        ("cross_entropy", (TWO_ROWS, TWO_ROWS), {}, "target (2, 3): use (N, K, ...) and (N, ...)"),
        ("cross_entropy", (TWO_ROWS, [0, 1]), {"label_smoothing": 1.5}, "label_smoothing = 1.5"),
        ("cross_entropy", (TWO_ROWS, [0, 1]), {"class_weights": [1, 2]}, "2 numbers for 3 classes"),
        ("cross_entropy", (TWO_ROWS, [0, 1]), {"class_weights": [1, -2, 1]}, "use numbers >= 0"),
        ("multi_margin", (TWO_ROWS, [0, 3]), {}, "multi_margin: the target holds 3: use 0 to 2"),
        ("multi_margin", (TWO_ROWS, [0, -1]), {}, "multi_margin: the target holds -1"),
        ("multi_margin", (TWO_ROWS, [0, 1]), {"p": 3}, "multi_margin: p = 3: use 1 or 2"),
        ("multi_margin", (TWO_ROWS, [0, 1]), {"class_weights": [1]}, "1 numbers for 3 classes"),
        ("multi_margin", ([TWO_ROWS], [[0, 1, 2]]), {}, "shape (1, 2, 3): use (N, K)"),
        ("multi_margin", (TWO_ROWS, [0.0, 1.0]), {}, "float64: use class indices"),
        ("multilabel_margin", (TWO_ROWS, [0, 1]), {}, "multilabel_margin: unequal shapes"),
        ("multilabel_margin", ([0.0, 1.0], [0, 1]), {}, "shape (2,): use (N, K)"),
        ("multilabel_margin", ([[0.0]], [[1]]), {}, "holds 1: use -1 to 0, the classes and -1"),
        ("multilabel_margin", ([[0.0]], [[-2]]), {}, "multilabel_margin: the target holds -2"),
        ("soft_margin", ([[0.5]] * 2, [1.0, 1.0]), {}, "soft_margin: unequal shapes"),
        ("soft_margin", ([0.5, 1.0], [0.0, 1.0]), {}, "target holds 0: use +1 and -1 only"),
        ("soft_margin", ([0.5, 1.0], [True, False]), {}, "soft_margin: the target holds 0"),
        ("soft_margin", ([0.5], [NAN]), {}, "soft_margin: the target holds nan"),
        ("margin_ranking", ([1.0], [2.0], [0.0]), {}, "margin_ranking: the target holds 0"),
        ("margin_ranking", ([[1.0]], [2.0], [1.0]), {}, "first (1, 1), second (1,), target (1,)"),
        ("hinge_embedding", ([1.0], [2]), {}, "hinge_embedding: the target holds 2"),
        ("hinge_embedding", ([[1.0]], [1]), {}, "hinge_embedding: unequal shapes"),
        ("cosine_embedding", ([[1.0]], [[2.0]], [0]), {}, "cosine_embedding: the target holds 0"),
        ("cosine_embedding", ([[1.0]], [2.0], [1]), {}, "cosine_embedding: unequal shapes"),
        ("cosine_embedding", ([[1.0]], [[2.0]], [[1]]), {}, "vectors (1, 1) and target (1, 1)"),
        ("cosine_embedding", (1.0, 2.0, 1), {}, "use (N, D) and (N), or (D) and a scalar"),
        ("cosine_embedding", ([[1.0]], [[2.0]], [1]), {"margin": 1.5}, "margin = 1.5: use -1 up"),
        ("triplet_margin", ([[1.0]], [1.0], [[1.0]]), {}, "triplet_margin: unequal shapes"),
        ("triplet_margin", ([[1.0]],) * 3, {"margin": 0}, "triplet_margin: margin = 0: use a pos"),
        ("triplet_margin", ([[1.0]],) * 3, {"p": 0}, "triplet_margin: p = 0"),
        ("ctc", (LOG_HALVES[0], [[1]], [3], [1]), {}, "shape (2, 2): use (T, N, C)"),
        ("ctc", (LOG_HALVES, [[1], [1]], [3, 3], [1, 1]), {"blank": 2}, "blank = 2: use 0 to 1"),
        ("ctc", (LOG_HALVES + 1, [[1], [1]], [3, 3], [1, 1]), {}, "is no log-probability"),
        (
            "ctc",
            (LOG_HALVES, [[1], [1]], [3], [1, 1]),
            {},
            "input_lengths has shape (1,): use (2,)",
        ),
        ("ctc", (LOG_HALVES, [[1], [1]], [3, 3], [1]), {}, "target_lengths has shape (1,)"),
        ("ctc", (LOG_HALVES, [[1], [1]], [3, 4], [1, 1]), {}, "input_lengths holds 4: use 0 to 3"),
        ("ctc", (LOG_HALVES, [[1], [1]], [3, 3], [1, 2]), {}, "target_lengths holds 2: use 0 to 1"),
        ("ctc", (LOG_HALVES, [[1], [1]], [3, 3], [1, -1]), {}, "target_lengths holds -1"),
        ("ctc", (LOG_HALVES, [[1]], [3, 3], [1, 1]), {}, "target has shape (1, 1): use (2, S), or"),
        (
            "ctc",
            (LOG_HALVES, [1, 1, 1], [3, 3], [1, 1]),
            {},
            "shape (3,): use (2, S), or (2,), the",
        ),
        ("ctc", (LOG_HALVES, [[1], [2]], [3, 3], [1, 1]), {}, "holds 2: use 0 to 1, the classes"),
        ("ctc", (LOG_HALVES, [[1], [0]], [3, 3], [1, 1]), {}, "target holds 0, the blank"),
        ("ctc", (LOG_HALVES, [1.0, 1.0], [3, 3], [1, 1]), {}, "float64: use class indices"),
    ],
)
def test_what_torch_takes_silently_or_answers_cryptically_is_refused_in_one_line(
    name: str, inputs: tuple[Any, ...], options: Options, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        run(name, *inputs, **options)
    assert message in str(caught.value)
    assert str(caught.value).startswith(name)
    assert "\n" not in str(caught.value)
