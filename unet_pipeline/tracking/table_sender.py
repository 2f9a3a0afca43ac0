"""Tables with pictures, as MLflow's artifact views read them: written first, sent as they are.

`MlflowClient.log_table` needs a store that answers, and adds its rows to those of an earlier call.
Here the files lie in the run folder as they shall lie in MLflow, under names that are a function of
table, row and column: sent again, a table replaces itself. (A test compares both formats.)
"""

from __future__ import annotations

import io
import json
import math
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unet_pipeline.tracking.spool import Record, Spool
from unet_pipeline.tracking.store import Connection

TABLES = "tables"
_IMAGES = "table_images"
_LOGGED = "mlflow.loggedArtifacts"
_THUMBNAIL = 256


def write_table(
    spool: Spool, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> str | None:
    """Write the table and its pictures; its place in the run folder, or None where that fails."""
    import PIL.Image

    root = spool.folder / TABLES
    data: list[list[Any]] = []
    for number, row in enumerate(rows):
        cells: list[Any] = []
        for column, cell in zip(columns, row, strict=True):
            if isinstance(cell, np.ndarray):
                unique = uuid.uuid5(uuid.NAMESPACE_URL, f"{name}/{number}/{column}")
                place = f"{_IMAGES}/{name}/{unique}"
                buffer = io.BytesIO()
                PIL.Image.fromarray(cell).save(buffer, "PNG")
                if not spool.put(root / f"{place}.png", buffer.getvalue()):
                    return None
                paths = {"filepath": f"{place}.png", "compressed_filepath": f"{place}.webp"}
                cell = {"type": "image", **paths}
            elif isinstance(cell, float) and not math.isfinite(cell):
                cell = None
            cells.append(cell)
        data.append(cells)
    path = root / f"{name}.json"
    text = json.dumps({"columns": list(columns), "data": data}, ensure_ascii=False)
    return path.relative_to(spool.folder).as_posix() if spool.put(path, text.encode()) else None


def send_tables(connection: Connection, folder: Path, records: Sequence[Record]) -> Counter[str]:
    """Tables as they are now; the pictures first, so that no table shows what is not there."""
    counts: Counter[str] = Counter()
    client, run_id = connection.client, connection.run_id
    for record in records:
        path = folder / record["path"]
        try:
            pictures = list(_pictures(path))
        except (OSError, ValueError):  # gone or damaged meanwhile
            counts["missing"] += 1
            continue
        with tempfile.TemporaryDirectory() as place:
            for source, target in pictures:
                _copy(source, Path(place, target))
            if pictures:
                client.log_artifacts(run_id, place)
        client.log_artifact(run_id, str(path))
        _announce(connection, record["name"])
        counts["tables"] += 1
    return counts


def _pictures(path: Path) -> Iterator[tuple[Path, str]]:
    """(file, place in MLflow) of each picture of the table in the file `path`."""
    for row in json.loads(path.read_bytes())["data"]:
        for cell in row:
            if isinstance(cell, dict):
                picture = path.parent / cell["filepath"]
                picture.stat()  # raises where it has gone
                yield picture, cell["filepath"]


def _copy(source: Path, target: Path) -> None:
    """Write the picture, and the small one that tables show, as MLflow names them."""
    import PIL.Image

    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())
    with PIL.Image.open(target) as image:
        scale = _THUMBNAIL / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        image.resize((width, height)).save(target.with_suffix(".webp"))


def _announce(connection: Connection, name: str) -> None:
    """Note in the tag that the artifact views read that `name` is a table, once."""
    tags = connection.client.get_run(connection.run_id).data.tags
    known = json.loads(tags.get(_LOGGED, "[]"))
    entry = {"path": name, "type": "table"}
    if entry not in known:
        connection.client.set_tag(connection.run_id, _LOGGED, json.dumps([*known, entry]))
