"""A diagnosis of a dataset in words: what `--check` prints, as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from unet_pipeline.classes import MaskValue
from unet_pipeline.console import as_text
from unet_pipeline.datasets.doctor import Diagnosis
from unet_pipeline.datasets.findings import Finding
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


def verdict(findings: Sequence[Finding]) -> str:
    """How many findings of each severity, and what that means."""
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = sum(finding.severity == "warning" for finding in findings)
    trainable = not any(finding.code == "empty-splits" for finding in findings)
    last = "it can be trained on" if trainable else "it cannot be trained on yet"
    counts = f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"
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


def frequent_rows(diagnosis: Diagnosis) -> list[tuple[MaskValue, int, int, str]]:
    """The rows of the values with most pixels, in the order of the values."""
    rows = value_rows(diagnosis.table, diagnosis.classes)
    most = sorted(range(len(rows)), key=lambda place: -rows[place][1])[:_MOST_VALUES]
    return [rows[place] for place in sorted(most)]


def _value_table(diagnosis: Diagnosis) -> Table:
    every, rows = value_rows(diagnosis.table, diagnosis.classes), frequent_rows(diagnosis)
    table = Table(title=f"{len(every)} mask values", title_justify="left")
    for name in ("value", "pixels", "share", "masks"):
        table.add_column(name, justify="right")
    table.add_column("taken for")
    total = sum(pixels for _, pixels, _, _ in every)
    for value, pixels, num_masks, meaning in rows:
        table.add_row(
            show_value(value), f"{pixels:,}", f"{pixels / total:.3%}", f"{num_masks:,}", meaning
        )
    if len(every) > len(rows):
        table.add_row("...", "", "", "", f"{len(every) - len(rows)} more")
    return table


def diagnosis_summary(diagnosis: Diagnosis) -> dict[str, Any]:
    """The same, JSON-able."""
    facts = diagnosis.facts
    return {
        "ok": not diagnosis.errors,
        "findings": [finding.summary() for finding in diagnosis.findings],
        "mask_values": [
            {"value": value, "pixels": pixels, "masks": masks, "taken_for": meaning}
            for value, pixels, masks, meaning in value_rows(diagnosis.table, diagnosis.classes)
        ],
        "num_pairs": len(diagnosis.scans),
        "facts": None if facts is None else facts.model_dump(mode="json"),
    }
