"""What a time budget buys: the defaults of `unet train` against two ways that people train.

Usage: python scripts/bench_budget.py DATA --budget 5m [--contenders default,classic,smp]
       [--seeds 0,1] [--prepare "OPTIONS OF unet prepare"]

Every contender gets the same budget on the same split and is scored on the test split:
  default  `unet train --budget B`, nothing else
  classic  the recipe `classic`, at its full width
  smp      segmentation-models-pytorch's U-Net with a ResNet-18 from scratch: AdamW 1e-3, CE + Dice,
           cosine over the budget, left-right flips, batch 8
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONTENDERS = {
    "default": [],
    "classic": ["--recipe", "classic"],
    "smp": ["--model", "smp:Unet/resnet18", "--lr", "1e-3", "--batch-size", "8", "--loss",
            "ce + dice", "--set", "training.ema_decay=0", "--set", "transforms.name=flips"],
}  # fmt: skip


def unet(*arguments: str) -> str:
    command = [sys.executable, "-m", "unet_pipeline", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--budget", default="5m")
    parser.add_argument("--contenders", default="default,classic,smp")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--prepare", default="")
    options = parser.parse_args()
    print("| contender | seed | test mean IoU | pixel accuracy | steps | wall clock s |")
    print("|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        unet("prepare", str(options.data), "--output", str(data), *shlex.split(options.prepare))
        for seed in options.seeds.split(","):
            for name in options.contenders.split(","):
                started = time.monotonic()
                run = json.loads(unet(
                    "train", "--data", str(data), "--budget", options.budget, "--seed", seed,
                    "--tracking", "off", "--output", folder, "--run-name", f"{name}-{seed}",
                    "--json", *CONTENDERS[name],
                ))  # fmt: skip
                seconds = time.monotonic() - started
                scores = json.loads(unet("evaluate", "--model", run["folder"], "--json",
                                         "--tracking", "off"))  # fmt: skip
                row = (name, seed, f"{scores['mean_iou']:.3f}", f"{scores['pixel_accuracy']:.3f}",
                       run["steps"], f"{seconds:.0f}")  # fmt: skip
                print(f"| {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    main()
