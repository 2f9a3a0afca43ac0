from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from unet_pipeline.errors import UserError
from unet_pipeline.models.layers import (
    CenteredLayer,
    Conv2D,
    DictDense,
    ListDense,
    corr2d,
    make_norm,
    pad_to,
    pool2d,
)

sizes = st.integers(1, 50)


@settings(deadline=None, max_examples=50)
@given(height=sizes, width=sizes, stride=st.integers(1, 33), min_size=st.integers(1, 70))
def test_padding_is_the_smallest_that_fits_and_repeats_the_border(
    height: int, width: int, stride: int, min_size: int
) -> None:
    x = torch.arange(2 * height * width, dtype=torch.float32).reshape(1, 2, height, width)
    padded = pad_to(x, stride=stride, min_size=min_size)
    for before, after in zip((height, width), padded.shape[-2:], strict=True):
        assert after % stride == 0
        assert after >= max(before, min_size)
        assert after - stride < max(before, min_size)
    assert torch.equal(padded[..., :height, :width], x)
    assert torch.equal(padded[..., -1, -1], x[..., -1, -1])
    assert torch.equal(padded[..., 0, -1], x[..., 0, -1])


def test_an_image_that_fits_is_not_copied() -> None:
    x = torch.zeros(1, 1, 32, 64)
    assert pad_to(x, stride=32, min_size=32) is x


@pytest.mark.parametrize("norm", ["group", "instance"])
def test_norms_of_one_image_do_not_depend_on_the_others(norm: str) -> None:
    x = torch.randn(3, 16, 5, 7, generator=torch.Generator().manual_seed(0))
    layer = make_norm(norm, 16)
    assert torch.allclose(layer(x)[:1], layer(x[:1]), atol=1e-6)
    assert [tuple(p.shape) for p in layer.parameters()] == [(16,), (16,)]


def test_group_norm_has_zero_mean_and_unit_variance_in_each_of_eight_groups() -> None:
    x = 3 + 2 * torch.randn(2, 16, 9, 9, generator=torch.Generator().manual_seed(0))
    groups = make_norm("group", 16)(x).reshape(2, 8, -1)
    assert torch.allclose(groups.mean(-1), torch.zeros(2, 8), atol=1e-5)
    assert torch.allclose(groups.var(-1, correction=0), torch.ones(2, 8), atol=1e-4)


# ---- layers with and without parameters


def test_centering_has_the_value_worked_out_by_hand_also_for_integers() -> None:
    expected = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
    for x in (torch.arange(1, 6), torch.arange(1.0, 6.0), torch.arange(1, 6, dtype=torch.uint8)):
        y = CenteredLayer()(x)
        assert y.dtype == torch.float32
        assert torch.equal(y, expected)


def test_a_centred_tensor_has_mean_zero_and_its_gradient_too() -> None:
    x = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    layer = nn.Sequential(nn.Identity(), CenteredLayer())
    y = layer(x)
    assert y.shape == x.shape
    assert y.dtype == torch.float64
    assert y.mean().abs() < 1e-15
    assert torch.autograd.gradcheck(layer, (x,))
    (gradient,) = torch.autograd.grad(y, x, torch.randn_like(y))
    assert gradient.mean().abs() < 1e-15
    assert list(layer.parameters()) == []


def test_a_list_of_matrices_is_multiplied_in_turn() -> None:
    layer = ListDense()
    a, b, c, d = layer.params
    assert [tuple(matrix.shape) for matrix in layer.params] == [(4, 4)] * 3 + [(4, 1)]
    assert list(layer.state_dict()) == ["params.0", "params.1", "params.2", "params.3"]
    x = torch.randn(5, 4)
    assert layer(x).shape == (5, 1)
    torch.testing.assert_close(layer(x), x @ a @ b @ c @ d)
    layer(x).sum().backward()
    assert all(matrix.grad is not None for matrix in layer.parameters())


def test_a_dict_of_matrices_is_asked_by_name() -> None:
    layer = DictDense()
    shapes = {name: tuple(matrix.shape) for name, matrix in layer.params.items()}
    assert shapes == {"linear1": (4, 4), "linear2": (4, 1), "linear3": (4, 2)}
    x = torch.randn(3, 4)
    for choice in shapes:
        assert torch.equal(layer(x, choice), x @ layer.params[choice])
    assert torch.equal(layer(x), layer(x, "linear1"))
    layer(x, "linear2").sum().backward()
    assert [name for name, p in layer.named_parameters() if p.grad is not None] == [
        "params.linear2"
    ]


