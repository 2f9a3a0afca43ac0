"""Settings as people write them: a YAML file, `--set section.key=value`, options of a command.

Whatever the settings are (`config.py` has them), they are read, refused and written alike.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, get_args, get_type_hints

import pydantic
import yaml

from unet_pipeline.errors import UserError, did_you_mean

Config = TypeVar("Config", bound=pydantic.BaseModel)


class Settings(pydantic.BaseModel):
    """A section: frozen, and a key that it does not know is an error."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", validate_default=True, coerce_numbers_to_str=True
    )


class ComponentSettings(pydantic.BaseModel):
    """A named entry of a catalogue; every further key is an option of that entry's signature."""

    model_config = pydantic.ConfigDict(frozen=True, extra="allow", coerce_numbers_to_str=True)

    @property
    def options(self) -> dict[str, Any]:
        """The options that were given, unchecked: the catalogue knows them, not this file."""
        return dict(self.model_extra or {})


def read_settings(
    kind: type[Config],
    path: str | Path | None,
    overrides: Mapping[str, Any] | None,
    *,
    recipe_file: Callable[[str], Path] | None = None,
    without: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Config:
    """Settings of `kind`: the YAML file at `path`, then `overrides` by dotted name.

    recipe_file: where the settings lie that the key `recipe` names; they come before all others.
    without: the keys of each section that do not count in the file.
    Raises `UserError` for a file that is missing or no YAML, a key that is not known (with the
    nearest one) and a value of the wrong type or range.
    """
    tree = _read_yaml(Path(path)) if path is not None else {}
    for section, keys in without.items():
        if "name" in keys:  # the options of a component go with it
            tree.pop(section, None)
        elif isinstance(below := tree.get(section), dict):
            tree[section] = {key: value for key, value in below.items() if key not in keys}
    origin = f"{path}: " if path is not None else ""
    for name, value in (overrides or {}).items():
        if isinstance(value, str) and not _is_text(value):
            raise UserError(
                f"{name} = {value!r}: holds bytes that are no UTF-8, which neither config.yaml nor "
                "MLflow can keep; rename the file or folder"
            )
        _assign(tree, name, value)
    if recipe_file is not None and isinstance(tree.get("recipe"), str):
        tree = _above(tree, _read_yaml(recipe_file(tree["recipe"])))
    try:
        return kind.model_validate(tree)
    except pydantic.ValidationError as error:
        raise UserError(origin + _explain(error, kind)) from error


def dump_config(config: pydantic.BaseModel) -> str:
    """The settings as YAML that `read_settings` reads back to the same object."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def parse_assignments(assignments: tuple[str, ...] | list[str]) -> dict[str, Any]:
    """The overrides of `--set section.key=value` arguments; values are read as YAML.

    >>> parse_assignments(["model.base_channels=16", "optimizer.lr=1e-3"])
    {'model.base_channels': 16, 'optimizer.lr': '1e-3'}
    """
    overrides = {}
    for text in assignments:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise UserError(f"--set {text}: write it as section.key=value")
        if name.strip() in overrides:
            raise UserError(f"{name.strip()} is set twice by --set; keep one")
        try:
            overrides[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"--set {text}: the value is no YAML; quote it") from error
    return overrides


def overrides_of(command: Callable[..., None], values: dict[str, Any]) -> dict[str, Any]:
    """The settings that the command line gives, by dotted name: options and `--set` together.

    command: its parameters that are settings are annotated with a mark whose `setting` is the name.
    values: the command's arguments. None counts as not given, and so does the empty string that
    `mlflow run` sends; from elsewhere it is an error, as of a variable of a shell that is not set.
    The same setting given twice is an error.
    """
    overrides = parse_assignments(values["assignments"] or [])
    for name, hint in get_type_hints(command, include_extras=True).items():
        settings = [mark.setting for mark in get_args(hint)[1:] if hasattr(mark, "setting")]
        if not settings or values[name] is None or values[name] in ("", []):
            if settings and values[name] == "" and "MLFLOW_RUN_ID" not in os.environ:
                raise UserError(f"{settings[0]} is empty: give a value, or leave it out")
            continue
        if settings[0] in overrides:
            raise UserError(f"{settings[0]} is set twice: by its own option and by --set; keep one")
        overrides[settings[0]] = values[name]
    return overrides


def describe_setting(kind: type[pydantic.BaseModel], name: str) -> tuple[str, Any]:
    """The help line and the default of the setting called `section.key`."""
    *sections, key = name.split(".")
    for section in sections:
        annotation = kind.model_fields[section].annotation
        assert isinstance(annotation, type)
        kind = annotation
    field = kind.model_fields[key]
    return field.description or "", field.default


def setting_names(kind: type[pydantic.BaseModel], prefix: str = "") -> list[str]:
    """The dotted names of all settings of `kind`."""
    names = []
    for key, field in kind.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
            names += setting_names(annotation, f"{prefix}{key}.")
        else:
            names.append(prefix + key)
    return names


def _is_text(value: str) -> bool:
    """Whether it can be written down: the bytes of a file name need not be text."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"no settings file {path}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"cannot read the settings file {path}: {reason}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path}: settings are sections with keys, this file holds {tree!r:.60}")
    return tree


