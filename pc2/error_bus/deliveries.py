"""What was counted before: how far each sender's numbers reach, and the ids of lone reports.

A sender that numbers its reports costs one row, whatever it sends; an id costs a row each, and the oldest are let go of.
Both are kept until they are unlikely to be told again, and not for ever: a sender goes on after what was acknowledged, and
so needs its number only while an answer may have been lost.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from msgspec import Struct

from common.store.protocol import Change, RecordStore
from common.store.records import Records

SENDERS: Final = 20_000
"""Spools whose place is known; each life of a process that told of an error has one."""
IDS: Final = 50_000


class Standing(Struct, frozen=True, kw_only=True):
    """Row: every report of a sender's epoch up to `seq` is counted; the `used`-th change of these rows."""

    seq: int
    used: int


class Counted(Struct, frozen=True, kw_only=True):
    """Row: the report of this id was counted in this group; the `used`-th change of these rows."""

    group_id: str
    used: int


STANDINGS: Final = Records("error_senders", Standing)
COUNTED: Final = Records("error_report_ids", Counted)


class Deliveries:
    """Standings and ids, the longest unused first; `rows` collects what must be committed."""

    def __init__(self, senders: int = SENDERS, ids: int = IDS) -> None:
        self._most_senders = senders
        self._most_ids = ids
        self._standings: OrderedDict[str, Standing] = OrderedDict()
        self._ids: OrderedDict[str, Counted] = OrderedDict()
        self._used = 0
        self._rows: list[Change] = []

    @property
    def senders(self) -> int:
        """How many spools' places are known."""
        return len(self._standings)

    def seq(self, sender: str, epoch: int) -> int:
        """The last of the sender's reports that was counted, 0 where nothing is known."""
        known = self._standings.get(_of_sender(sender, epoch))
        return known.seq if known is not None else 0

    def counted_to(self, sender: str, epoch: int, seq: int) -> None:
        """Every report of the sender up to `seq` is counted."""
        key = _of_sender(sender, epoch)
        self._standings[key] = standing = Standing(seq=seq, used=self._use())
        self._standings.move_to_end(key)
        self._rows.append(STANDINGS.put(key, standing))
        while len(self._standings) > self._most_senders:
            self._rows.append(STANDINGS.delete(self._standings.popitem(last=False)[0]))

    def group_of(self, teller: str, report_id: str) -> str:
        """The group in which the teller's report of this id was counted; empty where it was not."""
        known = self._ids.get(_of_report(teller, report_id))
        return known.group_id if known is not None else ""

    def counted(self, teller: str, report_id: str, group_id: str) -> None:
        """The teller's report of this id is counted."""
        key = _of_report(teller, report_id)
        self._ids[key] = counted = Counted(group_id=group_id, used=self._use())
        self._rows.append(COUNTED.put(key, counted))
        while len(self._ids) > self._most_ids:
            self._rows.append(COUNTED.delete(self._ids.popitem(last=False)[0]))

    def rows(self) -> list[Change]:
        """What changed since this was asked last."""
        rows, self._rows = self._rows, []
        return rows

    def load(self, store: RecordStore) -> None:
        """Begins anew from what the store holds."""
        self._standings = OrderedDict(sorted(STANDINGS.load(store), key=lambda row: row[1].used))
        self._ids = OrderedDict(sorted(COUNTED.load(store), key=lambda row: row[1].used))
        used = [row.used for row in self._standings.values()] + [row.used for row in self._ids.values()]
        self._used = max(used, default=0)
        self._rows = []

    def _use(self) -> int:
        self._used += 1
        return self._used


def _of_sender(sender: str, epoch: int) -> str:
    return f"{epoch}/{sender}"


def _of_report(teller: str, report_id: str) -> str:
    """No agent's name holds a line feed."""
    return f"{teller}\n{report_id}"
