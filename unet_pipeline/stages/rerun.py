"""rerun: a run, from its folder or from MLflow -> the same training again, and what differs."""

from __future__ import annotations

import csv
import logging
import math
import os
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unet_pipeline import tracking
from unet_pipeline.config import RUNS_DIR, TrainConfig, load_config
from unet_pipeline.datasets.manifest import FACTS_FILE, SAMPLES_FILE, Manifest, Sample, load_facts
from unet_pipeline.datasets.samples_csv import load_samples
from unet_pipeline.errors import UserError
from unet_pipeline.runtime import choose_device, describe_machine
from unet_pipeline.stages.processes import refuse_several
from unet_pipeline.stages.rerun_data import DataChange, same_data
from unet_pipeline.stages.train import train
from unet_pipeline.stages.trained import TrainedRun
from unet_pipeline.tracking import lookup
from unet_pipeline.tracking.environment import (
    ENVIRONMENT_NAME,
    code_changes,
    environment,
    environment_changes,
    read_environment,
)
from unet_pipeline.training import run_folder as runs

logger = logging.getLogger(__name__)

RERUN_OF = "unet.rerun_of"
_FILES = (runs.CONFIG_NAME, FACTS_FILE, SAMPLES_FILE, runs.HISTORY_NAME, ENVIRONMENT_NAME)
_SHOWN = 8

Changes = dict[str, tuple[str, str]]
"""What differs -> (then, now)."""


@dataclass(frozen=True)
class Former:
    """A run as it was. history: its rows of figures, as text, so that no digit is lost."""

    name: str
    run_id: str
    experiment: str
    config: TrainConfig
    manifest: Manifest
    history: list[dict[str, str]]
    environment: dict[str, Any] | None
    tags: dict[str, str]


@dataclass(frozen=True)
class Rerun:
    """What `rerun` has made, and how it differs from the run before."""

    former: str
    run: TrainedRun
    code: Changes
    packages: Changes
    machine: Changes
    data: DataChange
    scores: Changes
    identical: bool

    def summary(self) -> dict[str, Any]:
        """JSON-able."""
        scores = {
            name: {"former": _float(then), "rerun": _float(now), "difference": _gap(then, now)}
            for name, (then, now) in self.scores.items()
        }
        return {
            "rerun_of": self.former,
            **self.run.summary(),
            "differences": {
                "code": self.code,
                "packages": self.packages,
                "machine": self.machine,
                "data": self.data.summary(),
            },
            "scores": scores,
            "identical": self.identical,
        }

    def table(self) -> str:
        """The scores of both as lines of text."""
        rows = [("best validation", self.former, self.run.folder.name, "difference")]
        for name, (then, now) in self.scores.items():
            gap = _gap(then, now)
            shown = "-" if gap is None else f"{gap:+.2g}" if gap else "0"
            rows.append((name, _shown(then), _shown(now), shown))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        verdict = "equal to the last digit" if self.identical else "not equal"
        return "\n".join([*lines, f"{verdict}; the new run: {self.run.folder}"])


@dataclass(frozen=True)
class Wishes:
    """What of the former run shall be otherwise; None leaves it as it was."""

    output: str | None = None
    run_name: str | None = None
    data: str | None = None
    tracking_uri: str | None = None

    def overrides(self, former: Former) -> dict[str, Any]:
        """The settings of the former run that change."""
        changes: dict[str, Any] = {
            "output.run_name": self.run_name,
            "output.register_as": None,  # one version of a model is enough
            "output.experiment": former.experiment,
        }
        if self.output:
            changes["output.runs_dir"] = self.output
        if self.tracking_uri:
            changes["output.tracking_uri"] = self.tracking_uri
        if former.config.training.budget_seconds is not None and former.history:
            # a clock is never the same twice, a number of steps is
            steps = int(float(former.history[-1]["step"]))
            changes |= {"training.budget_seconds": None, "training.max_steps": steps}
            logger.info("its budget ended after %d steps: --max-steps %d instead", steps, steps)
        return changes


def rerun(run: str, wishes: Wishes | None = None) -> Rerun:
    """Train as `run` did, with its settings, its split and its seed, and say what differs.

    run: a run folder, an MLflow run id, or runs:/ID. The same machine with the same code, packages
    and data gives the same scores to the last digit on a CPU. Where the data has changed since,
    the run's own samples and splits are used. Raises `UserError` for what is no training,
    `DatasetError` where files of its samples are gone, and what `train` raises.
    """
    wishes = wishes or Wishes()
    refuse_several("unet rerun")
    with tempfile.TemporaryDirectory() as place:
        former, config_file = _former(run, wishes.tracking_uri, Path(place))
        config = load_config(config_file, wishes.overrides(former), kind=TrainConfig)
    machine = describe_machine(choose_device(config.runtime.device)) | {"host": platform.node()}
    code = code_changes(former.tags)
    packages = environment_changes(former.environment, environment())
    moved = _differing({key: former.tags.get(f"unet.{key}", "unknown") for key in machine}, machine)
    settings, data = same_data(
        former.manifest, config.data, wishes.data, Path(config.output.runs_dir)
    )
    config = config.model_copy(update={"data": settings})
    _say(former, {"code": code, "packages": packages, "machine": moved}, data)
    trained = train(config, tags={RERUN_OF: former.run_id})
    then = best_row(former.history)
    now = best_row(_history(trained.folder))
    scores = {
        name: (then.get(name, ""), now.get(name, ""))
        for name in dict.fromkeys([*then, *now])
        if name.startswith("val/") or name in ("epoch", "step")
    }
    identical = bool(then) and all(one == other for one, other in scores.values())
    return Rerun(former.name, trained, code, packages, moved, data, scores, identical)


