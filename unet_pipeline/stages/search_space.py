"""What a sweep tries: `lr=1e-4:1e-2:log` -> values for a setting, each of them checked.

A setting is named as by its option on the command line, or by its dotted name; the options of a
component (`optimizer.weight_decay`, `model.depth`) are settings like others. Whether `8:32` means
whole numbers follows from the type that the setting has.
"""

from __future__ import annotations

import inspect
import math
import operator
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import pydantic
import torch

from unet_pipeline.catalogue import complete, lookup
from unet_pipeline.config import PLANNED, TrainConfig, load_config
from unet_pipeline.datasets.manifest import DatasetFacts
from unet_pipeline.errors import UserError, did_you_mean
from unet_pipeline.models import NETWORKS, RULES, build_network, complete_options
from unet_pipeline.models.smp import PREFIX
from unet_pipeline.settings_files import ComponentSettings, setting_names
from unet_pipeline.stages.assembly import COMPONENTS
from unet_pipeline.training import parse_loss
from unet_pipeline.training.run_folder import slug

Value = bool | int | float | str

_SHARED = {
    "data": "all trials see the same data",
    "output": "it says where runs go",
    "recipe": "give it with --recipe",
    "training.budget_seconds": "trials share the --budget",
}


@dataclass(frozen=True)
class Choices:
    """A few values of a setting."""

    setting: str
    values: tuple[Value, ...]

    @property
    def count(self) -> int:
        """How many values there are."""
        return len(self.values)

    @property
    def extremes(self) -> tuple[Value, ...]:
        """Values that are valid only if all are."""
        return self.values

    @property
    def typical(self) -> Value:
        """A value to plan with."""
        return self.values[0]

    def __str__(self) -> str:
        return ",".join(map(as_text, self.values))


@dataclass(frozen=True)
class Span:
    """A range of numbers, both ends included; `step` apart, or on a logarithmic scale."""

    setting: str
    low: float
    high: float
    step: float | None = None
    log: bool = False
    whole: bool = False

    @property
    def count(self) -> int | None:
        """How many values there are; None for a continuous range."""
        step = 1 if self.whole and self.step is None else self.step
        return None if step is None else 1 + math.floor((self.high - self.low) / step + 1e-9)

    @property
    def extremes(self) -> tuple[Value, ...]:
        """Values that are valid only if all are."""
        return (self.low, self.high)

    @property
    def typical(self) -> Value:
        """A value to plan with: the middle, as far as steps have one."""
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        step = 1 if self.whole and self.step is None else self.step
        if step is not None:
            middle = self.low + step * math.floor((middle - self.low) / step)
        return int(middle) if self.whole else middle

    def __str__(self) -> str:
        end = ":log" if self.log else "" if self.step is None else f":{as_text(self.step)}"
        return f"{as_text(self.low)}:{as_text(self.high)}{end}"


Param = Choices | Span


def parse_space(texts: Sequence[str], config: TrainConfig) -> tuple[Param, ...]:
    """What `NAME=VALUES` arguments mean, typed by the settings that they name.

    config: the settings that are the same in all trials.
    Raises `UserError`, quoting the argument, for a name that no setting has (with the nearest one),
    a value that its setting refuses, a range without a width, and what would not vary.
    """
    if not texts:
        raise UserError("a sweep needs something to try: --param lr=1e-4:1e-2:log, for example")
    split = [_split(text) for text in texts]
    for setting, _, text in split:
        if sum(other == setting for other, _, _ in split) > 1:
            raise UserError(f"--param {text}: {setting} is swept twice; keep one")
    space: list[Param] = []
    # The names of components first: what the options of one are, these decide
    for setting, values, text in sorted(split, key=lambda part: not part[0].endswith(".name")):
        typical = assign(config, {param.setting: param.typical for param in space})
        try:
            space.append(_parse(setting, values, typical))
        except UserError as error:
            raise UserError(f"--param {text}: {error}") from error
    order = [setting for setting, _, _ in split]
    return tuple(sorted(space, key=lambda param: order.index(param.setting)))


def check_space(space: Sequence[Param], config: TrainConfig, facts: DatasetFacts) -> None:
    """Raise `UserError` for a value that a catalogue, the data or another value refuses.

    Each value is tried with the usual ones of the other settings; networks are built, but those
    of smp, whose weights may have to be fetched.
    """
    usual = {param.setting: param.typical for param in space}
    for param in space:
        for value in param.extremes:
            try:
                _check(assign(config, usual | {param.setting: value}), facts)
            except UserError as error:
                raise UserError(f"--param {param.setting}={as_text(value)}: {error}") from error


