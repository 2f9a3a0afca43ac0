"""The running average of a network's weights, which predicts better than the weights of any step.

Averaging the iterates of stochastic gradient descent is Polyak and Juditsky's (1992); as an
exponential average, of which deep networks make use, it is that of Szegedy et al. (2016,
"Rethinking the Inception Architecture", section 8).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

EARLY = 100
"""Steps of which all are averaged; later on every fourth is."""

STRIDE = 4


class WeightAverage:
    """An exponential moving average of all weights and statistics of a module.

    After update t, average <- d average + (1 - d) weights, with d = min(decay, t / (t + 9)): so it
    spans about the last tenth of a run that is short, and 1 / (1 - decay) steps of a long one.
    Beyond the first `EARLY` updates only every `STRIDE`-th does so, with d to that power: the span
    is the same, neighbouring weights hardly differ, and all of them are read once less often. Who
    looks at the average between two of them calls `catch_up` first.
    Statistics of normalisation layers are averaged like weights, counters are copied.
    model: the module with the averaged weights, in evaluation mode and without gradients.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._taken = 0  # the last update whose weights are in the average
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._pairs = _Pairs(self.model, model)

    def update(self, model: nn.Module) -> None:
        """Count a step, and take in the weights of `model` now or a few steps later.

        Nothing waits for the device.
        """
        self.updates += 1
        if self.updates <= EARLY or self.updates % STRIDE == 0:
            self.catch_up(model)

    @torch.no_grad()
    def catch_up(self, model: nn.Module) -> None:
        """Take in the weights of `model` for all steps since this was done last."""
        missing = self.updates - self._taken
        if not missing:
            return
        self._taken = self.updates
        decay = min(self.decay, self.updates / (self.updates + 9)) ** missing
        if not self._pairs.are_of(model):
            self._pairs = _Pairs(self.model, model)
        torch._foreach_lerp_(self._pairs.averaged, self._pairs.current, 1 - decay)
        for mine, its in self._pairs.copied:
            mine.copy_(its)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"updates": self.updates, "taken": self._taken, "model": self.model.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        self.updates, self._taken = state["updates"], state["taken"]
        self.model.load_state_dict(state["model"])


class _Pairs:
    """The tensors of an average beside those that it follows.

    To list them takes longer than to average those of a small network, so they are kept from step
    to step, and listed again where one of them was replaced (as `module.to` does).

    averaged, current: floating-point tensors. copied: pairs of counters.
    """

    def __init__(self, average: nn.Module, model: nn.Module) -> None:
        self._model = model
        self._places = [*_places(average), *_places(model)]
        pairs = list(zip(_tensors(average), _tensors(model), strict=True))
        floats = [(mine, its) for mine, its in pairs if mine.is_floating_point()]
        self.averaged = [mine for mine, _ in floats]
        self.current = [its for _, its in floats]
        self.copied = [(mine, its) for mine, its in pairs if not mine.is_floating_point()]

    def are_of(self, model: nn.Module) -> bool:
        """Whether these are the tensors of `model` and of the average still."""
        return model is self._model and all(
            tensors.get(name) is tensor for tensors, name, tensor in self._places
        )


_Place = tuple[Mapping[str, torch.Tensor | None], str, torch.Tensor | None]


def _places(model: nn.Module) -> list[_Place]:
    """Where a module keeps its tensors: dictionary, name, and what is there."""
    return [
        (tensors, name, tensor)
        for part in model.modules()
        for tensors in (part._parameters, part._buffers)
        for name, tensor in tensors.items()
    ]


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return list(model.state_dict(keep_vars=True).values())
