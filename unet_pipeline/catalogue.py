"""Name + options -> checked, completed, called.

A catalogue is a dict literal, name -> factory. The options of an entry are the keyword-only
parameters of its factory: their names, types and defaults are read from the signature, so nothing
is declared twice, and a third party adds an entry by adding to the dict.
"""

from __future__ import annotations

import functools
import inspect
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import pydantic

from unet_pipeline.errors import UserError, did_you_mean

Entry = TypeVar("Entry")


def lookup(catalogue: Mapping[str, Entry], name: str, *, kind: str) -> Entry:
    """The entry called `name`; an unknown name is a `UserError` that names the nearest one."""
    if name not in catalogue:
        raise UserError(f"unknown {kind} {name!r}{did_you_mean(name, catalogue)}")
    return catalogue[name]


def complete(
    factory: Callable[..., Any],
    options: Mapping[str, Any],
    *,
    label: str,
    given: tuple[str, ...] = (),
) -> dict[str, Any]:
    """All options of `factory`: those of `options`, checked and coerced, the rest by default.

    label: what messages call the component, such as "model unet".
    given: parameters that the caller supplies itself (facts of the data) and nobody may set.
    Raises `UserError` for an unknown option, a value of another type, one that is given, and one
    without default that is missing.
    """
    schema = _schema(factory)
    known = [name for name in schema.model_fields if name not in given]
    for name in options:
        if name in given:
            raise UserError(f"{label}: {name} comes from the data and cannot be set; leave it out")
        if name not in known:
            raise UserError(f"{label} has no option {name!r}{did_you_mean(name, known)}")
    parameters = inspect.signature(factory).parameters
    for name in known:
        if name not in options and parameters[name].default is inspect.Parameter.empty:
            raise UserError(f"{label} needs the option {name!r}; give it a value")
    try:
        values = schema.model_validate(dict(options))
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        place = str(problem["loc"][0])  # what follows are types that it could have been
        raise UserError(
            f"{label}: {place} = {problem['input']!r}: {problem['msg'].lower()}"
        ) from error
    for name in known:
        value = getattr(values, name)
        if isinstance(value, float) and math.isnan(value):
            raise UserError(f"{label}: {name} = nan, which is no number: use a finite number")
    return {name: getattr(values, name) for name in known}


@dataclass(frozen=True)
class Description:
    """An entry for readers: the first line of its docstring; its options with their defaults."""

    summary: str
    options: dict[str, Any]


def describe(factory: Callable[..., Any], *, given: tuple[str, ...] = ()) -> Description:
    """What `factory` is; `given` are the parameters that the caller supplies itself.

    An option that must be given has the default `...`.
    """
    lines = (inspect.getdoc(factory) or "").partition("\n\n")[0].splitlines()
    options = {
        name: "..." if parameter.default is inspect.Parameter.empty else parameter.default
        for name, parameter in inspect.signature(factory).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in given
    }
    return Description(" ".join(lines), options)


@functools.cache
def _schema(factory: Callable[..., Any]) -> type[pydantic.BaseModel]:
    """A pydantic model of the keyword-only parameters of `factory`."""
    function = factory.__init__ if inspect.isclass(factory) else factory
    hints = typing.get_type_hints(function)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(factory).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        required = parameter.default is inspect.Parameter.empty
        # `complete` says what is missing; what the caller supplies itself needs no value here
        fields[name] = (hints.get(name, Any), None if required else parameter.default)
    # an option may be called model_something without a warning
    rules = pydantic.ConfigDict(extra="forbid", protected_namespaces=())
    return pydantic.create_model("Options", __config__=rules, **fields)
