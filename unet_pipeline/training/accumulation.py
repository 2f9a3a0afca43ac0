"""The gradient of a batch that does not fit into memory at once, from parts of it.

The mean of the losses of the parts is not the loss of the batch: parts have unequal numbers of
pixels that count, and a loss of regions, such as Dice, is no mean at all. So the logits of all
parts are computed first, without a graph; the loss of the whole batch gives the gradient of each
logit; then each part crosses the network again and is handed its share (the chain rule, as in
"Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", Gao et al. 2021). That
is exact for every loss, up to rounding, wherever a sample's logits depend on that sample alone;
batch normalisation sees the parts, as it does in every such scheme. It costs one more forward pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor, nn

from unet_pipeline.training.losses.deep import Outputs


def backward_in_parts(
    model: nn.Module,
    loss: Callable[[Any, Tensor], Tensor],
    inputs: Sequence[Tensor],
    targets: Tensor,
    *,
    size: int,
    scale: Callable[[Tensor], Tensor] = lambda value: value,
    autocast: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> tuple[Outputs, Tensor]:
    """Add the gradient of `loss(model(*inputs), targets)` to the parameters, `size` samples a time.

    inputs: each (N, ...). scale: what the gradient is multiplied by (a gradient scaler).
    Returns logits and loss of the whole batch, without a graph.
    """
    parts = list(zip(*(torch.split(tensor, size) for tensor in inputs), strict=True))
    with _replayed(model), torch.no_grad(), autocast():
        outputs = _joined([model(*part) for part in parts])
    leaves = [output.detach().requires_grad_() for output in outputs]
    value = loss(leaves[0] if len(leaves) == 1 else tuple(leaves), targets)
    gradients = torch.autograd.grad(scale(value), leaves)
    shares = zip(*(torch.split(gradient, size) for gradient in gradients), strict=True)
    for number, (part, share) in enumerate(zip(parts, shares, strict=True), start=1):
        with _synchronised(model, last=number == len(parts)):
            with autocast():
                own = model(*part)
            torch.autograd.backward(own if isinstance(own, tuple) else (own,), share)
    detached = tuple(leaf.detach() for leaf in leaves)
    return (detached[0] if len(detached) == 1 else detached), value.detach()


def _joined(outputs: list[Outputs]) -> list[Tensor]:
    if isinstance(outputs[0], Tensor):
        return [torch.cat(cast("list[Tensor]", outputs))]
    return [torch.cat(level) for level in zip(*outputs, strict=True)]


class Statistics:
    """The buffers of a module, such as the statistics of its norms, and a copy to put back."""

    def __init__(self, model: nn.Module) -> None:
        buffers = list(model.buffers())
        floats = [buffer for buffer in buffers if buffer.is_floating_point()]
        others = [buffer for buffer in buffers if not buffer.is_floating_point()]
        # Apart, since torch copies lists of one type at once: twice a step, and not for each buffer
        self._groups = [
            (group, [torch.empty_like(buffer) for buffer in group])
            for group in (floats, others)
            if group
        ]

    @torch.no_grad()
    def keep(self) -> None:
        """Copy them as they are now."""
        for group, kept in self._groups:
            torch._foreach_copy_(kept, group)

    @torch.no_grad()
    def put_back(self) -> None:
        """Make them what they were when `keep` was called last."""
        for group, kept in self._groups:
            torch._foreach_copy_(group, kept)


@contextlib.contextmanager
def _replayed(model: nn.Module) -> Iterator[None]:
    """Afterwards statistics and random numbers are as before: the same can be done again."""
    statistics = Statistics(model)
    statistics.keep()
    devices = {p.device for p in model.parameters() if p.device.type != "cpu"}  # that one is kept
    kind = next((device.type for device in devices), "cpu")
    numbers = sorted(device.index or 0 for device in devices)
    with torch.random.fork_rng(devices=numbers, device_type=kind):
        try:
            yield
        finally:
            statistics.put_back()


def _synchronised(model: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
    """Only with the last part do the processes of a distributed training exchange gradients."""
    if last or not isinstance(model, nn.parallel.DistributedDataParallel):
        return contextlib.nullcontext()
    return cast("AbstractContextManager[Any]", model.no_sync())
