"""What the lines of tasks want of models: where a task could begin if only its model were there, since when, and what runs.

It remembers what decisions about the lines found out. Whether a model is asked for is for `loans` to say.
"""

from __future__ import annotations

from collections import Counter
from math import inf
from typing import Final, NamedTuple

from msgspec import Struct

from common.api.words import DEFAULT_PRIORITY
from pc2.resource_manager.tasks.lines import Lines, parts_of

NOWHERE: Final[frozenset[str]] = frozenset()


class Need(NamedTuple):
    """What is wanted of one model by all its lines.

    `waits`: a task stands in line. `running`: calls under way. `since`: for how long a line would have gone on but for the
    model (monotonic seconds; inf: none); of the one that waits longest, `free` are the hosts where it could, and `priority` is
    its first's. `able`: the hosts where an agent can take one sooner or later. `unsure`: a line is about to be looked at.
    """

    waits: bool = False
    running: int = 0
    since: float = inf
    free: frozenset[str] = NOWHERE
    able: frozenset[str] = NOWHERE
    unsure: bool = False
    priority: int = DEFAULT_PRIORITY


NOTHING: Final = Need()


class Want(Struct):
    """One line's."""

    running: int = 0
    since: float = inf
    free: frozenset[str] = NOWHERE
    able: frozenset[str] = NOWHERE
    priority: int = DEFAULT_PRIORITY


class Wants:
    """Of every line that needs a model; `news` is true until who reads it has set it back."""

    def __init__(self) -> None:
        self.news = False
        self._wants: dict[str, Want] = {}

    def stall(self, line: str, free: frozenset[str], able: frozenset[str], priority: int, now: float) -> None:
        """The line's first, of this priority, has to wait; for the model since an agent was first free for it."""
        want = self._of(line)
        self.news |= (want.free, want.able) != (free, able)
        want.free, want.able, want.priority = free, able, priority
        if not able:
            want.since = inf
        elif free:
            want.since = min(want.since, now)

    def begin(self, line: str) -> None:
        """A task of the line was given to an agent."""
        want = self._of(line)
        want.running += 1
        want.since = inf

    def settle(self, line: str) -> None:
        """A call for a task of the line is over."""
        self._of(line).running -= 1
        self._let_go(line)

    def empty(self, line: str) -> None:
        """Nobody stands in the line any more."""
        want = self._of(line)
        want.since, want.free, want.able, want.priority = inf, NOWHERE, NOWHERE, DEFAULT_PRIORITY
        self._let_go(line)

    def __bool__(self) -> bool:
        return bool(self._wants)

    def running(self, line: str) -> int:
        """Calls under way for tasks of the line."""
        want = self._wants.get(line)
        return want.running if want is not None else 0

    def calls(self) -> Counter[str]:
        """By capability, calls under way for tasks that need a model."""
        calls = Counter[str]()
        for line, want in self._wants.items():
            calls[parts_of(line)[0]] += want.running
        return calls

    def needs(self, lines: Lines) -> dict[str, Need]:
        """By model, what is wanted of it."""
        needs: dict[str, Need] = {}
        for line in lines.ready.keys() | self._wants.keys():
            model = parts_of(line)[1]
            if model:
                needs[model] = _both(needs.get(model, NOTHING), self._need(line, lines))
        return needs

    def _need(self, line: str, lines: Lines) -> Need:
        want = self._wants.get(line) or Want()
        free = want.free if want.since < inf else NOWHERE
        return Need(line in lines.ready, want.running, want.since, free, want.able, line in lines.awake, want.priority)

    def _of(self, line: str) -> Want:
        want = self._wants.get(line)
        if want is None:
            want = self._wants[line] = Want()
        return want

    def _let_go(self, line: str) -> None:
        self.news = True
        if self._wants[line] == Want():
            del self._wants[line]


def _both(one: Need, other: Need) -> Need:
    longest = min(one, other, key=lambda need: need.since)
    return Need(
        waits=one.waits or other.waits,
        running=one.running + other.running,
        since=longest.since,
        free=longest.free,
        able=one.able | other.able,
        unsure=one.unsure or other.unsure,
        priority=longest.priority,
    )
