"""cross_validate: one training a fold of a prepared dataset -> one table, with mean and spread.

Each fold is a run like any other, nested in one that holds the table. Every sample that is not held
out for the test is scored once, by a model that was not trained on it; but of each training that
model is kept which was best on its fold, so the figures are a little too good. Those of the test
split are not.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from unet_pipeline.config import TrainConfig
from unet_pipeline.console import as_text
from unet_pipeline.datasets.manifest import Manifest
from unet_pipeline.errors import DatasetError, UserError
from unet_pipeline.evaluation.tables import csv_bytes
from unet_pipeline.stages.nested import (
    Parent,
    complete_shared,
    fill_row,
    open_parent,
    open_shared,
    score_below,
    train_below,
)
from unet_pipeline.stages.opening import refuse_folds_of_plain

logger = logging.getLogger(__name__)

_FIGURES = {
    "mean_iou": "mean IoU",
    "mean_dice": "mean Dice",
    "test_mean_iou": "test mean IoU",
    "test_mean_dice": "test mean Dice",
}


@dataclass(frozen=True)
class FoldResult:
    """What came of one fold.

    mean_iou, mean_dice: of its own samples, by the best model. test_...: of the test split, where
    there is one. training_seconds: wall clock, validation included. run: the run folder.
    note: why there are no figures, where there are none; they are NaN then.
    """

    fold: int
    mean_iou: float = math.nan
    mean_dice: float = math.nan
    test_mean_iou: float = math.nan
    test_mean_dice: float = math.nan
    training_seconds: float = math.nan
    run: str = ""
    note: str = ""

    def summary(self) -> dict[str, Any]:
        """JSON-able: a figure that does not exist is null."""
        return {name: _or_none(value) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Spread:
    """The mean of a figure over the folds that have it, and its sample standard deviation.

    mean is NaN without folds, sd with fewer than two.
    """

    mean: float
    sd: float

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "-"
        return f"{self.mean:.4f} ± " + ("-" if math.isnan(self.sd) else f"{self.sd:.4f}")


def spread_of(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation (n - 1) of the values that are numbers."""
    known = [value for value in values if not math.isnan(value)]
    mean = statistics.fmean(known) if known else math.nan
    return Spread(mean, statistics.stdev(known) if len(known) > 1 else math.nan)


@dataclass(frozen=True)
class CrossValidation:
    """What `cross_validate` has made: the folder of the table, a row a fold, and what failed."""

    folder: Path
    data: str
    folds: tuple[FoldResult, ...]
    failures: tuple[UserError, ...]
    tracking_url: str | None

    def summary(self) -> dict[str, Any]:
        """JSON-able."""
        spreads = _spreads(self.folds)
        return {
            "folder": str(self.folder),
            "data": self.data,
            "tracking_url": self.tracking_url,
            "folds": [fold.summary() for fold in self.folds],
            "mean": {name: _or_none(spread.mean) for name, spread in spreads.items()},
            "sd": {name: _or_none(spread.sd) for name, spread in spreads.items()},
        }

    def table(self) -> str:
        """The table as text; its last row is mean ± sd."""
        return as_text(_table(self.folds, title=_title(self.data, len(self.folds))))

    def raise_for_failed(self) -> None:
        """Raise the error of the first fold that failed; the others stand in the table."""
        if self.failures:
            raise self.failures[0]


def cross_validate(config: TrainConfig) -> CrossValidation:
    """Train once for each fold of a prepared dataset, with one set of settings for all.

    Limits such as epochs or the budget are for each fold. What `config` leaves open is decided
    once, from the data of fold 0, so that the folds differ in their samples alone. A fold that
    fails is a row with the reason, and the others go on. The table is written after every fold.
    Raises `UserError` for data without folds and for settings that cannot work,
    `InterruptedRunError` after a signal.
    """
    if config.data.fold is not None:
        raise UserError(f"--fold all trains every fold: leave out data.fold = {config.data.fold}")
    if config.data.path and not Manifest.is_in(Path(config.data.path)):
        refuse_folds_of_plain(Path(config.data.path))
    manifest, shared = open_shared(config, splits=())
    facts = manifest.facts
    first = manifest.fold(0)
    number = len(facts.folds)
    _refuse_empty(manifest, number)
    shared = complete_shared(shared, first)
    run_name = config.output.run_name
    with open_parent(shared, manifest, run_name=run_name, stem="folds", row="fold") as parent:
        rows: list[FoldResult] = []
        keep = partial(_keep, parent, rows, data=facts.name)
        for fold in range(number):
            logger.info("fold %d, %d of %d", fold, fold + 1, number)
            fill_row(parent, FoldResult(fold), _results(parent, shared, manifest, fold), keep)
    logger.info("table: %s", parent.folder)
    parent.track.say_where("table")
    return CrossValidation(
        parent.folder, facts.name, tuple(rows), tuple(parent.failures), parent.track.url
    )


