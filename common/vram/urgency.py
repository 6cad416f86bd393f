"""How urgent a request for a model is: the model's own priority, as its operator gave it, shifted by what the caller says.

A caller that says nothing (DEFAULT_PRIORITY) asks with the model's own; one that says more or less asks with as much more or
less. It counts wherever the request is weighed: in the line, and for whom others go. A loaded model weighs with its own priority
alone, whoever it was loaded for.
"""

from __future__ import annotations

from typing import Final

from common.api.words import DEFAULT_PRIORITY

LOWEST: Final = 0
HIGHEST: Final = 100


def request_priority(own: int, asked: int) -> int:
    """The priority of a request for a model of priority `own` by a caller that says `asked`."""
    return max(LOWEST, min(HIGHEST, own + asked - DEFAULT_PRIORITY))