def best_row(history: list[dict[str, str]]) -> dict[str, str]:
    """The row of the best validation after the first step; the last one where none has a score."""
    rows = [row for row in history if _float(row.get("val/mean_iou", "")) is not None]
    rows = [row for row in rows if float(row["step"]) > 0]
    if not rows:
        return history[-1] if history else {}
    return max(rows, key=lambda row: float(row["val/mean_iou"]))  # the first of equals, as kept


def _former(run: str, uri: str | None, place: Path) -> tuple[Former, Path]:
    """The run as it was, and its config.yaml: of its folder, else fetched into `place`."""
    folder = Path(run) if Path(run).is_dir() else None
    known = None
    if folder is None:
        known = tracking.find_run(run, uri)
        folder = known.folder(Path(RUNS_DIR))
    if folder is not None:
        tags, here = lookup.recorded_tags(folder), folder
        identity = lookup.recorded_identity(folder)
        name = folder.resolve().name
        experiment = identity.experiment if identity else folder.resolve().parent.name
        run_id = (identity.run_id or identity.key) if identity else name
    else:
        assert known is not None
        lookup.fetch_files(known, _FILES, place)
        tags, here = known.tags, place
        name, experiment, run_id = known.name, known.experiment, known.run_id
    file = here / runs.CONFIG_NAME
    missing = [n for n in _FILES[:3] if not (here / n).is_file()]
    if missing:
        raise UserError(f"{run} cannot be run again: it has no {', '.join(missing)}")
    history = _history(here)
    if not history:
        raise UserError(
            f"{run} has no {runs.HISTORY_NAME} with figures: it is no training, or was made of "
            "several; name one of those"
        )
    former = Former(
        name,
        run_id,
        experiment,
        load_config(file, kind=TrainConfig),
        _manifest(here, Path(tags.get("unet.run_dir", here))),
        history,
        read_environment(here / ENVIRONMENT_NAME) or _environment_of(tags),
        tags,
    )
    return former, file


def _manifest(here: Path, origin: Path) -> Manifest:
    """The data of the run, whose table has paths as seen from its folder.

    here: where the table lies now. origin: where the folder was made, from which the paths may be
    the right ones still.
    """
    samples, gone = load_samples(here / SAMPLES_FILE)
    if gone:
        lost = {str(file) for file in gone}
        samples = [
            _as_from(sample, here.resolve(), origin)
            if {sample.image_file, sample.mask_file} & lost
            else sample
            for sample in samples
        ]
    return Manifest(origin, load_facts(here / FACTS_FILE), tuple(samples))


def _as_from(sample: Sample, here: Path, origin: Path) -> Sample:
    def moved(file: str | Path) -> str:
        return os.path.normpath(origin / os.path.relpath(file, here))

    mask = None if sample.mask_file is None else moved(sample.mask_file)
    return replace(sample, image_file=moved(sample.image_file), mask_file=mask)


def _environment_of(tags: Mapping[str, str]) -> dict[str, Any] | None:
    """What the tags of a run say about its packages, where it has kept no list of them."""
    return {"python": tags["unet.python"]} if "unet.python" in tags else None


def _history(folder: Path) -> list[dict[str, str]]:
    try:
        with (folder / runs.HISTORY_NAME).open(newline="") as file:
            return [row for row in csv.DictReader(file) if row.get("step")]
    except OSError:
        return []


def _differing(then: Mapping[str, str], now: Mapping[str, str]) -> Changes:
    return {key: (then[key], now[key]) for key in now if then[key] != now[key]}


def _say(former: Former, changes: dict[str, Changes], data: DataChange) -> None:
    """The lines before the training: what is not as it was."""
    logger.info("training again what %s did", former.name)
    kept = {
        "code": "mlflow.source.git.commit" in former.tags,
        "packages": "packages" in (former.environment or {}),
    }
    for subject, differing in changes.items():
        shown = [f"{key} {then} -> {now}" for key, (then, now) in differing.items()]
        more = f", and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
        told = "as it was" if kept.get(subject, True) else "the run has not kept what it had"
        logger.info("%s: %s", subject, (", ".join(shown[:_SHOWN]) + more) if shown else told)
    logger.info("data: %s", data)


def _float(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _gap(then: str, now: str) -> float | None:
    one, other = _float(then), _float(now)
    return None if one is None or other is None else other - one


def _shown(text: str) -> str:
    number = _float(text)
    return text if number is None or number.is_integer() else f"{number:.6f}"
