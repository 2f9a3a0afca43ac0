"""How long a training step takes by width and memory layout, side by side, in one run.

Usage: python scripts/bench_width.py [steps]. The first line is the reference of the ratios.
"""

import sys
import time

import torch

from unet_pipeline.models import UNet
from unet_pipeline.runtime import choose_precision

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 5
IMAGES = torch.rand(8, 3, 192, 256)
MASKS = torch.randint(0, 11, (8, 192, 256))


def seconds_per_step(width: int, layout: torch.memory_format, dtype: torch.dtype | None) -> float:
    """The shortest of several steps: what the machine can do when nothing disturbs it."""
    torch.manual_seed(0)
    network = UNet(in_channels=3, num_classes=11, base_channels=width).to(memory_format=layout)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    times = []
    for _ in range(STEPS):
        started = time.perf_counter()
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            logits = network(IMAGES)
        loss = torch.nn.functional.cross_entropy(logits.float(), MASKS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    """Print a line for each combination."""
    native = choose_precision("auto", torch.device("cpu"))
    reference = None
    for width, layout, dtype in (
        (16, torch.channels_last, native),
        (16, torch.contiguous_format, native),
        (16, torch.channels_last, None),
        (32, torch.channels_last, native),
        (32, torch.contiguous_format, native),
        (64, torch.channels_last, native),
    ):
        seconds = seconds_per_step(width, layout, dtype)
        reference = reference or seconds
        print(
            f"width {width}  {str(layout)[6:]:17}  {str(dtype or torch.float32)[6:]:8}  "
            f"{seconds:.3f} s/step  {seconds / reference:.2f} times the first"
        )


if __name__ == "__main__":
    main()
