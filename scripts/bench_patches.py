"""Patch networks over one image: every window in one pass against patch by patch, and in bf16.

Usage: python scripts/bench_patches.py [side]. The first line of each network is the reference of
its ratios. On a CPU without native bf16 the lines in bf16 take a minute: that is what they show.
"""

import sys
import time
from collections.abc import Callable

import torch

from unet_pipeline.models import PatchNetwork, build_network

SIDE = int(sys.argv[1]) if len(sys.argv) > 1 else 64


def seconds(compute: Callable[[], object]) -> float:
    """Of the second call: the first one prepares kernels."""
    compute()
    started = time.perf_counter()
    compute()
    return time.perf_counter() - started


def ways(network: PatchNetwork) -> dict[str, Callable[[], object]]:
    """The same logits of an image of SIDE x SIDE, computed in three ways."""
    image = torch.rand(1, 3, SIDE, SIDE)
    grid = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    points = torch.stack(grid, dim=-1).view(1, -1, 2)
    windows = torch.rand(1, 3, *(SIDE + network.patch_size - 1,) * 2)

    def in_bf16() -> object:
        with torch.autocast("cpu", torch.bfloat16):
            return network.classifier.slide(windows)

    return {
        "one pass, float32": lambda: network(image),
        "patch by patch, float32": lambda: network(image, points),
        "one pass, bf16": in_bf16,
    }


print(f"image of {SIDE}x{SIDE}, {torch.get_num_threads()} threads\n")
print("| network | way | s | times the first |\n|---|---|---|---|")
with torch.no_grad():
    for name in ("mlp", "lenet"):
        torch.manual_seed(0)
        network = build_network(name, {}, in_channels=3, num_classes=11).eval()
        reference = None
        for way, compute in ways(network).items():
            taken = seconds(compute)
            reference = reference or taken
            print(f"| {name} | {way} | {taken:.3f} | {taken / reference:.1f} |", flush=True)
