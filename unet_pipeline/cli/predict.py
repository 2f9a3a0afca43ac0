"""`unet predict`: a model and images -> masks."""

from __future__ import annotations

from typing import Annotated

from unet_pipeline.cli.options import (
    ConfigOption,
    JsonOption,
    SetOption,
    argument,
    print_result,
    setting,
)
from unet_pipeline.config import PredictConfig, load_config
from unet_pipeline.settings_files import overrides_of

INPUTS_HELP = "Images, folders (searched deep), quoted globs."


def command(
    inputs: Annotated[list[str] | None, argument("inputs", INPUTS_HELP)] = None,
    model: Annotated[str | None, setting(PredictConfig, "model", "--model", "-m")] = None,
    output: Annotated[str | None, setting(PredictConfig, "output", "--output", "-o")] = None,
    save: Annotated[str | None, setting(PredictConfig, "save", "--save")] = None,
    window: Annotated[int | None, setting(PredictConfig, "inference.window", "--window")] = None,
    overlap: Annotated[
        float | None, setting(PredictConfig, "inference.overlap", "--overlap")
    ] = None,
    tta: Annotated[bool | None, setting(PredictConfig, "tta", "--tta/--no-tta")] = None,
    threshold: Annotated[float | None, setting(PredictConfig, "threshold", "--threshold")] = None,
    skip_existing: Annotated[
        bool | None,
        setting(PredictConfig, "skip_existing", "--skip-existing/--no-skip-existing"),
    ] = None,
    batch_size: Annotated[
        int | None, setting(PredictConfig, "batch_size", "--batch-size", "-b")
    ] = None,
    amp: Annotated[str | None, setting(PredictConfig, "runtime.amp", "--amp")] = None,
    device: Annotated[str | None, setting(PredictConfig, "runtime.device", "--device")] = None,
    track: Annotated[bool | None, setting(PredictConfig, "track", "--track/--no-track")] = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write masks for images, in the values of the training masks and at the original size."""
    settings = load_config(config, overrides_of(command, locals()), kind=PredictConfig)
    from unet_pipeline.stages import predict as stage

    result = stage.predict_files(settings)
    print_result(str(result.folder), result.summary() if as_json else None)
    result.raise_for_rejected()
