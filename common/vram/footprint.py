"""Footprints: how many bytes a model really takes on this host, and how long it takes to load, learned from what is measured.

Bytes. What was declared counts until enough looks were taken at a warm model; from then on

    need = p99 of the looks + max(growth floor, growth fraction x p99)

Whoever declares another size than before means another load: its bytes are then learned anew.

Looks before the model has been loaded for `warm_up_s` do not count: caches and graphs are still to come. The looks are
counted in logarithmic steps (DDSketch: Masson, Rim and Lee, PVLDB 12, 2019), so that a p99 is at most RELATIVE_ERROR above a
true one, and halved in number now and then, so that what a model was long ago fades.

Load seconds. Each (model, config) has its own for each tier that it was loaded from: `cold` from disk, `cached` with its
files in the page cache, `parked` with its weights in host RAM. Until one is known it is estimated as a fixed part plus
bytes by the host's bandwidth for that tier, which all loads together teach.

A `Footprints` belongs to the supervisor of one host, which alone measures there; `changes` are the rows that keep it over
restarts. It measures nothing itself, and corrects no lease: `overdrawn` only says by how much one should be.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, Literal, TypeAlias

import msgspec

from common.store.protocol import Change, RecordStore
from common.store.records import Records
from common.vram.amount import GIB, MIB
from common.vram.demand import ModelKey

Tier: TypeAlias = Literal["cold", "cached", "parked"]

RELATIVE_ERROR: Final = 0.01
SHARE: Final = 0.99
REMEMBERED_LOOKS: Final = 8_192
"""When so many looks were counted, each count is halved: the newer half of them weighs as much as all before."""
SMOOTHING: Final = 0.3
"""The weight of the newest load: seconds <- 0.7 seconds + 0.3 newest."""

FIXED_S: Final[dict[Tier, float]] = {"cold": 2.0, "cached": 2.0, "parked": 0.5}
"""Seconds of a load that do not depend on its bytes, until it was seen."""
BYTES_PER_S: Final[dict[Tier, float]] = {"cold": 1.0 * GIB, "cached": 2.5 * GIB, "parked": 8.0 * GIB}
"""The bandwidth assumed of a host that has not loaded yet: a SATA disk, a page cache, PCIe 3 x16 at two thirds."""
ASSUMED_BYTES: Final = 4 * GIB
"""The assumed bandwidth counts as much as one load of so many bytes."""

_STEP: Final = math.log1p(RELATIVE_ERROR)


class FootprintPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The knobs: seconds and looks until measurements count, what is added to the p99, and the tolerance of a lease.

    A lease is overdrawn when its holder is measured to hold more than 1 + `tolerance_fraction` of it.
    """

    warm_up_s: float = 30.0
    least_looks: int = 30
    growth_fraction: float = 0.02
    growth_floor_bytes: int = 64 * MIB
    tolerance_fraction: float = 0.05
    remembered_keys: int = 1_024


DEFAULT: Final = FootprintPolicy()


