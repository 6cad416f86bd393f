"""The main job on real input: both hosts on this machine, three agents with real models, and what is not to go wrong.

    make demo

Every answer is compared with the truth in examples/samples; the exit code is 0 only if all of them were right. It runs in a home
and on ports of its own, with simulated cards even where there are real ones, beside whatever fabric is up.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from asyncio.subprocess import Process
from pathlib import Path

import psutil

from examples.scenes import cards, errors, requests, tasks, tokens
from examples.scenes.tally import EXAMPLES, SAMPLES, TANDEM, Tally, agents, until
from tandem import AsyncClient, TandemError, open_async_client

SERVICES = (
    "CoreOrchestrator=17000:17500@127.0.0.1,ResourceManager=17001:17501@127.0.0.1,"
    "ObservabilityHub=17002:17502@127.0.0.1,ErrorBus=17003:17503@127.0.0.1,SecurityGateway=17005:17505@127.0.0.1,"
    "Supervisor/mainpc=17090:17590@127.0.0.1,Supervisor/pc2=17091:17591@127.0.0.1"
)
HOSTS = ("mainpc", "pc2")
AGENTS = {"language", "reading", "hearing"}
STARTED_WITHIN_S = 30.0
STOPPED_WITHIN_S = 20.0
INTERRUPTED = 130


async def all_there(client: AsyncClient, door: int) -> bool:
    """Whether the agents are registered, and with the fabric that was started here: another one may hold its ports."""
    try:
        pids = [(await client.call(f"Supervisor/{host}", "info"))["pid"] for host in HOSTS]
        return {psutil.Process(pid).ppid() for pid in pids} == {door} and (await agents(client)).keys() >= AGENTS
    except (TandemError, psutil.NoSuchProcess):
        return False


async def everything(client: AsyncClient, tally: Tally, door: int) -> None:
    """The demo from the first ready agent to the last check."""
    truth = json.loads((SAMPLES / "truth.json").read_text())
    await until("three agents", STARTED_WITHIN_S, lambda: all_there(client, door))
    tally.step("three agents are registered; what language are these?")
    await requests.texts(client, tally)
    tally.step("which words are on this page?")
    await requests.image(client, tally, truth)
    tally.step("where does somebody speak?")
    await requests.recordings(client, tally, truth)
    tally.step("two programs want 16 GiB each; the larger card has 24 GiB")
    await cards.competition(client, tally)
    tally.step("an agent dies at work")
    await requests.killed(client, tally, truth)
    tally.step("a task outlives its agent and its keeper")
    await tasks.outlived(client, tally, truth)
    tally.step("an agent is given what it cannot work on")
    await errors.grouped(client, tally)
    tally.step("a token is good until it is revoked")
    await tokens.revoked(client, tally)
    tally.step("tandem status")
    status = await asyncio.create_subprocess_exec(*TANDEM, "status")
    tally.check(await status.wait() == 0, "tandem status finds everything well")


async def start(story: Path) -> Process:
    """Both hosts, which stop when this process is gone, however it went; `story` gets what would be their live table."""
    files = [str(EXAMPLES / name) for name in ("startup_main.yaml", "startup_pc2.yaml")]
    command = ("setpriv", "--pdeathsig", "TERM", *TANDEM, "start", *files)
    with story.open("wb") as out:
        return await asyncio.create_subprocess_exec(*command, stdout=out)


async def shown(fabric: Process, tally: Tally) -> None:
    """Everything, as long as the fabric runs; what ends it early is wrong."""
    async with open_async_client() as client:
        showing = asyncio.ensure_future(everything(client, tally, fabric.pid))
        ending = asyncio.ensure_future(fabric.wait())
        try:
            await asyncio.wait([showing, ending], return_when=asyncio.FIRST_COMPLETED)
            if not showing.done():
                tally.check(False, f"the fabric ended by itself (exit code {ending.result()}), for the reason above")
                return
            showing.result()
        except (TandemError, TimeoutError) as error:
            tally.check(False, str(error))
        finally:
            showing.cancel()
            ending.cancel()


async def stop(fabric: Process, tally: Tally) -> None:
    """Both hosts, in order."""
    if fabric.returncode is None:
        fabric.send_signal(signal.SIGTERM)
        stopped = await asyncio.wait_for(fabric.wait(), STOPPED_WITHIN_S)
        tally.check(stopped == 0, f"both hosts stopped (exit code {stopped})")


async def demo(home: str) -> int:
    """Start both hosts, do everything, stop both hosts."""
    for name in [name for name in os.environ if name.startswith("TANDEM_")]:
        del os.environ[name]
    os.environ |= {"TANDEM_HOME": home, "TANDEM_SERVICES": SERVICES, "TANDEM_SIMULATE_CARDS": "always"}
    os.environ["PYTHONPATH"] = str(EXAMPLES.parent)
    os.chdir(EXAMPLES.parent)
    this = asyncio.current_task()
    assert this is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, this.cancel)
    tally = Tally()
    tally.step("starting both hosts on this machine, with simulated cards")
    story = Path(home) / "start.txt"
    fabric = await start(story)
    try:
        await shown(fabric, tally)
    finally:
        await stop(fabric, tally)
    if tally.wrong and (told := story.read_text(errors="replace")):
        tally.step("what tandem start told")
        tally.show(told)
    tally.step(f"{tally.right} right, {len(tally.wrong)} wrong")
    for what in tally.wrong:
        print(f"  wrong: {what}")
    return 1 if tally.wrong else 0


def main() -> int:
    """Run the demo in a home of its own."""
    with tempfile.TemporaryDirectory(prefix="tandem-demo-", ignore_cleanup_errors=True) as home:
        try:
            return asyncio.run(demo(home))
        except asyncio.CancelledError:
            print("interrupted", file=sys.stderr)
            return INTERRUPTED


if __name__ == "__main__":
    raise SystemExit(main())
