"""One warp of an image and its mask: mirrored, zoomed, turned, sheared and bent, in one reading.

All of it is one function from the pixels of the crop to places in the image, so that the image is
interpolated once, and straight from where the crop lies: nothing is cut, padded or warped besides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from unet_pipeline.classes import IGNORE_INDEX
from unet_pipeline.datasets.crops import Image, Mask, Place
from unet_pipeline.errors import UserError

MOST_CHANNELS = 64  # at a time: OpenCV 5 takes 128 and returns nonsense for more
_MOST_PIXELS = 32766  # a side, of what OpenCV warps


@dataclass(frozen=True, kw_only=True)
class Warps:
    """How much crops may be warped; the defaults leave them as they are.

    hflip, vflip: the probability of mirroring left-right and up-down.
    scale: zoom by a factor from 1/(1 + scale) to 1 + scale; as often smaller as larger.
    rotate: turn by up to so many degrees either way.
    shear: slant rows and columns by up to so many degrees either way.
    bend: the standard deviation, in pixels of the crop, of what each node of a grid is displaced
    by along either axis; between the nodes, displacements are interpolated bicubically.
    nodes: along each side of that grid, which reaches from corner to corner of the crop.
    """

    hflip: float = 0.0
    vflip: float = 0.0
    scale: float = 0.0
    rotate: float = 0.0
    shear: float = 0.0
    bend: float = 0.0
    nodes: int = 3


class Warp(NamedTuple):
    """What happens to one crop."""

    matrix: npt.NDArray[np.float64]
    """(2, 2): how far in the image (rows, columns) a step in the crop leads."""
    displacements: npt.NDArray[np.float64]
    """(2, nodes, nodes), rows and columns, in pixels of the crop; (2, 0, 0) where nothing bends."""


def draw_warp(limits: Warps, rng: np.random.Generator) -> Warp:
    """A warp within `limits`; each of its parts is drawn evenly from its range."""
    across, down = (
        -1.0 if rng.random() < chance else 1.0 for chance in (limits.hflip, limits.vflip)
    )
    most = math.log1p(limits.scale)
    zoom = math.exp(rng.uniform(-most, most))
    angle, *slants = np.radians(
        rng.uniform(-1, 1, size=3) * (limits.rotate, limits.shear, limits.shear)
    )
    cos, sin = math.cos(angle), math.sin(angle)
    slant = np.array([[1.0, math.tan(slants[0])], [math.tan(slants[1]), 1.0]])
    matrix = np.array([[cos, -sin], [sin, cos]]) @ slant @ np.diag([down, across]) / zoom
    nodes = limits.nodes if limits.bend > 0 else 0
    return Warp(matrix, rng.normal(0.0, limits.bend, size=(2, nodes, nodes)))


class Warper:
    """Applies warps to crops of one size."""

    def __init__(self, size: tuple[int, int], *, nodes: int) -> None:
        """nodes: of the grids that bend the crops, along each side; 0 for crops that never bend."""
        self.size = size
        self.bases = [_basis(side, nodes) for side in size]
        # Between nodes, bicubic interpolation overshoots them by as much
        self.overshoot = float(
            np.prod([np.abs(basis[:, :nodes]).sum(axis=1).max(initial=0.0) for basis in self.bases])
        )

    def seen(self, warp: Warp) -> tuple[float, float]:
        """The height and width, in pixels of the image, of what a crop sees but for its turn.

        A turned crop may see a little from outside at its corners, as one that is as large as its
        image must.
        """
        step = math.sqrt(abs(np.linalg.det(warp.matrix)))
        rows, columns = ((side - 1) * step + 1 for side in self.size)
        return rows, columns

    def margin(self, warp: Warp) -> float:
        """By how many pixels of the crop the bending moves anything at most, along either axis."""
        return self.overshoot * float(np.abs(warp.displacements).max(initial=0.0))

    def __call__(self, image: Image, mask: Mask, corner: Place, warp: Warp) -> tuple[Image, Mask]:
        """The warped crop whose middle is that of a plain crop at `corner`.

        The image is interpolated linearly and reflected at its border, the mask takes the nearest
        index and void (255) outside. Raises `UserError` for a crop that sees more than 32766 pixels
        of a side.
        """
        middle = np.array(corner) + (np.array(self.size) - 1) / 2
        displacements = np.tensordot(warp.matrix, warp.displacements, axes=1)  # pixels of the image
        bent = self.overshoot * np.abs(displacements).max(axis=(1, 2), initial=0.0)
        half = np.abs(warp.matrix) @ (np.array(self.size) - 1) / 2 + bent
        windows = [
            _window(low, high, size)
            for low, high, size in zip(middle - half, middle + half, mask.shape, strict=True)
        ]
        if max(*self.size, *(w.stop - w.start for w in windows)) > _MOST_PIXELS:
            raise UserError(
                f"image size {self.size[0]}x{self.size[1]}: too large to be warped (it looks at "
                f"more than {_MOST_PIXELS} pixels): use a smaller one, or the transform none"
            )
        maps = [
            self._map(displacements[axis], warp.matrix[axis], middle[axis] - windows[axis].start)
            for axis in (0, 1)
        ]

        def pixels(part: Image) -> Image:
            return cv2.remap(
                part, maps[1], maps[0], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
            )

        indices: npt.NDArray[Any] = cv2.remap(
            mask[windows[0], windows[1]],
            *(maps[1], maps[0], cv2.INTER_NEAREST),
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=IGNORE_INDEX,
        )
        return by_channels(pixels, image[windows[0], windows[1]]), indices

    def _map(
        self, displacement: npt.NDArray[np.float64], steps: npt.NDArray[np.float64], start: float
    ) -> npt.NDArray[np.float32]:
        """Where each pixel of the crop looks along one axis of the window: float32, of its size.

        The bicubic interpolation of a grid and the affine part are one product of three matrices.
        """
        nodes = len(displacement)
        inner = np.zeros((nodes + 2, nodes + 2))
        inner[:nodes, :nodes] = displacement
        inner[nodes, nodes + 1], inner[nodes + 1, nodes] = steps
        inner[nodes + 1, nodes + 1] = start
        down, across = self.bases
        places: npt.NDArray[np.float32] = down @ (inner @ across.T).astype(np.float32)
        return places


def by_channels(function: Callable[[Image], Image], image: Image) -> Image:
    """`function` of an image (H, W, C), called with as many channels as OpenCV takes at a time."""
    count = image.shape[2]
    parts = [
        function(np.ascontiguousarray(image[..., first : first + MOST_CHANNELS]))
        if count > MOST_CHANNELS
        else function(image)
        for first in range(0, count, MOST_CHANNELS)
    ]
    parts = [part[..., None] if part.ndim == 2 else part for part in parts]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)


def _basis(side: int, nodes: int) -> npt.NDArray[np.float32]:
    """(side, nodes + 2): the weights of the nodes at each pixel, its distance from the middle, 1.

    The weights are those of cubic convolution (Keys 1981, a = -1/2), with the outer nodes repeated
    beyond the border.
    """
    basis: npt.NDArray[Any] = np.zeros((side, nodes + 2))
    pixel = np.arange(side)
    if nodes:
        place = pixel / max(side - 1, 1) * (nodes - 1)
        first = np.floor(place).astype(int)
        for node in range(-1, 3):
            away = np.abs(place - first - node)
            near = 1.5 * away**3 - 2.5 * away**2 + 1
            far = -0.5 * away**3 + 2.5 * away**2 - 4 * away + 2
            column = np.clip(first + node, 0, nodes - 1)
            np.add.at(basis, (pixel, column), np.where(away <= 1, near, far))
    basis[:, nodes] = pixel - (side - 1) / 2
    basis[:, nodes + 1] = 1
    return basis.astype(np.float32)


def _window(low: float, high: float, size: int) -> slice:
    """The indices of 0..size-1 that are met on the way from `low` to `high` between two mirrors."""
    first, last = math.floor(low) - 2, math.ceil(high) + 2  # 2: interpolation reads beside
    end = size - 1
    if first < -end or last > 2 * end:
        return slice(0, size)
    start, stop = max(first, 0), min(last, end)
    if first < 0:
        stop = max(stop, -first)
    if last > end:
        start = min(start, 2 * end - last)
    return slice(start, stop + 1)
