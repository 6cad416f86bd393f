"""docs/operations.md against the code: every exit code, every error code, and the figures that a user can meet."""

from __future__ import annotations

import re

import msgspec
import pytest

from common.api import error_bus as errors_api
from common.api import leases, links, relays, security_gateway, tasks
from common.api import observability_hub as hub_api
from common.config.schema import HealthProbe, Logs, Restart, Stop
from common.errors import BY_CODE, Code
from common.reporting import spool
from common.resilience.bulkhead import BulkheadSettings
from common.resilience.idempotency import IdempotencySettings
from common.security import passwords, tokens
from common.service import publisher
from common.store import sqlite
from common.supervisor import door, separations
from common.supervisor.links import pulse
from common.telemetry import logs
from common.transport import sockets
from main_pc.core_orchestrator import registry, request_limits
from pc2.error_bus import book, groups, samples
from pc2.observability_hub import asking, series
from pc2.resource_manager.tasks.limits import Limits as TaskLimits
from pc2.security_gateway import identities, lockout
from tandem.cli import COMMANDS
from tandem.exits import MEANINGS, Exit, exit_for
from tests.docs.documents import ROOT, rows, section

OPERATIONS = ROOT / "docs" / "operations.md"
MIB = 2**20
REQUESTS, TASKS, LOCKOUT = request_limits.Limits(), TaskLimits(), lockout.Limits()


def test_every_exit_code_is_told_with_its_meaning_and_its_mend() -> None:
    told = {int(row[0]): row for row in rows(section(OPERATIONS, "Exit codes"))}
    assert {code: row[1] for code, row in told.items()} == {code.value: MEANINGS[code] for code in Exit}
    assert [code for code, row in told.items() if not row[2] and code != Exit.OK] == []


def test_every_error_code_is_told_with_its_mend_and_how_a_command_ends_by_it() -> None:
    told = {row[0].strip("`"): row for row in rows(section(OPERATIONS, "Error codes"))}
    ends = {code: int(row[3]) for code, row in told.items()}
    assert ends == {code.value: exit_for(BY_CODE[code]("x")).value for code in Code}
    assert [code for code, row in told.items() if not (row[1] and row[2]) and code != Code.CANCELLED] == []


def test_every_command_that_is_shown_exists() -> None:
    shown = re.findall(r"^\S*\$ (?:export \w+=\$\()?tandem ([a-z]+)", OPERATIONS.read_text(), re.MULTILINE)
    assert shown
    assert set(shown) <= COMMANDS.keys()


def default(request: type[msgspec.Struct], field: str) -> float:
    """What a request has where its sender says nothing."""
    (found,) = [each.default for each in msgspec.structs.fields(request) if each.name == field]
    return float(found)


