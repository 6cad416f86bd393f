"""The way of one request through a service, from frames to the answer; the layers and their order are fixed here.

    dress -> header -> identify -> deadline -> authorize -> decode -> admit (in flight) -> handler -> journal -> answer

Everything after the dress runs inside the verb's meter, so that refusals are counted. Exactly one answer leaves for every
message, whatever its bytes. Nothing here knows what a verb means.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from common.api.words import Access, AnyVerb, Empty, Verb
from common.clock import Clock
from common.errors import BadRequest, Cancelled, Code, DeadlineExceeded, Internal, Overloaded, TandemError
from common.resilience.bulkhead import Bulkhead
from common.security.rights import Standing, refusal
from common.security.tokens import Checked
from common.service.bundles import Bundles
from common.service.call import Authorized, Call
from common.service.journal import Journal
from common.service.reply import NativeReply, PlainReply, Reply
from common.service.routes import Route, Routes
from common.telemetry.meters import VerbMeter
from common.transport.router_port import RouterPort
from common.wire import bundle, header, plain
from common.wire.codec import BodyDecoder
from common.wire.frames import Buffer, Malformed, Native, Plain, framed
from common.wire.header import CallHeader, CallKind, Codec

Identify = Callable[[RouterPort], Standing]
"""Who sent the message that is being handed over."""

Authorize = Callable[[Standing, str | None, AnyVerb], Authorized]
"""Who the caller is and what it may, with the token that it shows; Unauthenticated or Forbidden when it may not use the verb."""

Withdrawn = Callable[[Standing, Checked | None], TandemError | None]
"""Why the call of who was let in, and of the token that it showed, is to end; None: it goes on."""

_HEALTH: Final = "health_check"
_UNKNOWN: Final = Verb("unknown", Empty, Empty, Access.READ)
"""What a verb that nobody serves asks of its caller."""


class Body(msgspec.Struct, frozen=True, eq=False):
    """What came behind the header, not decoded yet."""

    codec: Codec
    frame: Buffer
    names: list[str] | None = None
    attachments: Sequence[Buffer] = ()

    def decode(self, decoder: BodyDecoder[Any]) -> Any:
        """The request; BadRequest says what is wrong and where."""
        if self.names or self.attachments:
            return decoder.decode_with(self.codec, self.frame, self.names or (), self.attachments)
        return decoder.decode(self.codec, self.frame)


class Onion:
    """One process's layers."""

    def __init__(
        self,
        routes: Routes,
        journals: Sequence[Journal],
        bulkhead: Bulkhead,
        clock: Clock,
        identify: Identify,
        authorize: Authorize,
        refused: VerbMeter,
    ) -> None:
        self._routes = routes
        self._journals = journals
        self._bulkhead = bulkhead
        self._now = clock.monotonic
        self._identify = identify
        self._authorize = authorize
        self._refused = refused
        self._tasks: dict[asyncio.Task[None], Call] = {}
        self._by_id: dict[tuple[RouterPort, bytes, int], asyncio.Task[None]] = {}
        self._log = logging.getLogger("tandem.service")
        self._bundles = Bundles()
        self.draining: TandemError | None = None

    @property
    def in_flight(self) -> int:
        """Calls that are being waited for."""
        return len(self._tasks)

    def receive(self, port: RouterPort, route: bytes, frames: list[Buffer]) -> None:
        """Take one message in; its one answer leaves now, after the commit, or when its task ends."""
        message = framed(frames) if frames else Malformed((), BadRequest("a message without frames"))
        if type(message) is Native:
            self._native(port, route, message)
        elif type(message) is Plain:
            self._plain(port, route, message)
        else:
            self._refuse(PlainReply(port, route, message.envelope, b""), message.error)  # type: ignore[union-attr]

    def _native(self, port: RouterPort, route: bytes, message: Native) -> None:
        try:
            head = header.decode_call(message.header)
            if head.kind is CallKind.BUNDLE:
                self._bundle(port, route, message)
                return
        except BadRequest as error:
            self._refuse(PlainReply(port, route, message.envelope, b""), error)
            return
        body = Body(head.codec, message.body, head.attachments, message.attachments)
        self._call(port, route, message.envelope, head, body, None)

    def _bundle(self, port: RouterPort, route: bytes, message: Native) -> None:
        if message.envelope:
            raise BadRequest("a bundle travels without an envelope; send its calls one by one")
        calls = [(header.decode_call(inner), body) for inner, body in bundle.unbundled(message.body)]
        for head, frame in calls:
            self._call(port, route, (), head, Body(head.codec, frame, head.attachments), self._bundles)

    def _call(
        self,
        port: RouterPort,
        route: bytes,
        envelope: tuple[Buffer, ...],
        head: CallHeader,
        body: Body,
        bundles: Bundles | None,
    ) -> None:
        if head.kind is CallKind.WITHDRAW:
            self._withdraw(port, route, head.id)
            return
        reply = NativeReply(port, route, envelope, head.id, head.codec, bundles)
        self._serve(port, route, reply, head.verb, body, head)

    def _plain(self, port: RouterPort, route: bytes, message: Plain) -> None:
        if plain.asks_health(message.body):
            body = Body(Codec.JSON, b"{}")
            self._serve(port, route, PlainReply(port, route, message.envelope, b""), _HEALTH, body, None)
            return
        try:
            call = plain.decode_call(message.body)
        except BadRequest as error:
            self._refuse(PlainReply(port, route, message.envelope, plain.id_of(message.body)), error)
            return
        head = CallHeader(header.PROTOCOL, CallKind.CALL, 0, call.action, call.deadline_ms, Codec.JSON, call.token)
        reply = PlainReply(port, route, message.envelope, call.id)
        self._serve(port, route, reply, call.action, Body(Codec.JSON, message.body), head)

    def _refuse(self, reply: Reply, error: TandemError) -> None:
        self._refused.begin()
        self._refused.end(0.0, error.code, error.message)
        reply.error(error)

    def _serve(
        self, port: RouterPort, peer: bytes, reply: Reply, verb: str, body: Body, head: CallHeader | None
    ) -> None:
        caller = self._identify(port)
        route = self._routes.get(verb)
        if route is None:
            self._refuse(reply, refusal(caller, None, _UNKNOWN) or self._routes.unknown(verb))
            return
        now = self._now()
        deadline = trace = token = None
        if head is not None:
            trace, token = head.trace, head.token
            if head.budget_ms:
                deadline = now + head.budget_ms / 1000
        call = Call(reply, verb, caller, now, deadline, trace)
        route.meter.begin()
        try:
            if self.draining is not None and route.verb.access is not Access.READ:
                raise self.draining.with_traceback(None)
            if token is not None or route.verb.access not in caller.allowed:
                call.identity, call.scopes, call.token = self._authorize(caller, token, route.verb)
            request = body.decode(route.decoder)
            if route.waits:
                self._start(route, request, call, reply, port, peer, head)
                return
            outcome = route.handler(request, call)
        except TandemError as error:
            self._settle(route, call, reply, error)
        except Exception:
            self._settle(route, call, reply, self._bug(route))
        else:
            self._settle(route, call, reply, outcome)

    def _bug(self, route: Route) -> Internal:
        self._log.exception("verb %s failed", route.verb.name)
        return Internal(f"{route.verb.name} failed inside the service; `tandem errors` and its log have the stack")

    def _settle(self, route: Route, call: Call, reply: Reply, outcome: object) -> None:
        if route.journal is not None and route.journal.dirty:
            route.journal.hold(lambda failure: self._answer(route, call, reply, failure or outcome))
        else:
            self._answer(route, call, reply, outcome)

    def _answer(self, route: Route, call: Call, reply: Reply, outcome: object) -> None:
        error = outcome if isinstance(outcome, TandemError) else None
        try:
            if error is None:
                reply.final(outcome)
            else:
                reply.error(error)
        except Exception:  # what cannot be said, in whatever way, is answered all the same
            if error is not None and error.code is Code.INTERNAL:
                raise
            self._answer(route, call, reply, self._bug(route))
            return
        if error is None:
            route.meter.end(self._now() - call.arrived, None)
        else:
            route.meter.end(self._now() - call.arrived, error.code, error.message)

    def _start(
        self,
        route: Route,
        request: object,
        call: Call,
        reply: Reply,
        port: RouterPort,
        peer: bytes,
        head: CallHeader | None,
    ) -> None:
        holder = f"{port.address.host} {peer.hex()}"
        if not self._bulkhead.enter(holder):
            raise Overloaded("too many calls of this connection wait here", retry_after_ms=100)
        task = asyncio.create_task(self._run(route, request, call, reply))
        self._tasks[task] = call
        key = (port, peer, head.id) if head is not None and reply.streams else None
        if key is not None:
            self._by_id[key] = task
        task.add_done_callback(lambda ended: self._ended(ended, holder, key))
        task.add_done_callback(lambda ended: self._never_ran(ended, route, call, reply))

    def _never_ran(self, task: asyncio.Task[None], route: Route, call: Call, reply: Reply) -> None:
        """A task that was cancelled before its first step ends without a word of its own; its call is answered here."""
        if task.cancelled():
            self._settle(route, call, reply, self._why_cancelled(call))

    def _ended(self, task: asyncio.Task[None], holder: str, key: tuple[RouterPort, bytes, int] | None) -> None:
        self._bulkhead.leave(holder)
        self._tasks.pop(task, None)
        if key is not None and self._by_id.get(key) is task:
            del self._by_id[key]

    async def _run(self, route: Route, request: object, call: Call, reply: Reply) -> None:
        outcome: object
        try:
            outcome = await route.handler(request, call)
        except TandemError as error:
            outcome = error
        except asyncio.CancelledError:
            outcome = self._why_cancelled(call)
        except Exception:
            outcome = self._bug(route)
        self._settle(route, call, reply, outcome)

    def dismiss(self, withdrawn: Withdrawn) -> None:
        """End the calls of keys and tokens that count no more; they get no further part."""
        for task, call in self._tasks.items():
            if call.dismissed is None:
                call.dismissed = withdrawn(call.caller, call.token)
                if call.dismissed is not None:
                    task.cancel()

    def _why_cancelled(self, call: Call) -> TandemError:
        if call.dismissed is not None:
            return call.dismissed
        if call.deadline is not None and call.deadline <= self._now():
            return DeadlineExceeded(
                f"{call.verb} was not done within the caller's {call.deadline - call.arrived:.3f} s"
            )
        return self.draining or Cancelled(f"{call.verb} was withdrawn")

    def _withdraw(self, port: RouterPort, peer: bytes, call_id: int) -> None:
        task = self._by_id.get((port, peer, call_id))
        if task is not None:
            task.cancel()

    def sweep(self) -> None:
        """Cancel the calls whose deadline has passed; called some four times a second."""
        now = self._now()
        for task, call in self._tasks.items():
            if call.deadline is not None and call.deadline <= now and not task.cancelling():
                task.cancel()

    def drained(self) -> bool:
        """The turn's messages are all in: commit what they decided; whether anything was."""
        committed = False
        for journal in self._journals:
            committed |= journal.commit()
        return self._bundles.flush() or committed

    async def finish(self, within_s: float) -> None:
        """Let the calls under way end, and cancel those that have not after `within_s`."""
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=within_s)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=1.0)
        for journal in self._journals:
            await journal.settle()
        self._bundles.flush()
