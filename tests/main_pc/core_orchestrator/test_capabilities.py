from __future__ import annotations

from typing import Any

import pytest

from common.api.core_orchestrator import RegisterAgent, SubmitRequest
from common.errors import BadRequest
from common.resilience.breaker import State as Breaker
from main_pc.core_orchestrator.capabilities import capability_of, payload_of, providers_of
from main_pc.core_orchestrator.registry import Entry
from main_pc.core_orchestrator.request_facts import RequestQueued


def entry(**changes: Any) -> Entry:
    asked = RegisterAgent(agent_name="a", host="127.0.0.1", port=1, capabilities=["text"], location="pc2", **changes)
    return Entry(asked, "now", "alive", 0.0)


def queued(capability: str, **changes: Any) -> RequestQueued:
    return RequestQueued(request_id="r", seq=1, capability=capability, priority=50, deadline_s=1.0, at="", **changes)


def test_type_is_the_old_word_for_capability() -> None:
    assert capability_of(SubmitRequest(type="text")) == "text"
    assert capability_of(SubmitRequest(capability="smell")) == "smell"
    assert capability_of(SubmitRequest(type="text", capability="text")) == "text"


@pytest.mark.parametrize(
    "asked", [SubmitRequest(), SubmitRequest(type="text", capability="audio"), SubmitRequest(type="x" * 129)]
)
def test_none_two_or_an_impossible_capability_is_a_bad_request(asked: SubmitRequest) -> None:
    with pytest.raises(BadRequest):
        capability_of(asked)


def test_the_agent_is_sent_what_there_is_and_the_main_field_always() -> None:
    assert payload_of(queued("text")) == {"request_id": "r", "data": ""}
    assert payload_of(queued("audio", audio_data=b"wav", data="de")) == {
        "request_id": "r",
        "data": "de",
        "audio_data": b"wav",
    }
    assert payload_of(queued("smell", params={"k": 1})) == {"request_id": "r", "params": {"k": 1}}


def test_what_the_caller_gave_is_sent_though_it_is_empty() -> None:
    assert payload_of(queued("echo", data="", params={})) == {"request_id": "r", "data": "", "params": {}}
    assert payload_of(queued("echo")) == {"request_id": "r"}


def test_a_provider_names_the_verb_the_promise_and_the_breaker() -> None:
    (provider,) = providers_of(
        "text", [entry(verbs={"text": "answer"}, idempotent=["text"])], lambda _: (Breaker.OPEN, 7.0)
    )
    assert (provider.verb, provider.idempotent, provider.host) == ("answer", True, "pc2")
    assert (provider.breaker, provider.retry_at) == (Breaker.OPEN, 7.0)
    (plain,) = providers_of("text", [entry()], lambda _: (Breaker.CLOSED, 0.0))
    assert (plain.verb, plain.idempotent) == ("text", False)
