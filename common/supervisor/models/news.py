"""What becomes of a host's models, told: an event for each change of state, figures, and trouble in the health answer."""

from __future__ import annotations

from typing import Final

from common.api import models as api
from common.service.shell import Shell
from common.supervisor.models.instructions import Changed
from common.supervisor.models.managed import Managed
from common.supervisor.models.metrics import ModelFigures
from common.vram.footprint import Footprints

TROUBLED: Final = 2
"""After so many failures in a row a model is a problem of its host's health."""


class News:
    """One host's; `footprints` are what has been learned of its models."""

    def __init__(self, shell: Shell, host: str, footprints: Footprints) -> None:
        self.figures = ModelFigures()
        self._shell = shell
        self._host = host
        self._footprints = footprints
        self._now = shell.clock.monotonic

    def changed(self, managed: Managed, changed: Changed) -> None:
        """The model is in another state than before."""
        name, life, figures, was = changed.name, managed.life, self.figures, changed.was
        shown = managed.shown(self._host, self._footprints, self._now())
        self._shell.log.info("model %s went from %s to %s %s", name, was, life.state, life.problem)
        self._shell.publisher.publish(api.MODEL_CHANGED, name, api.ModelChanged(model=shown, was=was))
        if was == "loading" and life.state == "ready":
            figures.loads[name] += 1
            figures.load_s = {**figures.load_s, name: managed.load_s}
        figures.failures[name] += life.state == "failed"
        if life.failures >= TROUBLED:
            self._shell.problems[f"model {name}"] = f"{name} does not load: {life.problem}"
        elif life.state == "ready":
            self._shell.problems.pop(f"model {name}", None)
