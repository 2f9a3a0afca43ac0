"""The saved view of an experiment, as MLflow's pages read it.

The format is MLflow's own and not documented; a test compares it with the installed one.
"""

from __future__ import annotations

import base64
import json
import re
import time
import uuid
import zlib
from collections.abc import Sequence
from typing import Any

NAME = "U-Net leaderboard"


def saved_view(columns: Sequence[str], pictures: Sequence[str] = ()) -> str:
    """The value of the tag: a table of these columns, ranked by the first metric; its charts.

    columns: `metrics.<key>` or `params.<key>`. pictures: keys of images whose charts show no
    params: MLflow writes all of them above each picture, which is then out of sight. All other
    charts are MLflow's own choice.
    """
    quoted = [re.sub(r"^(\w+)\.(.*)$", r"\1.`\2`", column) for column in columns]
    ranking = [column for column in quoted if column.startswith("metrics.")]
    state: dict[str, Any] = {
        "searchFilter": "",
        "orderByKey": ranking[0] if ranking else "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": quoted,
        "runsHiddenMode": "FIRST_10_RUNS",
        "hideEmptyCharts": True,
    }
    if pictures:
        state |= _charts(pictures)
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    now = int(time.time() * 1000)
    return json.dumps(
        {"name": NAME, "createdAt": now, "updatedAt": now, "state": f"deflate;{packed}"}
    )


def _charts(pictures: Sequence[str]) -> dict[str, Any]:
    """The charts of the pictures, and the sections that they stand in; MLflow adds the rest."""
    sections = sorted({key.rpartition("/")[0] for key in pictures})
    generated = {"deleted": False, "isGenerated": True}
    return {
        "compareRunSections": [
            {"uuid": _uuid(name), "name": name, "display": True, "isReordered": False, **generated}
            for name in sections
        ],
        "compareRunCharts": [
            {
                "type": "IMAGE",
                "uuid": _uuid(f"{key} picture"),
                "metricSectionId": _uuid(key.rpartition("/")[0]),
                "imageKeys": [key],
                "step": 0,
                "showRunParams": False,
                **generated,
            }
            for key in pictures
        ],
    }


def _uuid(name: str) -> str:
    return uuid.uuid5(uuid.NAMESPACE_URL, name).hex
