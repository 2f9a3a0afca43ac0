"""promote: a run's model gets an alias, if it scores better than the one that has it."""

from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unet_pipeline.config import RUNS_DIR
from unet_pipeline.errors import RejectedInputsError, UserError
from unet_pipeline.tracking import KnownRun, check_model_name, find_run, registry
from unet_pipeline.tracking.lookup import StoredModel
from unet_pipeline.training.run_folder import slug

logger = logging.getLogger(__name__)

SCORE = "test/mean_iou"


@dataclass(frozen=True)
class Contender:
    """One side of the comparison. version: None for a model that is not registered.

    model: which one of its run, None where that is lost. latest: whether that is the newest.
    """

    version: str | None
    run: KnownRun | None
    model: StoredModel | None
    latest: bool = True

    @property
    def score(self) -> float | None:
        """What `unet evaluate` has found on the test split; None where it has not run."""
        return self.model.figure(SCORE) if self.model else None

    @property
    def fingerprint(self) -> str | None:
        """The dataset that the model was trained and scored on."""
        return self.run.tags.get(registry.FINGERPRINT) if self.run else None

    def summary(self) -> dict[str, Any]:
        """JSON-able."""
        run = self.run
        return {
            "version": self.version,
            "run_id": run.run_id if run else None,
            "run_name": run.name if run else None,
            SCORE: self.score,
            "fingerprint": self.fingerprint,
        }


@dataclass(frozen=True)
class Promotion:
    """What became of `alias`: it moved, or it stayed, and why. old: who had it before."""

    name: str
    alias: str
    moved: bool
    reason: str
    old: Contender | None
    new: Contender

    @property
    def difference(self) -> float | None:
        """By how much the new one scores higher."""
        old = self.old.score if self.old else None
        return None if old is None or self.new.score is None else self.new.score - old

    def summary(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "name": self.name,
            "alias": self.alias,
            "moved": self.moved,
            "reason": self.reason,
            "old": self.old.summary() if self.old else None,
            "new": self.new.summary(),
            "difference": self.difference,
        }

    def table(self) -> str:
        """The two as lines of text."""
        rows = [("", "version", "run", SCORE)]
        for word, side in (("had it", self.old), ("promoted" if self.moved else "asked", self.new)):
            if side is not None:
                name = side.run.name if side.run else "unknown"
                rows.append((word, side.version or "-", name, _number(side.score)))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        if self.difference is not None:
            lines.append(f"difference {self.difference:+.4f}")
        holder = self.new.version if self.moved else (self.old.version if self.old else None)
        lines.append(f"models:/{self.name}@{self.alias} is version {holder or 'none'}")
        return "\n".join(lines)

    def raise_for_refused(self) -> None:
        """Raise `RejectedInputsError` where the alias has not moved and another model has it."""
        if not self.moved and self.reason:
            raise RejectedInputsError(f"not promoted: {self.reason}; --force moves it anyway")


def promote(
    run: str,
    *,
    alias: str,
    name: str | None = None,
    tracking_uri: str | None = None,
    force: bool = False,
) -> Promotion:
    """Give `alias` of a registered model to the newest model of `run`, if it is the better one.

    run: a run folder, an MLflow run id, or runs:/ID. name: of the registered model; else the one
    that the run's model is registered under, else the dataset's. Better is a higher `test/mean_iou`
    on the same dataset fingerprint, of that very model: a run that has gone on has others.
    force: move it whatever the scores are.
    Where it is refused, nothing is registered and nothing moves.
    """
    registry.check_alias(alias)
    check_model_name(name, option="--name")
    known = find_run(run, tracking_uri)
    name = name or _name(known)
    while True:
        holder = registry.holder(known.uri, name, alias)
        old = None
        if holder:
            old = Contender(holder.version, holder.run, holder.model, holder.latest)
        model = registry.newest_model(known)
        new = Contender(None, known, model)
        if old and old.run and old.run.run_id == known.run_id and old.latest:
            logger.info("models:/%s@%s is version %s already", name, alias, old.version)
            return Promotion(name, alias, False, "", old, Contender(old.version, known, model))
        reason = _against(new, old, run, name)
        if reason and not force:
            return Promotion(name, alias, False, reason, old, new)
        version = registry.register(known, name, model)
        if registry.holder(known.uri, name, alias) == holder:
            break  # else another process has moved it meanwhile: compare with that one
    registry.point(known.uri, name, alias, version)
    if reason:
        logger.warning("--force: promoted although %s", reason)
    logger.info("predict: unet predict IMAGES --model models:/%s@%s --output MASKS", name, alias)
    return Promotion(name, alias, True, reason, old, Contender(version, known, model))


def _name(run: KnownRun) -> str:
    """The registered model that the run's model belongs to."""
    names = registry.names_of(run)
    if len(names) > 1:
        raise UserError(f"the model is registered as {', '.join(names)}: choose one with --name")
    return names[0] if names else slug(run.tags.get("unet.dataset", run.experiment))


def _against(new: Contender, old: Contender | None, asked: str, name: str) -> str:
    """Why `new` is not known to be better than `old`; empty where it is."""
    if new.score is None:
        command = _evaluation(new, asked, name)
        return f"the newest model of run {_name_of(new)} has no {SCORE}: run `{command}` first"
    if old is None:
        return ""
    if old.score is None:
        missing = f"version {old.version}, which has the alias, has no {SCORE}"
        if old.model is None:
            return missing
        return f"{missing}: run `{_evaluation(old, '', name)}` first"
    if new.fingerprint is None or new.fingerprint != old.fingerprint:
        return (
            f"{SCORE} {_number(new.score)} is of the dataset {_short(new.fingerprint)}, and "
            f"{_number(old.score)} of version {old.version} is of {_short(old.fingerprint)}: "
            "they cannot be compared"
        )
    if new.score > old.score:
        return ""
    return (
        f"{SCORE} {_number(new.score)} is not better than the {_number(old.score)} of version "
        f"{old.version} on the same dataset"
    )


def _evaluation(side: Contender, asked: str, name: str) -> str:
    """The command that scores one side; a run's name stands for its newest model."""
    assert side.run is not None
    if not side.latest:
        version = shlex.quote(f"models:/{name}/{side.version}")
        return f"unet evaluate --model {version} --data DATASET"
    folder = side.run.folder(Path(RUNS_DIR))
    if folder is not None:
        place = asked if Path(asked).is_dir() else str(folder)
        return f"unet evaluate --model {shlex.quote(place)}"
    return f"unet evaluate --model runs:/{side.run.run_id} --data DATASET"


def _name_of(side: Contender) -> str:
    return side.run.name if side.run else "unknown"


def _short(fingerprint: str | None) -> str:
    return fingerprint[:12] if fingerprint else "unknown"


def _number(score: float | None) -> str:
    return "-" if score is None else f"{score:.6g}"
