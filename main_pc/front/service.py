"""The front's shell: HTTP on :7081 over the models of all hosts, in OpenAI's and in Ollama's words.

A request names a model; the model is borrowed, the request passed on to its engine, the answer streamed back, and the model given
back. The front keeps nothing: a request in flight depends on its engine alone, and goes on when ResourceManager is killed.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import secrets
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from aiohttp import web

from common.client.aio import AsyncClient
from common.client.directory import Directory
from common.client.opening import directory_of_environment, open_async_client
from common.client.settings import at_own_pace
from common.clock import Clock, timestamp
from common.config.settings import LOOPBACK, AgentEnvironment
from common.config.units import parse_seconds
from common.errors import BadRequest, Conflict, Internal, NotFound, TandemError, TooLarge, Unavailable, UnknownVerb
from common.reporting.handler import report_everything, report_from_loop
from common.reporting.reporter import ErrorReporter
from common.service.loop import allow_many_files, calm_collector, on_stop_signal, run
from common.telemetry.logs import configure
from common.telemetry.metrics import CONTENT_TYPE, Metrics
from common.telemetry.system_clock import SystemClock
from main_pc.front import bodies, listing
from main_pc.front.answering import refusal
from main_pc.front.doorkeeper import Doorkeeper, is_loopback
from main_pc.front.lending import Lending
from main_pc.front.passing import Passing
from main_pc.front.paths import ROUTES, dialect_of
from main_pc.front.relaying import Relaying

SERVICE: Final = "Front"
PORT: Final = 7081
HOST: Final = "mainpc"
KEY_FILE: Final = "front.key"
MAX_BODY: Final = 64 * 2**20
SHORTEST_KEY: Final = 16
WAIT_S: Final = 300.0
CLOSE_S: Final = 5.0
NEVER: Final = "9999-12-31T23:59:59Z"


@dataclass(frozen=True, slots=True)
class FrontSettings:
    """Where the front listens, under which names, with which key off loopback, and how long a model is waited for by default."""

    host: str
    port: int = PORT
    addresses: tuple[str, ...] = (LOOPBACK,)
    names: tuple[str, ...] = ()
    key: str = ""
    wait_s: float = WAIT_S


class Front:
    """The service, made on its running loop; `open` begins, `close` ends it."""

    def __init__(self, settings: FrontSettings, directory: Directory, client: AsyncClient, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._lending = Lending(client, directory, settings.host, clock)
        self._passing = Passing(client, settings.host)
        self._relaying = Relaying(self._lending, self._passing, clock, settings.wait_s)
        self._doorkeeper = Doorkeeper(frozenset(settings.names), settings.key)
        self._log = logging.getLogger("tandem.front")
        self._answered: Counter[tuple[str, str]] = Counter()
        self._in_flight = 0
        self.metrics = self._metrics()
        self._runner: web.ServerRunner | None = None
        self.port = settings.port

    async def open(self) -> None:
        """Serve; Conflict where a port is taken."""
        server = web.Server(self._handle, handler_cancellation=True, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=CLOSE_S)
        await self._runner.setup()
        for address in self._settings.addresses:
            site = web.TCPSite(self._runner, address, self.port)
            try:
                await site.start()
            except OSError as error:
                raise Conflict(f"http://{address}:{self.port} cannot be listened on: {error.strerror}") from None
            if self.port == 0:
                self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Take no new requests, let those under way end for a while, and stop."""
        if self._runner is not None:
            await self._runner.cleanup()
        await self._passing.close()

    def _metrics(self) -> Metrics:
        metrics = Metrics()
        answered = self._answered
        metrics.read_counter(
            "tandem_front_requests_total",
            "Requests answered, by path and status.",
            lambda: {labels: float(times) for labels, times in list(answered.items())},
            labels=("path", "status"),
        )
        metrics.read_gauge("tandem_front_in_flight", "Requests under way.", lambda: float(self._in_flight))
        metrics.read_gauge(
            "tandem_front_waiting", "Requests that wait for a model.", lambda: float(self._relaying.waiting)
        )
        return metrics

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self._in_flight += 1
        status = 499
        try:
            response = await self._guarded(request)
            status = response.status
            return response
        finally:
            self._in_flight -= 1
            path = request.path if request.path in _KNOWN_PATHS else "other"
            self._answered[path, str(status)] += 1

    async def _guarded(self, request: web.BaseRequest) -> web.StreamResponse:
        dialect = dialect_of(request.path)
        origin = request.headers.get("Origin")
        came_in_at = request.transport.get_extra_info("sockname")[0] if request.transport else ""
        refused = self._doorkeeper.refusal(
            came_in_at, request.headers.get("Host", ""), origin, request.headers.get("Authorization", "")
        )
        if refused is not None:
            return refusal(refused, dialect, {})
        shared = {} if origin is None else {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
        try:
            return await self._answer(request, shared)
        except TandemError as error:
            return refusal(error, dialect, shared)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            self._log.exception("%s %s failed inside the front", request.method, request.path)
            return refusal(Internal(f"the front failed: {type(error).__name__}"), dialect, shared)

    async def _answer(self, request: web.BaseRequest, shared: dict[str, str]) -> web.StreamResponse:
        if request.method == "OPTIONS":
            allowed = {"Access-Control-Allow-Methods": "GET, POST", "Access-Control-Allow-Headers": "*"}
            return web.Response(status=204, headers={**shared, **allowed})
        route = _ROUTES.get(request.path) if request.method == "POST" else None
        if route is not None:
            return await self._relaying.answer(request, route, await self._body(request), shared)
        answer = _OWN.get((request.method, request.path))
        if answer is None and request.method == "GET" and request.path.startswith("/v1/models/"):
            answer = Front._one_model
        if answer is None:
            raise _unserved(request.method, request.path)
        response = await answer(self, request)
        response.headers.update(shared)
        return response

    # what the front answers itself

    async def _health(self, _request: web.BaseRequest) -> web.Response:
        return _json({"status": "ok", "ready": True, "service": SERVICE, "in_flight": self._in_flight})

    async def _scraped(self, _request: web.BaseRequest) -> web.Response:
        text = await asyncio.to_thread(self.metrics.exposition)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})

    async def _models(self, _request: web.BaseRequest) -> web.Response:
        found, missing = await self._lending.models()
        if missing and not found:
            raise Unavailable("; ".join(f"{host}: {why}" for host, why in missing.items()), retry_after_ms=1_000)
        return _json(listing.openai_models(found))

    async def _one_model(self, request: web.BaseRequest) -> web.Response:
        name = request.path.removeprefix("/v1/models/")
        model = listing.named((await self._lending.models())[0], name)
        if model is None:
            raise NotFound(f"no model {name!r}", mend="`GET /v1/models` lists them")
        return _json(listing.openai_model(name, model))

    async def _tags(self, _request: web.BaseRequest) -> web.Response:
        return _json(listing.ollama_tags((await self._lending.models())[0], timestamp(self._clock.wall())))

    async def _loaded(self, _request: web.BaseRequest) -> web.Response:
        return _json(listing.ollama_loaded((await self._lending.models())[0], timestamp(self._clock.wall()), NEVER))

    async def _show(self, request: web.BaseRequest) -> web.Response:
        asked = bodies.read("application/json", _named_model(await self._body(request)))
        model = listing.named((await self._lending.models())[0], asked.model)
        if model is None:
            raise NotFound(f"model {asked.model!r} not found")
        return _json(listing.ollama_show(model, timestamp(self._clock.wall())))

    async def _version(self, _request: web.BaseRequest) -> web.Response:
        return _json({"version": listing.VERSION})

    async def _body(self, request: web.BaseRequest) -> bytes:
        if (request.content_length or 0) > MAX_BODY:
            raise TooLarge(f"the body has {request.content_length} bytes; at most {MAX_BODY} are taken")
        pieces = bytearray()
        async for chunk in request.content.iter_any():
            pieces += chunk
            if len(pieces) > MAX_BODY:
                raise TooLarge(f"the body has more than the {MAX_BODY} bytes that are taken")
        return bytes(pieces)


