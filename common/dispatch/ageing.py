"""Queue order: decides who is next among those who wait, by priority with ageing.

    effective priority at `now` = priority + (now - queued_at) / ageing_s

Everyone ages at the same rate, so the order of two that wait never changes, and the queue can be kept sorted by a number
fixed at arrival: `rank` = queued_at - priority * ageing_s, lowest first. A point of priority is worth `ageing_s` seconds
of head start.

Nothing starves. Let w wait with priority p since t. Whoever overtakes w has a lower rank: it arrived before
t + (100 - p) * ageing_s. From that moment on nobody overtakes w any more, and those ahead of it are a finite number that
only shrinks. So w is served once they are, whatever arrives later and however urgent. (Linear ageing: Kleinrock, "A delay
dependent queue discipline", 1964, with equal slopes.)

It never looks at agents, cards or clocks, and holds no queue.
"""

from __future__ import annotations


def effective_priority(priority: int, waited_s: float, ageing_s: float) -> float:
    """What a wish of `priority` (0-100) counts for after `waited_s` seconds; one point more per `ageing_s` (> 0) seconds."""
    return priority + waited_s / ageing_s


def rank(priority: int, queued_at: float, ageing_s: float) -> float:
    """The fixed sort key of a waiting wish, lowest first; orders as `effective_priority` does at every `now`."""
    return queued_at - priority * ageing_s
