"""`tandem run` from its order to its exit code: a lease, the command under it, and the lease given back.

Where the lease is lost the command may not use the card any longer, so it is ended: TERM, and KILL after a grace.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from common.api import gpus, leases
from common.client.aio import AsyncClient
from common.client.opening import open_async_client
from common.config.settings import Settings
from common.errors import BadRequest, StaleFence, TandemError
from common.gpu import process_identity
from common.gpu.container import Container
from common.gpu.container_words import container_run
from common.gpu.simulated import SIMULATED_CARDS_VARIABLE, card_uuid, cards_folder
from common.ids import new_id
from common.telemetry.system_clock import system_rng
from tandem import card_names
from tandem.asking import TIMEOUT_S, hosts, keeper_of, settings
from tandem.child import FORWARDED, Child
from tandem.exits import Exit, exit_for
from tandem.here import hosts_here
from tandem.holding import Asking, Holding
from tandem.options import Terms
from tandem.output import age, error_document, error_line, size
from tandem.telling import Teller

T = TypeVar("T")

GRACE_S: Final = 10.0
"""From TERM to KILL where the lease was lost."""
LEFTOVER_S: Final = 5.0
"""From TERM to KILL for what the command left running in its group."""
SEEN_S: Final = 1.5
"""A command that ran shorter may have held its card between two looks at it: none seen is not none held."""
WITHDRAWAL_S: Final = 0.05
"""What withdraws a request gets so long to leave this process."""
_STOPS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for; `host` empty: this machine's."""

    command: list[str]
    terms: Terms
    model: str
    wait_s: float
    ttl_s: float
    host: str = ""
    preemptible: bool = False


class Report(msgspec.Struct, kw_only=True):
    """What a run came to; `peak_bytes` null where the card could not say, `error` where it had no good end."""

    command: list[str]
    exit_code: int
    lease: leases.LeaseGranted | None = None
    leased_bytes: int = 0
    peak_bytes: int | None = None
    waited_s: float = 0.0
    ran_s: float = 0.0
    error: dict[str, Any] | None = None


