"""A client's connection to one endpoint for programs without a loop: one call at a time, polled to its end."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import zmq
from zmq.utils.monitor import parse_monitor_message

from common.api.words import AnyVerb
from common.client.conversation import PARTS_KEPT, Answer, Conversation, Part, too_slow
from common.client.plain_link import plain_call, plain_reply
from common.clock import Clock
from common.errors import BadRequest, DeadlineExceeded, Interrupted, TandemError, Unavailable
from common.resilience.budget import remaining_ms
from common.transport import sockets
from common.transport.channel import WATCHED, reason_for
from common.transport.drain import read_message
from common.transport.sockets import Endpoint
from common.wire.frames import Buffer

SLICE_MS: Final = 100
"""A lost connection is noticed within this time."""

_POLLIN: Final = int(zmq.POLLIN)
_POLLOUT: Final = int(zmq.POLLOUT)


class Wire:
    """One DEALER and its monitor, waited for together."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: Endpoint, clock: Clock) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._socket = sockets.dealer(context, endpoint)
        self._monitor = sockets.monitor(self._socket, WATCHED)
        self._socket.setsockopt(zmq.RCVTIMEO, SLICE_MS)
        self._send = sockets.raw_send(self._socket)
        self._receive = sockets.raw_receive(self._socket)
        self._news = sockets.raw_receive(self._monitor)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        self._connected = False
        self._given_up = False
        try:
            sockets.connect(self._socket, endpoint)
        except BadRequest:
            self.close()
            raise

    def send(self, frames: Sequence[Buffer], deadline: float) -> None:
        """Send once the connection stands; Unavailable when nobody is there, DeadlineExceeded when it took too long."""
        while not sockets.send_now(self._send, frames):
            self._wait(deadline, _POLLOUT if self._connected else 0)

    def receive(self, deadline: float) -> list[Buffer]:
        """The next message; Interrupted when the connection is lost first, DeadlineExceeded when none came in time.

        It blocks in libzmq for a slice at a time, which costs a third of polling, and looks at the connection in between.
        """
        while deadline - self._clock.monotonic() > SLICE_MS / 1000:
            frames = read_message(self._receive, 0)
            if frames is not None:
                return frames
            self.look()
        while True:
            frames = read_message(self._receive)
            if frames is not None:
                return frames
            self._wait(deadline)

    def _wait(self, deadline: float, until: int = _POLLIN) -> None:
        """Wait until the socket is ready, or take in what happened to the connection first."""
        left_ms = remaining_ms(deadline, self._clock.monotonic())
        if not left_ms:
            raise DeadlineExceeded(f"no answer from {self._endpoint.address} in time")
        self._poller.modify(self._socket, until)
        ready = dict(self._poller.poll(left_ms))
        if self._monitor in ready and self._socket not in ready:
            self._tell(read_message(self._news))

    def _tell(self, frames: list[Buffer] | None) -> None:
        if frames is None:
            return
        event = int(parse_monitor_message([bytes(frame) for frame in frames])["event"])
        reason = reason_for(event, self._endpoint)
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._connected = True
        elif event == zmq.EVENT_DISCONNECTED and self._connected:
            self._connected = False
            raise Interrupted(f"{reason} before the call was answered")
        elif event != zmq.EVENT_DISCONNECTED:
            self._given_up = self._given_up or bool(event & sockets.REFUSALS)
            raise Unavailable(reason)

    def in_step(self) -> bool:
        """Whether nothing came that nobody asked for."""
        return read_message(self._receive) is None

    def look(self) -> None:
        """Take in what happened to the connection; raises when it was lost or refused."""
        while int(self._monitor.getsockopt(zmq.EVENTS)) & _POLLIN:
            self._tell(read_message(self._news))

    def settle(self) -> Interrupted | None:
        """The same before a call: old news does not end the next one, but a loss is told.

        After a refused handshake it begins to connect anew: libzmq does not.
        """
        lost: Interrupted | None = None
        while True:
            try:
                self.look()
            except Interrupted as error:
                lost = error
            except TandemError:
                continue
            else:
                break
        if self._given_up:
            self._given_up = False
            sockets.connect_again(self._socket, self._endpoint)
        return lost

    def close(self, linger_ms: int = 0) -> None:
        """Disconnect."""
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(linger_ms)


