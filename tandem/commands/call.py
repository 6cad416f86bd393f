"""`tandem call [TARGET] VERB [JSON]`: any verb of any service or agent, JSON in and out.

Where no target is named, the catalog says which service serves the verb; a supervisor's verb also needs a host.
"""

from __future__ import annotations

import difflib
import os
import sys
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from common.api import catalog, core_orchestrator
from tandem import asking, output
from tandem.exits import Exit, exit_for_code
from tandem.options import some_time, with_json

DEFAULT_TIMEOUT_S: Final = 30.0
UNDONE: Final = ("failed", "expired", "cancelled")
"""The states in which a request has come to nothing."""
GRACE_S: Final = 10.0
"""A call that asks to wait gets this much longer than it asked for."""


@click.command()
@click.argument("words", metavar="[TARGET] VERB [JSON|@FILE|-]", nargs=-1, required=True)
@click.option("--timeout", "timeout_s", type=some_time, default=None, metavar="TIME", help="Give up after this; 30s.")
@click.option("--stream", is_flag=True, help="Print each part, then the reply: one JSON document a line.")
@with_json
def command(words: tuple[str, ...], timeout_s: float | None, stream: bool, as_json: bool) -> Exit:
    """Call any verb, JSON in and out.

    TARGET is a service, Supervisor/HOST, an agent's name or tcp://HOST:PORT; it may be left out where the verb belongs to one
    service. The request is a JSON object, @FILE holds one, - reads one from stdin.

    Exits 0 when the call was answered, whatever the answer says; submit_request that waited for a request which came to nothing
    ends by that request's code.

    JSON: the reply itself, indented for people unless --json is given.
    """
    target, verb, text = sorted_out(words)
    request = read_request(text)
    if not target:
        target = target_of(verb, request)
    elif not text:
        refuse_verb(target, verb)
    budget_s = timeout_s or max(DEFAULT_TIMEOUT_S, _patience_s(request) + GRACE_S)
    with asking.fabric(budget_s) as client:
        if stream:
            reply = {}
            for reply in client.stream(target, verb, request, timeout_s=budget_s):
                output.say_json(reply)
            return ended_by(verb, reply)
        reply = client.call(target, verb, request, timeout_s=budget_s)
    output.say(output.json_document(reply, indented=not as_json))
    return ended_by(verb, reply)


def ended_by(verb: str, reply: dict[str, Any]) -> Exit:
    """How a call that was answered ends: what asks for work by how that ended, if it has; a question about it well."""
    if verb != core_orchestrator.SUBMIT_REQUEST.name or reply.get("state") not in UNDONE:
        return Exit.OK
    output.note(f"{reply.get('request_id')} {reply['state']}: {reply.get('error') or reply.get('reason')}")
    return exit_for_code(str(reply.get("code")))


def sorted_out(words: tuple[str, ...]) -> tuple[str, str, str]:
    """(target, verb, request text) of a command line; a word that starts with {, [, @ or is - is the request."""
    *names, last = words
    text = last if last[:1] in ("{", "[", "@") or last == "-" else ""
    if not text:
        names = list(words)
    if len(names) == 3:
        raise click.BadParameter(f"{names[2]!r} is not a JSON object, @FILE or -", param_hint="JSON")
    if not 1 <= len(names) <= 2 or not all(names):
        raise click.UsageError("call takes [TARGET] VERB [JSON]")
    return (names[0] if len(names) == 2 else "", names[-1], text)


def read_request(text: str) -> dict[str, Any]:
    """The request's fields; a usage error says where the JSON is wrong."""
    raw = _bytes_of(text)
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="JSON") from None
    if not isinstance(value, dict):
        raise click.BadParameter(f"a request is a JSON object, not {text[:40]!r}", param_hint="JSON")
    return value


def _bytes_of(text: str) -> bytes:
    if not text:
        return b"{}"
    if text == "-":
        return sys.stdin.buffer.read()
    if not text.startswith("@"):
        return text.encode(errors="surrogateescape")
    try:
        return Path(text[1:]).read_bytes()
    except OSError as error:
        raise click.BadParameter(f"{text[1:]} cannot be read: {error.strerror}", param_hint="JSON") from None


def refuse_verb(target: str, word: str) -> None:
    """A usage error where the target is a service's verb: then the word after it was to be its request."""
    if any(each.name == target for spec in catalog.SERVICES for each in spec.verbs):
        text = f"{target} is a verb, and {word!r} is not a JSON object, @FILE or -; put single quotes around JSON"
        raise click.BadParameter(text, param_hint="JSON")


def target_of(verb: str, request: dict[str, Any]) -> str:
    """The one that serves `verb` by the catalog; a usage error where there is none, or where it might be several."""
    serving = [spec for spec in catalog.SERVICES if any(each.name == verb for each in spec.verbs)]
    if serving:
        return serving[0].name if serving[0] is not catalog.SUPERVISOR else _supervisor(verb, request)
    if catalog.CORE_ORCHESTRATOR.verb(verb) is not None:
        raise click.UsageError(f"everyone answers {verb}; say who: tandem call CoreOrchestrator {verb}")
    known = sorted({each.name for spec in catalog.SERVICES for each in spec.verbs})
    close = difflib.get_close_matches(verb, known, n=1)
    mend = f"did you mean {close[0]}?" if close else f"for an agent's verb name the agent: tandem call AGENT {verb}"
    raise click.UsageError(f"no service has a verb {verb!r}; {mend}")


def _supervisor(verb: str, request: dict[str, Any]) -> str:
    host = request.get("host") or os.environ.get("TANDEM_HOST", "")
    if not host:
        choices = " or ".join(f"{asking.SUPERVISOR}{each}" for each in asking.hosts())
        raise click.UsageError(f"{verb} is answered by each host's supervisor; say which: {choices}")
    return f"{asking.SUPERVISOR}{host}"


def _patience_s(request: dict[str, Any]) -> float:
    wait_s = request.get("wait_s")
    return float(wait_s) if isinstance(wait_s, (int, float)) and 0 <= wait_s < 1e9 else 0.0
