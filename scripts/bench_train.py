"""How fast `unet train` is, and how much memory it takes, against loops that do nothing else.

Usage: python scripts/bench_train.py DATA [--repeat 3] [--batches 40] [--set SECTION.KEY=VALUE ...]

Four contenders, each in a process of its own, in turns:
  train    `unet train` on DATA, images/s after the first epoch, as history.csv has them: loading,
           augmentation, losses read, the average of the weights, the progress line; a line below
           the table adds validations, saving and the files of the run
  bare     the same network, loss, optimizer, batch and precision; tensors already in memory, no
           augmentation, nothing but forward, backward, update
  classic  the loop of the recipe `classic`: batch 1, float32, width 64, RMSprop, bare as well
  modern   the network and batch of `train` in that loop's precision and memory layout
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

CONTENDERS = ("train", "bare", "modern", "classic")
TRAINED_EPOCHS = 3


def config_of(options: argparse.Namespace, recipe: str) -> Any:
    from unet_pipeline.config import load_config
    from unet_pipeline.settings_files import parse_assignments

    overrides = parse_assignments(options.assignments) if recipe == "modern" else {}
    overrides |= {"recipe": recipe, "data.path": options.data, "output.tracking": "off",
                  "runtime.workers": 0, "training.epochs": TRAINED_EPOCHS}  # fmt: skip
    return load_config(overrides=overrides)


def train(options: argparse.Namespace) -> dict[str, float]:
    """Images a second of the epochs after the first: of their steps, and of all that goes by."""
    import csv

    import unet_pipeline as up

    with tempfile.TemporaryDirectory() as folder:
        config = config_of(options, "modern")
        output = config.output.model_copy(update={"runs_dir": folder})
        run = up.train(config.model_copy(update={"output": output}))
        with (run.folder / "history.csv").open() as file:
            rows = list(csv.DictReader(file))[1:]  # the first is that of step 0
    rates = [float(row["time/images_per_second"]) for row in rows]
    seconds = [float(row["time/epoch_seconds"]) for row in rows]
    images = sum(rate * each for rate, each in zip(rates[1:], seconds[1:], strict=True))
    passed = float(rows[-1]["time/elapsed_seconds"]) - float(rows[0]["time/elapsed_seconds"])
    return {"images_per_second": statistics.median(rates[1:]), "whole": images / passed}


def loop(options: argparse.Namespace, recipe: str, *, plain: bool) -> dict[str, float]:
    """Images a second of forward, backward and update. plain: float32, channels first."""
    import torch

    from unet_pipeline.stages.assembly import complete_config
    from unet_pipeline.stages.building import build_parts
    from unet_pipeline.stages.opening import open_data

    config = config_of(options, recipe)
    manifest = open_data(config.data, splits=("train", "val"))
    config, _ = complete_config(config, manifest)
    parts = build_parts(config, manifest)
    device = next(parts.segmenter.parameters()).device
    if plain:
        parts.segmenter.to(memory_format=torch.contiguous_format)
    dtype = None if plain else parts.autocast_dtype
    batches = list(itertools.islice(_batches(parts), min(options.batches, 8)))
    parts.cache = parts.loader = parts.average = None  # type: ignore[assignment]
    held = [(batch.images.to(device), batch.masks.long().to(device)) for batch in batches]
    parts.segmenter.train()
    started, seen = 0.0, 0
    for number, (images, masks) in enumerate(
        itertools.islice(itertools.cycle(held), options.batches + 3)
    ):
        if number == 3:  # the first ones warm up
            _wait(device)
            started, seen = time.perf_counter(), 0
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            logits = parts.segmenter(images)
        value = parts.loss(logits, masks)
        parts.optimizer.zero_grad(set_to_none=True)
        value.backward()
        parts.optimizer.step()
        seen += len(images)
    _wait(device)
    return {"images_per_second": seen / (time.perf_counter() - started)}


def _batches(parts: Any) -> Iterator[Any]:
    for epoch in itertools.count():
        yield from parts.loader.epoch(epoch)


def _wait(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(contender: str, options: argparse.Namespace) -> None:
    """Print the figures of one contender as JSON."""
    rates = {
        "train": lambda: train(options),
        "bare": lambda: loop(options, "modern", plain=False),
        "modern": lambda: loop(options, "modern", plain=True),
        "classic": lambda: loop(options, "classic", plain=True),
    }[contender]()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(rates | {"peak_mib": peak}))


def ask(contender: str, arguments: Sequence[str]) -> dict[str, float]:
    command = [sys.executable, __file__, *arguments, "--measure", contender]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    answer: dict[str, float] = json.loads(output.splitlines()[-1])
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--batches", type=int, default=40, help="Of the bare loops.")
    parser.add_argument("--set", dest="assignments", action="append", default=[])
    parser.add_argument("--measure", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options)
        return
    answers: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for turn in range(options.repeat):
        for name in CONTENDERS if turn % 2 else reversed(CONTENDERS):
            answers[name].append(ask(name, sys.argv[1:]))
    print("| contender | images/s | of bare | peak MiB | of bare |\n|---|---|---|---|---|")
    for name in CONTENDERS:
        cells = []
        for key, shown in (("images_per_second", ".1f"), ("peak_mib", ".0f")):
            own = [answer[key] for answer in answers[name]]
            bare = [answer[key] for answer in answers["bare"]]
            ratio = statistics.median(a / b for a, b in zip(own, bare, strict=True))
            cells += [f"{statistics.median(own):{shown}}", f"{ratio:.2f}"]
        print(f"| {name} | {' | '.join(cells)} |")
    whole = statistics.median(answer["whole"] for answer in answers["train"])
    print(f"\ntrain with validations, saving and all files: {whole:.1f} images/s")


if __name__ == "__main__":
    main()
