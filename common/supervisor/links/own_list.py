"""This host's own list of keys: decides what stands in it and when it is a new one; signs and writes nothing."""

from __future__ import annotations

from msgspec.structs import replace

from common.security.keyring import HostKeys


def next_list(wanted: HostKeys, last: HostKeys | None, now: float, seen: int = -1) -> HostKeys:
    """`last` where it says the same as `wanted` and nobody has seen a later one, else `wanted` under a higher serial.

    Serials follow the clock (whole seconds since 1970), so that a host which lost its list goes on above what others know;
    `seen` is the highest that came back from others.
    """
    if (
        last is not None
        and seen <= last.serial
        and replace(wanted, serial=last.serial, issued_at=last.issued_at) == last
    ):
        return last
    serial = max(int(now), seen + 1, last.serial + 1 if last is not None else 0)
    return replace(wanted, serial=serial, issued_at=now)
