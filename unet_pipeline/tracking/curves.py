"""Which epochs of a long training become points of its curves in MLflow."""

from __future__ import annotations

from collections.abc import Mapping

POINTS = 300
"""Points of a curve, beside the first, the last and the best: a chart of MLflow shows 320."""


class Curves:
    """The points that a run has so far, by key and step (an epoch): one for each, and not too many.

    Points are spread evenly over the run, whatever limits it: `share` is the part of it that is
    done. Validated figures, which are rarer, are spread for themselves.
    """

    def __init__(self) -> None:
        self._said: dict[tuple[str, int], float] = {}
        self._due: dict[str, int] = {}

    def recall(self, values: Mapping[str, float], step: int) -> None:
        """Points that the run has, such as those before it was resumed."""
        self._said.update({(key, step): value for key, value in values.items()})

    def changed(self, values: Mapping[str, float], *, step: int) -> dict[str, float]:
        """Those of `values` that the run does not have."""
        new = {k: value for k, value in values.items() if self._said.get((k, step)) != value}
        self.recall(new, step)
        return new

    def new(
        self, values: Mapping[str, float], *, step: int, share: float | None
    ) -> dict[str, float]:
        """Those of `values` that become points.

        share: None for an epoch that is to be seen in any case. A step that has its point keeps it:
        MLflow replaces none, and would draw both.
        """
        points = {key: value for key, value in values.items() if (key, step) not in self._said}
        if share is not None:
            place = int(share * POINTS + 1e-6)  # 56/300 of 300 is 55.99... else
            points = {key: value for key, value in points.items() if place >= self._due.get(key, 0)}
            self._due.update(dict.fromkeys(points, place + 1))
        self.recall(points, step)
        return points
