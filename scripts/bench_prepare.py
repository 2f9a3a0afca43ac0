"""Checking a dataset against the plain cost of decoding its files once, in as many processes.

Usage: python scripts/bench_prepare.py [FOLDER] [--repeat N] [--memory]

Without a folder, 1200 JPEG images of 512x512 with PNG masks are made for the occasion. Both ways
take turns, so that a busy machine slows down both; the check starts its processes within its time,
decoding before. --memory measures 1,000 and 20,000 pairs of small files, each number in a process
of its own.
"""

from __future__ import annotations

import argparse
import functools
import io
import multiprocessing
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import psutil
from PIL import Image

from unet_pipeline.config import DataSettings
from unet_pipeline.datasets.doctor import Diagnosis, examine
from unet_pipeline.datasets.encoders import encode_png
from unet_pipeline.datasets.formats import Found, Pair
from unet_pipeline.datasets.formats.catalogue import find_pairs
from unet_pipeline.datasets.images import (
    decode_image,
    decode_mask,
    read_bytes,
)
from unet_pipeline.datasets.scan import ScanStore
from unet_pipeline.datasets.threads import num_cores
from unet_pipeline.stages.opening import index_options


def make_pair(folder: Path, number: int, *, side: int) -> Pair:
    """A picture with shapes and texture, and the mask of its shapes (four classes)."""
    rng = np.random.default_rng(number)
    mask = np.zeros((side, side), dtype=np.uint8)
    for _ in range(24):
        center, axes = rng.integers(0, side, 2).tolist(), rng.integers(2, side // 8, 2).tolist()
        angle, value = float(rng.integers(180)), int(rng.integers(4))
        cv2.ellipse(mask, center, axes, angle, 0, 360, value, -1)
    noise = rng.normal(0, 25, (side, side, 3)).astype(np.float32)
    texture = cv2.GaussianBlur(noise, (0, 0), 1.2) * 3
    colors = np.array([[90, 110, 80], [180, 60, 60], [60, 170, 90], [70, 80, 200]], np.float32)
    picture = np.clip(colors[mask] + texture, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=90)
    image_path, mask_path = folder / f"{number:05d}.jpg", folder / f"{number:05d}.png"
    image_path.write_bytes(file.getvalue())
    mask_path.write_bytes(encode_png(mask))
    return Pair(f"{number:05d}", image_path, mask_path)


def decode(pair: Pair) -> None:
    """What reading the files costs anybody."""
    for part, decoder in ((pair.image, decode_image), (pair.mask, decode_mask)):
        if isinstance(part, Path):
            decoder(read_bytes(part), source="")
        else:
            part.pixels()


def decode_all(pairs: Sequence[Pair]) -> float:
    """Seconds of decoding; starting the processes is not counted."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_cores(), mp_context=context) as pool:
        list(pool.map(decode, pairs[: 4 * num_cores()]))
        return seconds(lambda: list(pool.map(decode, pairs, chunksize=8)))


def check_all(found: Found, cache: Path) -> Diagnosis:
    """All that `unet prepare --check` does with what is found, but for showing it."""
    data = DataSettings()
    with ScanStore(cache) as store:
        return examine(
            found,
            source=cache,
            name="bench",
            options=index_options(data),
            store=store,
        )


def seconds(compute: Callable[[], object]) -> float:
    started = time.perf_counter()
    compute()
    return time.perf_counter() - started


def compare(found: Found, repeat: int) -> None:
    """Print the table of speeds."""
    pairs = found.pairs
    plain, first, second = [], [], []
    for turn in range(repeat):
        with tempfile.TemporaryDirectory() as folder:
            check = functools.partial(check_all, found, Path(folder))
            if turn % 2:
                plain.append(decode_all(pairs))
            first.append(seconds(check))
            if not turn % 2:
                plain.append(decode_all(pairs))
            second.append(seconds(check))
    print(f"{len(pairs)} pairs, {num_cores()} processes, median of {repeat}\n")
    print("| way | s | pairs a second | against decoding |\n|---|---|---|---|")
    for name, taken in (
        ("decoding alone", plain),
        ("check, empty cache", first),
        ("check again", second),
    ):
        ratio = statistics.median(p / t for p, t in zip(plain, taken, strict=True))
        middle = statistics.median(taken)
        print(f"| {name} | {middle:.2f} | {len(pairs) / middle:.0f} | {ratio:.2f} |")
    again = statistics.median(s / f for s, f in zip(second, first, strict=True))
    print(f"\nThe second check takes {again:.3f} of the first.")


def show_memory() -> None:
    """Print what 1,000 and 20,000 pairs take."""
    counts = (1000, 20_000)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(counts[-1]):
            make_pair(Path(folder), number, side=24)
        print("| pairs | MB with the list of pairs | MB after the check | highest |")
        print("|---|---|---|---|")
        after = []
        for count in counts:
            command = [sys.executable, __file__, folder, "--measure", str(count)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            listed, scanned, peak = map(int, output.split())
            after.append(scanned - listed)
            print(
                f"| {count} | {listed / 2**20:.1f} | {scanned / 2**20:.1f} | {peak / 2**20:.1f} |"
            )
        growth = (after[1] - after[0]) / (counts[1] - counts[0])
        print(f"\nBeside its paths, a pair takes {growth:.0f} bytes.")


def measure(folder: Path, count: int) -> None:
    """Print the memory of this process before, after and during a check of `count` pairs."""
    process = psutil.Process()
    names = [f"{number:05d}" for number in range(count)]
    pairs = [Pair(name, folder / f"{name}.jpg", folder / f"{name}.png") for name in names]
    listed = process.memory_info().rss
    with tempfile.TemporaryDirectory() as cache:
        diagnosis = check_all(Found(tuple(pairs), "made for the occasion"), Path(cache))
        checked = process.memory_info().rss
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert len(diagnosis.samples) == count
    print(listed, checked, highest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.folder, options.measure)
    elif options.memory:
        show_memory()
    elif options.folder:
        compare(find_pairs(options.folder), options.repeat)
    else:
        with tempfile.TemporaryDirectory() as folder:
            pairs = [make_pair(Path(folder), number, side=512) for number in range(1200)]
            compare(Found(tuple(pairs), "made for the occasion"), options.repeat)


if __name__ == "__main__":
    main()
