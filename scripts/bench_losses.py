"""Each loss for masks trains the same U-Net on the digit scenes for the same time.

    python scripts/bench_losses.py [--budget 60] [--losses ce,dice] [--data data/digits]
    python scripts/bench_losses.py --speed [--losses "ce + dice"]

Makes the scenes where they are missing, trains with the default seed, prints a markdown table. The
network and the crops are small, so that a minute on two cores is time enough to tell losses apart.
One run each: differences of a few points mean nothing.

With --speed nothing is trained: value and gradient of each loss, or sum of losses, are timed at the
size of CamVid at 240x180 beside `ce + dice` written by hand, on one thread and turn about, so that
what else the machine does disturbs both alike.
"""

from __future__ import annotations

import argparse
import csv
import logging
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import unet_pipeline as up

SETTINGS = {
    "model.base_channels": 8,
    "model.depth": 4,
    "training.image_size": 64,
    "training.batch_size": 8,
    "training.val_every": 40,
    "optimizer.lr": 1e-2,
    "output.tracking": "off",
}

SHAPE = (4, 11, 180, 240)  # samples, classes, height, width
VOID = 0.03  # of the pixels
ROUNDS = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for each loss")
    parser.add_argument("--losses", help="names, comma-separated; all of them by default")
    parser.add_argument("--speed", action="store_true", help="time value and gradient instead")
    parser.add_argument("--data", type=Path, default=Path("data/digits"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    names = (arguments.losses or ",".join(up.LOSSES)).split(",")
    if arguments.speed:
        compare_speed(names if arguments.losses else ["ce + dice", *names])
        return
    if not (arguments.data / "dataset.yaml").is_file():
        output = {"output": str(arguments.data)}
        up.prepare(up.load_config(overrides=output, kind=up.PrepareConfig))
    print("| loss | steps | last training loss | best val IoU | test mean IoU | test mean Dice |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in names:
        print(row(name, arguments), flush=True)


def row(name: str, arguments: argparse.Namespace) -> str:
    """Train with one loss; its line of the table."""
    given = {
        "data.path": str(arguments.data),
        "training.loss": name,
        "training.budget_seconds": arguments.budget,
        "output.runs_dir": str(arguments.runs),
        "output.experiment": "losses",
    }
    run = up.train(up.load_config(overrides=SETTINGS | given))
    with (run.folder / "history.csv").open() as file:
        losses = [float(line["train/loss"]) for line in csv.DictReader(file) if line["train/loss"]]
    assert losses, "the budget is too short for an epoch"
    assert all(math.isfinite(loss) for loss in losses), name
    model = {"model": str(run.folder), "tracking": "off", "num_pictures": 0}
    scores = up.evaluate(up.load_config(overrides=model, kind=up.EvaluateConfig)).scores
    return (
        f"| {name} | {run.steps} | {losses[-1]:.4f} | {run.best['val/mean_iou']:.3f} "
        f"| {scores.mean_iou:.3f} | {scores.mean_dice:.3f} |"
    )


def compare_speed(expressions: list[str]) -> None:
    """Print the milliseconds of one value and gradient, median and least of `ROUNDS`."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    samples, num_classes, height, width = SHAPE
    target = torch.randint(num_classes, (samples, height, width), generator=generator)
    target[torch.rand(target.shape, generator=generator) < VOID] = 255
    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ce + dice by hand": by_hand}
    losses |= {expression: up.parse_loss(expression) for expression in expressions}
    print(f"logits {'x'.join(map(str, SHAPE))}, {VOID:.0%} void, one thread\n")
    print("| loss | layout | median ms | least ms |\n|---|---|---|---|")
    for layout in (torch.contiguous_format, torch.channels_last):
        logits = torch.randn(SHAPE, generator=generator).contiguous(memory_format=layout)
        times = seconds_turn_about(losses, logits.requires_grad_(), target)
        for name, seconds in times.items():
            median, least = 1e3 * statistics.median(seconds), 1e3 * min(seconds)
            print(f"| {name} | {str(layout)[6:]} | {median:.1f} | {least:.1f} |", flush=True)


def seconds_turn_about(
    losses: dict[str, Callable[[Tensor, Tensor], Tensor]], logits: Tensor, target: Tensor
) -> dict[str, list[float]]:
    """What each of `ROUNDS` values with their gradients took, by the name of the loss."""
    times: dict[str, list[float]] = {name: [] for name in losses}
    for number in range(-2, ROUNDS):  # the first two warm up
        for name, loss in losses.items():
            start = time.perf_counter()
            torch.autograd.grad(loss(logits, target), logits)
            if number >= 0:
                times[name].append(time.perf_counter() - start)
    return times


def by_hand(logits: Tensor, target: Tensor) -> Tensor:
    """`ce + dice` as a notebook has it: each with its own softmax, Dice by a one-hot truth."""
    valid = (target != 255)[:, None]
    truth = F.one_hot(torch.where(target == 255, 0, target), logits.shape[1]).movedim(-1, 1) * valid
    probabilities = logits.softmax(1) * valid
    overlap = (probabilities * truth).sum((0, 2, 3))
    sizes = probabilities.sum((0, 2, 3)) + truth.sum((0, 2, 3))
    dice = 1 - ((2 * overlap + 1) / (sizes + 1)).mean()
    return F.cross_entropy(logits, target, ignore_index=255) + dice


if __name__ == "__main__":
    main()