@pytest.mark.parametrize(
    ("heading", "sentence", "values"),
    [
        ("Losing a host", "after two pings", (pulse.MISSES == 2,)),
        ("Losing a host", "its last {} separations", (separations.KEPT,)),
        ("Keys and tokens", "good for {} s, where it may read", (tokens.OPERATOR_TTL_S,)),
        (
            "Keys and tokens",
            "after {} for a name from one host, or {} from",
            (LOCKOUT.identity.free, LOCKOUT.host.free),
        ),
        ("Keys and tokens", "up to {:.0f} minutes or one", (LOCKOUT.identity.cap_s / 60,)),
        ("Keys and tokens", "or one; `retry_after_ms`", (LOCKOUT.host.cap_s == 60,)),
        ("Disk", "{} MiB waiting, {} MiB results", (REQUESTS.active_bytes // MIB, REQUESTS.kept_bytes // MIB)),
        ("Disk", "{} MiB replies of idempotency keys", (IdempotencySettings().reply_bytes // MIB,)),
        ("Disk", "{} MiB waiting, {} MiB ended", (TASKS.active_bytes // MIB, TASKS.kept_bytes // MIB)),
        ("Disk", "{:,} groups, {} Mi characters", (book.Limits().groups, book.Limits().chars // MIB)),
        ("Disk", "`.db-wal` of up to some {} MiB", (sqlite.WAL_LIMIT_BYTES // MIB,)),
        ("Disk", "{} MiB each for errors and metrics", (spool.MOST_BYTES // MIB,)),
        ("Disk", "{} MiB a process", (Logs().max_bytes * (Logs().keep + 1) // MIB,)),
        ("Logs", "at most {} KiB", (logs.LINE_BYTES // 1024,)),
        ("Logs", "rotated at {} MiB and three", (Logs().max_bytes // MIB,)),
        ("Limits", "| one frame, one message | {} MiB", (sockets.MAX_MESSAGE_BYTES // MIB,)),
        ("Limits", "called across hosts | {} MiB", (relays.MAX_FORWARDED_BYTES // MIB,)),
        ("Limits", "{:,}; {:,} of one connection", (BulkheadSettings().total, BulkheadSettings().per_identity)),
        ("Limits", "queued at a socket | {:,} |", (sockets.REQUEST_HWM,)),
        ("Limits", "{:,} or {} MiB for each topic", (publisher.RING_EVENTS, publisher.RING_BYTES // MIB)),
        ("Limits", "{:,}, {} KiB each", (registry.Limits().agents, registry.Limits().registration_bytes // 1024)),
        ("Limits", "{:,}; {:,} and {} MiB in all", (REQUESTS.queued, REQUESTS.active, REQUESTS.active_bytes // MIB)),
        ("Limits", "without a deadline of its own | {:.0f} s", (REQUESTS.deadline_s,)),
        ("Limits", "24 h, {:,} or {} MiB", (REQUESTS.kept, REQUESTS.kept_bytes // MIB)),
        ("Limits", "idempotency keys | 24 h or {:,}", (IdempotencySettings().keys,)),
        ("Limits", "a lease's TTL | {:.0f} s", (default(leases.AcquireLease, "ttl_s"),)),
        (
            "Limits",
            "{:,}; {:,}, {} MiB and {:,} capabilities in all",
            (TASKS.queued, TASKS.active, TASKS.active_bytes // MIB, TASKS.capabilities),
        ),
        ("Limits", "its result | {} MiB each", (TASKS.payload_bytes // MIB,)),
        ("Limits", "its result | {} MiB each", (TASKS.result_bytes // MIB,)),
        ("Limits", "attempts of a task | {:.0f}", (default(tasks.SubmitTask, "max_attempts"),)),
        ("Limits", "one attempt | {:,.0f} s", (default(tasks.SubmitTask, "timeout_s"),)),
        ("Limits", "at least; {:,} or {} MiB", (TASKS.kept, TASKS.kept_bytes // MIB)),
        ("Limits", "attempts | {:.0f} s at most", (TASKS.backoff_max_s,)),
        ("Limits", "{:,} or {} Mi characters", (book.Limits().groups, book.Limits().chars // MIB)),
        ("Limits", "the first {} and the newest {}", (samples.FIRST, samples.NEWEST)),
        ("Limits", "named in a group | {}", (groups.AGENTS,)),
        ("Limits", "errors in one batch | {:,}", (errors_api.MAX_BATCH,)),
        ("Limits", "in one push | {:,}", (hub_api.MAX_POINTS,)),
        ("Limits", "{:,}; {:,} of one agent", (series.MAX_SERIES, series.MAX_PER_AGENT)),
        ("Limits", "{:,} of {} series", (asking.MAX_POINTS, asking.MAX_SERIES)),
        ("Limits", "identities | {:,}", (identities.Limits().identities,)),
        ("Limits", "{} s, up to {:,} s", (security_gateway.DEFAULT_TTL_S, security_gateway.MAX_TTL_S)),
        ("Limits", "to be checked | {}", (passwords.MOST_WAITING,)),
        ("Limits", "an invitation | {:.0f} s", (default(links.InviteHost, "ttl_s"),)),
        ("Limits", "a spool | {} MiB", (spool.MOST_BYTES // MIB,)),
        ("Limits", "a log | {} MiB and {} older", (Logs().max_bytes // MIB, Logs().keep)),
        ("Limits", "{} in {:.0f} s, then", (Restart().attempts, Restart().interval_s)),
        ("Limits", "time to get ready | {:.0f} s", (HealthProbe().ready_within_s,)),
        ("Limits", "before it is killed | {:.0f} s", (Stop().term_s,)),
        ("Limits", "separations remembered | {}", (separations.KEPT,)),
    ],
)
def test_a_figure_is_the_codes(heading: str, sentence: str, values: tuple[float, ...]) -> None:
    assert all(values)
    assert sentence.format(*values) in " ".join(section(OPERATIONS, heading).split())


def test_the_supervisors_own_log_is_rotated_like_the_others() -> None:
    assert (Logs().max_bytes, Logs().keep) == (door.LOG_BYTES, door.LOG_KEEP)


def test_the_levels_of_metric_history_are_told() -> None:
    assert [(level.step_s, level.kept_s) for level in asking.LEVELS] == [(10, 3_600), (60, 86_400), (900, 30 * 86_400)]
    assert "10 s steps for an hour, 1 min for a day, 15 min for 30 days" in section(OPERATIONS, "Limits")


def test_what_looks_at_the_wall_clock_is_told_with_its_bounds() -> None:
    text = " ".join(section(OPERATIONS, "Clocks").split())
    assert (tokens.EARLY_S, tokens.OPERATOR_TTL_S, series.AHEAD_S, series.LATE_S) == (60, 60, 60, 86_400)
    assert "more than 60 s off" in text
    assert "older than a day or more than 60 s ahead" in text


def test_every_database_is_told_and_no_other() -> None:
    """A store is named by a constant of its service; the history of metrics is a file of its own."""
    rooms = [*(ROOT / "pc2").glob("*/service.py"), *(ROOT / "main_pc").glob("*/service.py")]
    named = "".join(path.read_text() for path in rooms)
    stores = {f"{name}.db" for name in re.findall(r"^(?:TASK_)?STORE(?:: Final)? = \"(\w+)\"", named, re.MULTILINE)}
    told = re.findall(r"^\| `(\w+\.db)`", section(OPERATIONS, "Disk"), re.MULTILINE)
    assert set(told) == stores | {"metrics.db", "supervisor.db"}
