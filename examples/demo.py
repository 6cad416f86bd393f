"""The main job on real input: both hosts on this machine, three agents with real models, and two programs that want one card.

    make demo

Every answer is compared with the truth in examples/samples; the exit code is 0 only if all of them were right.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tandem import AsyncClient, open_async_client

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SAMPLES = HERE / "samples"
TANDEM = [sys.executable, "-m", "tandem"]
SERVICES = (
    "CoreOrchestrator=17000:17500@127.0.0.1,ResourceManager=17001:17501@127.0.0.1,"
    "Supervisor/mainpc=17090:17590@127.0.0.1,Supervisor/pc2=17091:17591@127.0.0.1"
)
AGENTS = {"language", "reading", "hearing"}
GIB = 2**30


class Tally:
    """What was right and what was wrong, said as it comes."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.wrong: list[str] = []
        self.right = 0

    def step(self, what: str) -> None:
        """Say what is done next."""
        print(f"[{time.monotonic() - self.began:5.1f} s] {what}", flush=True)

    def check(self, is_right: bool, what: str) -> None:
        """Count one answer."""
        print(f"          {'right' if is_right else 'WRONG'}  {what}", flush=True)
        if is_right:
            self.right += 1
        else:
            self.wrong.append(what)


async def until(what: str, within_s: float, probe: Callable[[], Awaitable[Any]]) -> Any:
    """The first true answer of `probe`, or TimeoutError."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        found = await probe()
        if found:
            return found
        await asyncio.sleep(0.1)
    raise TimeoutError(f"{what} did not come about within {within_s:.0f} s")


async def agents(client: AsyncClient) -> dict[str, dict[str, Any]]:
    """The registered agents that are alive, by name."""
    listed = await client.call("CoreOrchestrator", "list_agents")
    return {agent["agent_name"]: agent for agent in listed["agents"] if agent["liveness"] == "alive"}


async def ask(client: AsyncClient, **request: Any) -> dict[str, Any]:
    """Submit a request and wait for its result."""
    status = await client.call("CoreOrchestrator", "submit_request", {"wait_s": 30.0, **request}, timeout_s=40.0)
    return status["result"] if status["state"] == "done" else {"failed": f"{status['state']}: {status['error']}"}


def base64_of(path: Path) -> str:
    """A file as JSON carries it."""
    return base64.b64encode(path.read_bytes()).decode()


async def texts(client: AsyncClient, tally: Tally) -> None:
    """The language of each sentence."""
    sentences = json.loads((SAMPLES / "sentences.json").read_text())
    answers = await asyncio.gather(*(ask(client, type="text", data=sentence["text"]) for sentence in sentences))
    for sentence, answer in zip(sentences, answers, strict=True):
        said = answer.get("language", answer)
        tally.check(said == sentence["language"], f"{said}  {sentence['text']}")


def words_found(answer: dict[str, Any], truth: dict[str, Any]) -> int:
    """How many of the words on the page were read, ignoring case, spaces and hyphens."""
    read = "".join(answer.get("words", [])).lower().replace("-", "").replace(" ", "")
    return sum(word.lower().replace("-", "") in read for word in truth["words"])


async def image(client: AsyncClient, tally: Tally, truth: dict[str, Any]) -> None:
    """The words on the photographed page."""
    answer = await ask(client, type="vision", image_data=base64_of(SAMPLES / "page.png"))
    found = words_found(answer, truth["page.png"])
    tally.check(found >= 10, f"{found} of {len(truth['page.png']['words'])} words read on page.png")


async def recordings(client: AsyncClient, tally: Tally, truth: dict[str, Any]) -> None:
    """Where somebody speaks in each recording."""
    for name in ("speech-1.wav", "speech-2.wav"):
        answer = await ask(client, type="audio", audio_data=base64_of(SAMPLES / name))
        (start, end), tolerance_s = truth[name]["speech"][0], truth[name]["tolerance_s"]
        spoken = answer.get("speech") or [[0.0, 0.0]]
        close = abs(spoken[0][0] - start) <= tolerance_s and abs(spoken[-1][1] - end) <= tolerance_s
        tally.check(close, f"{name}: speech from {spoken[0][0]:.2f} to {spoken[-1][1]:.2f} s (truth {start} to {end})")


async def competition(client: AsyncClient, tally: Tally) -> None:
    """Two programs that know nothing of Tandem want 16 GiB each; one card has room for one of them."""
    hold = [sys.executable, str(HERE / "hold_vram.py"), "16GiB", "2"]
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
    codes = await both
    tally.check(codes == [0, 0], f"both programs ran, one after the other (exit codes {codes})")
    tally.check(most == 16 * GIB, f"never more than {most / GIB:.0f} GiB in use at once")


async def leased(client: AsyncClient) -> bool:
    """Whether anybody holds a lease."""
    return bool((await client.call("ResourceManager", "list_leases"))["leases"])


async def killed(client: AsyncClient, tally: Tally, truth: dict[str, Any]) -> None:
    """An agent is killed while it works; its request is answered all the same."""
    before = (await agents(client))["reading"]["pid"]
    asking = asyncio.ensure_future(ask(client, type="vision", image_data=base64_of(SAMPLES / "page.png")))
    await until("the request to reach the agent", 10.0, lambda: busy(client))
    os.kill(before, signal.SIGKILL)
    tally.step(f"killed reading (pid {before}) with -9 while it was reading")
    answer = await asking
    found = words_found(answer, truth["page.png"])
    after = (await agents(client))["reading"]["pid"]
    tally.check(found >= 10 and after != before, f"{found} words read all the same, by its successor (pid {after})")


async def busy(client: AsyncClient) -> bool:
    """Whether the reading agent is at work."""
    return bool((await agents(client)).get("reading", {}).get("in_flight"))


async def everything(client: AsyncClient, tally: Tally) -> None:
    """The demo from the first ready agent to the last check."""
    truth = json.loads((SAMPLES / "truth.json").read_text())

    async def all_there() -> bool:
        try:
            return (await agents(client)).keys() >= AGENTS
        except Exception:
            return False

    await until("three agents", 30.0, all_there)
    tally.step("three agents are registered; what language are these?")
    await texts(client, tally)
    tally.step("which words are on this page?")
    await image(client, tally, truth)
    tally.step("where does somebody speak?")
    await recordings(client, tally, truth)
    tally.step("two programs want 16 GiB each; the larger card has 24 GiB")
    await competition(client, tally)
    tally.step("an agent dies at work")
    await killed(client, tally, truth)
    tally.step("tandem status")
    status = await asyncio.create_subprocess_exec(*TANDEM, "status")
    tally.check(await status.wait() == 0, "tandem status finds everything well")


async def demo(home: str) -> int:
    """Start both hosts, do everything, stop both hosts."""
    os.environ |= {"TANDEM_HOME": home, "TANDEM_SERVICES": SERVICES}
    os.environ["PYTHONPATH"] = str(ROOT)
    os.chdir(ROOT)
    tally = Tally()
    tally.step("starting both hosts on this machine, with simulated cards")
    start = [*TANDEM, "start", str(HERE / "startup_main.yaml"), str(HERE / "startup_pc2.yaml")]
    fabric = await asyncio.create_subprocess_exec(*start)
    try:
        async with open_async_client() as client:
            await everything(client, tally)
    except TimeoutError as late:
        tally.check(False, str(late))
    finally:
        fabric.send_signal(signal.SIGTERM)
        stopped = await asyncio.wait_for(fabric.wait(), 20)
    tally.check(stopped == 0, f"both hosts stopped (exit code {stopped})")
    tally.step(f"{tally.right} right, {len(tally.wrong)} wrong")
    for what in tally.wrong:
        print(f"  wrong: {what}")
    return 1 if tally.wrong else 0


def main() -> int:
    """Run the demo in a home of its own."""
    with tempfile.TemporaryDirectory(prefix="tandem-demo-") as home:
        return asyncio.run(demo(home))


if __name__ == "__main__":
    raise SystemExit(main())
