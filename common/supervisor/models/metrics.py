"""What a host's models look like from outside: figures for metrics, taken on the loop and read by any thread."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import msgspec

from common.api.models import Model, ModelState
from common.telemetry.metrics import Metrics


class ModelFigures(msgspec.Struct):
    """The figures as last taken; `models` is replaced, never changed in place."""

    models: tuple[Model, ...] = ()
    waiting: int = 0
    load_s: dict[str, float] = {}
    loads: Counter[str] = msgspec.field(default_factory=Counter)
    failures: Counter[str] = msgspec.field(default_factory=Counter)

    def show(self, metrics: Metrics) -> None:
        """Registers the `tandem_models_*` metrics."""
        metrics.read_gauge(
            "tandem_models_state",
            "1 for the state that the model is in.",
            lambda: {
                (each.name, state): float(each.state == state) for each in self.models for state in get_args(ModelState)
            },
            labels=("model", "state"),
        )
        metrics.read_gauge(
            "tandem_models_users",
            "How many use the model.",
            lambda: {(each.name,): float(each.users) for each in self.models},
            labels=("model",),
        )
        metrics.read_gauge("tandem_models_waiting", "Callers that wait for a model.", lambda: self.waiting)
        metrics.read_gauge(
            "tandem_models_load_seconds",
            "How long the last load of the model took.",
            lambda: {(name,): seconds for name, seconds in list(self.load_s.items())},
            labels=("model",),
        )
        metrics.read_counter(
            "tandem_models_loads_total",
            "Loads of the model that succeeded.",
            lambda: {(name,): float(count) for name, count in list(self.loads.items())},
            labels=("model",),
        )
        metrics.read_counter(
            "tandem_models_failures_total",
            "Loads of the model that failed, and ends of its engine that nobody asked for.",
            lambda: {(name,): float(count) for name, count in list(self.failures.items())},
            labels=("model",),
        )