def test_an_unknown_matrix_gets_the_nearest_name() -> None:
    with pytest.raises(UserError, match="unknown matrix 'linaer3': did you mean 'linear3'\\?"):
        DictDense()(torch.zeros(1, 4), "linaer3")


@pytest.mark.parametrize("make", [ListDense, DictDense, lambda: Conv2D(3)])
def test_weights_follow_the_seed_and_are_normal(make: Callable[[], nn.Module]) -> None:
    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.detach().flatten() for p in make().parameters() if p.ndim == 2])

    assert torch.equal(drawn(1), drawn(1))
    many = torch.cat([drawn(seed) for seed in range(300)])  # at least 2700 numbers
    assert many.mean().abs() < 5 / many.numel() ** 0.5
    assert abs(many.std() - 1) < 5 / (2 * many.numel()) ** 0.5


# ---- cross-correlation and pooling


class Case(NamedTuple):
    x: Tensor
    kernel: Tensor
    padding: tuple[int, int]
    stride: tuple[int, int]

    @property
    def size(self) -> tuple[int, int]:
        return (self.kernel.shape[0], self.kernel.shape[1])


@st.composite
def cases(draw: st.DrawFn, *, padded: bool = True, ties: bool = False) -> Case:
    """Maps of up to three batch dimensions and a kernel that fits, in float64."""
    lead = draw(st.lists(st.integers(1, 3), max_size=3))
    sides, padding, kernel = [], [], []
    for _ in range(2):
        sides.append(draw(st.integers(1, 7)))
        padding.append(draw(st.integers(0, 2)) if padded else 0)
        kernel.append(draw(st.integers(1, min(4, sides[-1] + 2 * padding[-1]))))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    if ties:
        x = torch.randint(3, (*lead, *sides), generator=generator).double()
    else:
        x = torch.randn(*lead, *sides, generator=generator, dtype=torch.float64)
    k = torch.randn(*kernel, generator=generator, dtype=torch.float64)
    pair = (padding[0], padding[1])
    return Case(x.requires_grad_(), k.requires_grad_(), pair, stride)


def windows_in_a_loop(case: Case) -> list[list[Tensor]]:
    """Each window (..., h, w) of the padded maps, one after the other."""
    (p, q), (s, t), (h, w) = case.padding, case.stride, case.size
    height, width = case.x.shape[-2:]
    x = case.x.new_zeros(*case.x.shape[:-2], height + 2 * p, width + 2 * q)
    x[..., p : p + height, q : q + width] = case.x
    rows, columns = range(0, height + 2 * p - h + 1, s), range(0, width + 2 * q - w + 1, t)
    return [[x[..., i : i + h, j : j + w] for j in columns] for i in rows]


