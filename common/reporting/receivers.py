"""The two who take what is spooled: what a batch is to each of them, and how far their answer says that they have it.

ErrorBus knows every report by its number, so a batch may be sent again with more behind it. ObservabilityHub knows a batch by the
number of its last point, so one whose fate is unknown is sent again with the same bounds; the spool sees to that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from common.api import error_bus, observability_hub
from common.errors import BadRequest, Unavailable
from common.reporting.spool import Batch
from common.reporting.spool_log import Place

TIMEOUT_S: Final = 3.0
"""A receiver that takes longer is asked again: what it counted meanwhile it passes over."""


class Caller(Protocol):
    """What delivering needs of a client."""

    def call(self, target: str, verb: Any, request: Any, *, timeout_s: float | None = None) -> Any:
        """The reply; raises the TandemError that ended the call."""
        ...

    def close(self) -> None:
        """Disconnect."""
        ...


@dataclass(frozen=True, slots=True)
class Sender:
    """Whose spool it is: the name its numbers count under, and the agent it belongs to."""

    name: str
    agent: str


class Receiver(ABC):
    """One of the two; `folder` is where its spools lie, within their process's."""

    folder: str

    @abstractmethod
    def deliver(self, client: Caller, sender: Sender, batch: Batch, lost: int, sent_at: str) -> Place:
        """Hands `batch` over; the last record that is the receiver's now. Raises the TandemError that it was refused with."""


class Errors(Receiver):
    """ErrorBus."""

    folder = "errors"

    def deliver(self, client: Caller, sender: Sender, batch: Batch, lost: int, sent_at: str) -> Place:
        """Hands reports over; `lost` were dropped before these."""
        request = error_bus.ReportErrors(
            sender=sender.name,
            epoch=batch.first.epoch,
            first_seq=batch.first.seq,
            reports=[_decoded(_report, payload) for payload in batch.payloads],
            sent_at=sent_at,
            lost=lost,
        )
        taken = client.call(error_bus.SERVICE, error_bus.REPORT_ERRORS, request, timeout_s=TIMEOUT_S)
        if taken.seq < batch.first.seq:
            raise Unavailable(
                f"{error_bus.SERVICE} has {sender.name} up to {taken.seq} and took none from {batch.first.seq} on"
            )
        return min(Place(batch.first.epoch, taken.seq), batch.last)


class Metrics(Receiver):
    """ObservabilityHub."""

    folder = "metrics"

    def deliver(self, client: Caller, sender: Sender, batch: Batch, lost: int, sent_at: str) -> Place:
        """Hands points over; those that were lost leave a hole in their series."""
        request = observability_hub.PushMetrics(
            agent=sender.agent,
            points=[_decoded(_point, payload) for payload in batch.payloads],
            sender=sender.name,
            epoch=batch.first.epoch,
            seq=batch.last.seq,
        )
        client.call(observability_hub.SERVICE, observability_hub.PUSH_METRICS, request, timeout_s=TIMEOUT_S)
        return batch.last


ERRORS: Final = Errors()
METRICS: Final = Metrics()
RECEIVERS: Final[tuple[Receiver, ...]] = (ERRORS, METRICS)

_report: Final = msgspec.msgpack.Decoder(error_bus.ErrorReport)
_point: Final = msgspec.msgpack.Decoder(observability_hub.MetricPoint)


def _decoded(decoder: msgspec.msgpack.Decoder[Any], payload: bytes) -> Any:
    try:
        return decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadRequest(f"a spooled record cannot be read: {error}") from error
