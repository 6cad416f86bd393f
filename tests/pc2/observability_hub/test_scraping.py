"""Who is asked for figures, and when a verb's calls may take for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from common.api import decisions, gpus, leases, tasks
from common.api import observability_hub as api
from common.errors import Unavailable
from common.service.routes import verb_info
from common.service.shell import Shell, ShellSettings
from pc2.observability_hub import scraping
from pc2.observability_hub.scraping import Scraping, may_wait
from pc2.observability_hub.subjects import Subject


class Deaf:
    """A client whom nobody answers."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def call(self, target: str, *_: Any, **__: Any) -> Any:
        self.asked.append(target)
        raise Unavailable("nobody answers")


class Ward:
    """Services that are watched."""

    def __init__(self, count: int) -> None:
        self.subjects = [Subject("pc2", f"s{number}", "service", True) for number in range(count)]

    def __iter__(self) -> Any:
        return iter(self.subjects)

    def find(self, key: str) -> Subject | None:
        return next((one for one in self.subjects if one.key == key), None)


async def test_with_more_to_ask_than_may_be_at_once_everybody_gets_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraping, "AT_ONCE", 2)
    monkeypatch.setattr(scraping, "SCRAPE_S", 0.0)
    shell, client, ward = Shell(ShellSettings(api.SERVICE, "pc2", 0, 0, 0)), Deaf(), Ward(5)
    one = Scraping(shell, ward, client, lambda *_: None, lambda *_: None)  # type: ignore[arg-type]
    for _ in range(5):
        one.turn()
        while one._under_way:
            await asyncio.sleep(0)
    assert {client.asked.count(f"S{number}") for number in range(5)} == {2}
    await shell.close()


def test_calls_whose_callers_wait_may_take_for_ever() -> None:
    waiting = [
        verb.name for verb in (*tasks.VERBS, *leases.VERBS, *gpus.VERBS, *decisions.VERBS) if may_wait(verb_info(verb))
    ]
    assert waiting == ["get_task", "acquire_lease"]
