"""Each loss for masks trains the same U-Net on the digit scenes for the same time.

    python scripts/bench_losses.py [--budget 60] [--losses ce,dice] [--data data/digits]

Makes the scenes where they are missing, trains with the default seed, prints a markdown table. The
network and the crops are small, so that a minute on two cores is time enough to tell losses apart.
One run each: differences of a few points mean nothing.
"""

from __future__ import annotations

import argparse
import csv
import logging
import math
from pathlib import Path

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for each loss")
    parser.add_argument("--losses", default=",".join(up.LOSSES), help="names, comma-separated")
    parser.add_argument("--data", type=Path, default=Path("data/digits"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if not (arguments.data / "dataset.yaml").is_file():
        output = {"output": str(arguments.data)}
        up.prepare(up.load_config(overrides=output, kind=up.PrepareConfig))
    print("| loss | steps | last training loss | best val IoU | test mean IoU | test mean Dice |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in arguments.losses.split(","):
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


if __name__ == "__main__":
    main()
