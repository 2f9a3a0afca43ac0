"""Where a run stands, and how much of it is done."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Limits:
    """What ends a run: the first that is reached. None does not limit."""

    epochs: int | None = None
    max_steps: int | None = None
    budget_seconds: float | None = None

    def progress(self, *, epochs: float, steps: int, seconds: float) -> float:
        """The fraction of the run that is done, in [0, 1]: of the limit that is nearest.

        Schedules are functions of it, so that warm-up and decay complete whatever ends the run.
        """
        fractions = [0.0]
        if self.epochs is not None:
            fractions.append(epochs / self.epochs)
        if self.max_steps is not None:
            fractions.append(steps / self.max_steps)
        if self.budget_seconds is not None:
            fractions.append(seconds / self.budget_seconds)
        return min(1.0, max(fractions))

    def reached(self, *, epochs: float, steps: int, seconds: float) -> list[str]:
        """The limits that allow no more, with the options that set them."""
        found = []
        if self.epochs is not None and epochs >= self.epochs:
            found.append(f"--epochs {self.epochs}")
        if self.max_steps is not None and steps >= self.max_steps:
            found.append(f"--max-steps {self.max_steps}")
        if self.budget_seconds is not None and seconds >= self.budget_seconds:
            found.append(f"--budget {self.budget_seconds:g}s")
        return found


@dataclass
class Position:
    """Where a run stands. Everything here is saved and comes back on resume.

    epoch: the epoch in progress, from 0; batch: batches of it that are done; step: optimizer steps
    of the run; loss_sum and samples: of the epoch in progress; seconds: wall clock of the run.
    micro_batch: most samples that cross the network together, where memory asks for parts.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    samples: int = 0
    seconds: float = 0.0
    micro_batch: int | None = None
    _started: float = field(default_factory=time.monotonic, repr=False)
    _stands: bool = field(default=False, repr=False)

    def start_clock(self, moment: float | None) -> None:
        """Count the seconds of this session from `moment` of `time.monotonic()`, where given."""
        if moment is not None:
            self._started = moment

    def stop_clock(self) -> None:
        """Count nothing of this session, in which nothing is trained."""
        self._stands = True

    def elapsed(self) -> float:
        """Seconds of wall clock that the run has taken, over all its sessions."""
        return self.seconds + (0.0 if self._stands else time.monotonic() - self._started)

    def state(self) -> dict[str, Any]:
        """Plain numbers for the checkpoint."""
        numbers = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return numbers | {"seconds": self.elapsed()}

    def go_back_to(self, state: dict[str, Any]) -> None:
        """Stand where `state` stood; the clock and the parts that memory asks for stay."""
        kept = {"seconds", "micro_batch"}
        vars(self).update({name: value for name, value in state.items() if name not in kept})

    @property
    def epoch_number(self) -> int:
        """The epoch that was trained last, from 1, whole or in part; 0 before the first step."""
        return self.epoch + (1 if self.batch else 0)

    def end_epoch(self) -> tuple[float, int]:
        """Close the epoch in progress: its mean loss over samples, and their number."""
        mean, samples = self.mean_loss, self.samples
        self.epoch, self.batch, self.loss_sum, self.samples = self.epoch + 1, 0, 0.0, 0
        return mean, samples

    @property
    def mean_loss(self) -> float:
        """Of the epoch in progress, over its samples so far."""
        return self.loss_sum / max(1, self.samples)
