"""Models and leases of no card, and models that are disabled, as the command shows them."""

from __future__ import annotations

from typing import Any

import msgspec

from common.api import leases, models
from tandem.commands.leases import place
from tandem.commands.models import HEADERS, row
from tests.main_pc.front.models import model

GIB = 2**30
LEASE = leases.Lease(
    "lease-1", "m", 0, 0, True, 50, "mainpc", 0, "GPU-0", 7, leases.Owner(), "ben", 60.0, 60.0, "", card_uuids=["GPU-0"]
)  # fmt: skip


def told(shown: models.Model, **more: Any) -> dict[str, object]:
    return dict(zip(HEADERS, row(msgspec.structs.replace(shown, **more)), strict=True))


def test_a_lease_is_on_its_cards_or_on_its_host_alone() -> None:
    assert place(LEASE) == "mainpc:0"
    assert place(msgspec.structs.replace(LEASE, card_uuids=["GPU-0", "GPU-1"])) == "mainpc:0 and 1 more"
    assert place(msgspec.structs.replace(LEASE, card_uuid="", card_uuids=[])) == "mainpc, no card"


def test_a_model_that_takes_no_vram_needs_no_card_and_is_not_said_to_be_unmeasured() -> None:
    shown = told(model("piper"), declared_bytes=0, footprint_bytes=0)
    assert (shown["BYTES"], shown["DECLARED"]) == ("no card", "no card")
    assert told(model("llama"), declared_bytes=GIB, footprint_bytes=0)["BYTES"] == "not measured"
    assert told(model("llama"), declared_bytes=GIB, footprint_bytes=2 * GIB)["BYTES"] == "2.0 GiB"


def test_a_disabled_model_is_said_to_be() -> None:
    shown = told(model("off"), state="absent", enabled=False, problem="disabled in its host's startup file")
    assert shown["STATE"] == "disabled"
    assert shown[""] == "disabled in its host's startup file"
