"""For all tests: torch computes with one thread, and nothing leaves this machine."""

from __future__ import annotations

import os

import torch

# Networks in tests are tiny: two threads wait for each other longer than they compute (on a busy
# machine, 400 times as long)
torch.set_num_threads(1)

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
