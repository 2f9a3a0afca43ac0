"""sweep: settings tried out, each trial a training -> one table, best first.

Trials are runs like any other, nested in one that holds the table. They are compared by the
validation split alone: no test image is looked at, so that `unet evaluate` can score the best one
on the test split, once. Its validation score is a little too good, being the best of many.
"""

from __future__ import annotations

import csv
import logging
import math
import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from unet_pipeline import tracking
from unet_pipeline.config import TrainConfig
from unet_pipeline.console import as_text
from unet_pipeline.datasets.manifest import Manifest
from unet_pipeline.errors import TrackingError, UserError
from unet_pipeline.evaluation.trials import (
    TrialRow,
    best_trial,
    history_png,
    importance_png,
    trial_csv,
    trial_markdown,
    trial_table,
)
from unet_pipeline.files import write_atomic
from unet_pipeline.runtime import stop_on_signals
from unet_pipeline.stages import study as studies
from unet_pipeline.stages.nested import (
    Parent,
    complete_shared,
    fill_row,
    open_parent,
    open_shared,
    reopen_parent,
)
from unet_pipeline.stages.search_space import (
    Param,
    assign,
    check_space,
    name_of,
    num_combinations,
    parse_space,
    with_plan,
)
from unet_pipeline.stages.sharing import (
    LEAST_TRIAL_SECONDS,
    is_limited,
    trial_seconds,
    trials_end,
    within,
)
from unet_pipeline.stages.study import (
    Study,
    Trial,
    create_study,
    importances,
    open_study,
    rows_of,
)
from unet_pipeline.stages.train import train
from unet_pipeline.stages.trained import InterruptedRunError, TrainedRun
from unet_pipeline.sweep_config import SweepConfig
from unet_pipeline.training import run_folder as runs

logger = logging.getLogger(__name__)

SETTINGS_NAME = "sweep.yaml"
LONGER = 4  # times as long as its trial the best one should be trained


@dataclass(frozen=True)
class Sweep:
    """What `sweep` has made: the folder of the table, a row a trial, and what failed.

    command: trains the best trial longer; None where no trial has a score.
    """

    folder: Path
    data: str
    trials: tuple[TrialRow, ...]
    command: str | None
    failures: tuple[UserError, ...]
    tracking_url: str | None

    def summary(self) -> dict[str, Any]:
        """JSON-able."""
        best = best_trial(self.trials)
        return {
            "folder": str(self.folder),
            "data": self.data,
            "tracking_url": self.tracking_url,
            "best": None if best is None else best.summary(),
            "command": self.command,
            "trials": [row.summary() for row in self.trials],
        }

    def table(self) -> str:
        """The table as text, and the command that goes on from there."""
        table = as_text(trial_table(self.trials, title=_title(self.data, self.trials)))
        return table if self.command is None else f"{table}\n{self.command}"

    def raise_for_failed(self) -> None:
        """Raise the error of the first trial that failed, where none has a score."""
        if best_trial(self.trials) is None and self.failures:
            raise self.failures[0]


@dataclass(frozen=True)
class _Sweep:
    """What all trials of this process have in common."""

    config: TrainConfig
    manifest: Manifest
    study: Study
    parent: Parent
    deadline: float | None  # in seconds since 1970


