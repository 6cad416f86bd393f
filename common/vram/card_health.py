"""Whether a card that could be measured is fit for new leases: heat with hysteresis, memory errors, and XIDs.

A card is closed at `close_below_c` under the temperature at which the hardware slows it, or while the hardware does so, and open
again at `reopen_below_c` under it. Memory that failed, and an XID after which NVIDIA's handbook (XID Errors, "Xid Error Listing")
asks for a reset, close it until it was reset. XIDs that a program causes by its own faults (13, 31, 43, 45, 68) do not.

The leases that are on it stay: what they do is between them and the card. A lost card is not judged here; it says so itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import msgspec

from common.vram.cards import CardSample

RESET: Final = "reset it (nvidia-smi --gpu-reset, with nobody using it) or reboot"
BAD_XIDS: Final[Mapping[int, str]] = MappingProxyType(
    {
        48: "a double-bit memory error",
        62: "its internal microcontroller halted",
        64: "broken memory could not be put aside",
        79: "it fell off the bus",
        95: "a memory error that could not be contained",
        119: "its system processor does not answer",
        120: "its system processor failed",
        140: "memory errors that could not be recovered",
        143: "it could not be initialised",
    }
)


class HealthPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The knobs, in °C below the card's own slowdown temperature; a card that does not tell it has `slowdown_c`."""

    close_below_c: float = 2.0
    reopen_below_c: float = 10.0
    slowdown_c: float = 92.0


DEFAULT: Final = HealthPolicy()


def unfit(sample: CardSample, was_hot: bool, policy: HealthPolicy = DEFAULT) -> tuple[str, bool]:
    """Why the card takes no new lease, empty where it may; and whether it counts as hot from now on."""
    hot = is_hot(sample, was_hot, policy)
    vitals = sample.vitals
    xid = next((xid for xid in reversed(vitals.xids) if xid in BAD_XIDS), None)
    if xid is not None:
        return f"the driver reported XID {xid}, {BAD_XIDS[xid]}; {RESET}", hot
    if vitals.repair_failed:
        return "broken memory could not be replaced by spare memory; the card should be exchanged", hot
    if vitals.uncorrected_errors:
        return f"uncorrected memory errors since its driver was loaded: {vitals.uncorrected_errors}; {RESET}", hot
    if vitals.repair_pending:
        return f"broken memory waits to be replaced by spare memory; {RESET}", hot
    return (_heat(sample, policy) if hot else ""), hot


def is_hot(sample: CardSample, was_hot: bool, policy: HealthPolicy = DEFAULT) -> bool:
    """Whether the card is too hot, in the light of whether it was; unknown heat is no heat."""
    if "hw-thermal" in sample.vitals.throttled:
        return True
    below = policy.reopen_below_c if was_hot else policy.close_below_c
    reached = sample.temperature_c - (_limit(sample, policy) - below)
    return reached > 0 if was_hot else reached >= 0


class HealthWatch:
    """The judgement of one host's cards over time: remembers which are hot."""

    def __init__(self, policy: HealthPolicy = DEFAULT) -> None:
        self._policy = policy
        self._hot: set[str] = set()

    def judged(self, samples: Sequence[CardSample]) -> list[CardSample]:
        """The samples with `health` filled in; one with a problem is left as it is, and its heat as it was."""
        return [sample if sample.problem else self._judged(sample) for sample in samples]

    def _judged(self, sample: CardSample) -> CardSample:
        why, hot = unfit(sample, sample.uuid in self._hot, self._policy)
        (self._hot.add if hot else self._hot.discard)(sample.uuid)
        return msgspec.structs.replace(sample, health=why) if why else sample


def _heat(sample: CardSample, policy: HealthPolicy) -> str:
    limit = _limit(sample, policy)
    slowed = ", and slowed by its hardware" if "hw-thermal" in sample.vitals.throttled else ""
    opens = f"open again at {limit - policy.reopen_below_c:.0f} °C"
    return f"too hot: {sample.temperature_c:.0f} °C of {limit:.0f} °C{slowed}; {opens}"


def _limit(sample: CardSample, policy: HealthPolicy) -> float:
    return sample.vitals.slowdown_c or policy.slowdown_c
