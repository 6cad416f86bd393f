"""`python -m benchmarks.vram.picture FILE`: draws which models were resident on which card over a day of the servegen trace."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.vram.queueing import Simulation
from benchmarks.vram.tandem import Tandem
from benchmarks.vram.traces import fabric, requests, sizes

TRACE: Final = "servegen"
SEED: Final = 0
WIDTH: Final = 1_000
LEFT: Final = 110
ROW: Final = 16
TOP: Final = 40
HOUR_S: Final = 3_600.0
COLOURS: Final = ("#2b6cb0", "#c05621")
"""By card, in the order of the fabric."""
LOADING: Final = 0.4
LOADED: Final = 0.9
"""How opaque a bar is."""


class Stay(NamedTuple):
    """A model on a card from the begin of its load until it went."""

    model: str
    card: int
    since: float
    loaded: float
    until: float


class Watched(Simulation):
    """A simulation that remembers who was where and when."""

    def __init__(self) -> None:
        super().__init__(requests(TRACE), sizes(SEED), fabric())
        self.stays: list[Stay] = []
        self._open: dict[str, tuple[float, float]] = {}

    def load(self, model: str, card: int) -> float:
        """Begins a load, and a stay."""
        until = super().load(model, card)
        self._open[model] = self.now, until
        return until

    def unload(self, model: str) -> None:
        """Ends a model, and its stay."""
        card = self.home[model]
        super().unload(model)
        self.stays.append(Stay(model, card, *self._open.pop(model), self.now))

    def finish(self) -> list[Stay]:
        """All stays, those that go on with the rest."""
        return self.stays + [Stay(model, self.home[model], *times, self.now) for model, times in self._open.items()]


def drawn(stays: Iterable[Stay]) -> str:
    """The picture as SVG: a row for each model, a bar for each stay in the colour of its card, lighter while it loads."""
    stays = list(stays)
    gib = sizes(SEED)
    rows = {model: TOP + place * ROW for place, model in enumerate(sorted(gib, key=lambda each: -gib[each]))}
    height = TOP + len(rows) * ROW + 24
    end = max(stay.until for stay in stays)
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="11">',
            f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
            *_legend(),
            *(f'<text x="8" y="{y + 11}">{model}, {gib[model]:.1f} GiB</text>' for model, y in rows.items()),
            *_hours(end, height),
            *_bars(stays, rows, end),
            "</svg>\n",
        )
    )


def _legend() -> Iterator[str]:
    for place, (card, colour) in enumerate(zip(fabric(), COLOURS, strict=True)):
        x = LEFT + place * 220
        yield f'<rect x="{x}" y="10" width="12" height="10" fill="{colour}"/>'
        yield f'<text x="{x + 18}" y="19">{card.gib:g} GiB card, loads at {card.gib_per_s:g} GiB/s</text>'


def _hours(end: float, height: int) -> Iterator[str]:
    for hour in range(0, math.floor(end / HOUR_S) + 1, 3):
        x = _x(hour * HOUR_S, end)
        yield f'<line x1="{x:.1f}" y1="{TOP - 4}" x2="{x:.1f}" y2="{height - 20}" stroke="#ddd"/>'
        yield f'<text x="{x - 8:.1f}" y="{height - 8}">{hour} h</text>'


def _bars(stays: Iterable[Stay], rows: Mapping[str, int], end: float) -> Iterator[str]:
    paths: dict[tuple[str, float], list[str]] = {}
    for stay in stays:
        for since, until, opacity in ((stay.since, stay.loaded, LOADING), (stay.loaded, stay.until, LOADED)):
            width, height = _x(until, end) - _x(since, end), ROW - 4
            bar = f"M{_x(since, end):.1f} {rows[stay.model] + 2}h{width:.1f}v{height}h-{width:.1f}z"
            paths.setdefault((COLOURS[stay.card], opacity), []).append(bar)
    for (colour, opacity), bars in paths.items():
        yield f'<path fill="{colour}" opacity="{opacity}" d="{"".join(bars)}"/>'


def _x(at: float, end: float) -> float:
    return LEFT + (WIDTH - LEFT - 20) * at / end


def day() -> list[Stay]:
    """The stays of the whole trace."""
    sim = Watched()
    sim.run(Tandem(sim))
    return sim.finish()


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(drawn(day()))
