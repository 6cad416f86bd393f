"""Whatever happens: nobody is served by what is not ready, no card has two loads at a time, nobody is forgotten."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from common.errors import TandemError
from common.supervisor.models.instructions import Abandon, Begin, Refuse, Serve
from common.supervisor.models.managed import Asked, Held, Serving
from tests.common.supervisor.models.desk import GIB, Desk, lease, model

NAMES = st.sampled_from(["a", "b", "cpu", "pair"])
CAPACITY_GIB = 12.0
SIZES = {"a": 4.0, "b": 9.0, "cpu": 0.0, "pair": 3.0}


class RosterMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        models = [model(name, gib, slots=2, cards=2 if name == "pair" else 1) for name, gib in SIZES.items()]
        self.desk = Desk(*models, cards=2)
        self.open: set[str] = set()
        self.pending: dict[str, Begin] = {}
        self.shares = 0

    @rule(name=NAMES, wait_s=st.sampled_from([0.0, 5.0, 500.0]), preload=st.booleans())
    def ask(self, name: str, wait_s: float, preload: bool) -> None:
        try:
            ticket = self.desk.ask(name, wait_s, preload=preload)
        except TandemError:
            return
        self.open.add(ticket)
        self.step()

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        if self.open:
            ticket = data.draw(st.sampled_from(sorted(self.open)))
            self.desk.roster.leave(ticket)
            self.open.discard(ticket)
            self.step()

    @rule(passed_s=st.sampled_from([0.1, 1.0, 70.0]))
    def wait(self, passed_s: float) -> None:
        self.desk.now += passed_s
        self.step()

    @rule(data=st.data())
    def lease(self, data: st.DataObject) -> None:
        """A load's lease is granted or refused."""
        if not self.pending:
            return
        begin = self.pending.pop(data.draw(st.sampled_from(sorted(self.pending))))
        if data.draw(st.booleans()):
            held = Held(lease_id=f"l-{begin.name}", card_uuids=self.cards(begin), bytes=int(SIZES[begin.name] * GIB))
            self.desk.roster.granted(begin.name, held, self.desk.now)
        else:
            self.desk.roster.no_room(begin.name, "others were first", self.desk.now)
        self.step()

    @rule(name=NAMES, outcome=st.sampled_from(["loaded", "failed", "again", "expiring"]))
    def load(self, name: str, outcome: str) -> None:
        roster, now = self.desk.roster, self.desk.now
        if self.desk.state(name) != "loading":
            return
        if outcome == "loaded":
            roster.loaded(name, Serving(url="u", upstream=name, pid=1, start_time=1), 1.0, now)
        elif outcome == "failed":
            self.refused(roster.failed(name, "no", now))
        elif outcome == "again":
            roster.again(name, now)
        else:
            roster.leaving(name, now)
        self.step()

    @rule(name=NAMES, what=st.sampled_from(["leaving", "died", "ended"]))
    def go(self, name: str, what: str) -> None:
        roster, now, state = self.desk.roster, self.desk.now, self.desk.state(name)
        if what == "leaving" and state in ("ready", "parked"):
            roster.leaving(name, now)
        elif what == "died" and state in ("ready", "parked", "expiring"):
            self.refused(roster.died(name, "signal 9", now))
        elif what == "ended" and state == "expiring":
            roster.ended(name, now)
        self.step()

    @rule(name=NAMES)
    def sleep(self, name: str) -> None:
        if self.desk.state(name) == "expiring" and SIZES[name]:
            held = self.desk.managed(name).held
            uuids = held.card_uuids if held else ("u0",)
            self.desk.roster.asleep(name, Held(lease_id=f"l-{name}", card_uuids=uuids, bytes=GIB), self.desk.now)
            self.step()

    @rule(data=st.data())
    def unuse(self, data: st.DataObject) -> None:
        used = sorted(share for managed in self.desk.roster for share in managed.users)
        if used:
            self.desk.roster.unused(data.draw(st.sampled_from(used)), self.desk.now)
            self.step()

    def cards(self, begin: Begin) -> tuple[str, ...]:
        return ("u0", "u1") if begin.name == "pair" else (begin.card_uuid,) if begin.card_uuid else ()

    def refused(self, refused: list[Refuse]) -> None:
        self.open -= {each.asked.ticket for each in refused}

    def step(self) -> None:
        """The cards are drawn up from what the models hold, and what is to be done is done."""
        held = [managed for managed in self.desk.roster if managed.held is not None]
        self.desk.leases = [
            lease(
                m.held.lease_id, m.model.name, m.held.bytes / GIB, card_uuids=list(m.held.card_uuids),
                in_use=bool(m.users) or m.life.state == "loading",
                state={"parked": "parked", "expiring": "expiring"}.get(m.life.state, "held"),
            )
            for m in held
            if m.held is not None
        ]  # fmt: skip
        for index in range(2):
            taken = sum(m.held.bytes for m in held if m.held is not None and f"u{index}" in m.held.card_uuids)
            self.desk.free[index] = max(0.0, CAPACITY_GIB - taken / GIB)
        for instruction in self.desk.does():
            match instruction:
                case Begin():
                    assert instruction.name not in self.pending
                    self.pending[instruction.name] = instruction
                case Abandon(name):
                    if self.pending.pop(name, None):
                        self.desk.roster.no_room(name, "", self.desk.now)
                case Serve(asked):
                    self.serve(asked)
                case Refuse(asked):
                    self.open.discard(asked.ticket)
        for name in [name for name in self.pending if self.desk.managed(name).begun is None]:
            del self.pending[name]  # its lease had to go, or its engine died: the shell stops waiting

    def serve(self, asked: Asked) -> None:
        managed = self.desk.managed(asked.model)
        assert managed.life.state == "ready"
        assert asked.ticket in self.open
        self.open.discard(asked.ticket)
        if not asked.preload:
            self.shares += 1
            self.desk.roster.used(asked.model, f"s{self.shares}")

    @invariant()
    def nobody_is_forgotten(self) -> None:
        waiting = {ticket for managed in self.desk.roster for ticket in managed.waiting}
        assert waiting == self.open
        assert self.desk.roster.waiting == len(waiting)
        for ticket in waiting:
            told = self.desk.roster.progress(ticket, self.desk.now)
            assert told.reason
            assert told.eta_s is None or told.eta_s >= 0

    @invariant()
    def one_load_at_a_time_on_a_card(self) -> None:
        cards = [m.begun.card_uuid for m in self.desk.roster if m.begun is not None and m.begun.card_uuid]
        assert len(cards) == len(set(cards))

    @invariant()
    def what_a_state_promises_is_there(self) -> None:
        for managed in self.desk.roster:
            state = managed.life.state
            assert len(managed.users) <= managed.model.users
            if state == "ready":
                assert managed.serving is not None
                assert managed.held is not None
            if state in ("absent", "failed"):
                assert managed.held is None
                assert not managed.users
            assert managed.shown("h", self.desk.footprints, self.desk.now).state == state


TestRosterMachine = RosterMachine.TestCase
TestRosterMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
