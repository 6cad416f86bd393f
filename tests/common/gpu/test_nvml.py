from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from common.errors import Unavailable
from common.gpu.nvml import NvmlCards
from common.gpu.simulated import GIB, CardFile, Fault, card_uuid, create_card, use_bytes
from common.vram.cards import UNKNOWN_START, ProcessId, ProcessUse
from tests.lab.nvml.stand_in import environment

NOBODY = 2**22 + 1
SAMPLER = """
from common.gpu.nvml import NvmlCards
for sample in NvmlCards("mainpc").sample(0.0):
    print(sample.uuid, sample.free_bytes, len(sample.processes))
"""

Sleeper = Callable[[], tuple["subprocess.Popen[str]", ProcessId]]


def break_card(cards: Path, index: int, fault: Fault) -> None:
    create_card(cards / str(index), CardFile(card_uuid("mainpc", index), "Simulated", 24 * GIB, fault=fault))


def refuse(error: int) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise pynvml.NVMLError(error)

    return fail


def test_a_program_finds_the_library_by_its_name(nvml_library: Path, cards: Path) -> None:
    use_bytes(cards / "1", GIB)
    told = subprocess.run(
        [sys.executable, "-c", SAMPLER],
        env=environment(nvml_library, [cards]) | {"PYTHONPATH": str(Path(__file__).resolve().parents[3])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.splitlines() == [
        f"{card_uuid('mainpc', 0)} {24 * GIB} 0",
        f"{card_uuid('mainpc', 1)} {11 * GIB} 1",
    ]


@pytest.mark.usefixtures("nvml")
@pytest.mark.parametrize(
    ("error", "mend"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, r"no NVIDIA driver library \(libnvidia-ml.so.1\) on mainpc; install"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "kernel driver is not loaded on mainpc"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "different versions; reboot"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "allow it to open /dev/nvidiactl"),
        (pynvml.NVML_ERROR_UNKNOWN, "NVML does not work on mainpc: Unknown Error"),
    ],
)
def test_a_host_without_nvml_says_what_lacks_and_how_to_mend_it(
    error: int, mend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pynvml, "nvmlInit", refuse(error))
    with pytest.raises(Unavailable, match=mend):
        NvmlCards("mainpc")


def test_a_host_without_the_library_is_told_so_without_the_binding() -> None:
    code = (
        "import ctypes, sys\n"
        "def none(name): raise OSError(name)\n"
        "ctypes.CDLL = none\n"
        "from common.errors import Unavailable\n"
        "from common.gpu.nvml import NvmlCards\n"
        "try: NvmlCards('mainpc')\n"
        "except Unavailable as error: sys.exit(f'{error} {\"pynvml\" in sys.modules}')\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False).stderr
    assert told.startswith("no NVIDIA driver library (libnvidia-ml.so.1) on mainpc; install")
    assert told.endswith("False\n")


@pytest.mark.usefixtures("nvml")
def test_a_driver_without_cards_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_SIMULATED_CARDS", "")
    with pytest.raises(Unavailable, match="the NVIDIA driver finds no card on mainpc"):
        NvmlCards("mainpc")


@pytest.mark.usefixtures("nvml")
def test_an_older_library_is_asked_the_older_questions(cards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_NVML_WITHOUT", "v2,v3,graphics")
    use_bytes(cards / "0", GIB)
    sample = NvmlCards("mainpc").sample(0.0)[0]
    assert (sample.free_bytes, sample.used_bytes, sample.temperature_c) == (23 * GIB, GIB, 35.0)
    assert sample.processes is not None
    assert [use.used_bytes for use in sample.processes] == [GIB]


@pytest.mark.usefixtures("nvml")
def test_a_card_without_a_thermometer_still_has_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_NVML_WITHOUT", "temperature,utilization")
    sample = NvmlCards("mainpc").sample(0.0)[0]
    assert (sample.temperature_c, sample.utilization_pct, sample.free_bytes) == (0.0, 0.0, 24 * GIB)


@pytest.mark.usefixtures("nvml")
def test_a_card_that_was_lost_from_the_start_is_known_by_its_place(cards: Path) -> None:
    break_card(cards, 0, "lost")
    source = NvmlCards("mainpc")
    lost, healthy = source.sample(0.0)
    assert (lost.index, lost.uuid, lost.free_bytes) == (0, "mainpc:0", 0)
    assert lost.problem.startswith("mainpc:0: the card has fallen off the bus")
    assert healthy.problem == ""
    break_card(cards, 0, "")
    assert [sample.uuid for sample in source.sample(1.0)] == [card_uuid("mainpc", 0), card_uuid("mainpc", 1)]


@pytest.mark.usefixtures("nvml")
def test_a_card_that_is_no_longer_listed_stays_in_the_samples(cards: Path) -> None:
    source = NvmlCards("mainpc")
    source.sample(0.0)
    (cards / "0").rename(cards / "moved")
    survivor, gone = source.sample(1.0)
    assert (survivor.uuid, survivor.index, survivor.problem) == (card_uuid("mainpc", 1), 0, "")
    assert (gone.uuid, gone.free_bytes, gone.total_bytes) == (card_uuid("mainpc", 0), 0, 24 * GIB)
    assert gone.problem == "Simulated 24 GiB: the driver no longer lists the card"


@pytest.mark.usefixtures("nvml")
def test_a_driver_that_goes_away_frees_nothing_and_is_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    source = NvmlCards("mainpc")
    source.sample(0.0)
    monkeypatch.setenv("TANDEM_NVML_WITHOUT", "driver")
    for now in (1.0, 2.0):
        samples = source.sample(now)
        assert [(each.free_bytes, each.sampled_at) for each in samples] == [(0, now), (0, now)]
        assert all("NVML does not answer: Driver Not Loaded" in each.problem for each in samples)
    monkeypatch.delenv("TANDEM_NVML_WITHOUT")
    assert [each.problem for each in source.sample(3.0)] == ["", ""]


@pytest.mark.usefixtures("nvml")
def test_a_failed_name_or_shutdown_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", refuse(pynvml.NVML_ERROR_UNKNOWN))
    monkeypatch.setattr(pynvml, "nvmlShutdown", refuse(pynvml.NVML_ERROR_UNINITIALIZED))
    source = NvmlCards("mainpc")
    assert [(each.name, each.problem) for each in source.sample(0.0)] == [("", ""), ("", "")]
    source.close()


def lists(monkeypatch: pytest.MonkeyPatch, compute: dict[int, int | None], graphics: dict[int, int | None]) -> None:
    for kind, entries in {"Compute": compute, "Graphics": graphics}.items():
        answer = [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in entries.items()]
        monkeypatch.setattr(pynvml, f"nvmlDeviceGet{kind}RunningProcesses_v3", lambda _, answer=answer: answer)


@pytest.mark.usefixtures("nvml")
@pytest.mark.parametrize(
    ("compute", "graphics", "used"),
    [
        (5, 3, 5),
        (3, 5, 5),
        (None, 5, 5),
        (5, None, 5),
        (None, None, None),
        (25 * GIB, 0, 0),
        (25 * GIB, 2**63, None),
    ],
)
def test_a_process_in_both_lists_has_one_entry_with_the_larger_believable_figure(
    compute: int | None, graphics: int | None, used: int | None, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, pinned = sleeper()
    lists(monkeypatch, {pinned.pid: compute}, {pinned.pid: graphics})
    assert NvmlCards("mainpc").sample(0.0)[0].processes == (ProcessUse(*pinned, "sleep", used),)


@pytest.mark.usefixtures("nvml")
def test_a_process_that_cannot_be_seen_is_listed_without_a_start_time(monkeypatch: pytest.MonkeyPatch) -> None:
    lists(monkeypatch, {NOBODY: GIB}, {})
    assert NvmlCards("mainpc").sample(0.0)[0].processes == (ProcessUse(NOBODY, UNKNOWN_START, "", GIB),)
