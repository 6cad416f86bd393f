"""Options that several commands share: sizes, durations, a host, and `--json`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from common.config.units import Duration, Size, parse_bytes, parse_seconds
from common.errors import BadRequest

F = TypeVar("F", bound=Callable[..., Any])
Q = TypeVar("Q", Size, Duration)

PRIORITY: Final = click.IntRange(0, 100)
CARDS: Final = click.IntRange(1, 16)


def size(text: str) -> Size:
    """An option's bytes, more than none and with their unit: who writes 10 rarely means ten bytes."""
    quantity = _above_zero(text, _parsed(parse_bytes, text))
    if text.strip()[-1].isdigit():
        raise click.BadParameter(f"{text!r} has no unit; write {text.strip()}GiB, or {text.strip()}B for bytes")
    return quantity


def duration(text: str) -> Duration:
    """An option's seconds."""
    return _parsed(parse_seconds, text)


def some_time(text: str) -> Duration:
    """An option's seconds, more than none."""
    return _above_zero(text, duration(text))


def card(text: str) -> str:
    """A card by its UUID; empty for any. The short names in tables are a host's own and change with its cards."""
    if text.isdigit() or ":" in text:
        raise click.BadParameter(f"a card is named by its UUID, not {text!r}; `tandem gpus` lists them")
    return text


def _parsed(parse: Callable[[str], Q], text: str) -> Q:
    try:
        return parse(text)
    except BadRequest as error:
        raise click.BadParameter(error.message) from None


def _above_zero(text: str, quantity: Q) -> Q:
    if not quantity:
        raise click.BadParameter(f"{text!r} is nothing; it takes more than 0")
    return quantity


def with_json(command: F) -> F:
    """Adds `--json` as the parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")(command)


def with_host(command: F) -> F:
    """Adds `--host` as the parameter `host`; empty for all."""
    return click.option("--host", default="", metavar="HOST", help="Only this host.")(command)
