"""The same thing done with many files by a pool of threads, in order and in bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def num_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not everywhere; fewer than all where we are confined
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], *, num_threads: int | None = None
) -> Iterator[Result]:
    """`function` of every item, in order, computed by a pool of threads.

    Only a few items a thread are under way at a time, so memory does not grow with their number.
    num_threads: as many as this process may use cores, where None.
    """
    count = num_threads or num_cores()
    pool = ThreadPoolExecutor(count)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 4 * count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # after Ctrl-C too: what has not begun is dropped
        pool.shutdown(cancel_futures=True)
