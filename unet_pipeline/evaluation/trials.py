"""The trials of a sweep: a table for people, for notes and for spreadsheets, and two pictures."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table
from rich.text import Text

from unet_pipeline.evaluation.tables import csv_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TrialState = Literal["finished", "pruned", "failed", "running"]

_BLUE, _PALE, _RED = "#0072b2", "#9ecae1", "#d55e00"


@dataclass(frozen=True)
class TrialRow:
    """What came of one trial.

    values: those that were tried, by setting. mean_iou: the best of its validations, NaN without.
    epochs, steps: trained. seconds: wall clock, validation included. run: its run folder.
    note: why there is no score, where there is none.
    """

    trial: int
    values: Mapping[str, Any] = field(default_factory=dict)
    state: TrialState = "running"
    mean_iou: float = math.nan
    epochs: int = 0
    steps: int = 0
    seconds: float = math.nan
    run: str = ""
    note: str = ""

    def summary(self) -> dict[str, Any]:
        """JSON-able: a figure that does not exist is null."""
        figures = {"mean_iou": self.mean_iou, "seconds": self.seconds}
        known = {name: None if math.isnan(value) else value for name, value in figures.items()}
        return vars(self) | known | {"values": dict(self.values)}


def ranked(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """The best score first; those without one last, in the order of the trials."""
    return sorted(rows, key=lambda row: (math.isnan(row.mean_iou), -row.mean_iou, row.trial))


def best_trial(rows: Sequence[TrialRow]) -> TrialRow | None:
    """The best of those that were trained to their end, else of all; None without any score."""
    scored = [row for row in ranked(rows) if not math.isnan(row.mean_iou)]
    return next((row for row in scored if row.state == "finished"), next(iter(scored), None))


def trial_table(rows: Sequence[TrialRow], *, title: str) -> Table:
    """A rich table, the best trial first and in bold; below it why others have no score."""
    names = _settings(rows)
    table = Table(title=Text(title))
    for name in ("rank", "trial"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in names:
        table.add_column(_short(name, names), overflow="fold")
    for name in ("val mean IoU", "epochs", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    notes = [f"trial {row.trial}: {row.note}" for row in rows if row.note]
    table.caption = Text("\n".join(notes), justify="left") if notes else None
    best = best_trial(rows)
    for rank, row in enumerate(ranked(rows), start=1):
        cells = map(Text, _cells(rank, row, names))
        table.add_row(*cells, style="bold" if row is best else "")
    return table


def trial_markdown(rows: Sequence[TrialRow], *, title: str) -> str:
    """The same table for a note in MLflow, with the run of each trial, or why it has none."""
    names = _settings(rows)
    head = ["rank", "trial", *(_short(name, names) for name in names)]
    head += ["val mean IoU", "epochs", "seconds", "state", "run"]
    lines = [f"**{title}**", "", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for rank, row in enumerate(ranked(rows), start=1):
        cells = [*_cells(rank, row, names), row.note or Path(row.run).name]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def trial_csv(rows: Sequence[TrialRow]) -> bytes:
    """The same table for spreadsheets, every digit of it; a column a setting, by its full name."""
    names = _settings(rows)
    facts = ["state", "mean_iou", "epochs", "steps", "seconds", "run", "note"]
    content = [
        [rank, row.trial, *(row.values.get(name) for name in names), *_facts(row, facts)]
        for rank, row in enumerate(ranked(rows), start=1)
    ]
    return csv_bytes(["rank", "trial", *names, *facts], content)


def history_png(rows: Sequence[TrialRow], *, title: str) -> bytes:
    """A PNG file: the score of each trial in the order of trials, and the best one so far."""
    from matplotlib.ticker import MaxNLocator

    scored = [row for row in rows if not math.isnan(row.mean_iou)]
    scored.sort(key=lambda row: row.trial)
    figure = _figure(7.2, 3.6)
    axes = figure.add_subplot()
    for state, color, marker in (("finished", _BLUE, "o"), ("pruned", _PALE, "v")):
        of_state = [row for row in scored if row.state == state]
        if of_state:
            places, scores = [r.trial for r in of_state], [r.mean_iou for r in of_state]
            axes.scatter(places, scores, 28, color=color, marker=marker, label=state, zorder=3)
    best, so_far = -math.inf, []
    for row in scored:
        best = max(best, row.mean_iou)
        so_far.append(best)
    axes.step([r.trial for r in scored], so_far, where="post", color=_RED, label="best so far")
    for row in rows:
        if row.state == "failed":
            axes.axvline(row.trial, color="0.8", linestyle=":", zorder=0)
    axes.set_xlabel("trial (a dotted line: it failed)")
    axes.set_ylabel("validation mean IoU")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower right", ncols=3, frameon=False, fontsize=9)
    return _png(figure)


def importance_png(shares: Mapping[str, float], *, title: str) -> bytes:
    """A PNG file: bars of what share each setting has in the differences between scores."""
    names = sorted(shares, key=lambda name: shares[name])
    figure = _figure(7.2, 1.2 + 0.42 * len(names))
    axes = figure.add_subplot()
    bars = axes.barh(range(len(names)), [shares[name] for name in names], 0.62, color=_BLUE)
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=9)
    axes.set_yticks(range(len(names)), [_short(name, names) for name in names], parse_math=False)
    axes.set_xlim(0, 1.1)
    axes.set_xlabel("share of the variance of the scores (fANOVA)")
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def _figure(width: float, height: float) -> Figure:
    # Without pyplot, which keeps global state and may look for a display
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    target = io.BytesIO()
    FigureCanvasAgg(figure).print_png(target)  # type: ignore[no-untyped-call]
    return target.getvalue()


def _settings(rows: Sequence[TrialRow]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.values))


def _short(name: str, names: Sequence[str]) -> str:
    """A setting without its section, where no other one ends alike: `lr`; `optimizer` for names."""
    section, _, key = name.partition(".")
    if key == "name":
        return section
    return key if sum(other.partition(".")[2] == key for other in names) == 1 else name


def _cells(rank: int, row: TrialRow, names: Sequence[str]) -> list[str]:
    scored = not math.isnan(row.mean_iou)
    return [
        str(rank) if scored else "-",
        str(row.trial),
        *(_value(row.values.get(name)) for name in names),
        f"{row.mean_iou:.4f}" if scored else "-",
        str(row.epochs) if row.epochs else "-",
        "-" if math.isnan(row.seconds) else f"{row.seconds:,.1f}",
        row.state,
    ]


def _facts(row: TrialRow, names: Sequence[str]) -> list[Any]:
    return [getattr(row, name) for name in names]


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)
