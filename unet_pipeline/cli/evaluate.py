"""`unet evaluate`: a model and a dataset -> scores."""

from __future__ import annotations

from typing import Annotated

from unet_pipeline.cli.options import ConfigOption, JsonOption, SetOption, print_result, setting
from unet_pipeline.config import EvaluateConfig, load_config
from unet_pipeline.settings_files import overrides_of


def command(
    model: Annotated[str | None, setting(EvaluateConfig, "model", "--model", "-m")] = None,
    data: Annotated[str | None, setting(EvaluateConfig, "data.path", "--data")] = None,
    format_name: Annotated[str | None, setting(EvaluateConfig, "data.format", "--format")] = None,
    images: Annotated[str | None, setting(EvaluateConfig, "data.images", "--images")] = None,
    masks: Annotated[str | None, setting(EvaluateConfig, "data.masks", "--masks")] = None,
    ignore_values: Annotated[
        str | None, setting(EvaluateConfig, "data.ignore_values", "--ignore-values")
    ] = None,
    split: Annotated[str | None, setting(EvaluateConfig, "split", "--split")] = None,
    output: Annotated[str | None, setting(EvaluateConfig, "output", "--output", "-o")] = None,
    num_pictures: Annotated[
        int | None, setting(EvaluateConfig, "num_pictures", "--num-pictures")
    ] = None,
    curves: Annotated[str | None, setting(EvaluateConfig, "curves", "--curves")] = None,
    window: Annotated[int | None, setting(EvaluateConfig, "inference.window", "--window")] = None,
    overlap: Annotated[
        float | None, setting(EvaluateConfig, "inference.overlap", "--overlap")
    ] = None,
    amp: Annotated[str | None, setting(EvaluateConfig, "runtime.amp", "--amp")] = None,
    device: Annotated[str | None, setting(EvaluateConfig, "runtime.device", "--device")] = None,
    tracking: Annotated[str | None, setting(EvaluateConfig, "tracking", "--tracking")] = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score a model on a split: tables, per-image CSV, confusion matrix, best and worst images."""
    settings = load_config(config, overrides_of(command, locals()), kind=EvaluateConfig)
    from unet_pipeline.stages import evaluate as stage

    result = stage.evaluate(settings)
    print_result(result.table(), result.summary() if as_json else None)
