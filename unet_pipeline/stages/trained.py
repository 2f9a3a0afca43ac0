"""What came of a training."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unet_pipeline.datasets.findings import counted
from unet_pipeline.errors import RejectedInputsError, UserError
from unet_pipeline.training import run_folder as runs


@dataclass(frozen=True)
class TrainedRun:
    """What `train` has made: the run folder, its best validation scores, where to look at it.

    seconds: wall clock until the last validation was saved. num_unreadable: files that were skipped
    because they could not be read; the log names them. stop_code: the exit code of a signal
    that came when there was nothing left to stop. pruned: whether `watch` has given the run up.
    """

    folder: Path
    best: dict[str, float]
    steps: int
    seconds: float
    tracking_url: str | None
    num_unreadable: int = 0
    stop_code: int | None = None
    pruned: bool = False

    def raise_for_unreadable(self) -> None:
        """Raise `RejectedInputsError` where files were skipped."""
        if self.num_unreadable:
            raise RejectedInputsError(
                f"trained without {counted(self.num_unreadable, 'sample')} that could not be read: "
                f"see the warnings above, or {self.folder / runs.LOG_NAME}"
            )

    def summary(self) -> dict[str, Any]:
        """JSON-able."""
        model = str(self.folder / runs.BEST_NAME)
        return asdict(self) | {"folder": str(self.folder), "model": model}


class InterruptedRunError(UserError):
    """SIGINT or SIGTERM ended the run after its state was saved. Exit code 130 or 143."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
