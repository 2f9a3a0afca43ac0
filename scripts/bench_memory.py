"""What it brings to keep the memory of freed tensors: training steps with and without, in turn.

Usage: python scripts/bench_memory.py [--repeat N] [--width W] [--stem S] [--side PIXELS]

Each measurement is a process of its own, as what the C library is told cannot be taken back.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys

import torch
from bench_width import training_step

from unet_pipeline.models import UNet
from unet_pipeline.runtime import choose_precision, keep_freed_memory

STEPS = 12


def measure(width: int, stem: int, side: int, *, keep: bool) -> dict[str, float]:
    """Of a process's training steps after the first three: how long, faults; and its peak."""
    if keep:
        keep_freed_memory()
    torch.manual_seed(0)
    dtype = choose_precision("auto", torch.device("cpu"))
    network = UNet(in_channels=3, num_classes=11, base_channels=width, stem=stem)
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    images = torch.rand(4, 3, side, side).to(memory_format=torch.channels_last)
    masks = torch.randint(0, 11, (4, side, side))
    times, faults = [], 0
    for step in range(3 + STEPS):
        if step == 3:
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        times.append(training_step(network, optimizer, images, masks, dtype))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "ms": 1000 * statistics.median(times[3:]),
        "faults": (usage.ru_minflt - faults) / STEPS,
        "peak": usage.ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--stem", type=int, default=2)
    parser.add_argument("--side", type=int, default=208)
    parser.add_argument("--measure", choices=("keep", "plain"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = (options.width, options.stem, options.side)
    if options.measure:
        print(json.dumps(measure(*sizes, keep=options.measure == "keep")))
        return
    found: dict[str, list[dict[str, float]]] = {"plain": [], "keep": []}
    for turn in range(options.repeat):
        for way in sorted(found, reverse=bool(turn % 2)):
            command = [sys.executable, __file__, "--measure", way]
            for name, value in zip(("width", "stem", "side"), sizes, strict=True):
                command += [f"--{name}", str(value)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
            found[way].append(json.loads(output))
    print("| freed memory | ms a step | against plain | page faults a step | peak MiB |")
    print("|---|---|---|---|---|")
    for way, rows in found.items():
        ratios = [row["ms"] / plain["ms"] for row, plain in zip(rows, found["plain"], strict=True)]
        ms, faults, peak = (
            statistics.median(row[name] for row in rows) for name in ("ms", "faults", "peak")
        )
        name = "kept" if way == "keep" else "given back"
        ratio = statistics.median(ratios)
        print(f"| {name} | {ms:.1f} | {ratio:.3f} | {faults:.0f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