def stacked(rows: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def first_largest(window: Tensor) -> Tensor:
    best = window[..., 0, 0]
    for value in window.flatten(-2).unbind(-1)[1:]:
        best = torch.where(value > best, value, best)
    return best


def with_channel(x: Tensor) -> Tensor:
    return x.reshape(-1, 1, *x.shape[-2:])


def assert_same(actual: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    """Equal values and, under the same upstream gradient, equal gradients."""
    expected = expected.reshape(actual.shape)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.sin(torch.arange(actual.numel(), dtype=actual.dtype)).reshape(actual.shape)
    ours = torch.autograd.grad(actual, inputs, upstream, retain_graph=True)
    theirs = torch.autograd.grad(expected, inputs, upstream)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(case=cases())
def test_cross_correlation_equals_a_plain_loop_and_that_of_torch(case: Case) -> None:
    y = corr2d(case.x, case.kernel, padding=case.padding, stride=case.stride)
    loop = stacked([[(v * case.kernel).sum((-2, -1)) for v in r] for r in windows_in_a_loop(case)])
    assert y.shape == loop.shape
    kernel = case.kernel[None, None]
    reference = F.conv2d(with_channel(case.x), kernel, padding=case.padding, stride=case.stride)
    for expected in (loop, reference):
        assert_same(y, expected, [case.x, case.kernel])


@settings(deadline=None, max_examples=40)
@given(case=cases(padded=False), ties=cases(padded=False, ties=True))
def test_max_pooling_equals_a_plain_loop_and_that_of_torch_also_where_values_tie(
    case: Case, ties: Case
) -> None:
    for drawn in (case, ties):
        whole = drawn._replace(stride=(1, 1))
        y = pool2d(whole.x, whole.size, "max")
        assert torch.equal(y, pool2d(whole.x, whole.size))
        loop = stacked([[first_largest(v) for v in row] for row in windows_in_a_loop(whole)])
        assert y.shape == loop.shape
        for expected in (loop, F.max_pool2d(with_channel(whole.x), whole.size, stride=1)):
            assert_same(y, expected, [whole.x])


@settings(deadline=None, max_examples=40)
@given(case=cases(padded=False))
def test_average_pooling_equals_a_plain_loop_and_that_of_torch(case: Case) -> None:
    case = case._replace(stride=(1, 1))
    y = pool2d(case.x, case.size, "avg")
    h, w = case.size
    loop = stacked([[v.sum((-2, -1)) / (h * w) for v in row] for row in windows_in_a_loop(case)])
    assert y.shape == loop.shape
    for expected in (loop, F.avg_pool2d(with_channel(case.x), case.size, stride=1)):
        assert_same(y, expected, [case.x])


def test_the_gradient_of_a_tie_goes_to_the_first() -> None:
    x = torch.zeros(2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(pool2d(x, 2).sum(), x)
    assert gradient.tolist() == [[1, 0], [0, 0]]


def test_cross_correlation_has_the_values_worked_out_by_hand() -> None:
    x, kernel = torch.arange(9).reshape(3, 3), torch.arange(4).reshape(2, 2)
    assert corr2d(x, kernel).tolist() == [[19, 25], [37, 43]]
    # one ring of zeros: the corner windows hold one value each, seen by the opposite corner
    ringed = corr2d(x, kernel, padding=1)
    assert ringed.tolist() == [[0, 3, 8, 4], [9, 19, 25, 10], [21, 37, 43, 16], [6, 7, 8, 0]]
    assert corr2d(x, kernel, padding=1, stride=(3, 2)).tolist() == [[0, 8], [6, 8]]
    assert corr2d(x, kernel, padding=(0, 1)).tolist() == [[9, 19, 25, 10], [21, 37, 43, 16]]


def test_pooling_has_the_values_worked_out_by_hand() -> None:
    x = torch.arange(9).reshape(3, 3)
    assert pool2d(x, (2, 2), "avg").tolist() == [[2, 3], [5, 6]]
    assert pool2d(x, (2, 2), "max").tolist() == [[4, 5], [7, 8]]
    assert pool2d(x, 2).tolist() == [[4, 5], [7, 8]]
    assert pool2d(x, (1, 3)).tolist() == [[2], [5], [8]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.float32])
def test_integers_are_computed_in_the_default_float(dtype: torch.dtype) -> None:
    x = (torch.arange(12).reshape(3, 4) * 20).to(dtype)
    kernel = torch.full((2, 2), 3).to(dtype)
    for y in (
        corr2d(x, kernel),
        corr2d(x, kernel.float()),
        pool2d(x, 2, "avg"),
        pool2d(x, 2, "max"),
    ):
        assert y.dtype == torch.float32
    torch.testing.assert_close(corr2d(x, kernel), corr2d(x.float(), kernel.float()))
    torch.testing.assert_close(pool2d(x, 2, "avg"), pool2d(x.float(), 2, "avg"))


def test_double_precision_stays_and_wins_over_single() -> None:
    x, kernel = torch.ones(3, 3), torch.ones(2, 2)
    assert corr2d(x.double(), kernel.double()).dtype == torch.float64
    assert corr2d(x, kernel.double()).dtype == torch.float64
    assert corr2d(x.int(), kernel.double()).dtype == torch.float64
    assert pool2d(x.double(), 2, "avg").dtype == torch.float64


def test_a_batch_without_images_gives_one() -> None:
    assert corr2d(torch.zeros(0, 2, 4, 5), torch.ones(2, 2)).shape == (0, 2, 3, 4)
    assert pool2d(torch.zeros(0, 2, 4, 5), 2).shape == (0, 2, 3, 4)
    assert pool2d(torch.zeros(0, 2, 4, 5), 2, "avg").shape == (0, 2, 3, 4)


def test_gradients_are_those_of_the_values() -> None:
    x = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    layer = Conv2D((2, 3)).double()

    def convolve(x: Tensor, kernel: Tensor) -> Tensor:
        return corr2d(x, kernel, padding=(1, 2), stride=(2, 1))

    assert torch.autograd.gradcheck(convolve, (x, kernel))
    assert torch.autograd.gradgradcheck(convolve, (x, kernel))
    assert torch.autograd.gradcheck(layer, (x,))
    assert torch.autograd.gradcheck(lambda x: pool2d(x, 2, "max"), (x,))
    assert torch.autograd.gradcheck(lambda x: pool2d(x, 2, "avg"), (x,))


@pytest.mark.parametrize(
    ("x", "kernel", "options", "message"),
    [
        ((3, 3), (2,), {}, "corr2d: kernel of shape (2,): use a matrix (h, w)"),
        ((3, 3), (1, 1, 2, 2), {}, "corr2d: kernel of shape (1, 1, 2, 2): use a matrix"),
        ((3, 3), (0, 2), {}, "corr2d: kernel of shape (0, 2): use a matrix"),
        ((3,), (1, 1), {}, "corr2d: x of shape (3,): use maps (..., H, W)"),
        ((3, 4), (4, 1), {}, "a window of 4x1 (height x width) is larger than the input of 3x4"),
        ((3, 4), (1, 7), {"padding": 1}, "a window of 1x7 (height x width) is larger than the"),
        ((3, 4), (1, 7), {"padding": (2, 1)}, "larger than the input of 7x6, padding included"),
        ((3, 3), (2, 2), {"padding": -1}, "corr2d: padding = -1: use a number from 0 up"),
        ((3, 3), (2, 2), {"padding": (0, -1)}, "corr2d: padding = (0, -1): use"),
        ((3, 3), (2, 2), {"padding": (0, 0, 0)}, "corr2d: padding = (0, 0, 0): use"),
        ((3, 3), (2, 2), {"stride": 0}, "corr2d: stride = 0: use a number from 1 up"),
        ((3, 3), (2, 2), {"stride": (1, 0)}, "corr2d: stride = (1, 0): use"),
    ],
)
def test_what_cannot_be_correlated_is_refused_in_one_line(
    x: tuple[int, ...], kernel: tuple[int, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        corr2d(torch.ones(x), torch.ones(kernel), **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("x", "size", "mode", "message"),
    [
        ((3, 3), 2, "maxx", "pool2d: unknown mode 'maxx': did you mean 'max'?"),
        ((3, 3), 2, "sum", "pool2d: unknown mode 'sum': use one of avg, max"),
        ((3, 3), 4, "max", "a window of 4x4 (height x width) is larger than the input of 3x3"),
        ((2, 3, 3), (1, 4), "avg", "a window of 1x4"),
        ((3, 3), 0, "max", "pool2d: pool_size = 0: use a number from 1 up"),
        ((3,), 1, "max", "pool2d: x of shape (3,): use maps (..., H, W)"),
    ],
)
def test_what_cannot_be_pooled_is_refused_in_one_line(
    x: tuple[int, ...], size: int | tuple[int, int], mode: Any, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        pool2d(torch.ones(x), size, mode)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- the convolution to learn


def test_a_convolution_is_the_cross_correlation_plus_its_bias() -> None:
    layer = Conv2D((2, 3))
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "weight": (2, 3),
        "bias": (1,),
    }
    assert Conv2D(3).weight.shape == (3, 3)
    nn.init.constant_(layer.bias, 0.5)
    x = torch.randn(2, 4, 5)
    assert torch.equal(layer(x), corr2d(x, layer.weight) + 0.5)
    reference = F.conv2d(x[:, None], layer.weight[None, None], layer.bias)[:, 0]
    torch.testing.assert_close(layer(x), reference)


def test_a_convolution_without_a_size_is_refused() -> None:
    with pytest.raises(UserError, match="Conv2D: kernel_size = 0: use a number from 1 up"):
        Conv2D(0)


def test_a_convolution_learns_to_detect_vertical_edges() -> None:
    torch.manual_seed(0)
    image = torch.ones(6, 8)
    image[:, 2:6] = 0
    edges = corr2d(image, torch.tensor([[1, -1]]))
    assert edges[0].tolist() == [0, 1, 0, 0, 0, -1, 0]
    layer = Conv2D((1, 2))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    for _ in range(300):
        layer.zero_grad()
        ((layer(image) - edges) ** 2).mean().backward()
        optimizer.step()
    torch.testing.assert_close(layer.weight.data, torch.tensor([[1.0, -1.0]]), atol=1e-3, rtol=0)
    torch.testing.assert_close(layer.bias.data, torch.zeros(1), atol=1e-3, rtol=0)


def test_complex_values_are_refused_rather_than_halved() -> None:
    z = torch.tensor([[1 + 2j]])
    for compute in (CenteredLayer(), lambda x: corr2d(x, x), lambda x: pool2d(x, 1)):
        with pytest.raises(UserError, match="compute with real numbers"):
            compute(z)
