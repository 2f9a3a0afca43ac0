"""The trials of a sweep, in a database that several processes share: the only importer of optuna.

Optuna proposes values (tree-structured Parzen estimator: Bergstra et al. 2011) and says which
trials are not worth finishing (below the median of the others). Who may begin a trial is decided
under a lock on the sweep's folder, so that all processes together make as many as were asked for.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import platform
import random
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from optuna.trial import Trial as Trial  # what `ask` gives, for those who must not import optuna

from unet_pipeline.errors import ResourceError
from unet_pipeline.evaluation.trials import TrialRow
from unet_pipeline.stages.search_space import Choices, Param, Value, num_combinations
from unet_pipeline.tracking.spool import exclusive

logger = logging.getLogger(__name__)

DATABASE = "study.db"
GRID = 10  # parts of a run in which scores are compared: validations come at any time
WARM_UP = 3  # parts, before whose end no trial is ended
FINISHED_BEFORE_PRUNING = 4
BEAT_SECONDS, GRACE_SECONDS = 10, 120
_NAME = "sweep"
_LIVE = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass
class Study:
    """The trials of all processes; made by `create_study` and `open_study`.

    total: how many there shall be. seed: the values of trial n follow from it, n and what is
    finished by then, whichever process asks.
    """

    folder: Path
    space: tuple[Param, ...]
    total: int
    seed: int
    prune: bool
    storage: optuna.storages.RDBStorage
    optuna: optuna.Study

    # ---- what there is

    def trials(self) -> list[FrozenTrial]:
        """All that were begun, in order."""
        with _storage_errors(self.folder):
            return self.optuna.get_trials(deepcopy=False, states=_LIVE)

    def num_left(self) -> int:
        """How many may still be begun: a trial that is made again counts once."""
        trials = self.trials()
        again = {trial.user_attrs.get("again_of") for trial in trials}
        waiting = self.optuna.get_trials(deepcopy=False, states=[TrialState.WAITING])
        again |= {trial.user_attrs.get("again_of") for trial in waiting}
        return self.total - sum(trial.number not in again for trial in trials)

    def num_running(self) -> int:
        """Trials in progress, in all processes."""
        return sum(trial.state == TrialState.RUNNING for trial in self.trials())

    def attribute(self, name: str) -> Any:
        """What was noted with `note`; None where nothing was."""
        with _storage_errors(self.folder):
            return self.optuna.user_attrs.get(name)

    def note(self, name: str, value: Any) -> None:
        """Note something for all processes."""
        with _storage_errors(self.folder):
            self.optuna.set_user_attr(name, value)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the study: one process at a time begins a trial, or writes the tables."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            with exclusive(descriptor):
                yield
        finally:
            os.close(descriptor)

    # ---- a trial

    def ask(self) -> Trial | None:
        """A trial with values for the whole space; None where enough are begun."""
        with self.alone(), _storage_errors(self.folder), _quiet():
            optuna.storages.fail_stale_trials(self.optuna)
            self._give_up_lost()
            if self.num_left() <= 0:
                return None
            number = len(self.optuna.get_trials(deepcopy=False))
            self.optuna.sampler = optuna.samplers.TPESampler(
                # the values of the first ones are drawn blindly, and from the same seed they
                # would be the same in each process
                seed=(self.seed * 1_000_003 + number) % 2**32,
                n_startup_trials=min(10, max(4, self.total // 4)),
            )
            trial = self.optuna.ask()
            trial.set_user_attr("process", _this_process())
            self.storage.record_heartbeat(trial._trial_id)
            for param in self.space:
                _suggest(trial, param)
            return trial

    @contextlib.contextmanager
    def beating(self, trial: Trial) -> Iterator[None]:
        """Say every few seconds that the trial is alive: one that says nothing is given up."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(BEAT_SECONDS):
                # a database that is busy: the next time will do
                with contextlib.suppress(Exception):
                    self.storage.record_heartbeat(trial._trial_id)

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def watcher(self, trial: Trial) -> Callable[[float, float], bool]:
        """A function that is told (progress, mean IoU) and says whether to end the trial.

        A score counts for the parts of the run that have passed since the last one.
        """
        told = 0

        def watch(progress: float, score: float) -> bool:
            nonlocal told
            reached = int(progress * GRID + 1e-9)
            with _storage_errors(self.folder), contextlib.suppress(UpdateFinishedTrialError):
                for step in range(told + 1, reached + 1):
                    trial.report(0.0 if math.isnan(score) else score, step)
                told = max(told, reached)
                return self.prune and progress < 1 and trial.should_prune()
            return False

        return watch

    def tell(
        self,
        trial: Trial,
        *,
        score: float = math.nan,
        pruned: bool = False,
        facts: dict[str, Any] | None = None,
    ) -> None:
        """End a trial: finished with a score, pruned, or without a score failed.

        facts: fields of its row, JSON-able.
        """
        state = TrialState.PRUNED if pruned else TrialState.COMPLETE
        if math.isnan(score):
            state = TrialState.FAIL
        value = score if state == TrialState.COMPLETE else None
        with _storage_errors(self.folder):
            try:
                if facts:
                    trial.set_user_attr("facts", facts)
                self.optuna.tell(trial, value, state=state)
            except (UpdateFinishedTrialError, ValueError):
                logger.warning(
                    "trial %d was taken for lost meanwhile: it is not counted", trial.number
                )

    def is_running(self, trial: Trial) -> bool:
        """Whether nobody has told of the end of the trial yet."""
        running = (other.number for other in self.trials() if other.state == TrialState.RUNNING)
        return trial.number in running

    def repeat(self, trial: Trial) -> None:
        """Have the values of a trial tried once more, before all others."""
        attributes = {"again_of": trial.number, "losses": trial.user_attrs.get("losses", 0)}
        with _storage_errors(self.folder), _quiet():
            self.optuna.enqueue_trial(trial.params, user_attrs=attributes)

    def _give_up_lost(self) -> None:
        """End the trials whose process on this machine is gone: killed, or the machine restarted.

        Those of other machines are given up when they have not been heard of for a while.
        """
        for trial in self.trials():
            process = trial.user_attrs.get("process")
            if trial.state != TrialState.RUNNING or process is None or _is_alive(process):
                continue
            with contextlib.suppress(UpdateFinishedTrialError, ValueError):
                self.optuna.tell(trial.number, state=TrialState.FAIL)
                _lost(self.optuna, trial)


