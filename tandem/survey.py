"""Looking at the whole fabric at once: everyone is asked in parallel, briefly, and nobody's silence hides the rest.

It asks; what the answers come to is put together in overview.
"""

from __future__ import annotations

import asyncio
from typing import Final, Literal, TypeVar, get_args

from common.api import basic, core_orchestrator, error_bus, leases, links, resource_manager, supervisor, tasks
from common.api.basic import Health
from common.api.gpus import GET_GPUS, GetGpus, Gpus
from common.api.words import Empty, Message, Verb
from common.client.aio import AsyncClient
from common.client.directory import Directory
from common.errors import TandemError
from tandem import overview
from tandem.asking import SUPERVISOR
from tandem.overview import ServiceSeen, Survey

Req = TypeVar("Req", bound=Message)
Rep = TypeVar("Rep", bound=Message)

Worrying = Literal["new", "ongoing", "regressed"]
WORRYING: Final[tuple[Worrying, ...]] = get_args(Worrying)

TIMEOUT_S: Final = 1.5
"""How long the slowest may take; an absent one refuses at once."""


async def survey(client: AsyncClient, directory: Directory) -> Survey:
    """Ask everyone and put the answers together."""
    return await _Surveyor(client, directory).look()


class _Surveyor:
    def __init__(self, client: AsyncClient, directory: Directory) -> None:
        self._client = client
        self._directory = directory
        self._hosts = [name.removeprefix(SUPERVISOR) for name in directory.names() if name.startswith(SUPERVISOR)]

    async def ask(self, target: str, verb: Verb[Req, Rep], request: Req) -> Rep | TandemError:
        """The answer, or why there is none; asked once."""
        try:
            return await self._client.call(target, verb, request, timeout_s=TIMEOUT_S, idempotent=False)
        except TandemError as error:
            return error

    async def look(self) -> Survey:
        """One round for what is known by name, a second one for what the first found."""
        core, names = core_orchestrator.SERVICE, self._directory.names()
        async with asyncio.TaskGroup() as asked:
            processes = asked.create_task(self._each_host(supervisor.LIST_PROCESSES, supervisor.ListProcesses()))
            vitals = asked.create_task(self._each_host(supervisor.GET_VITALS, supervisor.GetVitals()))
            health = asked.create_task(self._each(names, basic.PING, Empty()))
            stats = asked.create_task(self._each(names, basic.STATS, Empty()))
            agents = asked.create_task(self.ask(core, core_orchestrator.LIST_AGENTS, Empty()))
            twin = asked.create_task(self.ask(core, core_orchestrator.GET_TWIN, core_orchestrator.GetTwin()))
            cards = asked.create_task(self._each_host(GET_GPUS, GetGpus()))
            held = asked.create_task(self._each_host(leases.LIST_LEASES, leases.ListLeases()))
            queue = asked.create_task(self.ask(resource_manager.SERVICE, tasks.LIST_TASKS, tasks.ListTasks(limit=1)))
            errors = {state: asked.create_task(self._errors(state)) for state in WORRYING}
            linked = asked.create_task(self._each_host(links.LIST_LINKS, links.ListLinks()))
        known = twin.result()
        facts = {} if isinstance(known, TandemError) else known.parts
        running = processes.result()
        found = Survey(
            hosts=[overview.host(each, running[each], vitals.result()[each], facts) for each in self._hosts],
            services=await self._services(running, health.result()),
            agents=overview.agents(running, agents.result()),
            cards=[card for gpus in cards.result().values() if isinstance(gpus, Gpus) for card in gpus.cards],
            leases=overview.lease_count(held.result()),
            requests=overview.requests(facts),
            tasks=overview.tasks(queue.result()),
            errors=overview.errors({state: counted.result() for state, counted in errors.items()}),
            links=overview.links_seen(linked.result()),
            breakers=overview.breakers(stats.result()),
        )
        found.problems = overview.problems(found, cards.result())
        found.ok = not found.problems
        return found

    async def _errors(self, state: Worrying) -> error_bus.ErrorGroups | TandemError:
        asked = error_bus.ListErrorGroups(state=state, limit=1)
        return await self.ask(error_bus.SERVICE, error_bus.LIST_ERROR_GROUPS, asked)

    async def _each_host(self, verb: Verb[Req, Rep], request: Req) -> dict[str, Rep | TandemError]:
        answers = await self._each([f"{SUPERVISOR}{host}" for host in self._hosts], verb, request)
        return {name.removeprefix(SUPERVISOR): answer for name, answer in answers.items()}

    async def _each(self, names: list[str], verb: Verb[Req, Rep], request: Req) -> dict[str, Rep | TandemError]:
        answers = await asyncio.gather(*(self.ask(name, verb, request) for name in names))
        return dict(zip(names, answers, strict=True))

    async def _services(
        self, processes: dict[str, supervisor.Processes | TandemError], health: dict[str, Health | TandemError]
    ) -> list[ServiceSeen]:
        known = {name: self._address(name) for name in health}
        more = {
            f"{host}/{process.name}": (host, process, f"tcp://{self._loopback(host)}:{process.port}")
            for host, answer in processes.items()
            if isinstance(answer, supervisor.Processes)
            for process in answer.processes
            if process.kind == "service"
        }
        spoken = {at for _, process, at in more.values() if process.port and process.probe == "zmq"}
        asked = sorted(spoken - set(known.values()))
        pinged = await self._each(asked, basic.PING, Empty())
        seen = [overview.service(name, known[name], answer) for name, answer in health.items()]
        for host, process, at in more.values():
            if at in pinged:
                seen.append(overview.service(process.name, at, pinged[at], host))
            elif at not in spoken:
                seen.append(overview.process(process, host))
        return seen

    def _address(self, name: str) -> str:
        place = self._directory.place(name)
        return place.requests.address if place is not None else ""

    def _loopback(self, host: str) -> str:
        return self._address(f"{SUPERVISOR}{host}").removeprefix("tcp://").rpartition(":")[0]
