"""docs/protocol.md against the code that keeps it."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from common.api import error_bus, observability_hub, relays
from common.dispatch import rule
from common.dispatch.provider import DEFAULT_CONCURRENCY
from common.errors import BY_CODE, Code
from common.ids import MAX_WIRE_INT
from common.resilience.bulkhead import BulkheadSettings
from common.service.publisher import RING_BYTES, RING_EVENTS
from common.transport import drain, health_port, health_zmtp, sockets
from common.wire import bundle, codec, header, plain
from common.wire.frames import Native, Plain, framed
from common.wire.header import CallHeader, CallKind, Codec, ReplyHeader, ReplyKind
from main_pc.core_orchestrator.liveness import EXPIRED_AFTER_TTLS
from main_pc.core_orchestrator.request_limits import Limits
from pc2.resource_manager.tasks.limits import Limits as TaskLimits
from scripts import protocol_tables
from tests.docs.documents import ROOT, rows, section

PROTOCOL = ROOT / "docs" / "protocol.md"


def test_what_the_code_says_of_itself_is_up_to_date() -> None:
    text = PROTOCOL.read_text()
    assert protocol_tables.filled(text) == text, "run python -m scripts.protocol_tables --write"


def test_a_document_behind_the_code_is_told_and_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "protocol.md"
    copy.write_text(PROTOCOL.read_text().replace("#### `heartbeat`", "#### `pulse`"))
    monkeypatch.setattr(protocol_tables, "DOCUMENT", copy)
    monkeypatch.setattr(protocol_tables, "ROOT", tmp_path)
    assert protocol_tables.main(["--check"]) == 1
    assert "protocol.md is behind the code" in capsys.readouterr().out
    assert protocol_tables.main(["--write"]) == 0
    assert protocol_tables.main(["--check"]) == 0


def test_a_document_without_its_marks_is_refused() -> None:
    with pytest.raises(KeyError, match="golden"):
        protocol_tables.filled("# no marks")


def test_every_code_is_told_with_whether_a_retry_can_help() -> None:
    told = {row[0].strip("`"): row[1] for row in rows(section(PROTOCOL, "Errors"))}
    assert told == {code.value: "yes" if BY_CODE[code].retryable else "no" for code in Code}


def test_the_headers_are_told_place_by_place() -> None:
    told = [(int(row[0]), row[1].strip("`")) for row in rows(section(PROTOCOL, "The native dress"))]
    call = list(enumerate(CallHeader.__struct_fields__))
    reply = list(enumerate(ReplyHeader.__struct_fields__))
    assert told == call + reply


def test_the_kinds_and_codecs_are_told_by_number() -> None:
    text = section(PROTOCOL, "The native dress")
    for kinds in (CallKind, ReplyKind, Codec):
        assert ", ".join(f"{kind.value} {kind.name.lower()}" for kind in kinds) in text.lower()


def test_the_plain_envelope_is_told() -> None:
    told = {row[0].strip("`") for row in rows(section(PROTOCOL, "The plain dress"))}
    fields = {field.encode_name for field in msgspec.structs.fields(plain.PlainCall)}
    assert told | {"action"} == fields


def golden() -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    frames: list[bytes] = []
    for line in PROTOCOL.read_text().partition("## Golden messages")[2].splitlines():
        if line.startswith("  "):
            frames.append(bytes.fromhex(line.replace("-", "")))
        elif ":" in line:
            frames = found[line.partition(":")[0]] = []
    return found


def test_the_golden_messages_are_what_the_wire_sends_and_reads() -> None:
    messages = golden()
    ping = CallHeader(header.PROTOCOL, CallKind.CALL, 7, "ping", 1_500)
    assert messages["call"] == [header.encode(ping), codec.encode(Codec.MSGPACK, {})]
    assert messages["final"] == [
        header.encode(ReplyHeader(header.PROTOCOL, ReplyKind.FINAL, 7)),
        codec.encode(Codec.MSGPACK, {}),
    ]
    assert isinstance(framed(messages["call with everything"]), Native)
    call = framed(messages["plain call of a REQ socket that correlates"])
    assert isinstance(call, Plain)
    assert plain.decode_call(call.body).action == "ping"


@pytest.mark.parametrize(
    ("heading", "sentence", "value"),
    [
        ("Limits", "one frame | {} MiB", sockets.MAX_MESSAGE_BYTES // 2**20),
        ("Limits", "one message to a health port | {} MiB", health_zmtp.MAX_MESSAGE_BYTES // 2**20),
        ("Limits", "frames of one message | {}", drain.MAX_FRAMES - 1),
        ("Limits", "nesting of free-form fields | {} levels", codec.MAX_DEPTH),
        ("Limits", "calls waiting in one process | {:,}", BulkheadSettings().total),
        ("Limits", "of one connection {:,}", BulkheadSettings().per_identity),
        ("Limits", "its first {}", BulkheadSettings().guaranteed),
        ("Limits", "requests waiting for one capability | {:,}", Limits().queued),
        ("Limits", "{:,} and 256 MiB in all", Limits().active),
        ("Limits", "and {} MiB in all", Limits().active_bytes // 2**20),
        ("Limits", "tasks waiting for one capability | {:,}", TaskLimits().queued),
        ("Limits", "{:,} and 512 MiB in all", TaskLimits().active),
        ("Limits", "and {} MiB in all", TaskLimits().active_bytes // 2**20),
        ("Limits", "one task's payload | {} MiB", TaskLimits().payload_bytes // 2**20),
        ("Limits", "has no encrypted port | {} MiB", relays.MAX_FORWARDED_BYTES // 2**20),
        ("Limits", "points in one `push_metrics` | {:,}", error_bus.MAX_BATCH),
        ("Limits", "1,000; {:,} | `bad_request`", observability_hub.MAX_POINTS),
        ("Across hosts", "heartbeats of {} ms", sockets.HEARTBEAT_MS),
        ("Across hosts", "silent for {:,} ms more", sockets.HEARTBEAT_TIMEOUT_MS),
        ("Limits", "messages in one bundle | {}", bundle.MAX_MESSAGES),
        ("Events", "{:,} events or 4 MiB", RING_EVENTS),
        ("Events", "or {} MiB for each topic", RING_BYTES // 2**20),
        ("Health", "more than {:.0f} s late is `degraded`", health_port.LAG_DEGRADED_S),
        ("Health", "more than {:.0f} s `unhealthy`", health_port.LAG_UNHEALTHY_S),
        ("Health", "has not asked within {:.0f} s", health_port.REQUEST_S),
        ("Health", "Beyond {} connections", health_port.MAX_CONNECTIONS),
        ("Sending twice", "24 h or {:,} keys", Limits().kept),
        ("What an agent owes", "after {:.0f} `expired`", EXPIRED_AFTER_TTLS),
        ("What an agent owes", "a native one up to {}", DEFAULT_CONCURRENCY["native"]),
    ],
)
def test_a_figure_is_the_codes(heading: str, sentence: str, value: float) -> None:
    told = " ".join(section(PROTOCOL, heading).split())
    assert sentence.format(value) in told


def test_integers_are_bounded_as_told() -> None:
    assert MAX_WIRE_INT == 2**53 - 1
    assert "0 to 2^53-1" in section(PROTOCOL, "Limits")


def test_every_state_of_liveness_is_told() -> None:
    text = section(PROTOCOL, "What an agent owes") + section(PROTOCOL, "Agent")
    assert [state for state in rule.LIVENESS_ORDER if f"`{state}`" not in text and f'`"{state}"`' not in text] == []


def test_no_two_headings_make_one_anchor() -> None:
    headings = [
        re.sub(r"[^\w\- ]", "", heading.lower())
        for heading in re.findall(
            r"^#+ +(.+?) *$", re.sub(r"^```.*?^```$", "", PROTOCOL.read_text(), flags=re.M | re.S), re.M
        )
    ]
    assert sorted({heading for heading in headings if headings.count(heading) > 1}) == []
