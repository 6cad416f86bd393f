"""What the operator sees of VRAM: cards whose figures add up, what leases do, evictions rung by rung, and managed models."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from common.api import leases, models
from common.api.decisions import CardVerdict, LeasePlan, Rung, Victim
from common.api.gpus import Card, Stranger
from common.api.host_memory import HostMemory
from common.api.leases import LeaseGranted
from common.api.words import Cursor
from common.errors import BadRequest, NoCapacity
from common.service.call import Call
from common.vram.placement import NOT_ASKED
from tandem.commands import gpus, plan, why
from tandem.commands.leases import leased, state
from tandem.commands.models import state as model_state
from tandem.exits import Exit
from tests.main_pc.front.models import model
from tests.tandem.conftest import Tandem
from tests.tandem.fabric import GIB, Fabric, receipt

VICTIM = Victim("lease-2", "old", 8 * GIB, 50, 240.0, 0.25, 12.0, 0.63, True, "the cheapest that makes room")


def lease(**more: Any) -> leases.Lease:
    plain = leases.Lease(
        "lease-1", "m", GIB, GIB, True, 50, "mainpc", 0, "GPU-0", 7, leases.Owner(), "ben", 60.0, 60.0, "", in_use=False
    )
    return msgspec.structs.replace(plain, **more)


def test_a_cards_figures_add_up_on_its_line() -> None:
    card = Card(
        host="mainpc",
        card=0,
        card_uuid="GPU-0",
        name="card",
        total_bytes=24 * GIB,
        free_bytes=6 * GIB,
        leased_bytes=12 * GIB,
        used_bytes=18 * GIB,
        grantable_bytes=1 * GIB,
        simulated=False,
        strangers=[Stranger(9, "game", 5 * GIB)],
        measured_bytes=11 * GIB,
        nameless_bytes=2 * GIB,
        guard_bytes=1 * GIB,
        reserved_bytes=3 * GIB,
        quarantined_bytes=1 * GIB,
        pinned_bytes=4 * GIB,
        reservations={"lease-9": 3 * GIB},
        loading="qwen",
    )
    assert gpus.remark(card) == ""
    hot = msgspec.structs.replace(card, throttled=["power-cap", "sw-thermal"], power_w=350.0, power_limit_w=350.0)
    assert gpus.remark(hot) == "slowed down: sw-thermal"
    divided = msgspec.structs.replace(card, mig=True, schedulable=False, reason="closed")
    assert gpus.remark(divided) == "closed, divided by MIG"
    told = dict(zip(gpus.HEADERS, gpus.row(card), strict=True))
    assert [told[name] for name in ("TOTAL", "FREE", "HELD", "STRANGERS", "NAMELESS", "KEPT")] == [
        *("24.0 GiB", "6.0 GiB", "11.0 GiB", "5.0 GiB", "2.0 GiB", "5.0 GiB"),
    ]
    assert list(gpus.particulars(card)) == [
        "game (pid 9) holds 5.0 GiB without a lease",
        "3.0 GiB are kept for lease-9",
        "1.0 GiB in quarantine: evicted, and not given back",
        "4.0 GiB are pinned",
        "qwen is loading",
    ]


def test_what_a_host_has_beside_its_cards_adds_up() -> None:
    host = HostMemory(
        host="mainpc",
        ram_total_bytes=64 * GIB,
        ram_ceiling_bytes=51 * GIB,
        ram_leased_bytes=8 * GIB,
        ram_available_bytes=30 * GIB,
        ram_grantable_bytes=19 * GIB,
        disk_total_bytes=100 * GIB,
        disk_ceiling_bytes=80 * GIB,
        disk_leased_bytes=GIB,
        disk_available_bytes=70 * GIB,
        disk_grantable_bytes=64 * GIB,
        cpu_total_cores=16.0,
        cpu_ceiling_cores=12.8,
        cpu_leased_cores=2.0,
        ram_reserved_bytes=4 * GIB,
        cpu_reserved_cores=1.5,
        reason="RAM and disk could not be measured: no /proc",
    )
    assert list(gpus.beside(host)) == [
        ("mainpc", "RAM", "64.0 GiB", "34.0 GiB", "30.0 GiB", "8.0 GiB", "4.0 GiB", "19.0 GiB", host.reason),
        ("mainpc", "disk", "100.0 GiB", "30.0 GiB", "70.0 GiB", "1.0 GiB", "0 B", "64.0 GiB", host.reason),
        ("mainpc", "cores", "16", "", "", "2", "1.5", "9.3", ""),
    ]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"in_use": True}, "in use"),
        ({"users": 1}, "in use"),
        ({"users": 3, "pinned": True}, "in use, 3 users, pinned"),
        ({"idle_s": 90.0, "exclusive": True}, "idle 1m 30s, exclusive"),
        ({"state": "parked"}, "parked in RAM"),
        ({"state": "expiring"}, "expiring"),
        ({"state": "expiring", "reason": "makes room for qwen"}, "expiring: makes room for qwen"),
        ({"shares": "lease-7"}, "shares lease-7"),
    ],
)
def test_a_lease_says_what_it_does(more: dict[str, Any], told: str) -> None:
    assert state(lease(**more)) == told


def test_a_lease_shows_what_was_declared_where_it_counts_something_else() -> None:
    assert leased(lease(bytes=13 * GIB, declared_bytes=10 * GIB)) == "13.0 GiB (declared 10.0 GiB)"
    assert leased(lease(bytes=10 * GIB, declared_bytes=10 * GIB)) == "10.0 GiB"
    assert leased(lease(bytes=GIB, declared_bytes=10 * GIB, state="parked")) == "1.0 GiB"


def test_an_eviction_is_told_rung_by_rung(capsys: pytest.CaptureFixture[str]) -> None:
    rungs = [
        Rung("unload", "200 OK", 3.0, 8 * GIB, 8 * GIB, "nothing"),
        Rung("term", "", 0.5, 8 * GIB, 0, "freed"),
    ]
    told = msgspec.structs.replace(
        receipt("lease-2", "old", decision="evicted"),
        cards=[],
        victims=[VICTIM],
        rungs=rungs,
        expected_bytes=8 * GIB,
        returned_bytes=8 * GIB,
        lost_s=3.0,
    )
    why.show(told)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == (
        "      goes: lease-2  old 8.0 GiB  price 0.63 (25% likely to be used soon, 12 s to load, idle 4m 00s): "
        "the cheapest that makes room"
    )
    assert lines[2] == "    unload: nothing, 8.0 GiB -> 8.0 GiB in 3 s, answered: 200 OK"
    assert lines[3].startswith("    term: freed, 8.0 GiB -> 0 B in ")
    assert lines[4] == "    8.0 GiB returned of 8.0 GiB expected; 3.0 s of loading it is expected to cost"


def test_a_plan_names_who_would_go_and_what_would_be_shared(capsys: pytest.CaptureFixture[str]) -> None:
    verdict = CardVerdict("mainpc", 0, "GPU-0", True, GIB, "old would go", [VICTIM], 0.63)
    planned = LeasePlan("evict", "mainpc", "GPU-0", 4 * GIB, GIB, "", [verdict], [VICTIM])
    plan.show(planned)
    out = capsys.readouterr().out
    assert "would be granted on mainpc GPU-0 after others went (4.0 GiB needed, 1.0 GiB free there)" in out
    assert "    mainpc:0  would fit after evictions, 1.0 GiB grantable: old would go\n" in out
    assert out.count("goes: lease-2") == 1
    plan.show(msgspec.structs.replace(planned, outcome="share", share="lease-5", cards=[]))
    assert "would share lease-5 on mainpc GPU-0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("outcome", "reason", "code"),
    [
        ("grant", "fits", Exit.OK),
        ("share", "", Exit.OK),
        ("evict", "old would go", Exit.OK),
        ("wait", "in use", Exit.TRY_LATER),
        ("never", "gives 1.0 GiB at most, 4.0 GiB needed", Exit.BAD_REQUEST),
        ("never", NOT_ASKED, Exit.BAD_ANSWER),
    ],
)
def test_a_plan_ends_with_the_code_that_the_command_would(outcome: Any, reason: str, code: Exit) -> None:
    verdict = CardVerdict("mainpc", 0, "GPU-0", outcome == "grant", GIB, reason)
    assert plan.ended(LeasePlan(outcome, "", "", 4 * GIB, GIB, "", [verdict], [])) == code


class Shelf:
    """Models as ResourceManager and a host have them, and what was asked."""

    def __init__(self, fabric: Fabric) -> None:
        self.listed: list[models.Model] = []
        self.used: list[models.UseModel] = []
        self.full = False
        for name in ("ResourceManager", "Supervisor/mainpc"):
            shell = fabric.shells[name]
            shell.handle(models.LIST_MODELS, self._list)
            shell.handle(models.USE_MODEL, self._use)
            shell.handle(models.STOP_MODEL, lambda _asked, _call: models.ModelStopped("absent", 4 * GIB))
        shell.handle(models.RELOAD_MODELS, self._reload)

    def _list(self, _asked: models.ListModels, _call: Call) -> models.Models:
        return models.Models(self.listed, Cursor(epoch=0, seq=0), {"pc2": "the cable is out"})

    def _reload(self, _asked: models.ReloadModels, _call: Call) -> models.Models:
        if self.full:
            raise BadRequest("startup.yaml:3: no such field")
        return models.Models(self.listed, Cursor(epoch=0, seq=0))

    async def _use(self, asked: models.UseModel, call: Call) -> models.ModelReady:
        self.used.append(asked)
        if self.full:
            raise NoCapacity("the card is full")
        call.part(models.ModelProgress("loading", "mainpc", 0, 0.0, 12.0, "cold"))
        call.part(models.ModelProgress("loading", "mainpc", 0, 0.0, None, "still"))
        granted = LeaseGranted("lease-9", "mainpc", 0, "GPU-0", 7, 30.0, 0)
        return models.ModelReady("qwen", "mainpc", "http://127.0.0.1:9", "qwen.gguf", "vllm", granted, 2.0, loaded=True)


@pytest.fixture
def shelf(fabric: Fabric) -> Shelf:
    fabric.leases["lease-9"] = lease(lease_id="lease-9")
    return Shelf(fabric)


async def test_models_are_listed_with_what_they_take_and_lack(shelf: Shelf, tandem: Tandem) -> None:
    code, out, err = await tandem("models")
    assert (code, "no managed models" in out, "models of pc2 are missing: the cable is out" in err) == (0, True, True)
    shelf.listed = [
        model("qwen", state="ready", footprint_bytes=5 * GIB, idle_s=60.0, pinned=True, aliases=["gpt-4o"]),
        model("big", footprint_bytes=0, load_s=0.0, problem="it lacks /big.gguf"),
    ]
    _, out, _ = await tandem("models")
    ready, lacks = out.splitlines()[1:]
    assert "qwen, gpt-4o" in ready
    assert "ready 1m 00s idle, pinned" in ready
    assert "5.0 GiB" in ready
    assert "not measured" in lacks
    assert "it lacks /big.gguf" in lacks
    _, out, _ = await tandem("models", "--json")
    assert [each["name"] for each in msgspec.json.decode(out)["models"]] == ["qwen", "big"]


async def test_without_resource_manager_the_hosts_list_their_models(
    fabric: Fabric, shelf: Shelf, tandem: Tandem
) -> None:
    shelf.listed = [model("qwen")]
    await fabric.stop("ResourceManager")
    code, out, err = await tandem("models")
    assert code == Exit.OK
    assert "qwen" in out
    assert "models of pc2 are missing" in err


async def test_a_model_is_loaded_and_its_use_given_back(fabric: Fabric, shelf: Shelf, tandem: Tandem) -> None:
    code, out, err = await tandem("models", "load", "qwen", "--wait", "9s", "--priority", "70")
    assert (code, out) == (0, "qwen answers on mainpc at http://127.0.0.1:9 as qwen.gguf after 2 s\n")
    assert "loading on mainpc, about 12 s to go: cold" in err
    assert (shelf.used[0].priority, 8.0 < shelf.used[0].wait_s <= 9.0) == (70, True)
    assert "lease-9" not in fabric.leases
    fabric.leases["lease-9"] = lease(lease_id="lease-9")
    _, out, _ = await tandem("models", "load", "qwen", "--json")
    assert msgspec.json.decode(out)["url"] == "http://127.0.0.1:9"
    shelf.full = True
    code, _, err = await tandem("models", "load", "qwen")
    assert (code, "the card is full" in err) == (Exit.TRY_LATER, True)


async def test_a_model_is_stopped(shelf: Shelf, tandem: Tandem) -> None:
    code, out, _ = await tandem("models", "stop", "qwen")
    assert (code, out) == (0, "qwen is absent; 4.0 GiB came back\n")
    _, out, _ = await tandem("models", "stop", "qwen", "--json")
    assert msgspec.json.decode(out) == {"state": "absent", "returned_bytes": 4 * GIB}


async def test_the_log_of_a_models_engine_is_read_where_it_runs(fabric: Fabric, shelf: Shelf, tandem: Tandem) -> None:
    fabric.log = "llama_model_load: 32 layers\n"
    shelf.listed = [model("qwen", host="pc2"), model("qwen", pid=7, aliases=["gpt-4o"])]
    code, out, _ = await tandem("logs", "gpt-4o")
    assert (code, out) == (Exit.OK, fabric.log)
    code, _, err = await tandem("logs", "nothing")
    assert (code, "has a process 'nothing'" in err) == (Exit.BAD_ANSWER, True)


async def test_startup_files_are_read_anew_for_their_models(shelf: Shelf, tandem: Tandem) -> None:
    _, out, _ = await tandem("models", "reload", "--host", "mainpc")
    assert out == "mainpc has no models\n"
    shelf.listed = [model("qwen"), model("big")]
    _, out, _ = await tandem("models", "reload", "--host", "mainpc")
    assert out == "mainpc has qwen, big\n"
    _, out, _ = await tandem("models", "reload", "--host", "mainpc", "--json")
    assert [each["name"] for each in msgspec.json.decode(out)["mainpc"]["models"]] == ["qwen", "big"]
    shelf.full = True
    code, _, err = await tandem("models", "reload", "--host", "mainpc")
    assert (code, "startup.yaml:3: no such field" in err) == (Exit.BAD_REQUEST, True)


def test_an_adopted_model_says_so() -> None:
    assert model_state(model("qwen", state="ready", users=1, adopted=True)) == "ready, adopted"
