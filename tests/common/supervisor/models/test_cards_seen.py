from __future__ import annotations

from common.supervisor.models.cards_seen import residency
from common.vram.demand import Demand, Horizon
from common.vram.placement import Candidate
from tests.common.supervisor.models.desk import GIB, lease


def test_the_cards_are_seen_as_the_ledger_shows_them() -> None:
    card = Candidate("h", 0, "u0", 4 * GIB, 12 * GIB)
    seen = residency([card], [lease("old", "x", 8, state="parked")], {"u0": 105.0, "gone": 1.0}, Demand(), Horizon())
    assert seen.loaders(100.0) == [5.0]
    ((uuid, tenant),) = seen.homes(tenant_key := ("x", ""))  # type: ignore[arg-type]
    assert (uuid, tenant.expiring, tenant.key) == ("u0", True, tenant_key)
