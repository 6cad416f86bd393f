"""One far process on this host's loopback: its requests and its events, over CURVE to the address and by the key it has now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from common.errors import TandemError
from common.supervisor.relay.events import Events
from common.supervisor.relay.offers import Far
from common.supervisor.relay.reach import Reach, Since
from common.supervisor.relay.requests import Context, Curve, Requests
from common.telemetry.system_clock import SystemClock
from common.transport.sockets import Endpoint

EAGER_S: Final = 5.0
"""A far process whose key was just told may learn of this relay's a moment later; so long it is asked anew at each refresh."""

Locate = Callable[[Far, int], Endpoint | None]
"""Where a port of a far process is reached now, and by which keys; None while its key is not known here."""


class Passage:
    """The way to one far process. `open` binds what it can; `refresh` follows its key, and is called now and then."""

    def __init__(self, context: Context, clock: SystemClock, own_host: str, far: Far, locate: Locate) -> None:
        self.far = far
        self._context = context
        self._clock = clock
        self._locate = locate
        self.reach = Reach(far.service, far.host, own_host, self._since())
        self._requests = Requests(context, clock, self.reach)
        self._events = Events(context)
        self._leads_to: tuple[Endpoint, Endpoint | None] | None = None
        self._eager_until = 0.0
        self._failed = False

    @property
    def port(self) -> int:
        """The request port here; 0 while it is not bound."""
        return self._requests.number

    @property
    def events_port(self) -> int:
        """The events port here; 0 while it is not bound."""
        return self._events.number

    @property
    def under_way(self) -> int:
        """Calls that wait for the far side."""
        return self._requests.under_way

    def open_requests(self, port: int) -> None:
        """Offer its requests here; Conflict when the port is taken."""
        self._requests.open(port)

    def open_events(self, port: int) -> None:
        """Offer its events here; Conflict when the port is taken."""
        self._events.open(port)

    @property
    def is_restless(self) -> bool:
        """Whether a `refresh` may help though no key changed: it could not connect, or its own key may not be known there yet."""
        eager = self._clock.monotonic() < self._eager_until
        return self._failed or (eager and self.reach.is_refused)

    def refresh(self, *, host_joined: bool) -> None:
        """Connect to where the far process is now, where that has changed."""
        ports = self.far.ports
        requests = self._locate(self.far, ports.port)
        events = self._locate(self.far, ports.events_port) if ports.events_port else None
        wanted = None if requests is None else (requests, events)
        if wanted != self._leads_to:
            self._eager_until = self._clock.monotonic() + EAGER_S
        elif wanted is not None and not self.is_restless:
            return
        self._leads_to, self._failed = wanted, False
        if wanted is None:
            self._requests.lead(None)
            self._events.lead(None)
            self.reach.unknown(host_joined, self._since())
        else:
            self._connect(*wanted)

    def _connect(self, requests: Endpoint, events: Endpoint | None) -> None:
        self.reach.joined()
        try:
            self._requests.lead(lambda own: Curve(self._context, requests, own))
            self._events.lead(events)
        except TandemError as error:
            self._leads_to, self._failed = None, True
            self.reach.lost(error.message, self._since())

    def sweep(self) -> None:
        """End the calls whose time has passed; called some four times a second."""
        self._requests.sweep()

    def close(self) -> None:
        """Offer nothing more."""
        self._requests.close()
        self._events.close()

    def _since(self) -> Since:
        return Since(self._clock.monotonic(), self._clock.timestamp())
