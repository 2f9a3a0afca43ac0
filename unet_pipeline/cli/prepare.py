"""`unet prepare`: a source of images and masks -> a dataset."""

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
from unet_pipeline.config import PrepareConfig, load_config
from unet_pipeline.settings_files import overrides_of

SOURCE_HELP = (
    "Folder of images and masks, annotation file, or torchvision:NAME; without it, the embedded "
    "sample data."
)


def command(
    source: Annotated[str | None, argument("data.path", SOURCE_HELP)] = None,
    output: Annotated[str | None, setting(PrepareConfig, "output", "--output", "-o")] = None,
    check: Annotated[bool | None, setting(PrepareConfig, "check", "--check")] = None,
    fix: Annotated[bool | None, setting(PrepareConfig, "fix", "--fix")] = None,
    export: Annotated[str | None, setting(PrepareConfig, "export", "--export")] = None,
    format_name: Annotated[str | None, setting(PrepareConfig, "data.format", "--format")] = None,
    images: Annotated[str | None, setting(PrepareConfig, "data.images", "--images")] = None,
    masks: Annotated[str | None, setting(PrepareConfig, "data.masks", "--masks")] = None,
    ignore_values: Annotated[
        str | None, setting(PrepareConfig, "data.ignore_values", "--ignore-values")
    ] = None,
    class_names: Annotated[
        str | None, setting(PrepareConfig, "data.class_names", "--class-names")
    ] = None,
    values: Annotated[str | None, setting(PrepareConfig, "data.values", "--values")] = None,
    other: Annotated[int | None, setting(PrepareConfig, "data.other", "--other")] = None,
    pages: Annotated[str | None, setting(PrepareConfig, "data.pages", "--pages")] = None,
    tile: Annotated[int | None, setting(PrepareConfig, "tile", "--tile")] = None,
    overlap: Annotated[float | None, setting(PrepareConfig, "tile_overlap", "--overlap")] = None,
    split_by: Annotated[str | None, setting(PrepareConfig, "data.split_by", "--split-by")] = None,
    group_regex: Annotated[
        str | None, setting(PrepareConfig, "data.group_regex", "--group-regex")
    ] = None,
    folds: Annotated[int | None, setting(PrepareConfig, "folds", "--folds")] = None,
    splits_from: Annotated[
        str | None, setting(PrepareConfig, "splits_from", "--splits-from")
    ] = None,
    update: Annotated[bool | None, setting(PrepareConfig, "update", "--update")] = None,
    val: Annotated[float | None, setting(PrepareConfig, "data.val_fraction", "--val")] = None,
    test: Annotated[float | None, setting(PrepareConfig, "data.test_fraction", "--test")] = None,
    seed: Annotated[int | None, setting(PrepareConfig, "data.split_seed", "--seed")] = None,
    num_scenes: Annotated[int | None, setting(PrepareConfig, "num_scenes", "--num-scenes")] = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read, check and split a dataset: dataset.yaml, samples.csv and report.html in --output."""
    settings = load_config(config, overrides_of(command, locals()), kind=PrepareConfig)
    from unet_pipeline.stages import prepare as stage

    if settings.check:
        checked = stage.check(settings)
        print_result(checked.table(), checked.summary() if as_json else None)
        checked.raise_for_errors()
        return
    result = stage.prepare(settings)
    print_result(str(result.folder), result.summary() if as_json else None)
