"""What carries the journal of a run folder to the store: one thread, in batches, with patience."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from unet_pipeline.tracking.names import without_credentials
from unet_pipeline.tracking.places import is_local
from unet_pipeline.tracking.senders import LANES, SENDERS, size_of
from unet_pipeline.tracking.spool import Identity, Record, Spool
from unet_pipeline.tracking.store import (
    Connection,
    connect,
    describe,
    is_active,
    is_rejection,
    load_mlflow,
    quiet,
)

logger = logging.getLogger("unet_pipeline")

_EVERY_SECONDS = 2.0
_BACK_OFF_SECONDS = (5.0, 60.0)
# A training waits that long for the store at its beginning: enough for one that is well
_OPENING_SECONDS = 5.0
# What a healthy step may take at the end of a run: a database waits 20 s for a lock by itself
_LOCAL_STEP_SECONDS = 60.0
_BYTES_PER_SECOND = 1e6
_BATCH_RECORDS = 200


class Courier:
    """Carries the journal of `spool` to the store at `uri`, from the mark on.

    The journal is the queue: nothing waits in memory, and a crash loses nothing. All that is sent
    may be sent again, so a mark that was not written does no harm.
    primary: the store is the run's own, and its ids are noted in run.json; else it is a copy.
    """

    def __init__(self, spool: Spool, identity: Identity, uri: str, *, primary: bool = True) -> None:
        self.spool = spool
        self.identity = identity
        self.uri = uri
        self.counts: Counter[str] = Counter()
        self._primary = primary
        self._connection: Connection | None = None
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._tried = threading.Event()
        self._closing = False
        self._complained = False
        self._allowed_until = 0.0

    def start(self) -> None:
        """Begin to carry; returns when the store has been opened, or after 5 s without it."""
        try:
            load_mlflow()
        except Exception as error:  # noqa: BLE001, a broken installation must not end a training
            self._complain(error)
        self._thread = threading.Thread(target=self._work, name="unet-tracking", daemon=True)
        self._thread.start()
        self._tried.wait(_OPENING_SECONDS)

    def finish(self, grace: float) -> int:
        """Carry the rest and stop; the number of records that stay behind.

        Waits as long as the store makes progress, and at most `grace` seconds where it does not.
        """
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            end = time.monotonic() + grace
            while self._thread.is_alive() and time.monotonic() < max(end, self._allowed_until):
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
        with quiet(), self.spool.sending():
            self._allow(())
            if self._connection is None:
                self._connection = self._connect()
            failures: list[Exception] = []
            for lane in LANES:
                try:
                    self._carry_lane(self._connection, lane)
                except Exception as error:  # noqa: BLE001, clients raise OSError, ImportError, ...
                    failures.append(error)
            if failures:
                self._connection = None  # the next attempt looks afresh at server, run, database
                raise failures[0]

    def _connect(self) -> Connection:
        if self._primary:
            # Another process, such as an evaluation, may have opened the run meanwhile
            self.identity = self.spool.load() or self.identity
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
            try:
                self.carry()
            except Exception as error:  # noqa: BLE001, whatever it is, the training goes on
                self._complain(error)
                shortest, longest = _BACK_OFF_SECONDS
                pause = min(max(2 * pause, shortest), longest)
            else:
                pause = _EVERY_SECONDS
            self._tried.set()
            if closing:
                return

    def _complain(self, error: BaseException) -> None:
        if not self._complained:
            logger.warning(
                "tracking: MLflow at %s fails (%s): the run goes on, and %s keeps everything to be "
                "sent later",
                without_credentials(self.uri),
                describe(error, self.uri),
                self.spool.folder,
            )
        self._complained = True

    def _allow(self, records: Sequence[Record]) -> None:
        """Give the step that begins now its time before `finish` calls it stuck."""
        step = _LOCAL_STEP_SECONDS if is_local(self.uri) else 10.0
        seconds = step + size_of(self.spool.folder, records) / _BYTES_PER_SECOND
        self._allowed_until = time.monotonic() + seconds
