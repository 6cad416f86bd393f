"""Cards: two programs that know nothing of Tandem want more than one card has."""

from __future__ import annotations

import asyncio
import sys

from examples.scenes.tally import EXAMPLES, TANDEM, Tally, until
from tandem import AsyncClient

GIB = 2**30


async def competition(client: AsyncClient, tally: Tally) -> None:
    """Two programs that know nothing of Tandem want 16 GiB each; one card has room for one of them."""
    hold = [sys.executable, str(EXAMPLES / "hold_vram.py"), "16GiB", "2"]
    run = [*TANDEM, "run", "--vram", "16GiB", "--wait", "20s"]
    first = await asyncio.create_subprocess_exec(*run, "--model", "first", "--", *hold)
    await until("the first lease", 10.0, lambda: leased(client))
    second = await asyncio.create_subprocess_exec(*run, "--model", "second", "--", *hold)
    most = 0
    both = asyncio.gather(first.wait(), second.wait())
    while not both.done():
        cards = (await client.call("ResourceManager", "get_gpus"))["cards"]
        most = max(most, *(card["used_bytes"] for card in cards))
        tally.wrong += [f"{card['name']} over-used" for card in cards if card["used_bytes"] > card["total_bytes"]]
        await asyncio.sleep(0.1)
    codes = list(await both)
    tally.check(codes == [0, 0], f"both programs ran, one after the other (exit codes {codes})")
    tally.check(most == 16 * GIB, f"never more than {most / GIB:.0f} GiB in use at once")


async def leased(client: AsyncClient) -> bool:
    """Whether anybody holds a lease."""
    return bool((await client.call("ResourceManager", "list_leases"))["leases"])
