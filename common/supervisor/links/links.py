"""This host's links as the fabric asks for them: serves their verbs, and keeps the lists of keys, pings and revocations going."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from common.api import links as api
from common.api.words import Empty
from common.client.aio import AsyncClient
from common.client.directory import Directory
from common.client.pursuit import Found
from common.client.settings import at_own_pace
from common.config.schema import Startup
from common.errors import BadRequest, NotFound, TandemError, Unavailable
from common.service.call import Call
from common.service.shell import Shell
from common.supervisor.links import bundle, invites
from common.supervisor.links.keeper import Keeper
from common.supervisor.links.peer_link import PeerLink
from common.supervisor.links.revoking import Revocations
from common.supervisor.whereabouts import neighbours, outward
from common.transport.sockets import Endpoint, Keys

JOIN_WITHIN_S: Final = 15.0
TRIED_S: Final = 2.0
"""So long an inviter that does not let the one-time key in is asked again: it may not have looked at its keyring yet."""
AGAIN_S: Final = 0.1
FORGET_S: Final = 60.0


class Links:
    """The links of the host of `startup`, whose keys `keeper` keeps; `changed` hears when some host's list is another one."""

    def __init__(
        self, shell: Shell, startup: Startup, keeper: Keeper, changed: Callable[[], None] = lambda: None
    ) -> None:
        self._shell = shell
        self._changed = changed
        self._startup = startup
        self.keeper = keeper
        self._near = neighbours(startup)
        keeper.on_change = self._list_changed
        self._links = {
            host: PeerLink(host, peer, keeper, shell.clock, self._link_changed, neighbour=host in self._near)
            for host, peer in startup.peers.items()
        }

    def add_routes(self) -> None:
        """Serve the verbs."""
        self._shell.handle(api.EXCHANGE_KEYS, self._exchange)
        self._shell.handle(api.INVITE_HOST, self._invite)
        self._shell.handle(api.JOIN_HOST, self._join)
        self._shell.handle(api.ADMIT_HOST, self._admit)
        self._shell.handle(api.EXPEL_HOST, self._expel)
        self._shell.handle(api.LIST_LINKS, self._list)
        self._shell.metrics.read_gauge(
            "tandem_supervisor_link_up",
            "1 while the supervisor of the peer answers this one.",
            lambda: {(host,): float(link.up) for host, link in self._links.items()},
            labels=("peer",),
        )

    def follow(self, client: AsyncClient) -> None:
        """Keep up with every peer and with SecurityGateway by `client`, as long as the shell lives."""
        for host, link in self._links.items():
            self._shell.spawn(link.follow(client), f"exchanging keys with {host}")
            self._shell.spawn(link.ping(client), f"pinging {host}")
        self._shell.spawn(Revocations(self.keeper, client, self._shell.lacks).follow(), "following revocations")
        self._shell.every(FORGET_S, self._forget)

    def _forget(self) -> None:
        self._shell.spawn(self.keeper.aside(self.keeper.forget_old), "forgetting old revocations")

    def unjoined(self) -> dict[str, str]:
        """What is to be done about each peer whose keys are not known here; nothing about neighbours."""
        far = {host: link for host, link in self._links.items() if host not in self._near}
        return {host: why for host, link in far.items() if (why := link.unjoined())}

    async def _exchange(self, asked: api.ExchangeKeys, _call: Call) -> api.ExchangedKeys:
        keeper = self.keeper
        verdicts = await keeper.aside(keeper.take, asked.lists)
        strangers = {one.host for one in verdicts if one.outcome == "unknown"} & self._near
        if any([await keeper.aside(keeper.meet, host) for host in sorted(strangers)]):
            verdicts = await keeper.aside(keeper.take, asked.lists)
        refused = {one.host: one.reason for one in verdicts if one.outcome in ("unknown", "refused") and one.host}
        as_of = self._shell.publisher.cursor(api.KEYS_CHANGED.name)
        return api.ExchangedKeys(lists=keeper.lists, as_of=as_of, refused=refused)

    async def _invite(self, asked: api.InviteHost, call: Call) -> api.Bundle:
        own = self._startup.host
        if asked.host == own:
            raise BadRequest(f"{own} is this host itself", mend="name the host that is to join")
        if asked.host not in self._startup.peers:
            line = f"{asked.host}: {{address: ADDRESS, supervisor_port: PORT, events_port: PORT}}"
            mend = f"add `{line}` there and start {own} again"
            raise NotFound(f"{own}'s startup file names no peer {asked.host!r}", mend=mend)
        if asked.host in self._near:
            mend = "start both with the same TANDEM_HOME, or give the other one an address of its own"
            raise BadRequest(
                f"{asked.host} is at an address of {own} itself, and joins without an invitation", mend=mend
            )
        address = asked.address or next(iter(outward(self._startup)), "")
        if not address:
            mend = f"list its address under `listen` in {own}'s startup file and start it again"
            raise BadRequest(f"{own} listens on loopback alone, where no other machine reaches it", mend=mend)
        made = await self.keeper.aside(self.keeper.invite, asked, address, self._shell.port)
        self._shell.log.info("%s invited %s until %s", call.identity, asked.host, made.expires_at)
        return made

    async def _join(self, asked: api.JoinHost, call: Call) -> api.Joined:
        shown = asked.bundle
        self.keeper.check_bundle(shown)
        patience_s = call.patience_s(self._shell.clock.monotonic(), JOIN_WITHIN_S)
        answer = await self._ask_in(shown, patience_s)
        replaced = await self.keeper.aside(self.keeper.joined, shown, answer.lists) or answer.replaced
        self._shell.log.info("joined %s with a bundle, as %s asked", shown.inviter, call.identity)
        return api.Joined(host=shown.inviter, replaced=replaced, hosts=sorted(self.keeper.hosts))

    async def _ask_in(self, shown: api.Bundle, timeout_s: float) -> api.Admitted:
        """Ask the inviter to admit this host, by the one-time key."""
        one_time = Keys(shown.key.encode(), shown.secret_key.encode())
        endpoint = Endpoint(f"tcp://{shown.address}:{shown.port}", shown.server_key.encode(), one_time)
        own = self.keeper.lists[0]
        request = api.AdmitHost(secret=shown.secret, host_key=self.keeper.host_key, keys=own)
        clock, rng = self._shell.clock, self._shell.rng
        begun = clock.monotonic()
        async with AsyncClient(Directory(), clock, rng, at_own_pace()) as client:
            while True:
                left_s = begun + timeout_s - clock.monotonic()
                try:
                    answer: api.Admitted = await client.call_at(
                        Found(endpoint), api.ADMIT_HOST, request, timeout_s=left_s
                    )
                except Unavailable as error:
                    if clock.monotonic() - begun > TRIED_S or left_s < 2 * AGAIN_S:
                        bundle.check_time(shown, clock.wall())
                        mend = f"{invites.again(self._startup.host)} if it is up: its keys may have changed since"
                        raise Unavailable(f"{shown.inviter} cannot be asked: {error.message}", mend=mend) from error
                    await asyncio.sleep(AGAIN_S)
                else:
                    return answer

    async def _admit(self, asked: api.AdmitHost, _call: Call) -> api.Admitted:
        try:
            host, replaced = await self.keeper.aside(self.keeper.admit, asked)
        except TandemError as error:
            self._shell.log.warning("nobody was admitted: %s", error.message)
            raise
        self._shell.log.info("admitted %s%s", host, ", whose new key replaces the one known before" if replaced else "")
        return api.Admitted(lists=self.keeper.lists, replaced=replaced)

    async def _expel(self, asked: api.ExpelHost, call: Call) -> Empty:
        if asked.host not in self.keeper.hosts:
            raise NotFound(f"no host {asked.host!r} has joined", mend="`tandem status` lists the hosts")
        await self.keeper.aside(self.keeper.expel, asked.host)
        self._shell.log.info("%s sent %s away", call.identity, asked.host)
        return Empty()

    def told(self) -> list[api.Link]:
        """Every link as it is now."""
        return [link.told() for link in self._links.values()]

    def _list(self, _asked: api.ListLinks, _call: Call) -> api.Links:
        as_of = self._shell.publisher.cursor(api.LINK_CHANGED.name)
        return api.Links(host=self._startup.host, links=self.told(), as_of=as_of)

    def _list_changed(self, host: str, serial: int) -> None:
        self._shell.loop.call_soon_threadsafe(self._tell_of_list, host, serial)

    def _tell_of_list(self, host: str, serial: int) -> None:
        self._shell.publisher.publish(api.KEYS_CHANGED, host, api.KeysChanged(serial=serial))
        self._changed()

    def _link_changed(self, link: PeerLink) -> None:
        told = link.told()
        self._shell.log.info("the link to %s is %s", link.host, "up" if told.up else f"down: {told.why}")
        self._shell.publisher.publish(api.LINK_CHANGED, link.host, api.LinkChanged(link=told))