class Footprint(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one (model, config) on one host.

    `measured_bytes` is the p99 of the warm looks, 0 until there are enough; `need_bytes` what a lease of it should have;
    `load_s` the smoothed seconds of the loads seen, by tier. `steps` are the looks as counted, for those who keep it.
    """

    model: str
    config: str
    host: str
    declared_bytes: int = 0
    measured_bytes: int = 0
    peak_bytes: int = 0
    need_bytes: int = 0
    steps: dict[int, int] = {}
    load_s: dict[Tier, float] = {}
    load_bytes: dict[Tier, int] = {}

    @property
    def key(self) -> ModelKey:
        """Its model and config."""
        return ModelKey(self.model, self.config)

    @property
    def looks(self) -> int:
        """How many looks count."""
        return sum(self.steps.values())


FOOTPRINTS: Final = Records("footprints", Footprint)


class Footprints:
    """The footprints of one host, at most `policy.remembered_keys`; the one touched least recently makes room."""

    def __init__(self, host: str, policy: FootprintPolicy = DEFAULT) -> None:
        self._host = host
        self._policy = policy
        self._known: dict[ModelKey, Footprint] = {}
        self._changed: dict[ModelKey, None] = {}
        self._rates: dict[Tier, float] = {}

    @classmethod
    def restored(cls, host: str, store: RecordStore, policy: FootprintPolicy = DEFAULT) -> Footprints:
        """Those that the store holds; raises CorruptRecord, and StorageUnavailable while it cannot be read."""
        footprints = cls(host, policy)
        footprints.restore(store)
        return footprints

    def restore(self, store: RecordStore) -> None:
        """Takes in those that the store holds; raises as `restored`."""
        for _, footprint in FOOTPRINTS.load(store):
            self._keep(footprint)
        self._changed.clear()

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Footprint]:
        return iter(tuple(self._known.values()))

    def get(self, key: ModelKey) -> Footprint:
        """What is known of the key, or an empty footprint."""
        return self._known.get(key) or Footprint(model=key.model, config=key.config, host=self._host)

    def declared(self, key: ModelKey, bytes: int) -> None:
        """Takes down what a lease of the key was asked for; 0 says nothing, and what was learned is no other size."""
        known = self.get(key)
        if bytes == 0 or known.declared_bytes == bytes:
            return
        if not _declared_so(known, bytes):
            known = msgspec.structs.replace(known, measured_bytes=0, peak_bytes=0, need_bytes=0, steps={})
        elif known.declared_bytes:
            return
        self._keep(msgspec.structs.replace(known, declared_bytes=bytes))

    def looked(self, key: ModelKey, bytes: int, warm_s: float) -> None:
        """Counts one look at a lease of the key whose model has been loaded for `warm_s`; earlier is ignored.

        A parked lease is not looked at: it holds its residual.
        """
        if warm_s < self._policy.warm_up_s or bytes <= 0:
            return
        known = self.get(key)
        steps = _counted(known.steps, bytes)
        p99 = _at(steps, SHARE) if sum(steps.values()) >= self._policy.least_looks else 0
        changed = msgspec.structs.replace(
            known,
            steps=steps,
            measured_bytes=p99,
            peak_bytes=max(known.peak_bytes, bytes),
            need_bytes=self._with_growth(p99),
        )
        self._keep(changed, rewrite=changed.need_bytes != known.need_bytes)

    def loaded(self, key: ModelKey, tier: Tier, seconds: float, bytes: int) -> None:
        """Takes in one load from `tier`: how long it took, and the bytes that it put on its cards together."""
        known = self.get(key)
        before = known.load_s.get(tier)
        smoothed = seconds if before is None else (1 - SMOOTHING) * before + SMOOTHING * seconds
        self._keep(
            msgspec.structs.replace(
                known, load_s=known.load_s | {tier: smoothed}, load_bytes=known.load_bytes | {tier: bytes}
            )
        )

    def need_bytes(self, key: ModelKey, declared: int) -> int:
        """What a lease of the key should have: what was measured where enough is known of it as declared, else `declared`."""
        known = self._known.get(key)
        if known is None or not (declared and known.need_bytes and _declared_so(known, declared)):
            return declared
        return known.need_bytes

    def load_seconds(self, key: ModelKey, tier: Tier, bytes: int) -> float:
        """How long a load of the key takes from that tier; `bytes` are what it would load, for an estimate."""
        known = self.get(key).load_s.get(tier)
        return FIXED_S[tier] + bytes / self.bytes_per_s(tier) if known is None else known

    def reload_seconds(self, key: ModelKey, *, asleep: bool = False) -> float | None:
        """How long a load took after the model was loaded before, from host RAM if it would sleep; None where none was seen."""
        known = self._known.get(key)
        if known is None:
            return None
        tiers: tuple[Tier, ...] = ("parked",) if asleep else ("cached", "cold")
        return next((known.load_s[tier] for tier in tiers if tier in known.load_s), None)

    def bytes_per_s(self, tier: Tier) -> float:
        """The host's bandwidth of loads from that tier, by all loads seen and the assumed one."""
        if tier not in self._rates:
            self._rates[tier] = self._rate(tier)
        return self._rates[tier]

    def overdrawn(self, leased_bytes: int, measured_bytes: int) -> int:
        """What a lease should be corrected to because its holder holds more than it may; 0 where it holds what it may."""
        if measured_bytes <= leased_bytes * (1 + self._policy.tolerance_fraction):
            return 0
        return self._with_growth(measured_bytes)

    def changes(self) -> list[Change]:
        """The rows that changed since this was last asked, to be committed in any group; looks alone are rarely among them."""
        changed = [
            FOOTPRINTS.put(_row(key), self._known[key]) if key in self._known else FOOTPRINTS.delete(_row(key))
            for key in self._changed
        ]
        self._changed.clear()
        return changed

    def unkept(self) -> None:
        """What `changes` gave was not committed: every row is among the next ones."""
        self._changed |= dict.fromkeys(self._known)

    def _keep(self, footprint: Footprint, rewrite: bool = True) -> None:
        key = footprint.key
        self._known.pop(key, None)
        if len(self._known) >= self._policy.remembered_keys:
            oldest = next(iter(self._known))
            del self._known[oldest]
            self._changed[oldest] = None
        self._known[key] = footprint
        if rewrite:
            self._changed[key] = None
            self._rates.clear()

    def _rate(self, tier: Tier) -> float:
        loads = [known for known in self._known.values() if tier in known.load_s]
        moved = ASSUMED_BYTES + sum(known.load_bytes[tier] for known in loads)
        took_s = ASSUMED_BYTES / BYTES_PER_S[tier] + sum(
            max(0.0, known.load_s[tier] - FIXED_S[tier]) for known in loads
        )
        return moved / took_s

    def _with_growth(self, bytes: int) -> int:
        if bytes == 0:
            return 0
        return bytes + max(self._policy.growth_floor_bytes, int(self._policy.growth_fraction * bytes))


def _declared_so(known: Footprint, bytes: int) -> bool:
    """Whether so many bytes are what was declared before, or what was learned."""
    return known.declared_bytes in (0, bytes) or known.need_bytes == bytes


def _row(key: ModelKey) -> str:
    return f"{key.model}\n{key.config}"


def _counted(steps: dict[int, int], bytes: int) -> dict[int, int]:
    """The counts with one more; step i holds what lies in (1.01^(i-1), 1.01^i] MiB."""
    step = math.ceil(math.log(max(bytes / MIB, 1.0)) / _STEP)
    counted = steps | {step: steps.get(step, 0) + 1}
    if sum(counted.values()) > REMEMBERED_LOOKS:
        counted = {each: count // 2 for each, count in counted.items() if count > 1}
    return counted


def _at(steps: dict[int, int], share: float) -> int:
    """The upper edge of the step in which the look of rank `share` lies, in bytes."""
    rank, passed = share * sum(steps.values()), 0
    step = next(step for step in sorted(steps) if (passed := passed + steps[step]) >= rank)
    return int(math.exp(step * _STEP) * MIB)