def sweep(config: SweepConfig, *, started: float | None = None) -> Sweep:
    """Train `config.trials` times with values of `config.params`, and rank what comes of it.

    What `config` leaves open is decided once for all trials, unless networks differ. A trial that
    fails is a row with the reason, and the others go on. Tables are written after every trial.
    started: when the clock of the budget began (`time.monotonic()`); now, by default.
    Raises `UserError` for a space or settings that cannot work, before anything is trained;
    `InterruptedRunError` after a signal: `join` goes on from there.
    """
    if config.train.output.register_as:
        raise UserError("--register takes one training: leave it out, `unet promote` the best one")
    spent = 0.0 if started is None else time.monotonic() - started
    began = studies.now() - spent
    space = parse_space(config.params, config.train)
    manifest, shared = open_shared(config.train, splits=("train", "val"))
    check_space(space, shared, manifest.facts)
    typical = assign(shared, {param.setting: param.typical for param in space})
    if config.budget_seconds is not None:  # planned for the time that the first trial will get
        most = min(config.trials, num_combinations(space) or config.trials)
        typical = within(typical, trial_seconds(config.budget_seconds, left=most - 1, running=1))
    planned = complete_shared(typical, manifest)
    shared = with_plan(shared, planned, space)
    name, params = config.train.output.run_name, _params(config, space)
    with open_parent(
        planned, manifest, run_name=name, stem="sweep", row="trial", params=params
    ) as parent:
        folder, total, seed = parent.folder, config.trials, config.train.runtime.seed
        study = create_study(folder, space, total=total, seed=seed, prune=config.prune)
        if study.total < config.trials:
            logger.info("there are %d combinations: each is tried once", study.total)
        _start_clock(study, config.budget_seconds, began)
        _save(parent.folder, config, shared, manifest)  # from here on others can join
        return _work(parent, study, shared, manifest)


def join(folder: Path, overrides: Mapping[str, Any] | None = None) -> Sweep:
    """Make trials of the sweep in `folder`, beside the processes that do, or where they ended.

    overrides: `runtime.device` and `runtime.workers` may differ; the rest is the sweep's.
    """
    kept = _saved(folder)
    shared = TrainConfig.model_validate(kept["settings"])
    space = parse_space(kept["params"], shared)
    for name in overrides or {}:
        if name not in ("runtime.device", "runtime.workers"):
            raise UserError(f"--join takes the settings of its sweep: leave out {name}")
    runs_dir, uri = str(folder.absolute().parent.parent), shared.output.tracking_uri
    if uri and tracking.recorded_uri(uri) != uri:
        uri = None  # left to the environment, which has it with credentials
    moved = {"output.runs_dir": runs_dir, "output.tracking_uri": uri, **(overrides or {})}
    manifest, shared = open_shared(assign(shared, moved), splits=("train", "val"))
    if manifest.facts.fingerprint != kept["fingerprint"]:
        raise UserError(
            f"the data in {shared.data.path} has changed since {folder} began: its trials could "
            "not be compared with new ones; start a new sweep"
        )
    with reopen_parent(folder, row="trial", tracked=shared.output.tracking) as (parent, owner):
        study = open_study(folder, space, seed=shared.runtime.seed, prune=kept["prune"])
        if owner:  # nobody is there whose clock goes on
            spent = float(study.attribute("spent") or 0.0)
            _start_clock(study, kept["budget_seconds"], studies.now() - spent)
        if study.num_left() <= 0:
            logger.warning("%s: all %d trials are made or in progress", folder, study.total)
        return _work(parent, study, shared, manifest)


# ---- the trials ---------------------------------------------------------------------------------


def _work(parent: Parent, study: Study, config: TrainConfig, manifest: Manifest) -> Sweep:
    """Make trials until there are enough, or time is up."""
    work = _Sweep(config, manifest, study, parent, study.attribute("deadline"))
    with stop_on_signals() as stop:
        try:
            while _has_time(work) and (trial := study.ask()) is not None:
                _try(work, trial)
                if stop:
                    raise _interrupted(work, stop.exit_code)
        finally:
            _write(work, pictures=True)
    rows = rows_of(study)
    best = best_trial(rows)
    command = None if best is None else _longer(work, best)
    failures = tuple(parent.failures)
    if best is not None:
        parent.failures.clear()  # those of trials are rows: the sweep itself has not failed
        _say(parent, best)
    return Sweep(
        parent.folder, manifest.facts.name, tuple(rows), command, failures, parent.track.url
    )


