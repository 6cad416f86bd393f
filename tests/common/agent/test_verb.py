from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from common.agent.verb import Items, Result, methods_of, verb
from common.api.words import Access
from common.errors import Conflict
from common.service.call import Call


class Reply(msgspec.Struct):
    a: int


class Some:
    @verb
    def bare(self) -> str:
        return ""

    @verb(name="other", capability="c", idempotent=True, access=Access.READ)
    def named(self, text: str, data: bytes = b"x", *, call: Call) -> Reply:
        return Reply(a=1)

    @verb
    def table(self) -> dict[str, int]:
        return {}

    @verb
    def untyped(self, anything):  # type: ignore[no-untyped-def]
        return anything

    def helper(self) -> None:
        """Not a verb."""


def test_only_marked_methods_are_verbs_and_their_annotations_say_their_types() -> None:
    methods = {method.verb.name: method for method in methods_of(Some())}
    assert sorted(methods) == ["bare", "other", "table", "untyped"]
    other = methods["other"]
    assert (other.mark.capability, other.verb.idempotent, other.verb.access) == ("c", True, Access.READ)
    assert (other.fields, other.as_bytes, other.call_parameter) == (("text", "data"), frozenset({"data"}), "call")
    assert (other.verb.reply, methods["bare"].verb.reply) == (Reply, Result)
    assert methods["table"].verb.reply == dict[str, Any]
    assert not methods["bare"].is_async
    assert not methods["bare"].streams


def test_the_request_has_the_methods_defaults() -> None:
    other = next(method for method in methods_of(Some()) if method.verb.name == "other")
    request = msgspec.json.decode(b'{"text":"a"}', type=other.verb.request)
    assert bytes(request.data) == b"x"
    assert other.arguments(request, None)["data"] == b"x"  # type: ignore[arg-type]


def test_what_is_returned_becomes_the_replys_fields_or_its_result() -> None:
    method = next(iter(methods_of(Some())))
    assert method.reply(Reply(a=1)) == Reply(a=1)
    assert method.reply({"a": 1}) == {"a": 1}
    assert method.reply([1]) == Result(result=[1])


def test_a_generator_streams_items() -> None:
    class Streams:
        @verb
        def parts(self):  # type: ignore[no-untyped-def]
            yield 1

    (method,) = methods_of(Streams())
    assert method.streams
    assert method.verb.reply is Items
    assert method.verb.part is not None


def variadic(self: object, *words: str) -> None: ...


def unsayable(self: object, call: Callable[[], int]) -> None: ...


@pytest.mark.parametrize(
    ("function", "said"), [(variadic, r"\*words has no place"), (unsayable, "no place on the wire")]
)
def test_what_has_no_place_on_the_wire_is_refused_when_the_agent_starts(function: Any, said: str) -> None:
    agent = type("Odd", (), {"odd": verb(function)})()
    with pytest.raises(Conflict, match=said):
        list(methods_of(agent))


def test_two_methods_with_one_name_are_refused() -> None:
    class Twice:
        @verb(name="same")
        def one(self) -> None: ...

        @verb(name="same")
        def two(self) -> None: ...

    with pytest.raises(Conflict, match="one and two are both verb 'same'"):
        list(methods_of(Twice()))
