"""A diagnosis of a dataset in words: what `--check` prints, as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from unet_pipeline.classes import MaskValue
from unet_pipeline.console import as_text
from unet_pipeline.datasets.doctor import Diagnosis
from unet_pipeline.datasets.findings import Finding, counted
from unet_pipeline.datasets.found_classes import show_value
from unet_pipeline.datasets.value_table import value_rows

_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}
_MOST_VALUES = 40  # rows of the table of mask values, those of most pixels


def diagnosis_text(diagnosis: Diagnosis) -> str:
    """Findings, mask values and splits as text for a terminal."""
    parts: list[RenderableType] = [_finding_lines(finding) for finding in diagnosis.findings]
    if diagnosis.table is not None:
        parts += [Text(), _value_table(diagnosis)]
    if diagnosis.facts is not None:
        counts = diagnosis.facts.num_samples.items()
        splits = ", ".join(f"{count} {split}" for split, count in counts)
        parts += [Text(), Text(f"splits: {splits}")]
    parts += [Text(), Text(verdict(diagnosis.findings))]
    return as_text(Group(*parts))


def can_train(findings: Sequence[Finding]) -> bool:
    """Whether `unet train` takes a dataset of these findings."""
    return not any(f.severity == "error" or f.code == "empty-splits" for f in findings)


def verdict(findings: Sequence[Finding]) -> str:
    """How many findings of each severity, and what that means."""
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = sum(finding.severity == "warning" for finding in findings)
    last = "it can be trained on" if can_train(findings) else "it cannot be trained on yet"
    counts = f"{counted(errors, 'error')}, {counted(warnings, 'warning')}"
    return f"{counts}: " + ("training would be wrong" if errors else last)


def _finding_lines(finding: Finding) -> Text:
    line = Text()
    line.append(f"{finding.severity:8}", style=_STYLES[finding.severity])
    line.append(finding.message)
    line.append(f" [{finding.code}]", style="dim")
    for example in finding.examples:
        line.append(f"\n          {example}", style="dim")
    if finding.count > len(finding.examples) > 0:
        line.append(f"\n          and {finding.count - len(finding.examples)} more", style="dim")
    if finding.remedy:
        line.append(f"\n          -> {finding.remedy}")
    return line


class FrequentValues(NamedTuple):
    """Mask values for people: value, pixels, number of masks, what it is taken for.

    num_hidden: how many more there are.
    """

    rows: list[tuple[str, int, int, str]]
    num_hidden: int


def frequent_values(diagnosis: Diagnosis) -> FrequentValues:
    """The values with most pixels, in their order; all numbers of objects are one row."""
    rows = value_rows(diagnosis.table, diagnosis.classes)
    numbers = _object_numbers(diagnosis)
    plain = [row for row in rows if row[0] not in numbers]
    most = sorted(range(len(plain)), key=lambda place: -plain[place][1])[:_MOST_VALUES]
    shown = [(show_value(plain[i][0]), *plain[i][1:]) for i in sorted(most)]
    if numbers:
        own = [row for row in rows if row[0] in numbers]
        num_masks = sum(not numbers.isdisjoint(scan.mask.counts) for scan in diagnosis.scans)
        name = f"{own[0][0]} to {own[-1][0]} (object numbers)"
        shown.append((name, sum(row[1] for row in own), num_masks, own[0][3]))
    return FrequentValues(shown, len(plain) - len(most))


def _object_numbers(diagnosis: Diagnosis) -> set[MaskValue]:
    """The values that number objects, which are all of one class; empty where none do."""
    table, classes = diagnosis.table, diagnosis.classes
    if table is None or table.numbering is None or classes is None or classes.other is None:
        return set()
    numbers: set[MaskValue] = set(table.uses)  # of grey masks, so that none is a packed colour
    others = {value for k, value in enumerate(classes.values) if k != classes.other}
    return numbers - others - set(classes.ignore_values)


def _value_table(diagnosis: Diagnosis) -> Table:
    every = value_rows(diagnosis.table, diagnosis.classes)
    rows, num_hidden = frequent_values(diagnosis)
    value_table = diagnosis.table
    if value_table is None or not every:
        return Table()
    title = counted(len(every), "mask value")
    if not value_table.complete:
        title = f"more than {title}"
    table = Table(title=title, title_justify="left")
    for name in ("value", "pixels", "share", "masks"):
        table.add_column(name, justify="right")
    table.add_column("taken for")
    for value, pixels, num_masks, meaning in rows:
        table.add_row(
            value,
            f"{pixels:,}",
            f"{pixels / value_table.num_pixels:.3%}",
            f"{num_masks:,}",
            meaning,
        )
    if num_hidden:
        table.add_row("...", "", "", "", f"{num_hidden} more")
    return table


def diagnosis_summary(diagnosis: Diagnosis) -> dict[str, Any]:
    """The same, JSON-able."""
    facts = diagnosis.facts
    return {
        "ok": can_train(diagnosis.findings),
        "findings": [finding.summary() for finding in diagnosis.findings],
        "mask_values": [
            {"value": value, "pixels": pixels, "masks": masks, "taken_for": meaning}
            for value, pixels, masks, meaning in value_rows(diagnosis.table, diagnosis.classes)
        ],
        "num_pairs": len(diagnosis.scans),
        "facts": None if facts is None else facts.model_dump(mode="json"),
    }
