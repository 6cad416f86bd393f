"""What every agent of the agent library publishes beside its own topics."""

from __future__ import annotations

from typing import Any

from common.api.words import Message, Topic


class ErrorReported(Message, frozen=True):
    """An error that the agent did not expect."""

    agent: str
    error_type: str
    message: str
    severity: str = "error"
    details: dict[str, Any] = {}
    stack: str = ""


ERROR_REPORTED = Topic("errors.reported", ErrorReported, "an error that the agent did not expect")

TOPICS: tuple[Topic, ...] = (ERROR_REPORTED,)
