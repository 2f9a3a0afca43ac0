"""Recipes: settings under a name, so that ways to train are compared by one word each.

A recipe is a YAML file like any other of settings, and lies in this folder. What a settings file,
`--set` or an option says wins over it.
"""

from __future__ import annotations

from pathlib import Path

from unet_pipeline.errors import UserError, did_you_mean

DEFAULT_RECIPE = "modern"

RECIPES: dict[str, Path] = {
    path.stem: path for path in sorted(Path(__file__).parent.glob("*.yaml"))
}
"""Name -> file of settings."""


def recipe_file(name: str) -> Path:
    """The file of the recipe called `name`. Raises `UserError`, with the nearest, for no recipe."""
    if name not in RECIPES:
        raise UserError(f"unknown recipe {name!r}{did_you_mean(name, RECIPES)}")
    return RECIPES[name]


def about(name: str) -> str:
    """What the recipe called `name` says of itself: the comment that it begins with."""
    lines = []
    for line in recipe_file(name).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return " ".join(lines)
