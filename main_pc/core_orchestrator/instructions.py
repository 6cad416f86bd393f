"""What a decision about requests comes to: facts to make durable, and instructions for the shell.

It decides nothing and performs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from main_pc.core_orchestrator.request_facts import Fact


@dataclass(frozen=True, slots=True)
class Send:
    """Call `verb` of the agent; give up at `deadline` (monotonic seconds); report the outcome with this attempt."""

    request_id: str
    attempt: int
    agent_name: str
    verb: str
    payload: dict[str, Any]
    deadline: float


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Tell the agent that this attempt is no longer wanted; its outcome is still reported."""

    request_id: str
    attempt: int
    agent_name: str


Instruction = Send | Withdraw


@dataclass(frozen=True, slots=True)
class Decision:
    """Facts to apply and commit, then instructions to perform, both in order; `more` when it is to be made again soon."""

    facts: tuple[Fact, ...] = ()
    instructions: tuple[Instruction, ...] = ()
    more: bool = False