def assign(config: TrainConfig, values: Mapping[str, Value]) -> TrainConfig:
    """`config` with these settings; options of a component go with its former name."""
    tree = config.model_dump(exclude_unset=True)
    for setting, value in values.items():
        section, _, key = setting.partition(".")
        below = tree.setdefault(section, {})
        kind = _section(section)
        if key == "name" and issubclass(kind, ComponentSettings):
            if getattr(config, section).name != value:
                tree[section] = {k: v for k, v in below.items() if k in kind.model_fields}
            tree[section]["name"] = value
    for setting, value in values.items():
        section, _, key = setting.partition(".")
        tree[section][key] = value
    return TrainConfig.model_validate(tree)


def with_plan(config: TrainConfig, planned: TrainConfig, space: Sequence[Param]) -> TrainConfig:
    """`config` with what is planned once for all trials, so that they differ in `space` alone.

    planned: the completed settings of a typical trial. Where networks differ, each trial is
    planned for its own, as far as that is left open.
    """
    swept = {param.setting for param in space}
    if "model.name" in swept:
        return config
    tree = config.model_dump(exclude_unset=True)
    for section, keys in PLANNED.items():
        below = tree.setdefault(section, {})
        whole = planned.model_dump(mode="json").get(section, {})
        for key in keys:
            if f"{section}.{key}" not in swept and whole.get(key) is not None:
                below.setdefault(key, whole[key])
    if "training.loss" not in swept:
        tree["training"].setdefault("loss", planned.training.loss)
    return TrainConfig.model_validate(tree)


def name_of(values: Mapping[str, Value]) -> str:
    """The values of a trial as a part of a folder's name.

    >>> name_of({"training.loss": "ce + dice", "optimizer.lr": 0.00312345})
    'ce+dice-lr0.00312'
    """
    words = []
    for setting, value in values.items():
        key = setting.rpartition(".")[2]
        number = isinstance(value, int | float)
        short = f"{value:.3g}" if isinstance(value, float) else as_text(value)
        words.append(f"{key}{short}" if number or key not in ("name", "loss") else short)
    return slug("-".join(words))[:80].strip("-.")


