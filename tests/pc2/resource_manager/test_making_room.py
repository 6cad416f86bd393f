from __future__ import annotations

import msgspec

from common.api.leases import LeaseChanged
from common.vram.amount import GIB
from common.vram.placement import Wish
from pc2.resource_manager.making_room import ranked
from tests.pc2.resource_manager.test_fleet import card, fleet_with, lease

WISH = Wish("new", 10 * GIB)


def test_no_room_is_made_on_a_card_kept_for_others_or_on_a_host_that_is_barred() -> None:
    fleet = fleet_with(card(free=2))
    idle = msgspec.structs.replace(lease("old", 20), in_use=False)
    fleet.changed("mainpc", LeaseChanged(change="granted", lease=idle), 0.0)
    (best,) = ranked(fleet, WISH, 50, 0.0)
    assert [each.lease_id for each in best.plan.chosen] == ["old"]
    assert ranked(fleet, WISH, 50, 0.0, kept={"GPU-a"}) == []
    assert ranked(fleet, WISH, 50, 0.0, barred={"mainpc": "it lacks a file"}) == []