_OWN: Final[dict[tuple[str, str], Callable[[Front, web.BaseRequest], Awaitable[web.Response]]]] = {
    ("GET", "/health"): Front._health,
    ("GET", "/metrics"): Front._scraped,
    ("GET", "/v1/models"): Front._models,
    ("GET", "/api/tags"): Front._tags,
    ("GET", "/api/ps"): Front._loaded,
    ("POST", "/api/show"): Front._show,
    ("GET", "/api/version"): Front._version,
}
_ROUTES: Final = {route.path: route for route in ROUTES}
_KNOWN_PATHS: Final = _ROUTES.keys() | {path for _, path in _OWN}


def _unserved(method: str, path: str) -> UnknownVerb:
    if path in _KNOWN_PATHS:
        mend = f"it is asked with {'GET' if ('GET', path) in _OWN else 'POST'}"
    else:
        mend = f"there are {', '.join(sorted(_KNOWN_PATHS))}"
    return UnknownVerb(f"{method} {path} is not served here", mend=mend)


def _json(document: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), content_type="application/json")


def _named_model(body: bytes) -> bytes:
    """`/api/show` once named its model `name`."""
    return body.replace(b'"name"', b'"model"', 1) if b'"model"' not in body else body


def _key(folder: Path) -> str:
    """The key that callers from elsewhere need, made where there is none; 0600, for whoever runs the fabric to read."""
    file = folder / KEY_FILE
    with suppress(FileExistsError):
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as made:
            made.write(secrets.token_urlsafe(32) + "\n")
    key = file.read_text().strip()
    if len(key) < SHORTEST_KEY:
        raise BadRequest(f"{file} holds no key of at least {SHORTEST_KEY} characters", mend="delete it for a new one")
    return key


