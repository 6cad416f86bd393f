"""Errors: what goes wrong many times in one place is one group with a count, and is told again when it comes back."""

from __future__ import annotations

import asyncio
from typing import Any

from examples.scenes.tally import SAMPLES, Tally, base64_of, tandem, until
from tandem import AsyncClient, TandemError

OTHERS = ("page.png", "sentences.json", "truth.json", "README.md")
"""Samples that are no recordings."""
TIMES = 2


async def grouped(client: AsyncClient, tally: Tally) -> None:
    """The hearing agent is given every sample that is no recording, some times over."""
    codes = await asyncio.gather(*(listen(client, name) for name in OTHERS * TIMES))
    failed = codes.count("internal")
    tally.check(failed == len(codes), f"{failed} of {len(codes)} calls failed")
    [group, *more] = await until(f"{failed} errors", 10.0, lambda: counted(client, failed))
    _, table = await tandem("errors", "--agent", "hearing")
    tally.show(table)
    shown = group["group_id"] in table and f" {failed} " in table
    tally.check(shown and not more, f"one group, which counts {group['count']}")
    await came_back(client, tally, group["group_id"], failed + 1)


async def came_back(client: AsyncClient, tally: Tally, group_id: str, times: int) -> None:
    """The group is resolved, and the next error of its kind says that it was not."""
    code, said = await tandem("errors", "resolve", group_id, "--note", "the hearing agent is given recordings alone")
    tally.check(code == 0 and "is resolved" in said, said.strip())
    await listen(client, OTHERS[0])
    [group] = await until("its return", 10.0, lambda: counted(client, times))
    shown = f"{group['state']}, {group['count']} times, after: {group['note']}"
    tally.check((group["state"], group["count"]) == ("regressed", times), shown)


async def listen(client: AsyncClient, name: str) -> str:
    """How the hearing agent failed at a sample; empty where it did not."""
    try:
        await client.call("hearing", "find_speech", {"audio_data": base64_of(SAMPLES / name)})
    except TandemError as error:
        return error.code
    return ""


async def counted(client: AsyncClient, times: int) -> list[dict[str, Any]]:
    """The groups of the hearing agent's errors, once they are so many."""
    listed = await client.call("ErrorBus", "list_error_groups", {"agent": "hearing"})
    groups: list[dict[str, Any]] = listed["groups"]
    return groups if sum(group["count"] for group in groups) >= times else []
