"""The models of a host's startup file, as it was read last; knows nothing of what becomes of any of them."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Sequence

from common.config.models import Model
from common.errors import NotFound


class Entries:
    """One host's."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._models: dict[str, Model] = {}

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def get(self, name: str) -> Model | None:
        """The entry of that very name, which can be asked for."""
        return self._models.get(name)

    def replace(self, models: Sequence[Model]) -> None:
        """Takes in what the file says now."""
        self._models = {model.name: model for model in models if model.enabled}

    def unknown(self, name: str, known: Collection[str]) -> NotFound:
        """The refusal of a name under which nothing can be asked for, with the closest of the names that are known."""
        close = difflib.get_close_matches(name, known, n=1)
        mend = f"; did you mean {close[0]}?" if close else ""
        return NotFound(f"{self._host} has no model {name!r}{mend}", close=close)
