"""How long a training step takes by width, stem and memory layout, side by side, in one run.

Usage: python scripts/bench_width.py [steps]. The first line is the reference of the ratios. The
plan of `unet train` has its ratios of widths from here (`training/plan.py`).
"""

import sys
import time

import torch

from unet_pipeline.models import UNet
from unet_pipeline.runtime import choose_precision

IMAGES = torch.rand(8, 3, 192, 256)
MASKS = torch.randint(0, 11, (8, 192, 256))


def training_step(
    network: UNet,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    masks: torch.Tensor,
    dtype: torch.dtype | None,
) -> float:
    """One step on the CPU, bare of all that surrounds it in `unet train`; seconds."""
    started = time.perf_counter()
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        logits = network(images)
    loss = torch.nn.functional.cross_entropy(logits.float(), masks)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return time.perf_counter() - started


def seconds_per_step(
    width: int, stem: int, layout: torch.memory_format, dtype: torch.dtype | None, steps: int
) -> float:
    """The shortest of several steps: what the machine can do when nothing disturbs it."""
    torch.manual_seed(0)
    network = UNet(in_channels=3, num_classes=11, base_channels=width, stem=stem)
    network = network.to(memory_format=layout)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    return min(training_step(network, optimizer, IMAGES, MASKS, dtype) for _ in range(steps))


def main() -> None:
    """Print a line for each combination."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    native = choose_precision("auto", torch.device("cpu"))
    reference = None
    last, first = torch.channels_last, torch.contiguous_format
    for width, stem, layout, dtype in (
        (16, 1, last, native),
        (16, 1, first, native),
        (16, 1, last, None),
        *((width, 1, last, native) for width in (24, 32, 48, 64)),
        (32, 1, first, native),
        *((width, 2, last, native) for width in (16, 24, 32, 48, 64)),
    ):
        seconds = seconds_per_step(width, stem, layout, dtype, steps)
        reference = reference or seconds
        print(
            f"width {width}  stem {stem}  {str(layout)[6:]:17}  "
            f"{str(dtype or torch.float32)[6:]:8}  "
            f"{seconds:.3f} s/step  {seconds / reference:.2f} times the first"
        )


if __name__ == "__main__":
    main()
