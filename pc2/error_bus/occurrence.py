"""When an error happened, told by this service's clocks whatever the sender's say.

What a sender's clock is good for is an age: the time between the occurrence and the sending, both read on that one clock. An age
below nought, or beyond what a spool can hold, says that the clock stepped in between; then the arrival counts. So no sender,
and no step of any clock, puts an occurrence into the future.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, NamedTuple

from common.errors import BadRequest

OLDEST_S: Final = 30 * 86_400.0


class Moment(NamedTuple):
    """One moment on two clocks: `wall` in seconds since 1970 to tell people, `monotonic` seconds to compare."""

    wall: float
    monotonic: float

    def ago(self, seconds: float) -> Moment:
        """The moment so many seconds before this one."""
        return Moment(self.wall - seconds, self.monotonic - seconds)


def occurred(occurred_at: str, sent_at: str, now: Moment) -> Moment:
    """When an error happened that arrived `now`; BadRequest for a text that is no time. Without `sent_at` it was sent now."""
    if not occurred_at:
        return now
    sent = seconds_of(sent_at) if sent_at else now.wall
    age_s = sent - seconds_of(occurred_at)
    return now.ago(age_s) if 0.0 <= age_s <= OLDEST_S else now


def seconds_of(timestamp: str) -> float:
    """Seconds since 1970 of an RFC 3339 time, which is UTC where it names no zone; BadRequest for anything else."""
    try:
        told = datetime.fromisoformat(timestamp)
        return (told if told.tzinfo is not None else told.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise BadRequest(f"{timestamp[:64]!r} is no RFC 3339 time, such as 2026-01-31T12:00:00.000Z") from error


def timestamp_of(wall: float) -> str:
    """The RFC 3339 time of seconds since 1970, in UTC with milliseconds."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
