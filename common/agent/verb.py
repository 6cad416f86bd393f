"""Methods as verbs: the decorator, and the request and reply types that a method's annotations say.

A method's parameters (after self) are the request's fields; a parameter annotated `Call` gets the call instead. It returns a
struct or a dict (the reply's fields), or anything else, which becomes the reply's `result`. A generator streams: each item is a
part, and the final reply holds them all for callers who get no parts.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar, get_type_hints, overload

import msgspec

from common.api.words import Access, AnyVerb, Message, Verb
from common.errors import Conflict
from common.service.call import Call

F = TypeVar("F", bound=Callable[..., Any])

_MARK: Final = "__tandem_verb__"
UNLOAD: Final = "unload_model"
SLEEP: Final = "sleep_model"
"""The verbs by which an agent is asked for its VRAM."""
EVICTION_FIELDS: Final = ("model", "lease_id")
"""What those two are asked with, whether the method wants to know it or not."""


@dataclass(frozen=True, slots=True)
class VerbMark:
    """What the decorator was told; an empty capability means that the verb is offered to callers by name only."""

    name: str
    capability: str
    idempotent: bool
    access: Access


class Result(Message, frozen=True):
    """The reply of a method that returns neither a struct nor a dict."""

    result: Any


class Items(Message, frozen=True):
    """The final reply of a method that streams: how many items, and the items themselves for callers who got no parts."""

    count: int
    items: list[Any]


class Item(Message, frozen=True):
    """One part of a streamed reply."""

    item: Any


@overload
def verb(method: F) -> F: ...


@overload
def verb(
    *, name: str = "", capability: str = "", idempotent: bool = False, access: Access = Access.USE
) -> Callable[[F], F]: ...


def verb(
    method: F | None = None,
    *,
    name: str = "",
    capability: str = "",
    idempotent: bool = False,
    access: Access = Access.USE,
) -> F | Callable[[F], F]:
    """Make a method a verb; with `capability`, requests for it are dispatched here, again if `idempotent` and interrupted."""

    def mark(function: F) -> F:
        setattr(function, _MARK, VerbMark(name or function.__name__, capability, idempotent, access))
        return function

    return mark if method is None else mark(method)


def on_unload(method: F) -> F:
    """Make a method the one that lets go of the agent's VRAM, asked for when its lease has to go; it may be performed twice.

    It may take `model` and `lease_id`. Every lease of the agent is announced with it; the card shows whether it is true.
    """
    return verb(name=UNLOAD, idempotent=True)(method)


def on_sleep(method: F) -> F:
    """Make a method the one that moves the agent's weights to host RAM, as `on_unload` does for letting go of them."""
    return verb(name=SLEEP, idempotent=True)(method)


@dataclass(frozen=True, slots=True)
class Method:
    """One method of an agent as a verb: its types, how to call it, and how it runs."""

    mark: VerbMark
    verb: AnyVerb
    function: Callable[..., Any]
    fields: tuple[str, ...]
    as_bytes: frozenset[str]
    call_parameter: str

    @property
    def is_async(self) -> bool:
        """Whether it runs inline on the loop; the others run on the worker thread."""
        return inspect.iscoroutinefunction(self.function) or inspect.isasyncgenfunction(self.function)

    @property
    def streams(self) -> bool:
        """Whether it yields parts."""
        return inspect.isgeneratorfunction(self.function) or inspect.isasyncgenfunction(self.function)

    def arguments(self, request: Any, call: Call) -> dict[str, Any]:
        """The method's arguments from a decoded request."""
        found = {name: getattr(request, name) for name in self.fields}
        for name in self.as_bytes:
            if isinstance(found[name], memoryview):
                found[name] = bytes(found[name])
        if self.call_parameter:
            found[self.call_parameter] = call
        return found

    def reply(self, returned: Any) -> Any:
        """What the method returned, as the reply."""
        return returned if isinstance(returned, (dict, msgspec.Struct)) else Result(result=returned)


def methods_of(agent: object) -> Iterator[Method]:
    """The verbs of an agent, in the order of their names; Conflict when two have one name."""
    seen: dict[str, str] = {}
    for attribute, function in inspect.getmembers(agent, inspect.ismethod):
        mark = getattr(function, _MARK, None)
        if mark is None:
            continue
        if mark.name in seen:
            raise Conflict(f"{type(agent).__name__}: {seen[mark.name]} and {attribute} are both verb {mark.name!r}")
        seen[mark.name] = attribute
        yield _method(mark, function)


def _method(mark: VerbMark, function: Callable[..., Any]) -> Method:
    hints = get_type_hints(function, include_extras=True)
    fields: list[Any] = []
    as_bytes: set[str] = set()
    call_parameter = ""
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise Conflict(f"verb {mark.name!r}: *{name} has no place on the wire; name each parameter")
        hint = hints.get(name, Any)
        if hint is Call:
            call_parameter = name
            continue
        if hint is bytes:
            hint = memoryview
            as_bytes.add(name)
        fields.append(
            (name, hint) if parameter.default is parameter.empty else (name, hint, _default(parameter.default))
        )
    names = tuple(field[0] for field in fields)
    if mark.name in (UNLOAD, SLEEP):
        fields += ((name, str, "") for name in EVICTION_FIELDS if name not in names)
    request = msgspec.defstruct(f"{mark.name}_request", fields, frozen=True, kw_only=True, bases=(Message,))
    _check_sayable(mark.name, request)
    streams = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
    spec: AnyVerb = Verb(
        mark.name,
        request,
        Items if streams else _reply_type(hints.get("return", Any)),
        mark.access,
        idempotent=mark.idempotent,
        part=Item if streams else None,
        summary=(inspect.getdoc(function) or "").partition("\n")[0],
    )
    return Method(mark, spec, function, names, frozenset(as_bytes), call_parameter)


def _check_sayable(name: str, request: type[msgspec.Struct]) -> None:
    try:
        msgspec.json.schema(request)
    except TypeError as error:
        raise Conflict(f"verb {name!r}: a parameter's type has no place on the wire: {error}") from error


def _default(value: Any) -> Any:
    return memoryview(value) if isinstance(value, bytes) else value


def _reply_type(hint: Any) -> Any:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return hint
    return dict[str, Any] if hint is dict or getattr(hint, "__origin__", None) is dict else Result