def _has_time(work: _Sweep) -> bool:
    """Whether another trial fits into the budget; the first one always does."""
    if work.deadline is None or not work.study.trials():
        return True
    return work.deadline - studies.now() >= LEAST_TRIAL_SECONDS


def _interrupted(work: _Sweep, code: int) -> InterruptedRunError:
    folder = shlex.quote(str(work.parent.folder))
    return InterruptedRunError(f"stopped; go on with: unet sweep --join {folder}", code)


def _try(work: _Sweep, trial: Trial) -> None:
    """Train one trial, and put it into the table whatever comes of it."""
    study, parent = work.study, work.parent
    name = f"{parent.folder.name}-{trial.number:03d}-{name_of(trial.params)}"
    row = TrialRow(trial.number, dict(trial.params), run=str(parent.folder.parent / name))
    logger.info("trial %d: %s", trial.number, name_of(trial.params))
    with study.beating(trial):
        try:
            fill_row(parent, row, _train(work, trial, row), partial(_keep, work, trial))
        except BaseException as error:
            interrupted = isinstance(error, InterruptedRunError | KeyboardInterrupt | TrackingError)
            note = "interrupted" if interrupted else f"{type(error).__name__}: {error}"
            if study.is_running(trial):
                study.tell(trial, facts={"note": note})
                if interrupted:
                    study.repeat(trial)
            if isinstance(error, InterruptedRunError):
                raise _interrupted(work, error.exit_code) from error
            raise


def _train(work: _Sweep, trial: Trial, row: TrialRow) -> Iterator[TrialRow]:
    """The row of a trial that has been trained."""
    config = assign(work.config, trial.params)
    if work.deadline is not None:
        remaining = max(1.0, work.deadline - studies.now())
        if not is_limited(config):
            left, running = max(0, work.study.num_left()), max(1, work.study.num_running())
            remaining = trial_seconds(remaining, left=left, running=running)
        config = within(config, remaining)
    tree = config.model_dump(exclude_unset=True)
    tree["output"] |= {"run_name": Path(row.run).name, "register_as": None}
    run = train(
        TrainConfig.model_validate(tree),
        manifest=work.manifest,
        parent=work.parent.track,
        watch=work.study.watcher(trial),
    )
    yield _trained(row, run)
    if run.stop_code is not None:  # a signal that came when there was nothing left to stop
        raise _interrupted(work, run.stop_code)


def _trained(row: TrialRow, run: TrainedRun) -> TrialRow:
    score = run.best.get("val/mean_iou", math.nan)
    with (run.folder / runs.HISTORY_NAME).open(encoding="utf-8") as file:
        epochs = [float(entry["epoch"]) for entry in csv.DictReader(file)]
    return replace(
        row,
        state="failed" if math.isnan(score) else "pruned" if run.pruned else "finished",
        mean_iou=score,
        epochs=int(max(epochs, default=0)),
        steps=run.steps,
        seconds=run.seconds,
        note="no validation gave a mean IoU" if math.isnan(score) else "",
    )


def _keep(work: _Sweep, trial: Trial, row: TrialRow) -> None:
    """Tell the study of a trial, and write the tables."""
    if row.note:
        logger.warning("trial %d: %s", row.trial, row.note)
    if not Path(row.run).is_dir():  # it failed before it had a folder
        row = replace(row, run="")
    names = ("mean_iou", "epochs", "steps", "seconds", "run", "note")
    facts = {name: getattr(row, name) for name in names if getattr(row, name) == getattr(row, name)}
    work.study.tell(trial, score=row.mean_iou, pruned=row.state == "pruned", facts=facts)
    if not row.note:
        best = best_trial(rows_of(work.study)) or row
        figures = {"sweep/mean_iou": row.mean_iou, "sweep/best_mean_iou": best.mean_iou}
        work.parent.track.log_metrics(figures, step=row.trial)
    _write(work, pictures=False)


