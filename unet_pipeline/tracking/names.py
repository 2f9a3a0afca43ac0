"""Keys and values as MLflow accepts them, and the name of the experiment."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from unet_pipeline.errors import UserError
from unet_pipeline.spelling import without_credentials as without_credentials  # used beside these

MAX_KEY = 250
MAX_PARAM = 500
"""MLflow takes 6000, but nobody reads that in a table: the whole is in config.yaml."""
MAX_TAG = 8000
MAX_EXPERIMENT = 500


def experiment_name(option: str | None, *, default: str) -> str:
    """The experiment of a run: the option, else `MLFLOW_EXPERIMENT_NAME`, else `default`.

    Raises `UserError` for a name that no store takes, before any work is spent.
    """
    return check_experiment(option or os.environ.get("MLFLOW_EXPERIMENT_NAME") or default)


def check_experiment(name: str) -> str:
    """`name`, if it can be an experiment; raises `UserError` otherwise."""
    if not name.strip():
        raise UserError("the experiment's name is empty: give one with --experiment")
    if len(name) > MAX_EXPERIMENT:
        raise UserError(
            f"the experiment's name has {len(name)} characters, {name[:40]!r}...: "
            f"{MAX_EXPERIMENT} are possible"
        )
    if not name.isprintable():
        raise UserError(f"experiment {name!r}: unprintable characters; use plain text")
    if name == "Default":
        # A server started first gives it an artifact root that local runs cannot write to
        raise UserError("the experiment 'Default' belongs to MLflow itself: choose another name")
    return name


def check_model_name(name: str | None, *, option: str = "--register") -> str | None:
    """`name`, if it can be a registered model; raises `UserError` otherwise.

    MLflow itself takes an apostrophe, but cannot search for it.
    """
    if name is not None and (
        not name.strip() or not name.isprintable() or re.search("[/:@']", name)
    ):
        raise UserError(f"{option} {name!r}: a model's name is text without / : @ and '")
    return name


def clean_key(key: str, *, ascii_only: bool = False) -> str:
    """`key` with whatever MLflow refuses replaced by `_`; never empty.

    ascii_only: image keys and file names may not hold letters of other scripts.

    >>> clean_key("val/iou/cell (n=3) 50%"), clean_key("/a//../b")
    ('val/iou/cell _n_3_ 50_', 'a/b')
    """
    flags = re.ASCII if ascii_only else re.UNICODE
    allowed = r"[^\w\-. ]" if ascii_only else r"[^\w\-.: ]"
    parts = [re.sub(allowed, "_", part, flags=flags) for part in key.split("/")]
    kept = "/".join(part for part in parts if part.strip() and part not in (".", ".."))
    return kept[:MAX_KEY].rstrip("/ ") or "_"


def clean_keys(keys: Iterable[str]) -> dict[str, str]:
    """key -> clean key, one for each: where two would become the same, the later is numbered."""
    result: dict[str, str] = {}
    taken: set[str] = set()
    for key in keys:
        name, number = clean_key(key), 2
        while name in taken:
            name = f"{clean_key(key)[: MAX_KEY - 5]}_{number}"
            number += 1
        result[key] = name
        taken.add(name)
    return result


def finite_metrics(metrics: Mapping[str, Any]) -> tuple[dict[str, float], list[str]]:
    """(what can be charted, the keys of what is not finite), under clean keys.

    Infinity would be stored as 1.8e308 and ruin the scale of its chart. Fractions are rounded to
    six digits, about what float32 knows: the run table shows every digit that it is given.
    """
    finite: dict[str, float] = {}
    dropped: list[str] = []
    names = clean_keys(metrics)
    for key, value in metrics.items():
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            finite[names[key]] = number if number.is_integer() else float(f"{number:.6g}")
        else:
            dropped.append(names[key])
    return finite, dropped


def flat_params(params: Mapping[str, Any]) -> dict[str, str]:
    """Nested settings as `section.key` -> text, long values shortened.

    >>> flat_params({"loss": {"name": "ce"}, "lr": 1e-4, "crop": None, "size": (64, 64)})
    {'loss.name': 'ce', 'lr': '0.0001', 'crop': 'none', 'size': '[64, 64]'}
    """
    flat = dict(_flatten(params, ""))
    names = clean_keys(flat)
    return {names[key]: shorten(_text(value), MAX_PARAM) for key, value in flat.items()}


def flat_tags(tags: Mapping[str, Any]) -> dict[str, str]:
    """Tags under clean keys, their values as text that fits."""
    names = clean_keys(tags)
    return {names[key]: shorten(_text(value), MAX_TAG) for key, value in tags.items()}


def same_value(one: str, other: str) -> bool:
    """Whether two texts of a param mean the same: `mlflow run` logs 1e-4 and 'a b', quotes and all.

    >>> same_value("1e-4", "0.0001"), same_value("'my run'", "my run"), same_value("1", "2")
    (True, True, False)
    """
    if one == other:
        return True
    try:
        return float(one) == float(other)
    except ValueError:
        pass
    try:
        return shlex.split(one) == [other] or shlex.split(other) == [one]
    except ValueError:
        return False


def folder_name(name: str) -> str:
    """`name` as one plain folder's name.

    >>> folder_name("cells / 2024"), folder_name("../..")
    ('cells_2024', 'experiment')
    """
    return re.sub(r"[^\w.\-]+", "_", name).strip("._")[:80] or "experiment"


def shorten(text: str, limit: int) -> str:
    """`text`, cut where it is longer than `limit`, with dots to show it."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _flatten(params: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text(value: object) -> str:
    """A setting as YAML would show it, so that it can be typed again."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | PurePath):
        return str(value)
    if isinstance(value, list | tuple):
        return json.dumps(value, default=str, ensure_ascii=False)
    return str(value)
