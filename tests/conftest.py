"""For all tests: torch computes with one thread, and nothing leaves this machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

# Networks in tests are tiny: two threads wait for each other longer than they compute (on a busy
# machine, 400 times as long)
torch.set_num_threads(1)

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """The folder of a real dataset by its name; where it is absent, the test skips, saying so."""

    def find(name: str) -> Path:
        beside = Path(__file__).resolve().parents[1].parent / "shared" / "data"
        root = Path(os.environ.get("UNET_TEST_DATA", beside))
        if not (root / name).is_dir():
            pytest.skip(f"no real data {name} in {root} (UNET_TEST_DATA names another folder)")
        return root / name

    return find
