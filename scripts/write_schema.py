"""Writes configs/schema.json, which editors use to check and complete settings files."""

import json
from pathlib import Path

from unet_pipeline.config import TrainConfig

path = Path(__file__).parent.parent / "configs" / "schema.json"
path.write_text(json.dumps(TrainConfig.model_json_schema(), indent=2) + "\n")