def _write(work: _Sweep, *, pictures: bool) -> None:
    """The table of all processes so far as CSV, markdown and note, its curves; and the pictures."""
    study, parent = work.study, work.parent
    with study.alone():
        rows = rows_of(study)
        title = _title(work.manifest.facts.name, rows)
        best = best_trial(rows)
        markdown = trial_markdown(rows, title=title)
        if best is not None:
            markdown += f"\n```\n{_longer(work, best)}\n```\n"
        parent.write_table("sweep", len(rows), csv=trial_csv(rows), markdown=markdown)
        if pictures and best is not None:
            _draw(work, rows, title)
        study.note("spent", studies.now() - study.attribute("began"))


def _draw(work: _Sweep, rows: list[TrialRow], title: str) -> None:
    """What the scores were over the trials, and what made the difference."""
    pictures = {"history.png": history_png(rows, title=title)}
    if shares := importances(work.study):
        pictures["importance.png"] = importance_png(shares, title=title)
    for name, picture in pictures.items():
        write_atomic(work.parent.folder / name, picture)
        work.parent.track.log_artifact(work.parent.folder / name)


# ---- settings, time, words ----------------------------------------------------------------------


def _start_clock(study: Study, budget: float | None, began: float) -> None:
    """Note for all processes when the sweep has begun, and when its last trial has to be over."""
    study.note("began", began)
    study.note("deadline", None if budget is None else trials_end(began, budget))


def _params(config: SweepConfig, space: tuple[Param, ...]) -> dict[str, Any]:
    """What MLflow shows as settings of the parent: of what is swept, what was tried."""
    own = {
        "sweep.trials": config.trials,
        "sweep.budget_seconds": config.budget_seconds,
        "sweep.prune": config.prune,
    }
    tried = {param.setting: str(param) for param in space}
    return {name: value for name, value in own.items() if value is not None} | tried


def _save(folder: Path, config: SweepConfig, shared: TrainConfig, manifest: Manifest) -> None:
    """Keep what `join` needs."""
    tree = config.model_dump(mode="json", include={"params", "budget_seconds", "prune"})
    settings = shared.model_dump(mode="json", exclude_unset=True)
    # From wherever a process joins, it is the same data and the same store
    settings["data"]["path"] = str(Path(settings["data"]["path"]).resolve())
    uri = tracking.tracking_uri(shared.output.tracking_uri)
    settings["output"]["tracking_uri"] = tracking.without_credentials(uri)
    tree |= {"fingerprint": manifest.facts.fingerprint, "settings": settings}
    write_atomic(folder / SETTINGS_NAME, yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))


def _saved(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS_NAME
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{folder} is no folder of a sweep: it has no {SETTINGS_NAME}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is damaged: start a new sweep") from error
    return dict(tree)


def _title(data: str, rows: tuple[TrialRow, ...] | list[TrialRow]) -> str:
    return f"{data}: {len(rows)} trials by validation mean IoU"


def _longer(work: _Sweep, best: TrialRow) -> str:
    """The command that trains the settings of the best trial longer."""
    training = work.config.training
    if training.epochs is not None:
        limit = f"--epochs {LONGER * training.epochs}"
    elif training.max_steps is not None:
        limit = f"--max-steps {LONGER * training.max_steps}"
    else:
        seconds = LONGER * best.seconds
        limit = f"--budget {seconds / 60:.0f}m" if seconds > 90 else f"--budget {seconds:.0f}s"
    config = shlex.quote(str(Path(best.run) / runs.CONFIG_NAME))
    return f"unet train --config {config} {limit}"


def _say(parent: Parent, best: TrialRow) -> None:
    """The lines that a user needs now."""
    logger.info("best: trial %d, validation mean IoU %.4f, %s", best.trial, best.mean_iou, best.run)
    logger.info("the best of many is a little too good: score it on the test split, once")
    logger.info("evaluate: unet evaluate --model %s", shlex.quote(best.run))
    logger.info("table and pictures: %s", parent.folder)
    parent.track.say_where("sweep")
