"""The contract that every source of cards passes, and how a host gets its source."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from common.errors import Unavailable
from common.gpu import cards as cards_module
from common.gpu.cards import CardSource, ClaimedCards, open_cards
from common.gpu.claims import Claim, claim
from common.gpu.nvml import NvmlCards
from common.gpu.simulated import GIB, CardFile, SimulatedCards, card_uuid, create_card, use_bytes
from common.vram.cards import CardSample, ProcessId, ProcessUse

FIRST = card_uuid("mainpc", 0)
SECOND = card_uuid("mainpc", 1)

Sleeper = Callable[[], tuple["subprocess.Popen[str]", ProcessId]]


@pytest.fixture(params=["simulated", "nvml"])
def source(request: pytest.FixtureRequest, cards: Path) -> Iterator[CardSource]:
    opened: CardSource
    if request.param == "nvml":
        request.getfixturevalue("nvml")
        opened = NvmlCards("mainpc")
    else:
        opened = SimulatedCards("mainpc", cards)
    opened.sample(0.0)
    yield opened
    opened.close()
    opened.close()


def alter(cards: Path, index: int, **changes: object) -> None:
    folder = cards / str(index)
    card = msgspec.json.decode((folder / "card.json").read_bytes(), type=CardFile)
    create_card(folder, msgspec.structs.replace(card, **changes))


def test_cards_are_identified_in_order(source: CardSource) -> None:
    samples = source.sample(12.5)
    assert [(each.index, each.uuid, each.total_bytes) for each in samples] == [
        (0, FIRST, 24 * GIB),
        (1, SECOND, 12 * GIB),
    ]
    assert {(each.host, each.sampled_at, each.problem) for each in samples} == {("mainpc", 12.5, "")}
    assert samples[0].name == "Simulated 24 GiB"


def test_an_unused_card_is_free_and_lists_nobody(source: CardSource) -> None:
    sample = source.sample(0.0)[0]
    assert (sample.free_bytes, sample.used_bytes, sample.processes) == (24 * GIB, 0, ())


def test_what_processes_use_is_counted_each_and_in_sum(source: CardSource, cards: Path, sleeper: Sleeper) -> None:
    (_, one), (_, two) = sleeper(), sleeper()
    use_bytes(cards / "0", 3 * GIB, one)
    use_bytes(cards / "0", 5 * GIB, two)
    use_bytes(cards / "1", 1 * GIB, one)
    first, second = source.sample(0.0)
    assert first.processes == tuple(
        sorted((ProcessUse(*one, "sleep", 3 * GIB), ProcessUse(*two, "sleep", 5 * GIB)), key=lambda use: use.pid)
    )
    assert (first.used_bytes, first.free_bytes) == (8 * GIB, 16 * GIB)
    assert second.processes == (ProcessUse(*one, "sleep", GIB),)


def test_a_process_that_grows_and_gives_back_is_followed(source: CardSource, cards: Path) -> None:
    figures = []
    for amount in (GIB, 2 * GIB, 0):
        use_bytes(cards / "0", amount)
        figures.append(source.sample(0.0)[0].used_bytes)
    assert figures == [GIB, 2 * GIB, 0]


def test_a_killed_process_gives_its_bytes_back(source: CardSource, cards: Path, sleeper: Sleeper) -> None:
    process, pinned = sleeper()
    use_bytes(cards / "0", 3 * GIB, pinned)
    process.kill()
    process.wait()
    assert source.sample(0.0)[0].free_bytes == 24 * GIB


def test_a_pid_that_passed_to_another_process_counts_for_nothing(
    source: CardSource, cards: Path, sleeper: Sleeper
) -> None:
    _, pinned = sleeper()
    use_bytes(cards / "0", 3 * GIB, ProcessId(pinned.pid, pinned.start_time - 1))
    sample = source.sample(0.0)[0]
    assert (sample.used_bytes, sample.processes) == (0, ())


def test_more_used_than_there_is_leaves_nothing_free(source: CardSource, cards: Path, sleeper: Sleeper) -> None:
    (_, one), (_, two) = sleeper(), sleeper()
    use_bytes(cards / "1", 7 * GIB, one)
    use_bytes(cards / "1", 6 * GIB, two)
    sample = source.sample(0.0)[1]
    assert (sample.free_bytes, sample.used_bytes) == (0, 13 * GIB)


def test_what_the_driver_reserves_is_neither_free_nor_used(source: CardSource, cards: Path) -> None:
    alter(cards, 0, reserved_bytes=GIB // 2)
    use_bytes(cards / "0", GIB)
    sample = source.sample(0.0)[0]
    assert (sample.free_bytes, sample.used_bytes) == (24 * GIB - 3 * GIB // 2, GIB)


def test_heat_and_load_are_shown(source: CardSource, cards: Path) -> None:
    alter(cards, 0, temperature_c=71.0, utilization_pct=98.0)
    sample = source.sample(0.0)[0]
    assert (sample.temperature_c, sample.utilization_pct) == (71.0, 98.0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fault": "lost"}, "fallen off the bus"),
        ({"fault": "reset_required"}, "needs a reset"),
        ({"fault": "memory_unreadable"}, "its memory could not be read"),
        ({"mig": True}, "MIG is enabled"),
    ],
)
def test_a_card_that_cannot_be_measured_has_nothing_free_and_says_why(
    changes: dict[str, object], reason: str, source: CardSource, cards: Path
) -> None:
    alter(cards, 0, **changes)
    failed, healthy = source.sample(0.0)
    assert (failed.uuid, failed.index, failed.free_bytes, failed.processes) == (FIRST, 0, 0, None)
    assert failed.problem.startswith("Simulated 24 GiB: ")
    assert reason in failed.problem
    assert (healthy.problem, healthy.free_bytes) == ("", 12 * GIB)


def test_a_card_that_recovers_is_measured_again(source: CardSource, cards: Path) -> None:
    alter(cards, 0, fault="lost")
    source.sample(0.0)
    alter(cards, 0, fault="")
    assert source.sample(1.0)[0] == msgspec.structs.replace(source.sample(0.0)[0], sampled_at=1.0)


def test_hidden_bytes_are_unknown_while_the_cards_sum_is_not(source: CardSource, cards: Path, sleeper: Sleeper) -> None:
    _, pinned = sleeper()
    alter(cards, 0, hides="bytes")
    use_bytes(cards / "0", GIB, pinned)
    sample = source.sample(0.0)[0]
    assert sample.processes == (ProcessUse(*pinned, "sleep", None),)
    assert (sample.used_bytes, sample.problem) == (GIB, "")


def test_a_hidden_list_is_not_an_empty_one(source: CardSource, cards: Path) -> None:
    alter(cards, 0, hides="processes")
    use_bytes(cards / "0", GIB)
    sample = source.sample(0.0)[0]
    assert (sample.processes, sample.used_bytes, sample.problem) == (None, GIB, "")


@pytest.mark.usefixtures("nvml")
def test_both_sources_see_the_same_cards(cards: Path, sleeper: Sleeper) -> None:
    _, pinned = sleeper()
    use_bytes(cards / "1", 5 * GIB, pinned)
    simulated = SimulatedCards("mainpc", cards).sample(3.0)
    assert NvmlCards("mainpc").sample(3.0) == [msgspec.structs.replace(each, simulated=False) for each in simulated]


@pytest.mark.usefixtures("nvml")
def test_the_drivers_cards_come_before_simulated_ones(cards: Path, tmp_path: Path) -> None:
    opened = open_cards("mainpc", cards, tmp_path / "claims")
    assert not any(sample.simulated for sample in opened.sample(0.0))
    opened.close()


@pytest.mark.usefixtures("nvml")
def test_simulated_cards_serve_where_the_driver_finds_none_and_the_log_says_why(
    cards: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TANDEM_SIMULATED_CARDS", "")
    opened = open_cards("mainpc", cards)
    assert "finds no card on mainpc" in caplog.text
    assert [(sample.simulated, sample.problem) for sample in opened.sample(0.0)] == [(True, ""), (True, "")]
    opened.close()


@pytest.mark.usefixtures("nvml")
def test_without_leave_to_simulate_no_driver_means_no_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_NVML_WITHOUT", "driver")
    with pytest.raises(Unavailable, match="kernel driver is not loaded on mainpc"):
        open_cards("mainpc")


@pytest.mark.usefixtures("nvml")
def test_real_cards_are_claimed_in_the_machines_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards_module, "machine_wide_folder", lambda: tmp_path / "machine")
    opened = open_cards("mainpc")
    opened.sample(0.0)
    assert {each.stem for each in (tmp_path / "machine").iterdir()} == {FIRST, SECOND}
    opened.close()


def claimed_cards(host: str, cards: Path, tmp_path: Path) -> ClaimedCards:
    return ClaimedCards(SimulatedCards("mainpc", cards), host, tmp_path / "claims")


def problems(samples: list[CardSample]) -> list[str]:
    return [sample.problem.partition(" (pid")[0] for sample in samples]


def test_the_second_supervisor_reports_the_owner_until_it_is_gone(cards: Path, tmp_path: Path) -> None:
    mainpc, pc2 = claimed_cards("mainpc", cards, tmp_path), claimed_cards("pc2", cards, tmp_path)
    assert problems(mainpc.sample(0.0)) == problems(mainpc.sample(0.5)) == ["", ""]
    assert problems(pc2.sample(0.0)) == ["owned by mainpc", "owned by mainpc"]
    mainpc.close()
    assert problems(pc2.sample(1.0)) == ["", ""]
    assert problems(mainpc.sample(1.0)) == ["owned by pc2", "owned by pc2"]
    pc2.close()


def test_a_card_with_a_problem_is_not_claimed_and_one_held_stays_so(cards: Path, tmp_path: Path) -> None:
    alter(cards, 1, fault="lost")
    mainpc = claimed_cards("mainpc", cards, tmp_path)
    mainpc.sample(0.0)
    assert isinstance(claim(SECOND, "pc2", tmp_path / "claims"), Claim)
    alter(cards, 0, fault="lost")
    mainpc.sample(1.0)
    assert not isinstance(claim(FIRST, "pc2", tmp_path / "claims"), Claim)
    mainpc.close()


def test_a_card_whose_claim_cannot_be_made_is_not_scheduled(cards: Path, tmp_path: Path) -> None:
    (tmp_path / "claims").touch()
    samples = claimed_cards("mainpc", cards, tmp_path).sample(0.0)
    assert [sample.problem.split(": ")[0] for sample in samples] == [
        f"{FIRST} cannot be claimed",
        f"{SECOND} cannot be claimed",
    ]
