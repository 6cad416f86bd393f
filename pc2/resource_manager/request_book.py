"""The planner's open requests and the keys it remembers: who waits for which request, and which lease id a key means.

Bookkeeping only: nothing here decides where a request goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from common.api.leases import AcquireLease
from pc2.resource_manager.intents import Intent
from pc2.resource_manager.saga import Request, State

Key = tuple[str, str]


class RequestBook:
    """Requests by lease id, calls by request, lease ids by (identity, idempotency key), and the intents on record."""

    def __init__(self) -> None:
        self.intents: dict[str, Intent] = {}
        self._since: dict[str, float] = {}
        self._forgotten: dict[str, Intent] = {}
        self._requests: dict[str, Request] = {}
        self._calls: dict[str, str] = {}
        self._keys: dict[Key, str] = {}

    def __iter__(self) -> Iterator[Request]:
        return iter(tuple(self._requests.values()))

    def get(self, lease_id: str) -> Request | None:
        """The open request with this lease id."""
        return self._requests.get(lease_id)

    def known(self, identity: str, key: str) -> str | None:
        """The lease id that the key means; an empty key means none."""
        return self._keys.get((identity, key))

    def asked(self, lease_id: str) -> AcquireLease:
        """The request behind a known key, open or delivered."""
        request = self._requests.get(lease_id)
        return request.asked if request else self.intents[lease_id].request

    def at_host(self, host: str, state: State) -> list[Request]:
        """The open requests in this state that were put to this host."""
        return [request for request in self if request.host == host and request.state is state]

    def open(self, request: Request) -> None:
        """Adds a request and makes its key mean it."""
        self._requests[request.lease_id] = request
        if request.asked.idempotency_key:
            self._keys[request.identity, request.asked.idempotency_key] = request.lease_id

    def reopen(self, intent: Intent, now: float) -> Request:
        """The request of an intent whose outcome is not known here, with no caller yet."""
        request = Request(intent.lease_id, intent.identity, intent.request, now, now, State.UNSURE)
        request.host, request.card_uuid, request.in_doubt = intent.host, intent.card_uuid, True
        self._requests[intent.lease_id] = request
        return request

    def enlist(self, request: Request, call: str) -> None:
        """The call waits for the request."""
        request.callers.append(call)
        self._calls[call] = request.lease_id

    def waited_for(self, call: str) -> Request | None:
        """The request that the call waits for."""
        return self._requests.get(self._calls.get(call, ""))

    def leave(self, call: str) -> Request | None:
        """The call waits no more; its request, if it waited for one."""
        request = self._requests.get(self._calls.pop(call, ""))
        if request is not None:
            request.callers.remove(call)
        return request

    def dismiss(self, request: Request) -> list[str]:
        """No call waits for the request any more; those that did, to be answered."""
        callers, request.callers = request.callers, []
        for call in callers:
            del self._calls[call]
        return callers

    def close(self, request: Request) -> None:
        """The request is over; its key goes on meaning its lease id."""
        del self._requests[request.lease_id]

    def free_key(self, identity: str, key: str, lease_id: str) -> None:
        """The key means this lease id no more."""
        if self._keys.get((identity, key)) == lease_id:
            del self._keys[identity, key]

    def restore(self, stored: Iterable[Intent], now: float) -> None:
        """Takes in the intents of a former life, oldest first.

        Those with a key wait for their caller. Those without are reopened, for nobody can come for them; so is an older
        intent with the same key.
        """
        for intent in stored:
            self.record(intent, now)
            key = intent.request.idempotency_key
            older = self.known(intent.identity, key)
            if key:
                self._keys[intent.identity, key] = intent.lease_id
            if not key or older is not None:
                self.reopen(self.intents[older] if older else intent, now)

    def record(self, intent: Intent, now: float) -> None:
        """The intent is on record."""
        self.intents[intent.lease_id] = intent
        self._since[intent.lease_id] = now

    def forget(self, lease_id: str) -> bool:
        """The intent is off the record; whether it was on it."""
        intent = self.intents.pop(lease_id, None)
        if intent is None:
            return False
        del self._since[lease_id]
        self._forgotten[lease_id] = intent
        return True

    def recall(self, lease_id: str, now: float) -> Intent | None:
        """Puts an intent back on record that was forgotten since the last sweep: forgetting it was not committed."""
        intent = self._forgotten.pop(lease_id, None)
        if intent is not None:
            self.record(intent, now)
        return intent

    def sweep(self, now: float, remembered_s: float, remembered: int) -> list[str]:
        """Frees the keys of delivered leases beyond either limit, oldest first; the ids of their intents."""
        self._forgotten.clear()
        surplus, old = len(self.intents) - remembered, []
        for place, (lease_id, since) in enumerate(self._since.items()):
            if place >= surplus and now - since <= remembered_s:
                break
            if lease_id not in self._requests:
                old.append(lease_id)
        for lease_id in old:
            intent = self.intents[lease_id]
            self.free_key(intent.identity, intent.request.idempotency_key, lease_id)
        return old