def _refuse_empty(manifest: Manifest, number: int) -> None:
    """Raise `DatasetError` where somebody has emptied a fold since the dataset was made."""
    counts = Counter(sample.fold for sample in manifest.samples if sample.split != "test")
    empty = [str(fold) for fold in range(number) if not counts[fold]]
    if empty:
        raise DatasetError(
            f"{manifest.root} has no samples in fold {', '.join(empty)}: mend the column `fold` of "
            "its samples.csv, or prepare again"
        )


def _results(
    parent: Parent, config: TrainConfig, manifest: Manifest, fold: int
) -> Iterator[FoldResult]:
    """The row of a fold as far as it has come: trained, then scored on the test split."""
    data = manifest.fold(fold)
    tree = config.model_dump()
    tree["data"]["fold"] = fold
    run = train_below(parent, TrainConfig.model_validate(tree), data)
    row = FoldResult(
        fold,
        mean_iou=run.best.get("val/mean_iou", math.nan),
        mean_dice=run.best.get("val/mean_dice", math.nan),
        training_seconds=run.seconds,
        run=str(run.folder),
    )
    yield row
    if data.facts.num_samples["test"]:
        scores = score_below(run.folder, config, data, split="test", inference=config.inference)
        yield replace(row, test_mean_iou=scores.mean_iou, test_mean_dice=scores.mean_dice)


def _keep(parent: Parent, rows: list[FoldResult], row: FoldResult, *, data: str) -> None:
    """Put a fold into the table, as far as it has come, and write the table."""
    if row.note:
        logger.warning("fold %d: %s", row.fold, row.note)
    rows[:] = [other for other in rows if other.fold != row.fold] + [row]
    title = _title(data, len(rows))
    parent.write_table("folds", len(rows), csv=_csv(rows), markdown=_markdown(rows, title=title))
    figures: dict[str, float] = {}
    for name, spread in _spreads(rows).items():
        figures |= {f"cv/{name}": spread.mean, f"cv/{name}_sd": spread.sd}
    known = {name: value for name, value in figures.items() if not math.isnan(value)}
    parent.track.log_metrics(known, step=len(rows))


# ---- the table ----------------------------------------------------------------------------------


def _spreads(rows: Sequence[FoldResult]) -> dict[str, Spread]:
    """Mean and spread of each figure that any fold has."""
    spreads = {name: spread_of([getattr(row, name) for row in rows]) for name in _FIGURES}
    return {
        name: spread
        for name, spread in spreads.items()
        if not math.isnan(spread.mean) or not name.startswith("test_")
    }


def _title(data: str, number: int) -> str:
    return f"{data}: {number} folds, each scored by the model of the others"


def _table(rows: Sequence[FoldResult], *, title: str) -> Table:
    table = Table(title=Text(title))
    spreads = _spreads(rows)
    table.add_column("fold", no_wrap=True)
    for name in spreads:
        table.add_column(_FIGURES[name], justify="right", no_wrap=True)
    table.add_column("training s", justify="right")
    table.add_column("run", overflow="fold")
    notes = [f"fold {row.fold}: {row.note}" for row in rows if row.note]
    table.caption = Text("\n".join(notes), justify="left") if notes else None
    for row in rows:
        table.add_row(*_cells(row, spreads), Text(Path(row.run).name))
    table.add_section()
    table.add_row("mean ± sd", *map(str, spreads.values()), style="bold")
    return table


def _markdown(rows: Sequence[FoldResult], *, title: str) -> str:
    spreads = _spreads(rows)
    names = [_FIGURES[name] for name in spreads]
    lines = [f"**{title}**", "", f"| fold | {' | '.join(names)} | training s | run |"]
    lines.append("|---|" + "---:|" * (len(names) + 1) + "---|")
    for row in rows:
        last = (row.note or Path(row.run).name).replace("|", "\\|")
        lines.append(f"| {' | '.join(_cells(row, spreads))} | {last} |")
    lines.append(f"| mean ± sd | {' | '.join(map(str, spreads.values()))} | | |")
    return "\n".join(lines) + "\n"


def _csv(rows: Sequence[FoldResult]) -> bytes:
    """Every digit, a row a fold, then one of the means and one of the standard deviations."""
    columns = [field.name for field in fields(FoldResult)]
    spreads = _spreads(rows)
    content: list[list[Any]] = [list(asdict(row).values()) for row in rows]
    for label in ("mean", "sd"):
        of = {name: getattr(spread, label) for name, spread in spreads.items()}
        content.append([{"fold": label, **of}.get(name) for name in columns])
    return csv_bytes(columns, content)


def _cells(row: FoldResult, spreads: dict[str, Spread]) -> list[str]:
    figures = [getattr(row, name) for name in spreads]
    cells = ["-" if math.isnan(value) else f"{value:.4f}" for value in figures]
    seconds = "-" if math.isnan(row.training_seconds) else f"{row.training_seconds:,.1f}"
    return [str(row.fold), *cells, seconds]


def _or_none(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
