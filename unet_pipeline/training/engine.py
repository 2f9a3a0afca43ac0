"""The optimization itself: the steps of an epoch, each from a batch to new weights."""

from __future__ import annotations

import contextlib
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from unet_pipeline.distributed import num_processes
from unet_pipeline.errors import DivergedError, ResourceError, UserError
from unet_pipeline.runtime import is_out_of_memory
from unet_pipeline.training.accumulation import Statistics, backward_in_parts
from unet_pipeline.training.ema import WeightAverage
from unet_pipeline.training.losses.deep import Outputs
from unet_pipeline.training.position import Position

MAX_SKIPPED = 20
"""Steps in a row that float16 may lose to overflow: the scaler halves its scale at each."""

READ_EVERY = 16
"""Steps between two looks at the losses where they are on another device: a look waits for it."""

logger = logging.getLogger(__name__)


def train_steps(
    model: nn.Module,
    loader: Iterable[Sequence[Any]],
    loss: Callable[[Any, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    position: Position,
    *,
    learning_rate: Callable[[], float | None] | None = None,
    autocast_dtype: torch.dtype | None = None,
    scaler: torch.amp.GradScaler | None = None,
    grad_clip: float = 0.0,
    average: WeightAverage | None = None,
    batch_sizes: Callable[[int], int] | None = None,
    names: Sequence[str] = (),
    watch: Callable[[Outputs, Tensor], None] = lambda logits, targets: None,
    after_step: Callable[[], None] = lambda: None,
    read_every: int | None = None,
) -> None:
    """Take a step for each batch of `loader`, until it ends or there is no learning rate.

    loader: yields (inputs, targets, sample numbers, points, ...), of which all but the first two
    may be missing; all go to the model's device, whole numbers as int64. Points go to the model
    beside the inputs (see `PatchNetwork`); a batch without samples is passed over.
    learning_rate: asked before each step, and a rate of None ends the steps; without it the
    optimizer keeps its own. A parameter group with an `lr_factor` gets that multiple.
    average: takes in the weights after each step.
    batch_sizes: samples of batch number b of the epoch in all processes together, where this one
    has a part of each. watch: shown logits and targets of every batch.
    after_step: called whenever `position` is up to date, and can be saved.
    read_every: steps between two looks at the losses, which have to wait for the device; every step
    by default on a CPU, where that costs nothing, and `READ_EVERY` elsewhere.
    A batch that memory does not suffice for goes through the network in parts from then on, with
    the same gradient (see `accumulation`); `position.micro_batch` says how large they are.
    Raises `DivergedError` for a loss or gradient that is not finite; it names the samples of the
    batch (`names` by sample number). Where every loss is read, no weight is touched then. Raises
    `UserError` for batch normalisation across processes with batches that go through in parts.
    """
    device = next(model.parameters()).device
    read_every = read_every or (1 if device.type == "cpu" else READ_EVERY)
    _refuse_unequal_parts(model, position)
    scaler = scaler or torch.amp.GradScaler(device.type, enabled=False)
    losses = _Losses(device, position, names, max_skipped=MAX_SKIPPED * scaler.is_enabled())

    def autocast() -> AbstractContextManager[Any]:
        return torch.autocast(device.type, autocast_dtype, enabled=autocast_dtype is not None)

    parameters, statistics = list(model.parameters()), Statistics(model)
    model.train()
    for inputs, targets, *rest in losses.read_before_errors(loader):
        if not len(inputs):
            continue
        if learning_rate is not None:
            rate = learning_rate()
            if rate is None:
                break
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("lr_factor", 1.0)
        arguments = [inputs.to(device, non_blocking=True), *points_of(rest, device)]
        targets = as_targets(targets.to(device, non_blocking=True))
        with _single_value_errors():
            logits, value = _backward(
                model,
                loss,
                arguments,
                targets,
                optimizer=optimizer,
                scaler=scaler,
                position=position,
                autocast=autocast,
                statistics=statistics,
            )
        watch(logits, targets)
        scaler.unscale_(optimizer)
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        # On a CPU the norm is known, and small ones would have all gradients multiplied by 1 (torch
        # adds 1e-6 to the norm)
        if grad_clip and (device.type != "cpu" or norm + 1e-6 > grad_clip):
            nn.utils.clip_grads_with_norm_(parameters, grad_clip, norm)
        size = batch_sizes(position.batch) if batch_sizes is not None else len(inputs)
        losses.add(value, norm, size, rest, optimizer.param_groups[0]["lr"])
        if read_every == 1:
            losses.read()  # before the step, which keeps the weights from a bad one
        scaler.step(optimizer)
        scaler.update()
        if average is not None:
            average.update(model)
        position.step += 1
        position.batch += 1
        if losses.are_read or losses.waiting >= read_every:
            losses.read()
            after_step()
    if not losses.are_read:
        losses.read()
        after_step()


def _backward(
    model: nn.Module,
    loss: Callable[[Any, Tensor], Tensor],
    inputs: Sequence[Tensor],
    targets: Tensor,
    *,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    position: Position,
    autocast: Callable[[], AbstractContextManager[Any]],
    statistics: Statistics,
) -> tuple[Outputs, Tensor]:
    """Logits and loss of a batch, its gradient in the parameters; in as many parts as it takes."""
    statistics.keep()
    while True:
        optimizer.zero_grad(set_to_none=True)
        size = min(position.micro_batch or len(targets), len(targets))
        compute = _backward_at_once if size == len(targets) else backward_in_parts
        try:
            return compute(
                model, loss, inputs, targets, size=size, scale=scaler.scale, autocast=autocast
            )
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise ResourceError(
                    "out of memory with a single sample: use a smaller --image-size or model"
                ) from error
            if num_processes() > 1:  # the others wait in the middle of the same step
                advice = (
                    "a smaller --batch-size"
                    if _synchronises_statistics(model)
                    else f"--set training.micro_batch={math.ceil(size / 2)}, which gives the same "
                    "gradient"
                )
                raise ResourceError(
                    f"out of memory with {size} samples in one of several processes: use {advice}"
                ) from error
        # Here, where the error no longer holds on to what filled the memory
        statistics.put_back()  # else this batch would count twice in them
        position.micro_batch = math.ceil(size / 2)
        logger.warning(
            "out of memory with %d samples: from here on they go through the network %d at a "
            "time, with the same gradient",
            size,
            position.micro_batch,
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _synchronises_statistics(model: nn.Module) -> bool:
    return any(isinstance(part, nn.SyncBatchNorm) for part in model.modules())


def _refuse_unequal_parts(model: nn.Module, position: Position) -> None:
    """Processes may have unequal shares of a batch, so more parts, and wait for each other."""
    if position.micro_batch and num_processes() > 1 and _synchronises_statistics(model):
        raise UserError(
            f"batches go through in parts of {position.micro_batch} samples, and batch "
            "normalisation across processes needs them whole: leave out runtime.sync_batchnorm or "
            "training.micro_batch, or take --set model.norm=group"
        )


def _backward_at_once(
    model: nn.Module,
    loss: Callable[[Any, Tensor], Tensor],
    inputs: Sequence[Tensor],
    targets: Tensor,
    *,
    size: int,
    scale: Callable[[Tensor], Tensor],
    autocast: Callable[[], AbstractContextManager[Any]],
) -> tuple[Outputs, Tensor]:
    """`backward_in_parts` where there is one part, of `size` samples."""
    with autocast():
        logits = model(*inputs)
    value = loss(logits, targets)
    scale(value).backward()  # type: ignore[no-untyped-call]
    return logits, value.detach()


class _Losses:
    """Losses, summed where they are computed, and the first step at which one was not finite."""

    def __init__(
        self, device: torch.device, position: Position, names: Sequence[str], *, max_skipped: int
    ) -> None:
        self.position = position
        self.names = names
        self.max_skipped = max_skipped
        dtype = torch.float32 if device.type == "mps" else torch.float64  # which MPS has not
        self.sum = torch.zeros((), dtype=dtype, device=device)
        self.num_samples = 0
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        self.steps: deque[tuple[Tensor, Tensor, Tensor, str, str]] = deque()

    @property
    def waiting(self) -> int:
        """Steps that were not looked at."""
        return len(self.steps)

    @property
    def are_read(self) -> bool:
        return not self.steps

    def add(self, value: Tensor, norm: Tensor, size: int, rest: Sequence[Any], rate: float) -> None:
        """Take in a step; nothing waits for the device."""
        # With float16 an overflowing gradient is the scaler's business: it skips the step
        self.skipped = torch.where(norm.isfinite(), 0, self.skipped + 1)
        bad = ~value.isfinite() | (self.skipped > self.max_skipped)
        self.sum = self.sum + value.to(self.sum.dtype) * size
        self.num_samples += size
        numbers = [int(number) for number in rest[0]] if rest else []
        samples = ", ".join(self.names[n] for n in numbers if 0 <= n < len(self.names)) or "unknown"
        place = f"epoch {self.position.epoch + 1}, step {self.position.step + 1}"
        self.steps.append((bad, value, norm, place, f"learning rate {rate:.3g}, samples {samples}"))

    def read_before_errors(self, loader: Iterable[Sequence[Any]]) -> Iterator[Sequence[Any]]:
        """What `loader` yields; an error of it comes when all steps before it are read."""
        try:
            yield from loader
        except Exception:
            self.read()
            raise

    def read(self) -> None:
        """Wait for all steps so far, and move their losses and samples into the position.

        Raises `DivergedError` for the first that was not finite.
        """
        if self.are_read:
            return
        flags = torch.stack([bad for bad, *_ in self.steps]).tolist()
        if any(flags):
            _, value, norm, place, circumstances = self.steps[flags.index(True)]
            raise DivergedError(
                f"training diverged in {place}: loss {value.item()}, gradient norm {norm.item()}, "
                f"{circumstances}; lower --lr, or try --amp off"
            )
        self.position.loss_sum += self.sum.item()
        self.position.samples += self.num_samples
        self.sum.zero_()
        self.num_samples = 0
        self.steps.clear()


def as_targets(targets: Tensor) -> Tensor:
    """Class indices as int64; other targets, such as those of a regression, as they are."""
    return targets if targets.is_floating_point() else targets.long()


def points_of(rest: Sequence[Any], device: torch.device) -> list[Tensor]:
    """What goes to the model beside the inputs: the points of a batch that has any."""
    return [part.to(device, non_blocking=True) for part in rest[1:2] if part is not None]


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
