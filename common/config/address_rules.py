"""What a startup file may say of addresses: where its host listens, and where its peers are. It resolves no name, asks nobody."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from typing import Final

from common.config.document import Document, Place, Problem
from common.config.schema import Startup

HOST_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*")


def judge(document: Document, startup: Startup) -> Iterator[Problem]:
    """Every problem of `listen` and of the peers' addresses, which together say whom the host can reach."""
    if document.at(("listen",)) == []:
        yield document.problem(("listen",), "no address to listen on", "write [127.0.0.1], or leave it out")
    for index, address in enumerate(startup.listen):
        yield from _address(document, ("listen", index), address)
    for name, peer in startup.peers.items():
        if name == startup.host:
            yield document.problem(("peers", name), f"{name} is this host itself", "list only the others")
        else:
            yield from _peer_address(document, name, peer.address, startup.listen)


def _address(document: Document, place: Place, address: str) -> Iterator[Problem]:
    parsed = _parsed(address)
    if address == "*" or (parsed is not None and parsed.is_unspecified):
        yield document.problem(place, f"{address} would listen everywhere", "list each address explicitly")
    elif parsed is None:
        yield document.problem(place, f"{address!r} is not an IP address", "write one of this host's own addresses")
    elif parsed.version == 6:
        yield document.problem(place, f"{address} is an IPv6 address, which is not served", "write an IPv4 address")
    elif parsed.is_multicast:
        yield document.problem(place, f"{address} is no host's address", "write one of this host's own addresses")


def _peer_address(document: Document, name: str, address: str, listen: Sequence[str]) -> Iterator[Problem]:
    place: Place = ("peers", name, "address")
    parsed = _parsed(address)
    if document.at(place) == "":
        yield document.problem(place, "the address is empty", "write the peer's address")
    elif not address:
        return  # told as a wrong type, or as missing
    elif address == "*" or (parsed is not None and (parsed.is_unspecified or parsed.is_multicast)):
        yield document.problem(place, f"{address} is no host's address", "write the peer's address")
    elif parsed is not None and parsed.version == 6:
        yield document.problem(place, f"{address} is an IPv6 address, which is not reached", "write an IPv4 address")
    elif parsed is None and HOST_NAME.fullmatch(address) is None:
        wrong = f"{address!r} is neither an IP address nor a host's name"
        yield document.problem(place, wrong, "write the peer's address")
    elif not _is_loopback(address) and all(_is_loopback(own) for own in listen):
        wrong = f"{name} at {address} cannot reach this host, which listens on loopback alone"
        yield document.problem(place, wrong, "list this host's own address under listen")


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(address)
    except ValueError:
        return None


def _is_loopback(address: str) -> bool:
    parsed = _parsed(address)
    return address == "localhost" or (parsed is not None and parsed.is_loopback)
