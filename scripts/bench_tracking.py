"""What MLflow costs a training: the time of an epoch with tracking on, against off.

Usage: python scripts/bench_tracking.py DATA [--repeat 3] [--epochs 20] [--set S.KEY=VALUE ...]

The two take turns, each training in a process of its own, with a database in the folder that it
runs in. Epochs are timed by history.csv (training, validation, saving and telling MLflow), the
first left out; `whole` is the wall clock of the command, imports and sending the rest included.
Also printed: the longest that a single word to MLflow took, and the load of the machine.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TIMED = """
import json, sys, time
from unet_pipeline import cli, tracking
longest = {}
def timed(name):
    call = getattr(tracking.Run, name)
    def wrapped(*args, **kwargs):
        began = time.perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            longest[name] = max(longest.get(name, 0.0), time.perf_counter() - began)
    setattr(tracking.Run, name, wrapped)
for name in ("log_epoch", "log_image", "log_metrics", "log_artifact", "close"):
    timed(name)
code = cli.run(sys.argv[1:])
with open("longest.json", "w") as file:
    json.dump(longest, file)
sys.exit(code)
"""


def train(options: argparse.Namespace, switch: str) -> tuple[list[float], float, str]:
    """Seconds of the epochs, of the whole command, and the longest words as JSON."""
    with tempfile.TemporaryDirectory() as place:
        sets = [word for text in options.assignments for word in ("--set", text)]
        command = ["train", "--data", str(Path(options.data).resolve()), "--run-name", "run"]
        command += ["--epochs", str(options.epochs), "--tracking", switch, *sets]
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", TIMED, *command], cwd=place, check=True,
                       env=os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{place}/mlflow.db"},
                       capture_output=True)  # fmt: skip
        whole = time.perf_counter() - began
        (file,) = Path(place).glob("runs/*/run/history.csv")
        with file.open() as text:
            ends = [float(r["time/elapsed_seconds"] or "nan") for r in csv.DictReader(text)][1:]
        epochs = [after - before for before, after in itertools.pairwise(ends)]
        return epochs, whole, (Path(place) / "longest.json").read_text()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--set", dest="assignments", action="append", default=[])
    options = parser.parse_args()
    epochs: dict[str, list[float]] = {"on": [], "off": []}
    wholes: dict[str, list[float]] = {"on": [], "off": []}
    for turn in range(options.repeat):
        for switch in ("on", "off") if turn % 2 else ("off", "on"):
            seconds, whole, longest = train(options, switch)
            epochs[switch] += seconds
            wholes[switch].append(whole)
            mean = statistics.median(seconds)
            print(f"{switch:>3}: epoch {mean:.4f} s, whole {whole:.1f} s, longest words {longest}")
    on, off = (statistics.median(epochs[switch]) for switch in ("on", "off"))
    print(f"epoch, median: on {on:.4f} s, off {off:.4f} s: {100 * (on / off - 1):+.2f} %")
    on, off = (sum(epochs[switch]) for switch in ("on", "off"))
    print(f"epochs, sum:   on {on:.2f} s, off {off:.2f} s: {100 * (on / off - 1):+.2f} %")
    on, off = (statistics.median(wholes[switch]) for switch in ("on", "off"))
    print(f"whole, median: on {on:.1f} s, off {off:.1f} s")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
