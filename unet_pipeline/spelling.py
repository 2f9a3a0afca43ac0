"""How people write settings: durations, sizes, lists, switches; and the ranges that numbers have.

YAML and the command line spell some things alike that mean different things: `off` is false to
YAML, `255` is a number, `3m` is text. The types here take all of them for what is meant.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

Fraction = Annotated[float, Field(ge=0, lt=1)]
PositiveInt = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


def parse_duration(value: Any) -> Any:
    """Seconds of `90`, `90s`, `3m`, `1h30m`; anything else passes through for the type check.

    >>> parse_duration("1h30m"), parse_duration("90s"), parse_duration(2)
    (5400.0, 90.0, 2)
    """
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s?)?", value.strip())
    if match is None or not any(match.groups()):
        raise ValueError("a duration looks like 90s, 3m or 1h30m")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def split_commas(value: Any) -> Any:
    """The parts of `a,b,c`, and numbers as text: YAML reads `255` as one, mask values are words."""
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",") if part.strip()]
        if not parts:
            raise ValueError("nothing is listed: give a value, or leave it out")
        return parts
    if isinstance(value, int | float):
        return [str(value)]
    if isinstance(value, list | tuple):
        return [str(part) if isinstance(part, int | float) else part for part in value]
    return value


def parse_switch(value: Any) -> Any:
    """`on` and `off` of what YAML takes them for: true and false."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def parse_size(value: Any) -> Any:
    """`256`, or height and width of `180x240`; `None` passes through.

    >>> parse_size("180x240"), parse_size("256")
    (['180', '240'], '256')
    """
    if value is None:
        return value
    parts = value.lower().split("x") if isinstance(value, str) else value
    sides = list(parts) if isinstance(parts, list | tuple) else [parts]
    if len(sides) > 2 or not all(re.fullmatch(r"\s*0*[1-9]\d*\s*", str(side)) for side in sides):
        raise ValueError(
            "a size is a number of pixels from 1 on, such as 256, or HEIGHTxWIDTH, as 180x240"
        )
    return sides if len(sides) == 2 else value


def without_credentials(text: str) -> str:
    """`text` with the user and password of every URL in it left out.

    >>> without_credentials("see https://me:secret@host:5000/path")
    'see https://host:5000/path'
    """
    return re.sub(r"(?<=://)[^/@\s]*@", "", text)


Words = Annotated[tuple[str, ...], pydantic.BeforeValidator(split_commas)]
Size = Annotated[
    PositiveInt | tuple[PositiveInt, PositiveInt] | None, pydantic.BeforeValidator(parse_size)
]


Switch = Annotated[Literal["on", "off"], pydantic.BeforeValidator(parse_switch)]
Tracking = Annotated[Literal["on", "off", "required"], pydantic.BeforeValidator(parse_switch)]

Precision = Annotated[Literal["auto", "on", "off"], pydantic.BeforeValidator(parse_switch)]
Seconds = Annotated[float, Field(gt=0), pydantic.BeforeValidator(parse_duration)]
