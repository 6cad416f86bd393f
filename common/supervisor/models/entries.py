"""The models of a host's startup file, as it was read last; knows nothing of what becomes of any of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from common.config.models import Model
from common.errors import NotFound


class Entries:
    """One host's; `disabled` are those that cannot be asked for, by name."""

    def __init__(self, host: str) -> None:
        self.disabled: dict[str, Model] = {}
        self._host = host
        self._models: dict[str, Model] = {}

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def get(self, name: str) -> Model | None:
        """The entry of that very name, where it can be asked for."""
        return self._models.get(name)

    def replace(self, models: Sequence[Model]) -> list[str]:
        """Takes in what the file says now; the names of those that are to be preloaded, and were not before."""
        before = {model.name for model in self if model.preload}
        self._models = {model.name: model for model in models if model.enabled}
        self.disabled = {model.name: model for model in models if not model.enabled}
        return [model.name for model in self if model.preload and model.name not in before]

    def unknown(self, name: str, known: Collection[str]) -> NotFound:
        """The refusal of a name under which nothing can be asked for: it is disabled, or which known one is closest to it."""
        off = next((model for model in self.disabled.values() if name in model.names), None)
        if off is not None:
            mend = f"set `enabled: true` in its entry in {self._host}'s startup file, then `tandem models reload`"
            return NotFound(f"{off.name} is disabled on {self._host}", mend=mend)
        import difflib

        close = difflib.get_close_matches(name, known, n=1)
        text = f"; did you mean {close[0]}?" if close else ""
        return NotFound(f"{self._host} has no model {name!r}{text}", close=close)
