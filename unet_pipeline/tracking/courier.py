"""What carries the journal of a run folder to the store: one thread, in batches, with patience."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from unet_pipeline.tracking.names import without_credentials
from unet_pipeline.tracking.places import is_server
from unet_pipeline.tracking.pulse import Pulse, felt_by
from unet_pipeline.tracking.senders import LANES, SENDERS, size_of
from unet_pipeline.tracking.spool import Identity, Record, Spool
from unet_pipeline.tracking.store import (
    Connection,
    UnreachableError,
    connect,
    describe,
    is_active,
    is_rejection,
    load_mlflow,
    preflight,
    quiet,
)

logger = logging.getLogger("unet_pipeline")

_EVERY_SECONDS, _SELDOM_SECONDS = 2.0, 30.0
_SHARE = 0.01  # of a core, that sending may take from a training: 50 ms for a point a curve
_BACK_OFF_SECONDS = (5.0, 30.0)
PATIENCE_SECONDS = 3.5
"""What a store may be silent for, at the beginning and the end of a run, before it is left alone.

A healthy one is not: of the 3400 statements of a first opening none took longer than 0.3 s."""
_REASONABLE_SECONDS = 60.0  # for a slow store that makes progress, at the end of a run
_LOST_SECONDS = 8.0  # of silence in mid-training: a failure, where tracking is required
_BYTES_PER_SECOND = 1e6  # what an upload must reach at least
_BATCH_RECORDS = 200
_HEALTH_SECONDS = 0.8
_SLOW_SECONDS, _RECENT_SECONDS = 1.0, 10.0


class StoppedError(Exception):
    """A sending beside a run was stopped, since that run ends."""


class Courier:
    """Carries the journal of `spool` to the store at `uri`, from the mark on.

    The journal is the queue: nothing waits in memory, and a crash loses nothing. All that is sent
    may be sent again, so a mark that was not written does no harm.
    primary: the store is the run's own, and its ids are noted in run.json; else it is a copy.
    then: called once, by the thread, when all has been carried for the first time; nobody waits
    for it.
    """

    def __init__(self, spool: Spool, identity: Identity, uri: str, *, primary: bool = True) -> None:
        self.spool = spool
        self.identity = identity
        self.uri = uri
        self.counts: Counter[str] = Counter()
        self.then: Callable[[], None] | None = None
        self._primary = primary
        self._connection: Connection | None = None
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._tried = threading.Event()
        self._closing = False
        self._failed: str | None = None
        self._failed_slowly_at = -math.inf
        self._pulse = Pulse()
        self._outer: Courier | None = None
        self._busy = False
        self._upload_until = -math.inf
        self._upload_seconds = 0.0
        self._asked_at = self._healthy_at = -math.inf

    def start(self, *, wait: bool = True) -> None:
        """Begin to carry.

        wait: return when the store has been opened, or after `PATIENCE_SECONDS` without it.
        """
        try:
            load_mlflow()
        except Exception as error:  # noqa: BLE001, a broken installation must not end a training
            self._fail(error)
        self._thread = threading.Thread(target=self._work, name="unet-tracking", daemon=True)
        self._thread.start()
        if wait:
            self._tried.wait(PATIENCE_SECONDS)

    def wait_until_opened(self) -> None:
        """Wait for a store that may be slow as long as it makes progress; see `failure` then."""
        began = time.monotonic()
        while not self._tried.wait(0.1):
            if self._is_stuck(began, PATIENCE_SECONDS):
                self._failed = self._failed or f"it has not answered for {PATIENCE_SECONDS:g} s"
                return

    @property
    def failure(self) -> str | None:
        """Why the store does not take what is sent; None as long as it does. Costs nothing."""
        silence = time.monotonic() - max(self._pulse.at, self._upload_until)
        if self._failed is None and self._busy and silence > _LOST_SECONDS:
            return f"it has not answered for {_LOST_SECONDS:.0f} s"
        return self._failed

    def finish(self, patience: float) -> int:
        """Carry the rest and stop; the number of records that stay behind.

        Waits as long as the store makes progress, within reason, and at most `patience` seconds
        where it does not.
        """
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            began = time.monotonic()
            self._upload_seconds = 0.0
            while self._thread.is_alive() and not self._is_stuck(began, patience):
                self._thread.join(0.1)
        return self.pending()

    def pending(self) -> int:
        """The number of records that the store does not hold yet."""
        marks = self.spool.marks(self.identity.run_id or "")
        return sum(
            record.get("kind") in kinds
            for lane, kinds in LANES.items()
            for record, _ in self.spool.read(marks.get(lane, 0))
        )

    def carry(self) -> None:
        """Send what is new, once. Raises the first failure, after every lane had its turn."""
        with quiet(), felt_by(self._pulse), self.spool.sending():
            self._allow(())
            if self._connection is None:
                self._connection = self._connect()
            failures: list[Exception] = []
            for lane in LANES:
                began = time.monotonic()
                try:
                    self._carry_lane(self._connection, lane)
                except Exception as error:  # noqa: BLE001, clients raise OSError, ImportError, ...
                    failures.append(error)
                    if time.monotonic() - began > _SLOW_SECONDS:
                        break  # nobody answers: the next lane would wait as long
            if failures:
                self._connection = None  # the next attempt looks afresh at server, run, database
                raise failures[0]

    def carry_beside(self, spool: Spool, identity: Identity, uri: str) -> None:
        """Send what another run folder holds, within `then`; raises as `carry` does.

        Whoever waits for this courier sees the progress, and an end of this one stops it at the
        next file, which is less urgent.
        """
        other = Courier(spool, identity, uri)
        other._pulse, other._outer = self._pulse, self
        other.carry()

    def _connect(self) -> Connection:
        if self._primary:
            # Another process, such as an evaluation, may have opened the run meanwhile
            known = self.spool.load()
            if known is not None and known.tracking_uri == self.identity.tracking_uri:
                self.identity = known  # else it moves to this store, as soon as that answers
        connection = connect(self.identity, self.uri)
        ids = {"experiment_id": connection.experiment_id, "run_id": connection.run_id}
        opened = self.identity.model_copy(update=ids)
        if self._primary and opened != self.identity:
            self.spool.save(opened)
        self.identity = opened
        return connection

    def _carry_lane(self, connection: Connection, lane: str) -> None:
        start = self.spool.marks(connection.run_id).get(lane, 0)
        mark = start
        for kind, records, end in self._batches(lane, start):
            if records:
                self._allow(records)
                self._send(connection, kind, records)
                self.spool.set_mark(connection.run_id, lane, end)
            mark = end
        if mark > start:
            self.spool.set_mark(connection.run_id, lane, mark)

    def _batches(self, lane: str, start: int) -> Iterator[tuple[str, list[Record], int]]:
        """(kind, records, offset behind them): neighbours of one kind together, files singly."""
        batch: list[Record] = []
        end = start
        for record, offset in self.spool.read(start):
            kind = record.get("kind", "")
            if kind in LANES[lane]:
                limit = 1 if "path" in record else _BATCH_RECORDS
                if batch and (batch[0]["kind"] != kind or len(batch) >= limit):
                    yield batch[0]["kind"], batch, end
                    batch = []
                batch.append(record)
            end = offset
        yield batch[0]["kind"] if batch else "", batch, end

    def _send(self, connection: Connection, kind: str, records: Sequence[Record]) -> None:
        """Send records of one kind; a single one that the store refuses for good is left out."""
        try:
            self.counts += SENDERS[kind](connection, self.spool.folder, records)
        except Exception as error:
            if not is_rejection(error) or not is_active(connection):
                raise
            if len(records) > 1:
                for record in records:
                    self._send(connection, kind, [record])
                return
            if not self.counts["rejected"]:
                logger.warning("tracking: MLflow refuses %s: %s", kind, describe(error, self.uri))
            self.counts["rejected"] += 1

    def _work(self) -> None:
        pause = 0.0
        while True:
            self._wake.wait(pause)
            self._wake.clear()
            closing = self._closing
            if closing and time.monotonic() - self._failed_slowly_at < _RECENT_SECONDS:
                return  # one fault is waited for once
            began, opened = time.thread_time(), self._connection is not None
            carried = self._attempt()
            if carried:
                pause = _pause_after(time.thread_time() - began if opened else 0.0)
            else:
                shortest, longest = _BACK_OFF_SECONDS
                pause = min(max(2 * pause, shortest), longest)
            self._tried.set()
            if closing:
                return
            if carried and self.then is not None and not self._closing:
                then, self.then = self.then, None
                with felt_by(self._pulse):
                    then()

    def _attempt(self) -> bool:
        """Whether everything has been carried."""
        began = time.monotonic()
        self._pulse.beat()
        self._busy = True
        try:
            self.carry()
        except Exception as error:  # noqa: BLE001, whatever it is, the training goes on
            self._fail(error)
            if time.monotonic() - began > _SLOW_SECONDS:
                self._failed_slowly_at = time.monotonic()
            return False
        finally:
            self._busy = False
        if self._failed is not None:
            logger.info("tracking: MLflow takes the run again, and has what was kept meanwhile")
            self._failed = None
        return True

    def _fail(self, error: BaseException) -> None:
        """Remember why the store fails; the first time, say so."""
        reason = describe(error, self.uri)
        if self._failed is None:
            logger.warning(
                "tracking: MLflow at %s fails (%s); %s keeps everything to be sent later",
                without_credentials(self.uri),
                reason,
                self.spool.folder,
            )
        self._failed = reason

    def _allow(self, records: Sequence[Record]) -> None:
        """Give the step that begins now the time that its files take."""
        has_file = any("path" in record for record in records)  # the facts take no time
        if has_file and self._outer is not None and self._outer._closing:
            raise StoppedError("the run that it was sent beside has ended")
        self._pulse.beat()
        seconds = size_of(self.spool.folder, records) / _BYTES_PER_SECOND
        for courier in (self, self._outer):
            if courier is not None:
                courier._upload_seconds += seconds
                courier._upload_until = time.monotonic() + seconds if seconds else -math.inf

    def _is_stuck(self, began: float, patience: float) -> bool:
        """Whether to wait no longer for the thread, for which the waiting began at `began`."""
        now = time.monotonic()
        silence = now - max(self._pulse.at, began)
        if now - began > _REASONABLE_SECONDS + self._upload_seconds:
            return True
        if now < self._upload_until and silence > _HEALTH_SECONDS:  # no beat within an upload
            return not self._is_healthy() and silence > patience
        return silence > patience

    def _is_healthy(self) -> bool:
        """Whether a server answers beside an upload; a disk is not asked."""
        if not is_server(self.uri):
            return True
        if time.monotonic() - self._asked_at > _HEALTH_SECONDS:
            with contextlib.suppress(UnreachableError):
                preflight(self.uri, seconds=_HEALTH_SECONDS)
                self._healthy_at = time.monotonic()
            self._asked_at = time.monotonic()
        return time.monotonic() - self._healthy_at < PATIENCE_SECONDS - _HEALTH_SECONDS


def _pause_after(seconds: float) -> float:
    """How long to wait after a sending that took `seconds` of a processor's time."""
    return min(max(seconds / _SHARE, _EVERY_SECONDS), _SELDOM_SECONDS)