@dataclass(slots=True, eq=False)
class _Box:
    """What came for one call and was not taken yet: its parts, and its answer last."""

    verb: str
    call_id: int = 0
    items: deque[Answer[_Box] | Part[_Box]] = field(default_factory=deque)


class BlockingLink:
    """Native calls to one endpoint."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: Endpoint, clock: Clock) -> None:
        self._clock = clock
        self._wire = Wire(context, endpoint, clock)
        self._talk: Conversation[_Box] = Conversation()

    @property
    def idle(self) -> bool:
        """Whether no call is under way."""
        return not len(self._talk)

    def call(self, verb: AnyVerb, request: Any, deadline: float, token: str | None = None) -> Any:
        """The reply; raises the error that ended the call."""
        *_, final = self.stream(verb, request, deadline, token)
        return final

    def stream(
        self, verb: AnyVerb, request: Any, deadline: float, token: str | None = None
    ) -> Generator[Any, None, None]:
        """The parts, then the reply as the last item; other calls may be made and streams begun between the items."""
        if (lost := self._wire.settle()) is not None:
            self._fail(lost)
        budget_ms = max(1, remaining_ms(deadline, self._clock.monotonic()))
        box = _Box(verb.name)
        box.call_id, frames = self._talk.call(verb, request, box, budget_ms, deadline, token)
        try:
            self._send(frames, deadline)
            while True:
                heard = self._next(box, deadline)
                if isinstance(heard, Answer) and heard.error is not None:
                    raise heard.error
                yield heard.value
                if isinstance(heard, Answer):
                    return
        finally:
            self._withdraw(box)

    def _send(self, frames: Sequence[Buffer], deadline: float) -> None:
        try:
            self._wire.send(frames, deadline)
        except (Interrupted, Unavailable) as error:
            self._fail(error)

    def _next(self, box: _Box, deadline: float) -> Answer[_Box] | Part[_Box]:
        while not box.items:
            try:
                heard = self._talk.accept(self._wire.receive(deadline))
            except BadRequest:
                continue
            except (Interrupted, Unavailable) as error:
                self._fail(error)
                continue
            for item in heard:
                self._keep(item)
        return box.items.popleft()

    def _keep(self, item: Answer[_Box] | Part[_Box]) -> None:
        box = item.waiter
        if isinstance(item, Part) and len(box.items) >= PARTS_KEPT:
            self._withdraw(box)
            item = Answer(box, None, too_slow(box.verb))
        box.items.append(item)

    def _fail(self, error: TandemError) -> None:
        """The connection is gone, and with it every call that is under way on it."""
        for box in self._talk.take_all():
            box.items.append(Answer(box, None, error))

    def _withdraw(self, box: _Box) -> None:
        """The call is not wanted any more; nothing happens to one that has ended."""
        withdrawal = self._talk.withdraw(box.call_id)
        if withdrawal is None:
            return
        with suppress(TandemError):
            self._wire.send(withdrawal, self._clock.monotonic())

    def close(self) -> None:
        """Disconnect: calls under way end as interrupted, and their withdrawals may still leave."""
        self._fail(Interrupted("the client was closed"))
        self._wire.close(100)


class PlainBlockingLink:
    """Calls to one agent that speaks the plain dress only.

    A connection that was not answered in time, or answered twice, is thrown away.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: Endpoint, clock: Clock) -> None:
        self._context = context
        self._endpoint = endpoint
        self._clock = clock
        self._wire: Wire | None = None

    def call(self, verb: AnyVerb, request: Any, deadline: float, token: str | None = None) -> Any:
        """The reply; raises the error that ended the call."""
        if self._wire is not None and not self._wire.in_step():
            self.close()
        wire = self._wire or Wire(self._context, self._endpoint, self._clock)
        self._wire = None
        budget_ms = max(1, remaining_ms(deadline, self._clock.monotonic()))
        try:
            wire.settle()
            wire.send((b"", plain_call(verb.name, request, budget_ms, token)), deadline)
            body = wire.receive(deadline)[-1]
        except BaseException:
            wire.close()
            raise
        self._wire = wire
        return plain_reply(body, verb)

    @property
    def idle(self) -> bool:
        """Whether no call is under way: always, for one is made at a time."""
        return True

    def stream(
        self, verb: AnyVerb, request: Any, deadline: float, token: str | None = None
    ) -> Generator[Any, None, None]:
        """The one reply."""
        yield self.call(verb, request, deadline, token)

    def close(self) -> None:
        """Disconnect."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None
