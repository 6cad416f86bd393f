"""What a host's roster of models wants done; a shell performs it, and tells the roster what came of it."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from common.api.models import ModelState
from common.errors import TandemError
from common.supervisor.models.managed import Asked


class Begin(msgspec.Struct, frozen=True):
    """Lease what the model needs, on `card_uuid` where one is named, and load it there or wake it."""

    name: str
    card_uuid: str
    wake: bool
    deadline: float


class Abandon(msgspec.Struct, frozen=True):
    """The model's lease is still waited for, and nobody wants it any more, or somebody more urgently: wait for it no longer."""

    name: str


class Serve(msgspec.Struct, frozen=True):
    """Give this caller a share."""

    asked: Asked


class Refuse(msgspec.Struct, frozen=True):
    """Tell this caller why it gets none."""

    asked: Asked
    error: TandemError


class Changed(msgspec.Struct, frozen=True):
    """The model was in another state before."""

    name: str
    was: ModelState


Instruction: TypeAlias = Begin | Abandon | Serve | Refuse | Changed
