"""The error tree and the closed list of codes an error can have on the wire.

    TandemError
    |- BadRequest            the caller's mistake: shape, type, bounds            (bad_request)
    |  |- UnknownVerb        no such verb, with the closest match                 (unknown_verb)
    |  |- TooLarge           more bytes than the limit                            (too_large)
    |  |- IdempotencyMismatch  the same key came with another body                (idempotency_mismatch)
    |- Unauthenticated, Forbidden                                                 (unauthenticated, forbidden)
    |- NotFound, Conflict    about the thing named                                (not_found, conflict)
    |  |- StaleFence         a lease's holder was replaced                        (stale_fence)
    |- SnapshotRequired      the event ring no longer reaches back                (snapshot_required)
    |- DeadlineExceeded, Cancelled                                                (deadline_exceeded, cancelled)
    |- Overloaded            come back after retry_after_ms                       (overloaded)
    |- Unavailable           peer or link down, nothing was done                  (unavailable)
    |- Interrupted           the peer went away midway; it may have been done     (interrupted)
    |- NoProvider            nobody offers the capability                         (no_provider)
    |- NoCapacity            it would fit later                                   (no_capacity)
    |- StorageUnavailable    could not be made durable; nothing was acknowledged  (storage_unavailable)
    |- Internal              our bug                                              (internal)

Raised anywhere, mapped to the wire once (common/wire) and back once (common/client).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar


class Code(StrEnum):
    """Every code an error may carry on the wire; docs/protocol.md lists them with their mend."""

    BAD_REQUEST = "bad_request"
    UNKNOWN_VERB = "unknown_verb"
    TOO_LARGE = "too_large"
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    STALE_FENCE = "stale_fence"
    SNAPSHOT_REQUIRED = "snapshot_required"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CANCELLED = "cancelled"
    OVERLOADED = "overloaded"
    UNAVAILABLE = "unavailable"
    INTERRUPTED = "interrupted"
    NO_PROVIDER = "no_provider"
    NO_CAPACITY = "no_capacity"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    INTERNAL = "internal"


class TandemError(Exception):
    """An error with a stable code, a sentence that says what, how much and where, and whether trying again can help.

    `details` is JSON-able and reaches the caller as it is; `retry_after_ms` is a hint, not a promise.
    """

    code: ClassVar[Code] = Code.INTERNAL
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, retry_after_ms: int | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_ms = retry_after_ms
        self.details: dict[str, Any] = details

    @property
    def can_help_later(self) -> bool:
        """Whether the same may succeed later, as the wire tells it: by its code, or because it says when."""
        return self.retryable or self.retry_after_ms is not None


class BadRequest(TandemError):
    """The request's shape, a type or a bound is wrong; sending it again cannot help."""

    code = Code.BAD_REQUEST


class UnknownVerb(BadRequest):
    """The service has no such verb."""

    code = Code.UNKNOWN_VERB


class TooLarge(BadRequest):
    """More bytes than the stated limit."""

    code = Code.TOO_LARGE


class IdempotencyMismatch(BadRequest):
    """The idempotency key was used before with another body."""

    code = Code.IDEMPOTENCY_MISMATCH


class Unauthenticated(TandemError):
    """The caller has not shown who it is."""

    code = Code.UNAUTHENTICATED


class Forbidden(TandemError):
    """The caller is known and may not do this."""

    code = Code.FORBIDDEN


class NotFound(TandemError):
    """The thing named does not exist here."""

    code = Code.NOT_FOUND


class Conflict(TandemError):
    """The thing named is in a state that does not allow this."""

    code = Code.CONFLICT


class StaleFence(Conflict):
    """The fencing token is not the current one: the lease ended or was granted anew."""

    code = Code.STALE_FENCE


class SnapshotRequired(TandemError):
    """The event ring no longer holds what was asked for; list again and go on from `as_of`."""

    code = Code.SNAPSHOT_REQUIRED


class DeadlineExceeded(TandemError):
    """The caller's time budget ran out."""

    code = Code.DEADLINE_EXCEEDED


class Cancelled(TandemError):
    """The caller, or someone for it, withdrew."""

    code = Code.CANCELLED


class Overloaded(TandemError):
    """Beyond a limit; nothing was done."""

    code = Code.OVERLOADED
    retryable = True


class Unavailable(TandemError):
    """The peer or the link is down or draining; nothing was done."""

    code = Code.UNAVAILABLE
    retryable = True


class Interrupted(TandemError):
    """The peer went away after it had the request: it may or may not have been done."""

    code = Code.INTERRUPTED


class NoProvider(TandemError):
    """No registered, restarting or configured agent offers the capability."""

    code = Code.NO_PROVIDER


class NoCapacity(TandemError):
    """It does not fit now; `details` hold need, free and, per card, the reason."""

    code = Code.NO_CAPACITY
    retryable = True


class StorageUnavailable(TandemError):
    """It could not be made durable, so it was not done."""

    code = Code.STORAGE_UNAVAILABLE
    retryable = True


class Internal(TandemError):
    """A bug on the answering side; `tandem errors` and its log have the stack."""

    code = Code.INTERNAL


def _tree(root: type[TandemError]) -> dict[Code, type[TandemError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


BY_CODE: dict[Code, type[TandemError]] = _tree(TandemError) | {Code.INTERNAL: Internal}
