"""Making a client for this process: where the services are comes from the environment unless the caller says."""

from __future__ import annotations

import os

from common.client.aio import AsyncClient
from common.client.credentials import Credentials
from common.client.directory import SERVICES_VARIABLE, Directory
from common.client.settings import ClientSettings
from common.client.sync import Client
from common.telemetry.system_clock import SystemClock, system_rng


def directory_of_environment() -> Directory:
    """The well-known places as the environment says, else the defaults; BadRequest names the piece that is wrong."""
    return Directory.parse(os.environ.get(SERVICES_VARIABLE, ""))


def open_client(
    settings: ClientSettings | None = None,
    directory: Directory | None = None,
    credentials: Credentials | None = None,
) -> Client:
    """A synchronous client of the fabric this process belongs to, with its keys; KeyfileRefused when they cannot be read."""
    known = credentials or Credentials.of_environment()
    return Client(directory or directory_of_environment(), SystemClock(), system_rng(), settings, known)


def open_async_client(
    settings: ClientSettings | None = None,
    directory: Directory | None = None,
    credentials: Credentials | None = None,
) -> AsyncClient:
    """An asynchronous client of the fabric this process belongs to; call it on the running loop. KeyfileRefused as above."""
    known = credentials or Credentials.of_environment()
    return AsyncClient(
        directory or directory_of_environment(), SystemClock(), system_rng(), settings, credentials=known
    )
