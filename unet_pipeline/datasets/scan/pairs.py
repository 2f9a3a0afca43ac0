"""All pairs of a dataset, each file read once: by this process, or by one on each core."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from unet_pipeline.datasets.array_files import Role
from unet_pipeline.datasets.scan.reading import is_cut, read_part, topic_of
from unet_pipeline.datasets.scan.records import BadPair, ImageScan, MaskScan, PairScan
from unet_pipeline.datasets.scan.store import ScanStore
from unet_pipeline.datasets.scan.workers import Answer, Question, Workers
from unet_pipeline.datasets.threads import in_threads, num_cores

if TYPE_CHECKING:  # worker processes do without
    from unet_pipeline.datasets.formats import Made, Pair

Progress = Callable[[int, int], None]
"""Called as progress(done, total) while files are read."""

_TRIAL_S = 0.05  # of reading in this process, after which the rest is estimated
_WORTHWHILE_S = 1.0  # of work left: starting processes takes half a second
_TURN_S = 0.05  # of reading at a time in a worker, so that Ctrl-C and the last of them are quick
_MAX_WORKERS = 32  # each takes 70 MB, up to 64 of freed memory, and its picture


class _Known(NamedTuple):
    """What the cache has of a file."""

    key: bytes
    record: bytes


@dataclass(frozen=True, slots=True)
class _Batch:
    """Pairs that are read together: what is known of their files (image, mask, image, ...)."""

    pairs: Sequence[Pair]
    known: list[_Known | None]
    questions: list[Question]


def scan_pairs(
    pairs: Sequence[Pair],
    *,
    store: ScanStore,
    keep: Sequence[int] = (),
    on_progress: Progress | None = None,
) -> Iterator[PairScan | BadPair]:
    """The scan of each pair, in their order; only a few are under way at a time.

    store: what is in there is not read again, what is read goes there.
    keep: mask values (packed) that are counted however rare they are.
    on_progress: called after each pair.
    Raises `ResourceError` where memory does not suffice or a worker process is killed.
    """
    for done, scan in enumerate(_scan_all(pairs, store, keep), start=1):
        if on_progress is not None:
            on_progress(done, len(pairs))
        yield scan


def scan_pair(pair: Pair, *, keep: Sequence[int] = ()) -> PairScan | BadPair:
    """The scan of one pair, without a cache."""
    answers = [read_part(role, part, keep, lambda _, __: None) for role, part in _parts(pair)]
    return _judge(pair, [a if isinstance(a, str) else _Known(a.key, a.record) for a in answers])


def _scan_all(
    pairs: Sequence[Pair], store: ScanStore, keep: Sequence[int]
) -> Iterator[PairScan | BadPair]:
    """By this process alone, until it is clear that there is work for several.

    Processes, not threads: decoders give way to each other for short moments only. On two cores
    and real folders, two processes read 1.6 to 2.0 times as many pairs a second as one thread
    (PNG 240x180, JPEG 512x512, PNG 512x512, BMP 120x120), two threads 1.3, 1.6, 1.8 and 0.6 times.
    """
    spent, num_read = 0.0, 0
    for start in range(0, len(pairs), 8):
        each = spent / max(num_read, 1)
        rest = len(pairs) - start
        if spent > _TRIAL_S and each * rest > _WORTHWHILE_S and num_cores() > 1 and sys.executable:
            turn = min(max(round(_TURN_S / each), 1), 64)
            yield from _scan_by_workers(pairs[start:], store, keep, turn)
            return
        batch = _recall(pairs[start : start + 8], store, keep)
        started = time.perf_counter()
        answers: list[Answer] = [
            read_part(role, source, keep, store.find) for role, source in batch.questions
        ]
        spent += time.perf_counter() - started
        num_read += len(batch.pairs) if batch.questions else 0
        yield from _complete(batch, answers, store, keep)


def _scan_by_workers(
    pairs: Sequence[Pair], store: ScanStore, keep: Sequence[int], turn: int
) -> Iterator[PairScan | BadPair]:
    """turn: how many pairs a worker reads at a time."""
    batches = (
        _recall(pairs[start : start + turn], store, keep) for start in range(0, len(pairs), turn)
    )
    count = min(num_cores(), _MAX_WORKERS)
    with Workers(count, keep, store.paths) as workers:

        def ask(batch: _Batch) -> tuple[_Batch, list[Answer]]:
            return batch, workers.ask(batch.questions)

        for batch, answers in in_threads(ask, batches, num_threads=count):
            yield from _complete(batch, answers, store, keep)


def _recall(pairs: Sequence[Pair], store: ScanStore, keep: Sequence[int]) -> _Batch:
    """What the cache says of untouched files, and the questions that are left."""
    batch = _Batch(pairs, [], [])
    for pair in pairs:
        for role, source in _parts(pair):
            row = None
            if isinstance(source, Path):
                row = store.recall(source, topic_of(role, source))
                if keep and role == "mask" and (row is None or is_cut(role, row[1], keep)):
                    row = store.recall(source, topic_of(role, source, keep))
            batch.known.append(None if row is None else _Known(*row))
            if row is None:
                batch.questions.append(Question(role, source))
    return batch


def _complete(
    batch: _Batch, answers: Iterable[Answer], store: ScanStore, keep: Sequence[int]
) -> Iterator[PairScan | BadPair]:
    """The scans of a batch; what is new goes to the cache."""
    rest = zip(batch.questions, answers, strict=True)
    known = iter(batch.known)
    for pair in batch.pairs:
        facts: list[_Known | str] = []
        for fact in itertools.islice(known, 2):
            if fact is not None:
                facts.append(fact)
                continue
            (role, source), answer = next(rest)
            if isinstance(answer, str):
                facts.append(answer)
                continue
            place = source if isinstance(source, Path) else None
            kept = keep if is_cut(role, answer.record, keep) else ()
            store.add(topic_of(role, source, kept), place, answer)
            facts.append(_Known(answer.key, answer.record))
        yield _judge(pair, facts)


def _judge(pair: Pair, facts: Sequence[_Known | str]) -> PairScan | BadPair:
    image, mask = facts
    if isinstance(image, str) or isinstance(mask, str):
        reasons = [fact if isinstance(fact, str) else None for fact in facts]
        return BadPair(pair, *reasons)
    return PairScan(
        pair,
        ImageScan.from_bytes(image.record, image.key),
        MaskScan.from_bytes(mask.record, mask.key),
    )


def _parts(pair: Pair) -> tuple[tuple[Role, Path | Made], tuple[Role, Path | Made]]:
    return ("image", pair.image), ("mask", pair.mask)
