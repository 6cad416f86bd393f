"""The agent: subclass it, mark methods as verbs, run it. Everything else comes with it.

    class Language(Agent):
        @verb(capability="text", idempotent=True)
        def detect(self, data: str) -> dict[str, str]:
            return {"language": langid.classify(data)[0]}

    Language("language").run()

`async def` methods run inline on the loop; `def` methods run one at a time on a worker thread, so they may compute. Those that
give VRAM back have a thread of their own, for the worker may be waiting for a lease.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, ClassVar, Unpack

import msgspec

from common.agent.leasing import AgentLeases, HeldLease, LeaseTerms, this_process
from common.agent.membership import TTL_S, Membership
from common.agent.verb import SLEEP, UNLOAD, Item, Items, Method, methods_of
from common.api import core_orchestrator as core
from common.api import leases
from common.api.agent import ERROR_REPORTED, TOPICS, ErrorReported
from common.api.error_bus import Severity
from common.api.observability_hub import MetricKind
from common.api.words import Topic
from common.client.aio import AsyncClient
from common.client.opening import open_async_client
from common.config.settings import AgentEnvironment
from common.errors import DeadlineExceeded, TandemError
from common.reporting.handler import REPORTED, report_everything, report_from_loop
from common.reporting.reporter import ErrorReporter
from common.service.call import Call
from common.service.loop import on_stop_signal, run
from common.service.shell import Shell, ShellSettings
from common.telemetry.logs import configure
from common.telemetry.showing import spelt


class Agent:
    """One agent process. Name, host and ports come from its supervisor's environment unless given here (port 0: any)."""

    topics: ClassVar[tuple[Topic, ...]] = ()

    def __init__(
        self,
        name: str = "",
        *,
        host: str = "",
        port: int | None = None,
        events_port: int | None = None,
        health_port: int | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        environment = AgentEnvironment.read()
        self.name = environment.agent_name or name or type(self).__name__
        self.host = host or environment.host or "mainpc"
        self._settings = ShellSettings(
            service=self.name,
            host=self.host,
            port=environment.port if port is None else port,
            events_port=environment.events_port if events_port is None else events_port,
            health_port=environment.health_port if health_port is None else health_port,
            addresses=environment.addresses,
            keys=environment.key_file,
            lone=not environment.supervised,
            metadata=metadata or {},
        )
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="worker")
        self._letting_go = ThreadPoolExecutor(max_workers=1, thread_name_prefix="letting-go")
        self.reporter = ErrorReporter(self.name, host=self.host)
        self.log = logging.getLogger(f"tandem.agent.{self.name}")
        self.shell: Shell
        self.client: AsyncClient
        self._leases: AgentLeases
        self._unload: leases.Unload | None = None

    async def started(self) -> None:
        """Called once the ports are open and before registration: load what the verbs need here."""

    async def stopping(self) -> None:
        """Called when no call is under way any more, before the process ends."""

    def run(self) -> None:
        """Serve until told to stop (SIGTERM, SIGINT); what is logged as an error, or caught by nobody, is reported."""
        configure(self.name, self.host)
        report_everything(self.reporter)
        run(self._run())

    async def _run(self) -> None:
        report_from_loop(self.reporter, asyncio.get_running_loop())
        await self.serve()

    async def serve(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve on the running loop until told to stop; `ready` is called when the ports are open."""
        self.shell = Shell(self._settings, (*TOPICS, *self.topics))
        self.reporter.show(self.shell.metrics)
        self.client = open_async_client()
        self.shell.breakers = self.client.breakers
        methods = list(methods_of(self))
        self._leases = AgentLeases(self.shell, self.client, self.host)
        for method in methods:
            self.shell.handle(method.verb, self._handler(method))
        try:
            await self.shell.open(ready=False)
            self._unload = self._unload_by(frozenset(method.verb.name for method in methods))
            on_stop_signal(self.shell.stop)
            await self.started()
            await self._serve(methods, ready)
        finally:
            await self._leases.close()
            for threads in (self._worker, self._letting_go):
                threads.shutdown(wait=False, cancel_futures=True)
            await self.client.close()
            await self.shell.close()
            await asyncio.to_thread(self.reporter.close)

    async def _serve(self, methods: list[Method], ready: Callable[[], None]) -> None:
        self.shell.set_ready()
        membership = Membership(
            self.shell, self.client, lambda: self._registration(methods), lambda: self.shell.onion.in_flight
        )
        keeping = self.shell.spawn(membership.keep(), "membership")
        ready()
        try:
            await self.shell.stopped()
        finally:
            keeping.cancel()
            await membership.leave()
            await self.shell.drain()
            await self.stopping()

    def _registration(self, methods: list[Method]) -> core.RegisterAgent:
        offered = [method for method in methods if method.mark.capability]
        return core.RegisterAgent(
            agent_name=self.name,
            host="127.0.0.1",
            port=self.shell.port,
            health_check_port=self.shell.health_port,
            events_port=self.shell.events_port,
            capabilities=[method.mark.capability for method in offered],
            verbs={method.mark.capability: method.verb.name for method in offered},
            idempotent=[method.mark.capability for method in offered if method.mark.idempotent],
            metadata=self._settings.metadata,
            ttl_s=TTL_S,
            dress="native",
            location=self.host,
            boot=self.shell.boot,
            pid=os.getpid(),
            server_key=self.shell.server_key,
        )

    def _handler(self, method: Method) -> Callable[[Any, Call], Any]:
        async def handle(request: Any, call: Call) -> Any:
            try:
                return await self._perform(method, method.arguments(request, call), call)
            except TandemError:
                raise
            except Exception as error:
                self.report_error(error, details={"verb": method.verb.name})
                raise
            finally:
                if method.verb.name in (UNLOAD, SLEEP):
                    self._leases.gave_back(request.lease_id)

        return handle

    def _unload_by(self, verbs: frozenset[str]) -> leases.Unload | None:
        """How this agent is asked for its VRAM, by `on_unload` and `on_sleep`; None where it has neither."""
        if not verbs & {UNLOAD, SLEEP}:
            return None
        sleep, unload = SLEEP if SLEEP in verbs else "", UNLOAD if UNLOAD in verbs else ""
        return leases.Unload(port=self.shell.port, sleep=sleep, unload=unload)

    async def _perform(self, method: Method, arguments: dict[str, Any], call: Call) -> Any:
        if method.streams:
            items = method.function(**arguments) if method.is_async else self._from_worker(method.function(**arguments))
            return await _streamed(items, call)
        if method.is_async:
            return method.reply(await method.function(**arguments))
        return method.reply(await self._on_worker(lambda: method.function(**arguments), call))

    async def _on_worker(self, work: Callable[[], Any], call: Call) -> Any:
        now = self.shell.clock.monotonic

        def unless_late() -> Any:
            if call.deadline is not None and call.deadline <= now():
                raise DeadlineExceeded(f"{call.verb} waited for the worker until its time was over")
            try:
                return work()
            except StopIteration as exhausted:  # no future takes one: whoever waits for it would wait for ever
                raise RuntimeError(f"{call.verb} raised StopIteration") from exhausted

        threads = self._letting_go if call.verb in (UNLOAD, SLEEP) else self._worker
        return await self.shell.loop.run_in_executor(threads, unless_late)

    async def _from_worker(self, items: Generator[Any, None, None]) -> AsyncGenerator[Any, None]:
        try:
            while (item := await self.shell.loop.run_in_executor(self._worker, lambda: next(items, _END))) is not _END:
                yield item
        finally:  # where it ran and behind the step that is running, which nobody waits for
            self._worker.submit(items.close)

    def lease(
        self,
        model: str,
        bytes: int,
        *,
        wait_s: float = 60.0,
        priority: int = 50,
        ttl_s: float = 60.0,
        host: str = "",
        card_uuid: str = "",
        unload_within_s: float = 10.0,
        **terms: Unpack[LeaseTerms],
    ) -> HeldLease:
        """`async with self.lease("whisper", 10 * 2**30) as held:` holds VRAM, renewed until the block is left.

        On a card of this agent's host, for no process reaches another's; `host` says otherwise.
        Raises NoCapacity with need, free and a reason per card when it was not to be had within `wait_s`. When it has to go, once
        it is not in use, the agent's `on_sleep` and `on_unload` methods are called, which have `unload_within_s`; an agent
        without them is ended.
        """
        unload = self._unload and msgspec.structs.replace(self._unload, timeout_s=unload_within_s)
        request = leases.AcquireLease(
            model=model,
            bytes=bytes,
            priority=priority,
            ttl_s=ttl_s,
            host=host or self.host,
            card_uuid=card_uuid,
            owner=this_process(self.name, self.host),
            wait_s=wait_s,
            unload=unload,
            **terms,
        )
        return self._leases.lease(request)

    def report_error(
        self,
        error: BaseException | str,
        message: str = "",
        *,
        severity: Severity = "error",
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Tell the fabric of an error that was not expected: a report for ErrorBus, an event, a log line, never an exception.

        `error` is an exception, or the type of an error as a name; `message` defaults to the exception's own. It waits for one
        write to the disk at most. Equal errors within a second are one report with a count, one event and one line.
        """
        if not self.reporter.report_error(error, message, severity=severity, details=details):
            return
        kind = error if isinstance(error, str) else type(error).__name__
        said = (message or ("" if isinstance(error, str) else spelt(error)))[:2_000].encode(errors="replace").decode()
        told = ErrorReported(
            agent=self.name, error_type=kind, message=said, severity=severity, details=dict(details or {})
        )
        try:
            self.shell.publisher.publish(ERROR_REPORTED, self.name, told)
        except (TypeError, ValueError, OverflowError, RecursionError):
            told = msgspec.structs.replace(told, details={"unsayable": repr(details)[:2_000]})
            self.shell.publisher.publish(ERROR_REPORTED, self.name, told)
        raised = None if isinstance(error, str) else error
        self.log.error("%s: %s", kind, said, exc_info=raised, extra={REPORTED: True})

    def metric(
        self, name: str, value: float, labels: Mapping[str, object] | None = None, *, kind: MetricKind = "gauge"
    ) -> None:
        """Hand ObservabilityHub a point of a metric, as of now; a counter is told by its total since the agent began.

        It waits for one write to the disk at most; while the hub is away the points wait there too, the oldest going first.
        """
        self.reporter.metric(name, value, labels, kind=kind)


async def _streamed(items: AsyncGenerator[Any, None], call: Call) -> Items:
    kept: list[Any] = []
    count = 0
    async with aclosing(items):
        async for item in items:
            count += 1
            if call.streams:
                call.part(Item(item=item))
            else:
                kept.append(item)
    return Items(count=count, items=kept)


_END = object()
