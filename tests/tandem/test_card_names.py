from __future__ import annotations

import pytest

from common.api.gpus import Card
from common.errors import Conflict, NotFound
from common.gpu.simulated import GIB, card_uuid
from tandem.card_names import is_whole, meant
from tandem.exits import Exit
from tests.tandem.conftest import Tandem
from tests.tandem.fabric import Fabric

FIRST = "GPU-5a1c0000-0000-4000-8000-00000000000a"
SECOND = "GPU-5a1d0000-0000-4000-8000-00000000000b"
THIRD = "GPU-07ff0000-0000-4000-8000-00000000000c"


def card(host: str, index: int, uuid: str, schedulable: bool = True) -> Card:
    return Card(host, index, uuid, "card", GIB, GIB, 0, 0, GIB, simulated=True, schedulable=schedulable)


CARDS = [card("mainpc", 0, FIRST), card("mainpc", 1, SECOND), card("pc2", 0, THIRD)]


@pytest.mark.parametrize(
    ("text", "uuid"),
    [
        ("mainpc:0", FIRST),
        ("pc2:0", THIRD),
        ("1", SECOND),
        (FIRST, FIRST),
        ("GPU-5a1c", FIRST),
        ("gpu-5A1D", SECOND),
        ("5a1d", SECOND),
        ("07", THIRD),
        ("GPU-0", THIRD),
    ],
)
def test_a_card_is_named_by_host_and_index_or_by_the_beginning_of_its_uuid(text: str, uuid: str) -> None:
    assert meant(text, CARDS, {}).card_uuid == uuid


@pytest.mark.parametrize("text", ["0", "GPU-", "5a1", "gpu-5a1"])
def test_a_name_of_several_cards_lists_them(text: str) -> None:
    with pytest.raises(Conflict) as raised:
        meant(text, CARDS, {})
    assert f"card '{text}' may be mainpc:0 {FIRST} or " in raised.value.message
    assert raised.value.details["mend"] == "say which with HOST:INDEX, or with more of its UUID"


@pytest.mark.parametrize("text", ["2", "attic:0", "mainpc:", ":0", "mainpc:00", "GPU-6", "main"])
def test_a_name_of_no_card_lists_all(text: str) -> None:
    with pytest.raises(NotFound) as raised:
        meant(text, CARDS, {"pc3": "the cable is out"})
    listed = f"mainpc:0 {FIRST}, mainpc:1 {SECOND}, pc2:0 {THIRD}"
    assert raised.value.message == f"no card '{text}'; there are {listed}; pc3 could not be asked: the cable is out"
    with pytest.raises(NotFound, match="no card 'x'; there are no cards"):
        meant("x", [], {})


def test_a_card_that_two_supervisors_see_is_the_one_that_leases_it() -> None:
    both = [card("pc2", 0, FIRST, schedulable=False), card("mainpc", 0, FIRST)]
    assert meant("0", both, {}).host == "mainpc"


def test_a_whole_uuid_is_asked_of_nobody() -> None:
    assert is_whole(FIRST)
    assert is_whole(FIRST.replace("GPU", "MIG"))
    assert not is_whole(FIRST[:-1])
    assert not is_whole(f"{FIRST}a")


async def test_plan_and_run_take_a_card_as_gpus_shows_it(fabric: Fabric, tandem: Tandem) -> None:
    for named in ("pc2:0", card_uuid("pc2", 0)[:12], card_uuid("pc2", 0)):
        code, out, _ = await tandem("plan", "--vram", "1GiB", "--card", named)
        assert code == Exit.OK, named
        assert card_uuid("pc2", 0) in out
    code, _, err = await tandem("plan", "--vram", "1GiB", "--card", "0")
    assert code == Exit.BAD_ANSWER
    assert "card '0' may be mainpc:0 GPU-" in err
    code, _, _ = await tandem("plan", "--vram", "1GiB", "--card", "0", "--host", "pc2")
    assert code == Exit.OK