def as_text(value: Value) -> str:
    """A value as it can be typed again."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def num_combinations(space: Sequence[Param]) -> int | None:
    """How many different trials there can be; None for any number of them."""
    counts = [param.count for param in space]
    return None if None in counts else math.prod(count for count in counts if count is not None)


# ---- parsing ------------------------------------------------------------------------------------


def _split(text: str) -> tuple[str, str, str]:
    setting, separator, values = (part.strip() for part in text.partition("="))
    if not separator or not setting or not values:
        raise UserError(f"--param {text}: write it as NAME=a,b,c or NAME=LOW:HIGH")
    section, _, key = setting.partition(".")
    reason = _SHARED.get(setting) or _SHARED.get(section)
    if reason:
        raise UserError(f"--param {text}: {setting} cannot be swept: {reason}")
    known = [name for name in setting_names(TrainConfig) if name.split(".")[0] not in _SHARED]
    is_option = section in TrainConfig.model_fields and issubclass(
        _section(section), ComponentSettings
    )
    if setting not in known and not (key and is_option):
        raise UserError(
            f"--param {text}: unknown setting {setting!r}{did_you_mean(setting, known)}"
        )
    return setting, values, text


def _section(name: str) -> type[pydantic.BaseModel]:
    annotation = TrainConfig.model_fields[name].annotation
    assert isinstance(annotation, type)
    assert issubclass(annotation, pydantic.BaseModel)
    return annotation


def _parse(setting: str, text: str, config: TrainConfig) -> Param:
    kinds = _kinds(setting, config)
    numeric = kinds & {int, float}
    if numeric and ":" in text:
        return _parse_span(setting, text, whole=float not in kinds)
    values = [_typed(setting, part, kinds) for part in _parts(text)]
    doubled = [value for n, value in enumerate(values) if value in values[:n]]
    if doubled:
        raise UserError(f"{as_text(doubled[0])} is there twice")
    if len(values) < 2:
        way = "a,b,c or a range LOW:HIGH" if numeric else "a,b,c"
        raise UserError(f"one value is nothing to compare: give {way}, or --set {setting}={text}")
    return Choices(setting, tuple(values))


def _parts(text: str) -> list[str]:
    """The parts between commas that stand in no brackets: options of losses have commas too."""
    parts = [part.strip() for part in re.split(r",(?![^(\[]*[)\]])", text)]
    if not all(parts):
        raise UserError("there is an empty value between the commas")
    return parts


def _parse_span(setting: str, text: str, *, whole: bool) -> Span:
    low, high, *rest = (part.strip() for part in text.split(":"))
    if len(rest) > 1 or "," in text:
        raise UserError("a range is LOW:HIGH, LOW:HIGH:log or LOW:HIGH:STEP")
    log = rest == ["log"]
    first, last = _number(setting, low, whole), _number(setting, high, whole)
    step = _number(setting, rest[0], whole) if rest and not log else None
    if not first < last:
        raise UserError(f"the range ends at {high}, where it should be above {low}")
    if log and first <= 0:
        raise UserError(f"a logarithmic range begins above 0, not at {low}")
    if step is not None:
        if not 0 < step <= last - first:
            raise UserError(f"a step of {rest[0]} does not lead from {low} to {high}")
        last = first + (last - first) // step * step
    for value in (first, last):
        _typed(setting, str(value), {int if whole else float})
    as_kind = int if whole else float
    return Span(
        setting,
        as_kind(first),
        as_kind(last),
        step=None if step is None else as_kind(step),
        log=log,
        whole=whole,
    )


def _number(setting: str, text: str, whole: bool) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise UserError(f"{text!r} is no number") from None
    if not number.is_finite():
        raise UserError(f"{text!r} is no number")
    if whole and number != int(number):
        raise UserError(f"{setting} takes whole numbers, not {text}")
    return number


def _typed(setting: str, text: str, kinds: set[Any]) -> Value:
    """The value that `text` is for the setting; `UserError` for one that it refuses."""
    section, _, key = setting.partition(".")
    if key in _section(section).model_fields:
        value = operator.attrgetter(setting)(load_config(overrides={setting: text}))
        return value if isinstance(value, bool | int | float | str) else text
    if bool in kinds and text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        if kind in kinds or kinds == {int, float}:
            try:
                return kind(text)
            except ValueError:
                pass
    if str in kinds:
        return text
    wanted = {bool: "true or false", int: "whole numbers", float: "numbers"}
    names = " or ".join(word for kind, word in wanted.items() if kind in kinds)
    raise UserError(f"{setting} takes {names}, not {text!r}")


def _kinds(setting: str, config: TrainConfig) -> set[Any]:
    """The plain types that a setting may have: of the field, or of the component's parameter."""
    section, _, key = setting.partition(".")
    field = _section(section).model_fields.get(key)
    if field is not None:
        return _plain_types(field.annotation)
    name = getattr(config, section).name
    if section == "model":
        defaults = complete_options(name, {})
        factory = (NETWORKS | RULES).get(name)
    elif name is None:
        raise UserError(f"{setting} needs a name: --set {section}.name=NAME")
    else:
        [(catalogue, given)] = [entry[1:] for entry in COMPONENTS if entry[0] == section]
        factory = lookup(catalogue, name, kind=section)
        defaults = complete(factory, {}, label=f"{section} {name}", given=given)
    if key not in defaults:
        known = [*defaults, *_section(section).model_fields]
        raise UserError(f"{section} {name} has no option {key!r}{did_you_mean(key, known)}")
    if factory is not None:
        function = factory.__init__ if inspect.isclass(factory) else factory
        return _plain_types(typing.get_type_hints(function)[key])
    default = defaults[key]  # of a network of another library
    return {str} if default is None else {type(default)}


def _plain_types(annotation: Any) -> set[Any]:
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return {type(part) for part in parts}
    if typing.get_origin(annotation) is typing.Annotated:
        return _plain_types(parts[0])
    if not parts:
        return {annotation} & {bool, int, float, str}
    if typing.get_origin(annotation) in (tuple, list, dict):
        return {str}
    return set().union(*map(_plain_types, parts))


def _check(config: TrainConfig, facts: DatasetFacts) -> None:
    """Raise `UserError` for names and options that do not go together, or not with the data."""
    name, counts = config.model.name, {"num_classes": facts.classes.num_classes}
    if name in RULES:
        raise UserError(f"model {name} has nothing to train")
    complete_options(name, config.model.options)
    if not name.startswith(PREFIX):
        with torch.device("meta"):  # no memory, no time
            build_network(name, config.model.options, in_channels=facts.in_channels, **counts)
    if config.training.loss is not None:
        parse_loss(config.training.loss, class_pixel_counts=facts.class_pixel_counts, **counts)
    for section, catalogue, given in COMPONENTS:
        settings: ComponentSettings = getattr(config, section)
        component: str | None = vars(settings)["name"]
        if component is not None:
            factory = lookup(catalogue, component, kind=section)
            complete(factory, settings.options, label=f"{section} {component}", given=given)
