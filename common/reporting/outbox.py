"""What a process has to tell, from its spools to their receivers: a thread that lives only while there is something to tell.

Nothing is opened before the first record: no thread, no file, no socket. When everything is delivered and nothing came for a
while, all of it is closed again. Whoever puts a record waits for one append and never for the network.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from common.clock import Clock, Rng, timestamp
from common.errors import Conflict, Internal, TandemError
from common.reporting import places
from common.reporting.delivery import BATCH_BYTES, Pace, refuses_content
from common.reporting.receivers import RECEIVERS, Caller, Receiver
from common.reporting.spool import Batch, Spool

LINGER_S: Final = 2.0
"""How long the thread waits for more before it ends."""
ADOPT_S: Final = 5.0
"""How often the thread looks for what others of its process's name left behind."""
LAST_S: Final = 0.5
"""How long whoever closes waits for the thread, which may be waiting for an answer; it holds up nobody's end."""
RETRY_S: Final = 1.0
"""When the disk is tried again that could not be read."""

OWN_WORK: Final = threading.local()
"""`on` while a report is made and kept: what goes wrong in there is never reported, lest it go round for ever."""

_log: Final = logging.getLogger("tandem.reporting")

Chores = Callable[[float], float | None]
"""Work of the thread's at `now` (monotonic), which is not to be done again before the time returned; None: nothing is left."""


class Lane:
    """One spool on its way to its receiver."""

    def __init__(self, receiver: Receiver, spool: Spool, *, own: bool) -> None:
        self.receiver = receiver
        self.spool = spool
        self.own = own
        self.delivered = 0
        self.drained = False
        self.problem = ""
        self._sender = places.sender_of(spool.folder)
        self._pace = Pace()

    def step(self, client: Caller, clock: Clock, rng: Rng) -> float | None:
        """Sends what is due; when to come back, None where nothing is left. OSError as it comes."""
        if clock.monotonic() < self._pace.not_before:
            return self._pace.not_before
        batch = self.spool.read(self._pace.batch, BATCH_BYTES)
        self.drained = batch is None
        if batch is None:
            return None
        lost = self.spool.lost
        self.spool.sending(batch.last)
        try:
            taken = self.receiver.deliver(client, self._sender, batch, lost, timestamp(clock.wall()))
        except TandemError as error:
            self._refused(error, batch, clock.monotonic(), rng)
        except (TypeError, ValueError, RecursionError) as error:  # what cannot be said is at fault itself
            self._refused(Internal(f"it cannot be sent: {error}"), batch, clock.monotonic(), rng)
        else:
            self.problem = ""
            self.spool.acknowledge(taken)
            self.spool.lose(-lost)
            self.delivered += taken.seq - batch.first.seq + 1
            self._pace.taken(len(batch.payloads), clock.monotonic())
        return self._pace.not_before

    def _refused(self, error: TandemError, batch: Batch, now: float, rng: Rng) -> None:
        self.problem = error.message
        if refuses_content(error):
            self.spool.withdraw()
        if self._pace.refused(error, len(batch.payloads), now, rng) == "give_up":
            _log.warning("a record of %s is given up: %s", self._sender.name, error.message)
            self.spool.acknowledge(batch.last)
            self.spool.lose(1)
        else:
            self.spool.sync()


