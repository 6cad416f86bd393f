"""Tandem's public face: what agents and programs import, and nothing else of the house.

from tandem import Agent, verb        an agent in ten lines
from tandem import open_client        calls, requests, leases and events from any program
from tandem import TandemHandler      errors that any program logs, reported
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.agent.agent import Agent
    from common.agent.leasing import HeldLease, LeaseLost
    from common.agent.verb import on_sleep, on_unload, verb
    from common.client.aio import AsyncClient
    from common.client.opening import open_async_client, open_client
    from common.client.sync import Client
    from common.errors import TandemError
    from common.reporting.handler import TandemHandler
    from common.reporting.reporter import ErrorReporter
    from common.service.call import Call

__all__ = [
    "Agent",
    "AsyncClient",
    "Call",
    "Client",
    "ErrorReporter",
    "HeldLease",
    "LeaseLost",
    "TandemError",
    "TandemHandler",
    "on_sleep",
    "on_unload",
    "open_async_client",
    "open_client",
    "verb",
]

_HOMES = {
    "Agent": "common.agent.agent",
    "AsyncClient": "common.client.aio",
    "Call": "common.service.call",
    "Client": "common.client.sync",
    "ErrorReporter": "common.reporting.reporter",
    "HeldLease": "common.agent.leasing",
    "LeaseLost": "common.agent.leasing",
    "TandemError": "common.errors",
    "TandemHandler": "common.reporting.handler",
    "on_sleep": "common.agent.verb",
    "on_unload": "common.agent.verb",
    "open_async_client": "common.client.opening",
    "open_client": "common.client.opening",
    "verb": "common.agent.verb",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that a program pays for what it takes."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module 'tandem' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
