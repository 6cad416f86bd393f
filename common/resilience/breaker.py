"""When calls to an endpoint stop for a while, and how they begin again: a circuit breaker (M. Nygard, Release It!, ch. 5).

    CLOSED     calls pass; the window of outcomes is watched
    OPEN       nothing passes until the cool-down is over
    HALF_OPEN  a few probes pass, and decide

It never calls anything, reads no clock and logs nothing: a change of state is returned as a `Transition`, for the shell to
log and to count. Overload and callers' mistakes are neither failures nor successes here: the endpoint is up, and said no.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Annotated, Final

from msgspec import Meta, Struct

from common.api.basic import BreakerStats
from common.clock import Rng
from common.errors import Code, TandemError
from common.resilience.window import FAILED, FINE, SLOW, Window


class State(StrEnum):
    """What the breaker does with the next call."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Event(StrEnum):
    """What moves a breaker from one state to the next."""

    TRIPPED = "tripped"
    COOLED = "cooled"
    PROBES_PASSED = "probes passed"
    PROBE_FAILED = "probe failed"


NEXT: Final[dict[tuple[State, Event], State]] = {
    (State.CLOSED, Event.TRIPPED): State.OPEN,
    (State.OPEN, Event.COOLED): State.HALF_OPEN,
    (State.HALF_OPEN, Event.PROBES_PASSED): State.CLOSED,
    (State.HALF_OPEN, Event.PROBE_FAILED): State.OPEN,
}


class Weight(Enum):
    """What one ended call says about its endpoint."""

    SUCCESS = "success"
    NEUTRAL = "neutral"
    FAILURE = "failure"


_AGAINST_THE_ENDPOINT: Final = frozenset(
    {Code.UNAVAILABLE, Code.INTERRUPTED, Code.DEADLINE_EXCEEDED, Code.STORAGE_UNAVAILABLE, Code.INTERNAL}
)


def weighs(error: TandemError | None) -> Weight:
    """What a call that ended with `error` (None: it succeeded) says about the endpoint.

    A failure is what the endpoint or the way to it did wrong. Overload, lack of room and mistakes of the caller are neutral:
    tripping on them would turn one busy moment, or one bad caller, into an outage for all. So is an error that names who
    failed `behind` the endpoint: that one answered.
    """
    if error is None:
        return Weight.SUCCESS
    against = error.code in _AGAINST_THE_ENDPOINT and "behind" not in error.details
    return Weight.FAILURE if against else Weight.NEUTRAL


class BreakerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The knobs of a breaker.

    It opens on a bad outcome when `calls >= min_calls` and `failures / calls >= failure_rate` or `slow / calls >= slow_rate`,
    over the last `window_calls` outcomes that are at most `window_s` old. The n-th opening in a row lasts
    `min(cooldown_max_s, cooldown_s * 2**(n - 1)) * (1 - jitter * u)`, u uniform in [0, 1).
    """

    window_calls: Annotated[int, Meta(ge=1, le=100_000, description="calls")] = 100
    window_s: Annotated[float, Meta(gt=0, le=3600, description="seconds")] = 30.0
    min_calls: Annotated[int, Meta(ge=1, le=100_000, description="calls; at most window_calls")] = 10
    failure_rate: Annotated[float, Meta(gt=0, le=1, description="share of calls")] = 0.5
    slow_rate: Annotated[float, Meta(gt=0, le=1, description="share of calls")] = 0.8
    slow_call_s: Annotated[float, Meta(gt=0, le=3600, description="seconds from which a call is slow")] = 5.0
    cooldown_s: Annotated[float, Meta(gt=0, le=3600, description="seconds")] = 1.0
    cooldown_max_s: Annotated[float, Meta(gt=0, le=3600, description="seconds; at least cooldown_s")] = 30.0
    jitter: Annotated[float, Meta(ge=0, lt=1, description="share of the cool-down that chance may take off")] = 0.2
    probes: Annotated[int, Meta(ge=1, le=1000, description="probes that must pass, and at most this many at once")] = 3
    probe_s: Annotated[float, Meta(gt=0, le=3600, description="seconds after which a lost probe's slot is free")] = 60.0

    def __post_init__(self) -> None:
        if self.min_calls > self.window_calls:
            raise ValueError(
                f"min_calls {self.min_calls} is above window_calls {self.window_calls}: it could never open"
            )
        if self.cooldown_s > self.cooldown_max_s:
            raise ValueError(f"cooldown_s {self.cooldown_s} is above cooldown_max_s {self.cooldown_max_s}")


class Transition(Struct, frozen=True, kw_only=True):
    """One change of state; `failures` and `slow` of `calls` are what the window held before it, `cooldown_s` is 0 unless open."""

    endpoint: str
    was: State
    state: State
    event: Event
    calls: int
    failures: int
    slow: int
    cooldown_s: float


class Permit:
    """Leave for one call; handed back with `record` or `release`. `transition` is set when asking for it changed the state."""

    __slots__ = ("transition",)

    def __init__(self, transition: Transition | None = None) -> None:
        self.transition = transition


class Refusal(Struct, frozen=True):
    """No leave: ask again in `retry_in_s` seconds at the earliest."""

    retry_in_s: float


class Breaker:
    """The breaker of one endpoint. `now` is monotonic seconds and never goes back; `rng` spreads cool-downs."""

    __slots__ = (
        "_cool_at", "_in_a_row", "_opened", "_pass", "_passed", "_probes", "_rng",
        "_settings", "_slow_call_s", "_slow_probes", "_window", "endpoint", "state",
    )  # fmt: skip

    def __init__(self, endpoint: str, settings: BreakerSettings, rng: Rng) -> None:
        self.endpoint = endpoint
        self.state = State.CLOSED
        self._settings = settings
        self._slow_call_s = settings.slow_call_s
        self._rng = rng
        self._window = Window(settings.window_calls, settings.window_s)
        self._pass: Permit | None = Permit()  # shared by all calls of one closed spell; None while not closed
        self._probes: dict[Permit, float] = {}  # probe -> when its slot is free without a word
        self._passed = 0
        self._slow_probes = 0
        self._in_a_row = 0
        self._opened = 0
        self._cool_at = 0.0

    def permit(self, now: float) -> Permit | Refusal:
        """Leave for one call at `now`, or how long to wait."""
        return self._pass or self._permit_probe(now)

    def record(self, permit: Permit, weight: Weight, elapsed_s: float, now: float) -> Transition | None:
        """Hands back a permit with the call's outcome; the change of state it caused, if any.

        An outcome of a call permitted before the last change of state is stale and says nothing.
        """
        if permit is not self._pass:
            return self._record_probe(permit, weight, elapsed_s, now)
        if weight is Weight.NEUTRAL:
            return None
        bits = FINE if weight is Weight.SUCCESS else FAILED
        if elapsed_s >= self._slow_call_s:
            bits |= SLOW
        self._window.add(bits, now)
        return self._judge(now) if bits else None

    def release(self, permit: Permit) -> None:
        """Hands back a permit whose call ended without an outcome: it was cancelled, or never sent."""
        self._probes.pop(permit, None)

    def stats(self, now: float) -> BreakerStats:
        """The breaker as `stats` and the metrics show it; changes nothing, so that any thread may ask."""
        calls, failures, slow = self._window.counted(now)
        return BreakerStats(
            endpoint=self.endpoint,
            state=self.state.value,
            calls=calls,
            failures=failures,
            slow=slow,
            opened=self._opened,
            retry_in_s=self.retry_in_s(now),
        )

    @property
    def retry_at(self) -> float:
        """When it lets a probe through, in the seconds of `now`; 0 unless it is open."""
        return self._cool_at if self.state is State.OPEN else 0.0

    def retry_in_s(self, now: float) -> float:
        """For how long nothing passes; 0 unless it is open and still cooling."""
        return max(0.0, self._cool_at - now) if self.state is State.OPEN else 0.0

    def _permit_probe(self, now: float) -> Permit | Refusal:
        if self.state is State.OPEN:
            if now < self._cool_at:
                return Refusal(self._cool_at - now)
            return self._probe(now, self._move(Event.COOLED, now))
        free_at = min(self._probes.values(), default=now)
        if free_at <= now:
            self._probes = {probe: lost_at for probe, lost_at in self._probes.items() if lost_at > now}
        if len(self._probes) + self._passed < self._settings.probes:
            return self._probe(now, None)
        return Refusal(free_at - now)

    def _probe(self, now: float, transition: Transition | None) -> Permit:
        probe = Permit(transition)
        self._probes[probe] = now + self._settings.probe_s
        return probe

    def _record_probe(self, permit: Permit, weight: Weight, elapsed_s: float, now: float) -> Transition | None:
        if self._probes.pop(permit, None) is None or weight is Weight.NEUTRAL:
            return None
        if weight is Weight.FAILURE:
            return self._move(Event.PROBE_FAILED, now)
        self._passed += 1
        self._slow_probes += elapsed_s >= self._slow_call_s
        if self._passed < self._settings.probes:
            return None
        too_slow = self._slow_probes >= self._settings.slow_rate * self._passed
        return self._move(Event.PROBE_FAILED if too_slow else Event.PROBES_PASSED, now)

    def _judge(self, now: float) -> Transition | None:
        window, settings = self._window, self._settings
        window.forget(now)
        if window.calls < settings.min_calls:
            return None
        if window.failures < settings.failure_rate * window.calls and window.slow < settings.slow_rate * window.calls:
            return None
        return self._move(Event.TRIPPED, now)

    def _move(self, event: Event, now: float) -> Transition:
        was, window = self.state, self._window
        self.state = NEXT[was, event]
        calls, failures, slow = window.calls, window.failures, window.slow
        cooldown_s = self._enter(now)
        return Transition(
            endpoint=self.endpoint,
            was=was,
            state=self.state,
            event=event,
            calls=calls,
            failures=failures,
            slow=slow,
            cooldown_s=cooldown_s,
        )

    def _enter(self, now: float) -> float:
        self._probes, self._passed, self._slow_probes = {}, 0, 0
        if self.state is State.CLOSED:
            self._in_a_row = 0
            self._window.clear()
            self._pass = Permit()
        if self.state is not State.OPEN:
            return 0.0
        self._pass = None
        self._opened += 1
        cooldown_s = self._cooldown_s()
        self._in_a_row += 1
        self._cool_at = now + cooldown_s
        return cooldown_s

    def _cooldown_s(self) -> float:
        settings = self._settings
        doubled = settings.cooldown_s * 2.0 ** min(self._in_a_row, 32)
        return min(settings.cooldown_max_s, doubled) * (1.0 - settings.jitter * self._rng.random())
