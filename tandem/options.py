"""Options that several commands share: sizes, durations, a host, `--json`, and what is wanted of a lease."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, Final, TypeVar

import click

from common.config.units import Duration, Size, parse_bytes, parse_seconds
from common.errors import BadRequest

F = TypeVar("F", bound=Callable[..., Any])
Q = TypeVar("Q", Size, Duration)

PRIORITY: Final = click.IntRange(0, 100)
CARDS: Final = click.IntRange(1, 16)


def size(text: str) -> int:
    """An option's bytes, more than none and with their unit: who writes 10 rarely means ten bytes."""
    quantity = _above_zero(text, _parsed(parse_bytes, text))
    if text.strip()[-1].isdigit():
        raise click.BadParameter(f"{text!r} has no unit; write {text.strip()}GiB, or {text.strip()}B for bytes")
    return int(quantity)


def duration(text: str) -> Duration:
    """An option's seconds."""
    return _parsed(parse_seconds, text)


def some_time(text: str) -> Duration:
    """An option's seconds, more than none."""
    return _above_zero(text, duration(text))


def _parsed(parse: Callable[[str], Q], text: str) -> Q:
    try:
        return parse(text)
    except BadRequest as error:
        raise click.BadParameter(error.message) from None


def _above_zero(text: str, quantity: Q) -> Q:
    if not quantity:
        raise click.BadParameter(f"{text!r} is nothing; it takes more than 0")
    return quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What is wanted of a lease; `card` as the user names it, empty for any. The other fields are those of `acquire_lease`."""

    bytes: int
    priority: int = 50
    card: str = ""
    cards: int = 1
    exclusive: bool = False
    share: bool = False
    pinned: bool = False
    config: str = ""
    ram_bytes: int = 0

    def asked(self, card_uuid: str) -> dict[str, Any]:
        """The fields of a request for it on that card, or on any where it is empty."""
        told = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in told.items() if name != "card"} | {"card_uuid": card_uuid}


_TERMS: Final = (
    click.option("--vram", "bytes", type=size, required=True, metavar="SIZE", help="How much to lease, such as 10GiB."),
    click.option("--priority", type=PRIORITY, default=50, show_default=True, help="0 to 100, higher first."),
    click.option(
        "--card", default="", metavar="CARD", help="Only this card: HOST:INDEX, INDEX, or how its UUID begins."
    ),
    click.option(
        "--cards", type=CARDS, default=1, show_default=True, help="So many cards of one host, that much on each."
    ),
    click.option("--exclusive", is_flag=True, help="Nobody else on the card."),
    click.option("--share", is_flag=True, help="Join a lease of the same model and config, if there is one."),
    click.option("--pinned", is_flag=True, help="Never to be evicted."),
    click.option("--config", default="", metavar="TEXT", help="What makes loads of one model differ in size."),
    click.option("--ram", "ram_bytes", type=size, metavar="SIZE", help="Host RAM to lease with it."),
)


def with_terms(command: F) -> F:
    """Adds the options that say what is wanted of a lease, as the parameter `terms`; a usage error where they contradict."""

    @wraps(command)
    def taking(**words: Any) -> Any:
        told = {each.name: words.pop(each.name) for each in fields(Terms)}
        terms = Terms(**{name: value for name, value in told.items() if value is not None})
        _check(terms)
        return command(terms=terms, **words)

    for option in reversed(_TERMS):
        taking = option(taking)
    return taking  # type: ignore[return-value]


def _check(terms: Terms) -> None:
    if terms.share and terms.exclusive:
        raise click.UsageError("--share and --exclusive contradict each other")
    if terms.cards > 1 and terms.card:
        raise click.UsageError("--card names one card; leave it out for several")


def with_json(command: F) -> F:
    """Adds `--json` as the parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")(command)


def with_host(command: F) -> F:
    """Adds `--host` as the parameter `host`; empty for all."""
    return click.option("--host", default="", metavar="HOST", help="Only this host.")(command)
