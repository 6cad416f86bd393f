"""How commands ask the fabric: a client that closes, a fleet asked through ResourceManager or host by host, a process found.

It decides whom to ask when ResourceManager is away, and never what an answer means.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from common.api import decisions, leases, models, resource_manager, supervisor
from common.api.gpus import GET_GPUS, GetGpus, Gpus
from common.api.words import Cursor, Message, Verb
from common.client.credentials import Credentials
from common.client.opening import directory_of_environment, open_client
from common.client.settings import ClientSettings, at_own_pace
from common.client.sync import Client
from common.errors import Conflict, NotFound, TandemError, Unavailable
from common.vram.placement import soonest
from tandem import card_names
from tandem.output import note

Req = TypeVar("Req", bound=Message)
Rep = TypeVar("Rep", bound=Message)

TIMEOUT_S: Final = 10.0
"""The budget of one question of a command that does not say otherwise."""

SUPERVISOR: Final = "Supervisor/"
OWN_NAME: Final = "supervisor"
"""What a host's supervisor is called in its logs; every host has one, so the host has to be said."""
AWAY: Final = "ResourceManager is away; each host answers for its own cards"


def settings(timeout_s: float = TIMEOUT_S, attempts: int = 2) -> ClientSettings:
    """A command asks a few times and ends."""
    return at_own_pace(timeout_s, attempts)


@contextmanager
def fabric(timeout_s: float = TIMEOUT_S) -> Iterator[Client]:
    """A client of the fabric that the environment names."""
    with open_client(settings(timeout_s), credentials=Credentials.of_operator()) as client:
        yield client


def hosts() -> list[str]:
    """The hosts whose supervisors are known by name."""
    names = directory_of_environment().names()
    return [name.removeprefix(SUPERVISOR) for name in names if name.startswith(SUPERVISOR)]


def only(host: str) -> list[str]:
    """The hosts to ask: all, or the one named. NotFound where no supervisor of that name is known."""
    known = hosts()
    if host and host not in known:
        raise NotFound(f"no host {host!r} is known here; known: {', '.join(known)}")
    return [host] if host else known


def keeper_of(host: str) -> str:
    """Whom to ask about a lease on a card of `host`: its supervisor, or ResourceManager for a host not known by name."""
    return f"{SUPERVISOR}{host}" if host in hosts() else resource_manager.SERVICE


def each_host(
    client: Client, names: Sequence[str], verb: Verb[Req, Rep], request: Req
) -> tuple[dict[str, Rep], dict[str, TandemError]]:
    """The answers of these hosts' supervisors, and why the others gave none."""
    answers: dict[str, Rep] = {}
    errors: dict[str, TandemError] = {}
    for host in names:
        try:
            answers[host] = client.call(f"{SUPERVISOR}{host}", verb, request)
        except TandemError as error:
            errors[host] = error
    return answers, errors


def _without_manager(
    client: Client, host: str, verb: Verb[Req, Rep], asked: Req, away: TandemError
) -> tuple[list[Rep], dict[str, str]]:
    """What the supervisors answer while ResourceManager is `away`, and why some gave no answer; Unavailable where none did."""
    answers, errors = each_host(client, only(host), verb, asked)
    _some(answers, errors, away)
    return list(answers.values()), {name: error.message for name, error in errors.items()}


def _some(answers: dict[str, Any], errors: dict[str, TandemError], away: TandemError) -> None:
    if not answers:
        reasons = "; ".join([away.message, *(f"{host}: {error.message}" for host, error in errors.items())])
        raise Unavailable(f"neither ResourceManager nor a supervisor answers: {reasons}")
    note(AWAY)


def gpus(client: Client, host: str = "") -> Gpus:
    """The cards of the fabric."""
    asked = GetGpus(host=host)
    try:
        return client.call(resource_manager.SERVICE, GET_GPUS, asked)
    except Unavailable as away:
        found, missing = _without_manager(client, host, GET_GPUS, asked, away)
    return Gpus(
        cards=[card for answer in found for card in answer.cards],
        hosts=[memory for answer in found for memory in answer.hosts],
        missing=missing,
    )


def card_uuid(client: Client, named: str, host: str = "") -> str:
    """The UUID of the card that a user names, on `host` or on any; empty where none is named. Errors as of `card_names.meant`."""
    if not named or card_names.is_whole(named):
        return named
    found = gpus(client, host)
    return card_names.meant(named, found.cards, found.missing).card_uuid


def live_leases(client: Client, host: str = "") -> leases.Leases:
    """The leases of the fabric; `as_of` is 0/0 where the hosts were asked one by one."""
    asked = leases.ListLeases(host=host)
    try:
        return client.call(resource_manager.SERVICE, leases.LIST_LEASES, asked)
    except Unavailable as away:
        found, missing = _without_manager(client, host, leases.LIST_LEASES, asked, away)
    listed = [lease for answer in found for lease in answer.leases]
    return leases.Leases(leases=listed, as_of=Cursor(epoch=0, seq=0), missing=missing)


def managed_models(client: Client, host: str = "") -> models.Models:
    """The managed models of the fabric."""
    asked = models.ListModels(host=host)
    try:
        return client.call(resource_manager.SERVICE, models.LIST_MODELS, asked)
    except Unavailable as away:
        found, missing = _without_manager(client, host, models.LIST_MODELS, asked, away)
    listed = [model for answer in found for model in answer.models]
    return models.Models(models=listed, as_of=Cursor(epoch=0, seq=0), missing=missing)


def explanation(client: Client, asked: decisions.Explain) -> decisions.Explanation:
    """The receipts about a subject, newest first: ResourceManager's, and those of the hosts that decided."""
    receipts: dict[tuple[str, str, str], decisions.Receipt] = {}
    answers, errors = each_host(client, hosts(), decisions.EXPLAIN, asked)
    try:
        planned = client.call(resource_manager.SERVICE, decisions.EXPLAIN, asked).receipts
    except Unavailable as away:
        _some(answers, errors, away)
        planned = []
    for receipt in (*planned, *(receipt for answer in answers.values() for receipt in answer.receipts)):
        receipts.setdefault((receipt.at, receipt.lease_id, receipt.decision), receipt)
    newest = sorted(receipts.values(), key=lambda receipt: receipt.at, reverse=True)
    return decisions.Explanation(receipts=newest[: asked.limit])


def plan(client: Client, asked: decisions.PlanLease) -> decisions.LeasePlan:
    """What would happen to a request for a lease; where ResourceManager is away, the best that one host can do."""
    try:
        return client.call(resource_manager.SERVICE, decisions.PLAN, asked)
    except Unavailable as away:
        return soonest(_without_manager(client, asked.host, decisions.PLAN, asked, away)[0])


def host_of(client: Client, name: str, host: str = "") -> str:
    """The host whose startup file has the process `name`; `host` itself for its supervisor.

    NotFound where none has; Conflict where several have.
    """
    named = only(host)
    if host and name == OWN_NAME:
        return host
    answers, errors = each_host(client, named, supervisor.LIST_PROCESSES, supervisor.ListProcesses())
    if not answers:
        raise next(iter(errors.values()))
    found = [each for each, answer in answers.items() if any(process.name == name for process in answer.processes)]
    if len(found) > 1:
        raise Conflict(f"{name} runs on {' and '.join(found)}; say which with --host")
    if not found:
        silent = "".join(f"; {each} could not be asked: {error.message}" for each, error in errors.items())
        text = f"no startup file of {', '.join(answers)} has a process {name!r}{silent}"
        raise NotFound(text, mend="`tandem status` lists all; one that was started by hand is stopped by hand")
    return found[0]