def _above(tree: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    """`tree`, and of `recipe` what it leaves open.

    The options of a component go with its name: those of another optimizer are none of this one.
    """
    merged = recipe | tree
    for section, below in recipe.items():
        own = tree.get(section)
        if isinstance(own, dict):
            other = own.get("name", below.get("name")) != below.get("name")
            merged[section] = own if other else below | own
    return merged


def _assign(tree: dict[str, Any], name: str, value: Any) -> None:
    *sections, key = name.split(".")
    for section in sections:
        below = tree.setdefault(section, {})
        if not isinstance(below, dict):
            raise UserError(f"setting {name}: {section} holds the value {below!r}, not a section")
        tree = below
    tree[key] = value


def _explain(error: pydantic.ValidationError, kind: type[pydantic.BaseModel]) -> str:
    """One line for the first problem that pydantic found."""
    problem = error.errors()[0]
    # parts of unions add the type to the place; the name of the setting is what users know
    parts = [str(part) for part in problem["loc"] if re.fullmatch(r"[a-z_]+\d*", str(part))]
    while parts and parts[-1] in {"int", "tuple", "float", "str", "constrained"}:
        parts.pop()
    place = ".".join(parts) or "settings"
    if problem["type"] == "extra_forbidden":
        return f"unknown setting {place!r}" + _suggest(place, kind)
    if str(problem["input"]).strip().lower() == "nan":
        return f"{place} = nan, which is no number: use one{range_of(kind, place)}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{place} = {problem['input']!r}: {message[:1].lower()}{message[1:]}"


def range_of(kind: type[pydantic.BaseModel], name: str) -> str:
    """The end of a sentence: which numbers the setting called `section.key` may be; or nothing.

    >>> from unet_pipeline.config import TrainConfig
    >>> range_of(TrainConfig, "data.val_fraction")
    ' that is at least 0 and less than 1'
    """
    *sections, key = name.split(".")
    for section in sections:
        annotation = kind.model_fields[section].annotation
        assert isinstance(annotation, type)
        kind = annotation
    field = kind.model_fields.get(key)
    marks = [] if field is None else [*field.metadata, *_marks(field.annotation)]
    limits = [
        f"{words} {value:g}"
        for attribute, words in _LIMITS.items()
        for value in [getattr(mark, attribute, None) for mark in marks]
        if isinstance(value, int | float)
    ]
    return f" that is {' and '.join(limits)}" if limits else ""


def _marks(annotation: Any) -> list[Any]:
    """What stands beside the types in an annotation, at any depth."""
    own = list(getattr(annotation, "__metadata__", ()))
    own = [inner for mark in own for inner in (mark, *getattr(mark, "metadata", ()))]
    return own + [mark for part in get_args(annotation) for mark in _marks(part)]


_LIMITS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def _suggest(place: str, kind: type[pydantic.BaseModel]) -> str:
    section = place.split(".")[0]
    if section in kind.model_fields:
        names = [name for name in setting_names(kind) if name.startswith(section)]
        return did_you_mean(place, names)
    return did_you_mean(place, kind.model_fields)