def _settings(arguments: Sequence[str], environment: AgentEnvironment) -> FrontSettings:
    parser = argparse.ArgumentParser(prog="python -m main_pc front", description="OpenAI's and Ollama's interfaces.")
    parser.add_argument("--port", type=int, default=environment.health_port or PORT, help="default: 7081")
    parser.add_argument(
        "--listen", action="append", metavar="ADDRESS", help="default: 127.0.0.1; elsewhere a key is needed"
    )
    parser.add_argument("--name", action="append", default=[], help="a host name under which it may be asked")
    parser.add_argument("--wait", type=parse_seconds, default=WAIT_S, metavar="TIME", help="for a model; default: 300s")
    given = parser.parse_args(arguments)
    host = environment.host or HOST
    addresses = tuple(given.listen or (LOOPBACK,))
    key = ""
    if any(not is_loopback(address) for address in addresses):
        folder = environment.home / host
        folder.mkdir(parents=True, exist_ok=True)
        key = _key(folder)
    return FrontSettings(
        host, given.port, addresses, tuple(each.lower() for each in given.name), key, float(given.wait)
    )


async def _serve(settings: FrontSettings, reporter: ErrorReporter) -> None:
    loop = asyncio.get_running_loop()
    report_from_loop(reporter, loop)
    stopped = asyncio.Event()
    on_stop_signal(stopped.set)
    directory = directory_of_environment()
    async with open_async_client(at_own_pace(), directory) as client:
        front = Front(settings, directory, client, SystemClock())
        reporter.show(front.metrics)
        try:
            await front.open()
            calm_collector()
            await stopped.wait()
        finally:
            await front.close()


def main(arguments: Sequence[str]) -> int:
    """The process; its exit status, 1 when it could not begin."""
    allow_many_files()
    environment = AgentEnvironment.read()
    try:
        settings = _settings(arguments, environment)
        configure(SERVICE, settings.host)
        reporter = ErrorReporter("front", host=settings.host)
        report_everything(reporter)
        if settings.key:
            logging.getLogger("tandem.front").info("callers from elsewhere need the key in %s", KEY_FILE)
        run(_serve(settings, reporter))
    except TandemError as error:
        print(f"{SERVICE} cannot start: {error.message}", file=sys.stderr)
        return 1
    return 0
