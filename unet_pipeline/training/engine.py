"""The optimization itself: one epoch of steps, and where in the run they stand."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from unet_pipeline.errors import DivergedError, UserError

MAX_SKIPPED = 20
"""Steps in a row that float16 may lose to overflow: the scaler halves its scale at each."""


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


@dataclass
class Position:
    """Where a run stands. Everything here is saved and comes back on resume.

    epoch: the epoch in progress, from 0; batch: batches of it that are done; step: optimizer steps
    of the run; loss_sum and samples: of the epoch in progress; seconds: wall clock of the run.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    samples: int = 0
    seconds: float = 0.0
    _started: float = field(default_factory=time.monotonic, repr=False)

    def elapsed(self) -> float:
        """Seconds of wall clock that the run has taken, over all its sessions."""
        return self.seconds + time.monotonic() - self._started

    def state(self) -> dict[str, Any]:
        """Plain numbers for the checkpoint."""
        numbers = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return numbers | {"seconds": self.elapsed()}

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


def train_steps(
    model: nn.Module,
    loader: Iterable[Sequence[Any]],
    loss: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    position: Position,
    *,
    learning_rate: Callable[[], float | None] | None = None,
    autocast_dtype: torch.dtype | None = None,
    scaler: torch.amp.GradScaler | None = None,
    grad_clip: float = 0.0,
    names: Sequence[str] = (),
    watch: Callable[[Tensor, Tensor], None] = lambda logits, targets: None,
    after_step: Callable[[], None] = lambda: None,
) -> None:
    """Take a step for each batch of `loader`, until it ends or there is no learning rate.

    loader: yields (inputs, targets, sample numbers, points), of which the last two may be missing;
    all go to the model's device, whole numbers as int64. Points go to the model beside the inputs
    (see `PatchNetwork`); a batch without samples is passed over.
    learning_rate: asked before each step, and a rate of None ends the steps; without it the
    optimizer keeps its own. watch: shown the logits and targets of every batch.
    `position` is moved on after every step, so what it says can be saved at any time.
    Raises `DivergedError`, before the weights are touched, for a loss or gradient that is not
    finite; it names the samples of the batch (`names` by sample number).
    """
    device = next(model.parameters()).device
    scaler = scaler or torch.amp.GradScaler(device.type, enabled=False)
    skipped = 0
    model.train()
    for inputs, targets, *rest in loader:
        if not len(inputs):
            continue
        if learning_rate is not None:
            rate = learning_rate()
            if rate is None:
                return
            for group in optimizer.param_groups:
                group["lr"] = rate
        inputs = inputs.to(device, non_blocking=True)
        targets = as_targets(targets.to(device, non_blocking=True))
        with (
            torch.autocast(device.type, autocast_dtype, enabled=autocast_dtype is not None),
            _single_value_errors(),
        ):
            logits = model(inputs, *points_of(rest, device))
        watch(logits, targets)
        value = loss(logits, targets)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(value).backward()  # type: ignore[no-untyped-call]
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(model.parameters(), grad_clip or math.inf)
        mean = value.item()
        # With float16 an overflowing gradient is the scaler's business: it skips the step
        skipped = 0 if math.isfinite(norm.item()) else skipped + 1
        if not math.isfinite(mean) or skipped > (MAX_SKIPPED if scaler.is_enabled() else 0):
            rate = optimizer.param_groups[0]["lr"]
            raise DivergedError(_describe(mean, norm.item(), rate, position, rest, names))
        scaler.step(optimizer)
        scaler.update()
        position.step += 1
        position.batch += 1
        position.samples += len(inputs)
        position.loss_sum += mean * len(inputs)
        after_step()


def as_targets(targets: Tensor) -> Tensor:
    """Class indices as int64; other targets, such as those of a regression, as they are."""
    return targets if targets.is_floating_point() else targets.long()


def points_of(rest: Sequence[Any], device: torch.device) -> list[Tensor]:
    """What goes to the model beside the inputs: the points of a batch that has any."""
    return [part.to(device, non_blocking=True) for part in rest[1:] if part is not None]


@contextlib.contextmanager
def _single_value_errors() -> Iterator[None]:
    """Say what to do where batch normalisation finds one value a channel, which has no variance."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "batch normalisation needs more than one value a channel: use a larger --batch-size or "
            "--image-size, or a network with --set model.norm=group"
        ) from error


def _describe(
    loss: float,
    norm: float,
    rate: float,
    position: Position,
    rest: Sequence[Any],
    names: Sequence[str],
) -> str:
    numbers = [int(number) for number in rest[0]] if rest else []
    samples = ", ".join(names[n] for n in numbers if n < len(names)) or "unknown"
    return (
        f"training diverged in epoch {position.epoch + 1}, step {position.step + 1}: loss {loss}, "
        f"gradient norm {norm}, learning rate {rate:.3g}, samples {samples}; "
        "lower --lr, or try --amp off"
    )