class Outbox:
    """One process's spools, in `process`, and the thread that empties them; safe to use from any thread.

    `connect` makes the client, in the thread. `chores` is called by the thread between deliveries.
    """

    def __init__(
        self, process: Path, connect: Callable[[], Caller], clock: Clock, rng: Rng, chores: Chores = lambda now: None
    ) -> None:
        self._process = process
        self._connect = connect
        self._clock = clock
        self._rng = rng
        self._chores = chores
        self._changed = threading.Condition()
        self._lanes: list[Lane] = []
        self._unkept: dict[Receiver, int] = {}
        self._news = False
        self._thread: threading.Thread | None = None
        self._client: Caller | None = None
        self._closed = False
        self._adopt_at = 0.0
        self.delivered = 0

    @property
    def problem(self) -> str:
        """Why what is spooled is not delivered, as the last attempt was told; empty where it is, or there is nothing."""
        with self._changed:
            return next((lane.problem for lane in self._lanes if lane.problem), "")

    @property
    def running(self) -> bool:
        """Whether there is something to tell, or was a moment ago."""
        return self._thread is not None

    def put(self, receiver: Receiver, payload: bytes) -> None:
        """Spools one record. OSError, ValueError or Conflict where it cannot be kept."""
        with self._changed:
            lane = next((lane for lane in self._lanes if lane.own and lane.receiver is receiver), None)
            if lane is None:
                lane = self._begin(receiver)
            try:
                lane.spool.append(payload)
            except (OSError, ValueError):
                lane.spool.lose(1)
                raise
            finally:
                lane.drained = False
                self._wake()

    def _begin(self, receiver: Receiver) -> Lane:
        """A spool of this life's own; what could not even begin before is told as lost."""
        unkept = self._unkept.get(receiver, 0)
        try:
            spool = places.claim(self._process, receiver, self._clock.wall())
        except (OSError, Conflict):
            self._unkept[receiver] = unkept + 1
            raise
        if unkept:
            spool.lose(unkept)
            del self._unkept[receiver]
        lane = Lane(receiver, spool, own=True)
        self._lanes.append(lane)
        return lane

    def adopt(self, process: Path) -> None:
        """Delivers what lives of `process` that have ended left behind."""
        with self._changed:
            for receiver in RECEIVERS:
                for spool in places.leftovers(process, receiver, self._clock.wall()):
                    self._lanes.append(Lane(receiver, spool, own=False))
                    self._wake()

    def wake(self) -> None:
        """There are chores."""
        with self._changed:
            self._wake()

    def _wake(self) -> None:
        self._news = True
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._run, name="reporting", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def flush(self, within_s: float) -> bool:
        """Waits until everything is delivered, but no longer than it goes well; whether it is."""
        until = self._clock.monotonic() + within_s
        with self._changed:
            while self._thread is not None and (self._news or not all(lane.drained for lane in self._lanes)):
                left_s = until - self._clock.monotonic()
                if left_s <= 0 or any(lane.problem for lane in self._lanes):
                    return False
                self._changed.wait(left_s)
        return True

    def close(self, within_s: float) -> bool:
        """Delivers what goes well within the time, and leaves the rest to a later life; whether there is no rest."""
        done = self.flush(within_s)
        with self._changed:
            self._closed = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join(LAST_S)
        return done

    def abandon(self) -> None:
        """In a forked child: what is here is the parent's."""
        for lane in self._lanes:
            lane.spool.abandon()
        self._changed = threading.Condition()
        self._lanes, self._thread, self._news, self._client, self._adopt_at = [], None, False, None, 0.0

    def _run(self) -> None:
        try:
            while self._rest(self._round(self._clock.monotonic())):
                pass
        except Exception:
            _log.exception("what is spooled is not delivered for now")
        finally:
            client, self._client = self._client, None
            self._end()
            if client is not None:
                client.close()

    def _round(self, now: float) -> float | None:
        """One step of everything; when the next is due, None where nothing is left."""
        if now >= self._adopt_at:
            self._adopt_at = now + ADOPT_S
            self.adopt(self._process)
        with self._changed:
            self._news = False
            lanes = list(self._lanes)
        times = [self._chores(now)]
        for lane in lanes:
            try:
                if self._client is None:
                    self._client = self._connect()
                times.append(lane.step(self._client, self._clock, self._rng))
            except (OSError, TandemError) as error:
                lane.problem = str(error)
                times.append(now + RETRY_S)
        return min((at for at in times if at is not None), default=None)

    def _rest(self, due: float | None) -> bool:
        """Waits for what is due or for news; False where nothing came for a while, and everything is closed."""
        with self._changed:
            for lane in [lane for lane in self._lanes if not lane.own and (lane.drained or lane.problem)]:
                self.delivered += lane.delivered
                lane.spool.close()  # also while the receiver is away: its process may want it back
                self._lanes.remove(lane)
            self._changed.notify_all()
            if not self._news and not self._closed:
                wait_s = LINGER_S if due is None else max(0.0, due - self._clock.monotonic())
                self._changed.wait(wait_s)
            going_on = self._news or due is not None
            if self._closed or not going_on:
                self._end()
                return False
            return True

    def _end(self) -> None:
        """The thread's work is over: the spools are given back, whatever is in them."""
        with self._changed:
            if self._thread is threading.current_thread():
                for lane in self._lanes:
                    self.delivered += lane.delivered
                    lane.spool.close()
                self._lanes = []
                self._thread, self._adopt_at = None, 0.0
                self._changed.notify_all()
