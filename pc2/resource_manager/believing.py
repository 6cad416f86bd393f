"""What a supervisor's refusal teaches: the view is corrected by it, or the request by what its host measured.

It asks nobody and ends no request; where the request goes on is for others to say.
"""

from __future__ import annotations

from common.errors import NoCapacity, NotFound, TandemError, TooLarge
from pc2.resource_manager.fleet import Fleet
from pc2.resource_manager.needs import Needs
from pc2.resource_manager.saga import Request


def corrected(fleet: Fleet, needs: Needs, request: Request, error: TandemError, paused_until: float) -> bool:
    """Lets a refusal correct the view; False where no other card could help, as when the owner's process is gone.

    A host that could not take the request now rests until `paused_until` (monotonic seconds). One that wants other bytes for it
    than it declares has measured its model: it is planned anew with those.
    """
    need = error.details.get("need_bytes") or request.wish.need_bytes
    if request.joins and isinstance(error, (NoCapacity, NotFound, TooLarge)):
        request.declined.add(request.joins)
    if isinstance(error, TooLarge | NotFound) and "barred" in error.details:
        request.barred |= error.details["barred"]
        request.oversized |= error.details["barred"].keys() if isinstance(error, TooLarge) else set()
    elif isinstance(error, TooLarge) and request.asked.cards > 1:
        request.barred[request.host] = error.message
        request.oversized.add(request.host)
    elif isinstance(error, TooLarge):
        fleet.limit(request.host, request.card_uuid, need)
    elif isinstance(error, NoCapacity) or (isinstance(error, NotFound) and "pid" not in error.details):
        fleet.cap(request.host, request.card_uuid, need)
        request.need_bytes = need
        if need > request.asked.bytes:
            needs.learned(request.asked, need)
    elif error.retryable:
        fleet.pause(request.host, paused_until)
    else:
        return False
    return True
