"""A diagnosis of a dataset in words: what `--check` prints, as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from unet_pipeline.classes import MaskValue
from unet_pipeline.console import as_text
from unet_pipeline.datasets.doctor import Diagnosis, value_rows
from unet_pipeline.datasets.findings import Finding

_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}
_MOST_VALUES = 40  # rows of the table of mask values; those with most pixels are shown


def diagnosis_text(diagnosis: Diagnosis) -> str:
    """Findings, mask values and splits as text for a terminal."""
    parts: list[RenderableType] = [_finding_lines(finding) for finding in diagnosis.findings]
    rows = value_rows(diagnosis)
    if rows:
        parts += [Text(), _value_table(rows)]
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
    counts = f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"
    return f"{counts}: " + ("training would be wrong" if errors else "it can be trained on")


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


def _value_table(rows: Sequence[tuple[MaskValue, int, int, str]]) -> Table:
    table = Table(title=f"{len(rows)} mask values", title_justify="left")
    for name, right in (("value", True), ("pixels", True), ("share", True), ("masks", True)):
        table.add_column(name, justify="right" if right else "left")
    table.add_column("taken for")
    total = sum(pixels for _, pixels, _, _ in rows)
    most = sorted(range(len(rows)), key=lambda place: -rows[place][1])[:_MOST_VALUES]
    for value, pixels, num_masks, meaning in (rows[place] for place in sorted(most)):
        table.add_row(
            show_value(value), f"{pixels:,}", f"{pixels / total:.3%}", f"{num_masks:,}", meaning
        )
    if len(rows) > _MOST_VALUES:
        table.add_row("...", "", "", "", f"{len(rows) - _MOST_VALUES} more")
    return table


def show_value(value: MaskValue) -> str:
    """A mask value as the options take it: 255, or 255/0/0."""
    return "/".join(map(str, value)) if isinstance(value, tuple) else str(value)


def diagnosis_summary(diagnosis: Diagnosis) -> dict[str, Any]:
    """The same, JSON-able."""
    facts = diagnosis.facts
    return {
        "ok": not diagnosis.errors,
        "findings": [finding.summary() for finding in diagnosis.findings],
        "mask_values": [
            {"value": value, "pixels": pixels, "masks": masks, "taken_for": meaning}
            for value, pixels, masks, meaning in value_rows(diagnosis)
        ],
        "num_pairs": len(diagnosis.scans),
        "facts": None if facts is None else facts.model_dump(mode="json"),
    }
