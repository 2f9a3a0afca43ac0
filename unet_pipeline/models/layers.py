"""Padding and normalisation, which several networks need, and the layers of the learning notes.

The layers of the notes show how torch works inside: a layer without parameters, layers with lists
and dicts of parameters, a convolution and a pooling made of windows. They compute what torch's own
operators compute, which the tests hold them to; networks that must be fast use torch's.
"""

from __future__ import annotations

import typing
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from unet_pipeline.errors import UserError, did_you_mean

Norm = Literal["batch", "group", "instance", "none"]

PoolMode = Literal["max", "avg"]

NORM_GROUPS = 8
"""Groups of `group`: divides every usual width, and Wu & He 2018 (table 3) find 4 to 64 alike."""


def pad_to(x: torch.Tensor, *, stride: int = 1, min_size: int = 1) -> torch.Tensor:
    """`x` (N, C, H, W), padded below and to the right; crop the result with `[..., :H, :W]`.

    Height and width become multiples of `stride` and at least `min_size`. The last row and column
    are repeated, which unlike zeros invents no edge and unlike reflection works from one pixel on.
    """
    height, width = x.shape[-2:]
    below = _padded(height, stride, min_size) - height
    right = _padded(width, stride, min_size) - width
    if below == 0 and right == 0:
        return x
    return F.pad(x, [0, right, 0, below], mode="replicate")


def make_norm(norm: Norm, channels: int) -> nn.Module:
    """The normalisation layer `norm` for maps of `channels` channels; `none` passes maps through.

    `instance` has a scale and a shift to learn, as the others have.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        return nn.GroupNorm(NORM_GROUPS, channels)
    if norm == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    return nn.Identity()


class CenteredLayer(nn.Module):
    """`x` less its mean over all values: any shape -> the same shape, with mean 0; no parameters.

    Integers are computed in, and become, torch's default float: [1, 2, 3, 4, 5] gives
    [-2., -1., 0., 1., 2.].
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = _floating(x)
        return x - x.mean()