class Stopped(Exception):
    """A signal came before the command was started."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


class NotStarted(BadRequest):
    """The system would not start the command."""


_ENDS: Final[dict[type[TandemError], Exit]] = {StaleFence: Exit.TRY_LATER, NotStarted: Exit.NOT_EXECUTABLE}


async def run(order: Order, teller: Teller) -> Report:
    """Run the order to its end; every error is told and in the report."""
    report = Report(command=order.command, exit_code=Exit.INTERNAL)
    try:
        async with open_async_client(settings()) as client:
            await _Run(client, order, teller, report).go()
    except Stopped as stop:
        report.exit_code = 128 + stop.number
        teller.stopped()
    except TandemError as error:
        report.exit_code = _ENDS.get(type(error)) or exit_for(error)
        report.error = error_document(error)["error"]
        teller.failed(error_line(error), report.error)
    return report


async def run_whole(order: Order, teller: Teller) -> Report:
    """The same as the last thing that a process does: no signal that comes later changes how it ends.

    An owner that is asked to end may be asked twice, and the loop's end would leave the second to the system.
    """
    report = await run(order, teller)
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    return report


class _Run:
    def __init__(self, client: AsyncClient, order: Order, teller: Teller, report: Report) -> None:
        self._client = client
        self._order = order
        self._teller = teller
        self._report = report

    async def go(self) -> None:
        began = time.monotonic()
        granted = await _unless_stopped(self._acquire())
        self._report.waited_s = time.monotonic() - began
        self._report.lease, self._report.leased_bytes = granted, granted.bytes
        holding = Holding(self._client, granted, self._order.ttl_s, self._teller.warn)
        try:
            environ, simulated = await _unless_stopped(self._environ(granted))
            self._teller.granted(granted, simulated)
            await self._under(holding, environ)
        finally:
            await holding.release()
        self._tell_end(holding)

    async def _acquire(self) -> leases.LeaseGranted:
        order = self._order
        here = [order.host] if order.host else await self._here()
        card_uuid = order.terms.card
        if card_uuid and not card_names.is_whole(card_uuid):
            card = await self._card(card_uuid, here)
            here, card_uuid = [card.host], card.card_uuid
        host = here[0] if len(here) == 1 else ""
        own = process_identity.this_process()
        asked = leases.AcquireLease(
            model=order.model,
            ttl_s=order.ttl_s,
            host=host,
            owner=leases.Owner(agent_name="tandem-run", host=host, pid=own.pid, start_time=own.start_time),
            idempotency_key=new_id("key", system_rng()),
            wait_s=order.wait_s,
            in_use=not order.preemptible,
            **order.terms.asked(card_uuid),
        )
        return await Asking(self._client, asked, here, self._teller.waiting, self._teller.warn).granted()

    async def _here(self) -> list[str]:
        """This machine's hosts; one of several only where another machine has the rest, so that any card here will do."""
        told = os.environ.get("TANDEM_HOST", "")
        if told:
            return [told]
        known = hosts()
        here = await hosts_here(self._client, known, max(TIMEOUT_S, self._order.wait_s))
        return here if len(here) == len(known) else here[:1]

    async def _card(self, named: str, here: list[str]) -> gpus.Card:
        """The card of this machine that the user names; each host answers for its own."""
        cards: list[gpus.Card] = []
        missing: dict[str, str] = {}
        for host in here:
            try:
                found = await self._client.call(keeper_of(host), gpus.GET_GPUS, gpus.GetGpus(host=host))
            except TandemError as error:
                missing[host] = error.message
            else:
                cards += found.cards
        return card_names.meant(named, cards, missing)

    async def _environ(self, granted: leases.LeaseGranted) -> tuple[dict[str, str], bool]:
        environ = os.environ | {
            "CUDA_VISIBLE_DEVICES": ",".join(_cards(granted)),
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "TANDEM_LEASE_ID": granted.lease_id,
            "TANDEM_FENCING_TOKEN": str(granted.fencing_token),
        }
        simulated = await self._is_simulated(granted)
        if simulated:
            folder = cards_folder(Settings.read().home, granted.host)
            if folder.is_dir() or SIMULATED_CARDS_VARIABLE not in environ:
                environ[SIMULATED_CARDS_VARIABLE] = str(folder)
            self._check(Path(environ[SIMULATED_CARDS_VARIABLE].partition(":")[0]))
        return environ, simulated

    def _check(self, folder: Path) -> None:
        if not folder.is_dir():
            self._teller.warn(f"the card is simulated, but {folder} is not there; set TANDEM_HOME to the fabric's home")

    async def _is_simulated(self, granted: leases.LeaseGranted) -> bool:
        asked = gpus.GetGpus(host=granted.host)
        try:
            found = await self._client.call(keeper_of(granted.host), gpus.GET_GPUS, asked, timeout_s=3.0)
        except TandemError as error:
            if granted.card_uuid == card_uuid(granted.host, granted.card):
                return True
            self._teller.warn(f"{granted.host} does not say whether the card is simulated: {error.message}")
            return False
        return any(card.simulated for card in found.cards if card.card_uuid in _cards(granted))

    async def _under(self, holding: Holding, environ: dict[str, str]) -> None:
        found = container_run(self._order.command)
        if found is None:
            await self._run(holding, Child, self._order.command, environ)
            return
        container = Container(found, self._teller.warn)
        try:
            words = container.words(_cards(holding.granted), holding.granted.lease_id)
            await self._run(holding, partial(Child, last_words=container.last_words), words, environ, container)
        finally:
            container.close()

    async def _run(
        self,
        holding: Holding,
        start: Callable[[list[str], dict[str, str]], Child],
        words: list[str],
        environ: dict[str, str],
        container: Container | None = None,
    ) -> None:
        began = time.monotonic()
        try:
            child = start(words, environ)
        except OSError as error:
            raise NotStarted(f"{words[0]} cannot be started: {error.strerror}") from None
        beside = [asyncio.create_task(holding.renew()), asyncio.create_task(holding.measure())]
        if container is not None:
            beside.append(asyncio.create_task(container.follow(holding.mark_cgroup)))
        try:
            await self._to_its_end(holding, child)
        finally:
            self._report.ran_s, self._report.peak_bytes = time.monotonic() - began, holding.peak_bytes
            for task in beside:
                task.cancel()
            if container is not None:
                await container.end()
            child.close()

    async def _to_its_end(self, holding: Holding, child: Child) -> None:
        ends: list[asyncio.Future[Any]] = [child.ended, holding.lost]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not child.ended.done():
            reason = holding.lost.result()
            self._teller.warn(f"the lease was lost ({reason}); the command is being ended")
            await child.end(GRACE_S)
            raise StaleFence(f"the lease was lost while the command ran: {reason}", mend="run it again")
        self._report.exit_code = child.ended.result()
        await holding.measure_last()
        await self._end_leftovers(child)
        if self._report.exit_code and holding.taken_back:
            raise StaleFence(
                f"the lease was taken back while the command ran: {holding.taken_back}", mend="run it again"
            )

    async def _end_leftovers(self, child: Child) -> None:
        if child.lives:
            self._teller.warn("the command left processes running; they are ended before the lease is given back")
            await child.end(LEFTOVER_S)

    def _tell_end(self, holding: Holding) -> None:
        report, granted = self._report, holding.granted
        if not report.peak_bytes and report.ran_s < SEEN_S:
            report.peak_bytes = None
        peak = "not measured" if report.peak_bytes is None else size(report.peak_bytes)
        where = f"{granted.host}:{granted.card}"
        text = f"returned {size(granted.bytes)} on {where} after {age(report.ran_s)}; most held: {peak}"
        self._teller.ended(text, report)


def _cards(granted: leases.LeaseGranted) -> list[str]:
    return granted.card_uuids or [granted.card_uuid]


async def _unless_stopped(work: Coroutine[Any, Any, T]) -> T:
    """What `work` comes to; Stopped when a signal to end comes first."""
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
    came: list[int] = []

    def stop(number: int) -> None:
        came.append(number)
        task.cancel()

    for number in _STOPS:
        loop.add_signal_handler(number, stop, number)
    await asyncio.wait([task])
    if came:
        await asyncio.sleep(WITHDRAWAL_S)
        raise Stopped(came[0])
    return task.result()
