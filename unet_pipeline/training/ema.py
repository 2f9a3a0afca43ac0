"""The running average of a network's weights, which predicts better than the weights of any step.

Averaging the iterates of stochastic gradient descent is Polyak and Juditsky's (1992); as an
exponential average, of which deep networks make use, it is that of Szegedy et al. (2016,
"Rethinking the Inception Architecture", section 8).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """An exponential moving average of all weights and statistics of a module.

    After update t, average <- d average + (1 - d) weights, with d = min(decay, t / (t + 9)): so it
    spans about the last tenth of a run that is short, and 1 / (1 - decay) steps of a long one.
    Statistics of normalisation layers are averaged like weights, counters are copied.
    model: the module with the averaged weights, in evaluation mode and without gradients.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights of `model` after a step; nothing waits for the device."""
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 9))
        averaged, current = [], []
        for mine, its in zip(_tensors(self.model), _tensors(model), strict=True):
            if mine.is_floating_point():
                averaged.append(mine)
                current.append(its.detach())
            else:
                mine.copy_(its)
        torch._foreach_lerp_(averaged, current, 1 - decay)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"updates": self.updates, "model": self.model.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        self.updates = state["updates"]
        self.model.load_state_dict(state["model"])


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return list(model.state_dict(keep_vars=True).values())
