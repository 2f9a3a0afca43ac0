"""list: the catalogues -> what each name stands for, and its options with their defaults."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from unet_pipeline.catalogue import Description, describe
from unet_pipeline.console import as_text
from unet_pipeline.datasets.formats.catalogue import FORMATS
from unet_pipeline.datasets.transforms import TRANSFORMS
from unet_pipeline.errors import UserError, did_you_mean
from unet_pipeline.models import NETWORKS, RULES
from unet_pipeline.models.initializers import INITIALIZERS
from unet_pipeline.models.smp import smp_catalogue
from unet_pipeline.recipes import RECIPES, about
from unet_pipeline.training import CRITERIA, LOSSES, OPTIMIZERS, SCHEDULES


@dataclass(frozen=True)
class Listing:
    """One catalogue: its entries, and names that are known but cannot be used, with the reason."""

    kind: str
    entries: dict[str, Description]
    refused: dict[str, str]

    def summary(self) -> dict[str, Any]:
        """JSON-able."""
        entries = {
            name: {"summary": entry.summary, "options": entry.options}
            for name, entry in self.entries.items()
        }
        return {"kind": self.kind, "entries": entries, "refused": self.refused}

    def table(self) -> str:
        """The catalogue as a table of text."""
        table = Table(title=self.kind, show_lines=True)
        for column in ("name", "what it is", "options and defaults"):
            table.add_column(column, overflow="fold")
        for name, entry in self.entries.items():
            options = ", ".join(f"{k}={_as_text(v)}" for k, v in entry.options.items())
            table.add_row(Text(name, style="bold"), Text(entry.summary), Text(options or "-"))
        for name, reason in self.refused.items():
            table.add_row(Text(name, style="dim"), Text(f"not for {self.kind}: {reason}"), "")
        return as_text(table)


def list_catalogue(kind: str) -> Listing:
    """The catalogue called `kind`, one of `KINDS`; another one is a `UserError`."""
    if kind not in KINDS:
        raise UserError(f"unknown catalogue {kind!r}{did_you_mean(kind, KINDS)}")
    catalogue, given = KINDS[kind]()
    entries = {name: describe(factory, given=given) for name, factory in catalogue.items()}
    refused = {}
    if kind == "formats":
        entries = {name: Description(entry.about, {}) for name, entry in FORMATS.items()}
    if kind == "recipes":
        entries = {name: Description(about(name), {}) for name in RECIPES}
    if kind == "losses":
        refused = {name: c.reason for name, c in CRITERIA.items() if c.dense is None}
    if kind == "models":
        refused = dict.fromkeys(RULES, "nothing to train; `unet train --baselines` scores it")
    return Listing(kind, entries, refused)


Catalogue = tuple[Mapping[str, Callable[..., Any]], tuple[str, ...]]

KINDS: dict[str, Callable[[], Catalogue]] = {
    "models": lambda: (NETWORKS | smp_catalogue(), ("in_channels", "num_classes")),
    "losses": lambda: (LOSSES, ("ignore_index",)),
    "initializers": lambda: (INITIALIZERS, ()),
    "optimizers": lambda: (OPTIMIZERS, ()),
    "schedules": lambda: (SCHEDULES, ()),
    "transforms": lambda: (TRANSFORMS, ("image_size", "value_range")),
    "recipes": lambda: ({name: functools.partial(about, name) for name in RECIPES}, ()),
    "formats": lambda: ({name: entry.read for name, entry in FORMATS.items()}, ()),
}
"""kind -> the catalogue, and the parameters of its factories that are no options."""


def _as_text(value: Any) -> str:
    """A default as YAML has it."""
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