def create_study(
    folder: Path, space: tuple[Param, ...], *, total: int, seed: int, prune: bool
) -> Study:
    """A new study in `folder`; where `total` allows it, every combination is tried once."""
    combinations = num_combinations(space)
    study = _open(folder, space, total=total, seed=seed, prune=prune, new=True)
    if combinations is not None and combinations <= total:
        study.total = combinations
        every = [dict(values) for values in itertools.product(*map(_pairs, space))]
        random.Random(seed).shuffle(every)
        with _storage_errors(folder), _quiet():
            for values in every:
                study.optuna.enqueue_trial(values)
    study.note("total", study.total)
    return study


def open_study(folder: Path, space: tuple[Param, ...], *, seed: int, prune: bool) -> Study:
    """The study in `folder`, which this process joins."""
    study = _open(folder, space, total=0, seed=seed, prune=prune, new=False)
    study.total = int(study.attribute("total"))
    return study


def _open(
    folder: Path, space: tuple[Param, ...], *, total: int, seed: int, prune: bool, new: bool
) -> Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with _storage_errors(folder), _quiet():
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{folder.resolve() / DATABASE}",
            engine_kwargs={"connect_args": {"timeout": 60}},  # the others write, too
            heartbeat_interval=BEAT_SECONDS,
            grace_period=GRACE_SECONDS,
            heartbeat_stale_trial_callback=_lost,
        )
        pruner = optuna.pruners.MedianPruner(
            n_startup_trials=FINISHED_BEFORE_PRUNING, n_warmup_steps=WARM_UP
        )
        make: dict[str, Any] = {"study_name": _NAME, "storage": storage, "pruner": pruner}
        if new:
            study = optuna.create_study(**make, direction="maximize")
        else:
            study = optuna.load_study(**make)
    return Study(folder, space, total, seed, prune, storage, study)


def rows_of(study: Study) -> list[TrialRow]:
    """The trials of all processes, in order."""
    names = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}
    rows = []
    for trial in study.trials():
        facts = dict(trial.user_attrs.get("facts", {}))
        state = names[trial.state.name]
        if state == "failed":
            facts.setdefault("note", "its process has ended without a word")
        rows.append(TrialRow(trial.number, dict(trial.params), state, **facts))  # type: ignore[arg-type]
    return rows


def importances(study: Study) -> dict[str, float]:
    """The share of each setting in the variance of the finished scores, by fANOVA (Hutter 2014).

    Empty where fewer than four are finished, or nothing varies.
    """
    scores = [trial.value for trial in study.trials() if trial.state == TrialState.COMPLETE]
    if len(scores) < 4 or len(set(scores)) < 2 or len(study.space) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    with _storage_errors(study.folder), _quiet():
        shares = optuna.importance.get_param_importances(study.optuna, evaluator=evaluator)
    return {name: share for name, share in shares.items() if math.isfinite(share)}


def _pairs(param: Param) -> list[tuple[str, Value]]:
    if isinstance(param, Choices):
        return [(param.setting, value) for value in param.values]
    step = 1 if param.step is None else param.step
    values = [param.low + n * step for n in range(param.count or 0)]
    return [(param.setting, int(value) if param.whole else value) for value in values]


def _suggest(trial: Trial, param: Param) -> None:
    if isinstance(param, Choices):
        trial.suggest_categorical(param.setting, list(param.values))
    elif param.whole:
        step = 1 if param.step is None else int(param.step)
        trial.suggest_int(param.setting, int(param.low), int(param.high), step=step, log=param.log)
    else:
        trial.suggest_float(param.setting, param.low, param.high, step=param.step, log=param.log)


def _lost(study: optuna.Study, trial: FrozenTrial) -> None:
    """Have a trial tried again whose process was lost; once, as it may have been the reason."""
    losses = trial.user_attrs.get("losses", 0) + 1
    logger.warning("trial %d: its process has ended without a word", trial.number)
    if losses < 2:
        study.enqueue_trial(trial.params, user_attrs={"again_of": trial.number, "losses": losses})


def _this_process() -> list[Any]:
    return [platform.node(), os.getpid(), psutil.Process().create_time()]


def _is_alive(process: Sequence[Any]) -> bool:
    """Whether a process is still there, as far as this machine knows."""
    node, pid, created = process
    if node != platform.node():
        return True
    try:
        return bool(abs(psutil.Process(pid).create_time() - created) < 1)
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that heartbeats and queues of trials may still change in optuna."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", message="Heartbeat of storage")
        yield


@contextlib.contextmanager
def _storage_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except StorageInternalError as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ResourceError(
            f"{folder / DATABASE}: {reason}; free the disk, or wait, then go on with "
            f"`unet sweep --join {folder}`"
        ) from error


def now() -> float:
    """Seconds since 1970, which processes agree upon."""
    return time.time()
