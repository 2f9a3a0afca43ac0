"""What is to be said about a dataset: one finding a subject, with what mends it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
"""error: training would be wrong. warning: a person should look. note: what was assumed."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about a dataset.

    code: a stable name for programs, such as `unpaired-images`.
    message: what was seen, a sentence with its numbers. count: how many files, pairs or values.
    examples: the first five of them, paths inside the dataset or sample ids.
    remedy: the option or the action that mends it; empty for a note.
    """

    code: str
    severity: Severity
    message: str
    count: int = 1
    examples: tuple[str, ...] = ()
    remedy: str = ""

    def sentence(self) -> str:
        """All of it in one line."""
        shown = f" ({name_five(self.examples, self.count)})" if self.examples else ""
        return f"{self.message}{shown}" + (f"; {self.remedy}" if self.remedy else "")

    def summary(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self) | {"examples": list(self.examples)}


def name_five(items: Sequence[str], total: int | None = None) -> str:
    """The first five of `items`, and how many of `total` there are beyond."""
    total = len(items) if total is None else total
    shown = ", ".join(items[:5])
    beyond = total - min(len(items), 5)
    return shown + (f" and {beyond} more" if beyond > 0 else "")
