"""JSON files of annotations, whole, or their two ends where a look must do."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from unet_pipeline.datasets.images import open_regular, read_bytes
from unet_pipeline.errors import DatasetError


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises `DatasetError` with the place where it is none."""
    try:
        return json.loads(read_bytes(path))
    except json.JSONDecodeError as error:
        raise DatasetError(
            f"{path}: is no valid JSON (line {error.lineno}, column {error.colno}: {error.msg}); "
            "is it cut off? Export it again"
        ) from error
    except (ValueError, RecursionError) as error:  # no text; endless digits or brackets
        raise DatasetError(f"{path}: is no valid JSON ({error}); export it again") from error


def both_ends(path: Path, num_bytes: int) -> tuple[bytes, bool]:
    """The file, or `num_bytes` of either end where it is longer than both; whether it is whole.

    Nothing for what is no regular file or cannot be read.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size <= 2 * num_bytes:
                return file.read(), True
            head = file.read(num_bytes)
            file.seek(-num_bytes, os.SEEK_END)
            return head + b"\n" + file.read(num_bytes), False
    except (OSError, DatasetError):
        return b"", True