class ListDense(nn.Module):
    """`x` times each matrix of a list in turn, three of 4x4 and one of 4x1: (N, 4) -> (N, 1).

    The matrices are drawn from the normal distribution of mean 0 and standard deviation 1. What a
    `ParameterList` holds is found by `parameters()` and `state_dict()`; a plain list is not.
    """

    def __init__(self) -> None:
        super().__init__()
        matrices = [torch.randn(4, 4) for _ in range(3)]
        self.params = nn.ParameterList([*matrices, torch.randn(4, 1)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for matrix in self.params:
            x = x @ matrix
        return x


class DictDense(nn.Module):
    """`x` times the matrix called `choice`: (N, 4) -> (N, 4), (N, 1) or (N, 2).

    choice: linear1 (4x4), linear2 (4x1) or linear3 (4x2), drawn as in `ListDense`.
    Raises `UserError` for an unknown name.
    """

    def __init__(self) -> None:
        super().__init__()
        shapes = {"linear1": (4, 4), "linear2": (4, 1), "linear3": (4, 2)}
        self.params = nn.ParameterDict({name: torch.randn(s) for name, s in shapes.items()})

    def forward(self, x: torch.Tensor, choice: str = "linear1") -> torch.Tensor:
        if choice not in self.params:
            raise UserError(f"unknown matrix {choice!r}{did_you_mean(choice, self.params.keys())}")
        matrix: torch.Tensor = self.params[choice]
        return x @ matrix


def corr2d(
    x: torch.Tensor,
    kernel: torch.Tensor,
    *,
    padding: int | tuple[int, int] = 0,
    stride: int | tuple[int, int] = 1,
) -> torch.Tensor:
    """The two-dimensional cross-correlation of `x` with `kernel`, which others call convolution.

    y[..., i, j] = sum over a, b of x[..., s i + a - p, t j + b - q] kernel[a, b], x = 0 outside.

    x (..., H, W), kernel (h, w) -> (..., (H + 2p - h) // s + 1, (W + 2q - w) // t + 1).
    padding: rows p and columns q of zeros on each side, stride: steps s and t; a number or
    (vertical, horizontal).
    The result has the common type of both; integers become torch's default float. All windows are
    copied, h w values for each of the result, and multiplied with the kernel at once.
    Raises `UserError` for a kernel that is no matrix, has no values or is larger than the padded
    input, for x of fewer than two dimensions, a negative padding and a stride below 1.
    """
    p, q = _pair("corr2d", "padding", padding, at_least=0)
    if kernel.ndim != 2 or kernel.numel() == 0:
        raise UserError(f"corr2d: kernel of shape {tuple(kernel.shape)}: use a matrix (h, w)")
    _check_maps("corr2d", x)
    dtype = torch.promote_types(x.dtype, kernel.dtype)
    x, kernel = _floating(x.to(dtype)), _floating(kernel.to(dtype))
    padded = F.pad(x, [q, q, p, p])
    step = _pair("corr2d", "stride", stride, at_least=1)
    h, w = kernel.shape
    y: torch.Tensor = torch.tensordot(_windows("corr2d", padded, (h, w), step), kernel, dims=2)
    return y


class Conv2D(nn.Module):
    """A convolution of one channel to learn: (..., H, W) -> (..., H - h + 1, W - w + 1).

    `corr2d` of x and `weight` (h, w), plus `bias` (1,). The weight starts from the normal
    distribution of mean 0 and standard deviation 1, the bias from 0.
    kernel_size: a number, or (h, w). Raises `UserError` below 1, and whatever `corr2d` refuses.
    """

    def __init__(self, kernel_size: int | tuple[int, int]) -> None:
        super().__init__()
        size = _pair("Conv2D", "kernel_size", kernel_size, at_least=1)
        self.weight = nn.Parameter(torch.randn(size))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return corr2d(x, self.weight) + self.bias


def pool2d(
    x: torch.Tensor, pool_size: int | tuple[int, int], mode: PoolMode = "max"
) -> torch.Tensor:
    """The largest value of each window of `x`, or its mean: (..., H, W) -> (..., H-h+1, W-w+1).

    pool_size: a number, or (h, w); windows move by one pixel and none is padded.
    mode: max or avg. Of equal largest values the first, by rows, gets the gradient, as in torch's
    `max_pool2d`; `amax` would share it.
    Integers become torch's default float. Raises `UserError` for an unknown mode, x of fewer than
    two dimensions, a size below 1 and a window larger than the input.
    """
    if mode not in typing.get_args(PoolMode):
        known = typing.get_args(PoolMode)
        raise UserError(f"pool2d: unknown mode {mode!r}{did_you_mean(mode, known)}")
    size = _pair("pool2d", "pool_size", pool_size, at_least=1)
    _check_maps("pool2d", x)
    windows = _windows("pool2d", _floating(x), size, (1, 1)).flatten(-2)
    return windows.max(-1).values if mode == "max" else windows.mean(-1)


def _windows(
    caller: str, x: torch.Tensor, size: tuple[int, int], stride: tuple[int, int]
) -> torch.Tensor:
    """All windows of `x`, without a copy: (..., H, W) -> (..., rows, columns, h, w)."""
    height, width = x.shape[-2:]
    if size[0] > height or size[1] > width:
        raise UserError(
            f"{caller}: a window of {size[0]}x{size[1]} (height x width) is larger than the "
            f"input of {height}x{width}, padding included: use a smaller one or a larger input"
        )
    # the first call puts the rows of a window last, and with that the columns second to last
    return x.unfold(-2, size[0], stride[0]).unfold(-2, size[1], stride[1])


def _floating(x: torch.Tensor) -> torch.Tensor:
    if x.is_complex():
        raise UserError(f"values of {x.dtype}: these layers compute with real numbers")
    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


def _pair(
    caller: str, name: str, value: int | tuple[int, int], *, at_least: int
) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or min(pair) < at_least:
        raise UserError(
            f"{caller}: {name} = {value}: use a number from {at_least} up, or two of them, "
            "(vertical, horizontal)"
        )
    return pair


def _check_maps(caller: str, x: torch.Tensor) -> None:
    if x.ndim < 2:
        raise UserError(f"{caller}: x of shape {tuple(x.shape)}: use maps (..., H, W)")


def _padded(size: int, stride: int, min_size: int) -> int:
    return -(-max(size, min_size) // stride) * stride
