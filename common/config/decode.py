"""A document into a typed Startup, collecting every wrong key, type and bound on the way; never stops at the first.

What is wrong or missing gets its default (or a blank), so that what the rest means can still be judged in the same pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, get_args, get_origin

import msgspec
from msgspec import Meta
from msgspec.structs import FieldInfo, fields

from common.config.document import Document, Place, Problem
from common.config.schema import Section, Startup
from common.config.units import Duration, Size, parse_bytes, parse_seconds
from common.errors import BadRequest


def decode(document: Document) -> tuple[Startup, list[Problem]]:
    """The startup file that `document` holds, as far as it can be read, and all that is wrong with its shape."""
    reader = _Reader(document)
    return reader.section(document.value, Startup, ()), reader.problems


class _Reader:
    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []

    def section(self, value: object, type_: Any, place: Place) -> Any:
        if not isinstance(value, Mapping):
            self.wrong(place, f"expected a mapping, got {_named(value)}", f"write {', '.join(_keys(type_)[:3])}, ...")
            return blank(type_)
        known = {field.name: field for field in fields(type_)}
        for key in value:
            if key not in known:
                self.unknown(key, list(known), place)
        return type_(**{name: self.field(value, field, place) for name, field in known.items()})

    def field(self, value: Mapping[str, object], field: FieldInfo, place: Place) -> Any:
        if field.name in value:
            return self.value(value[field.name], field.type, (*place, field.name), _default(field))
        if field.required:
            self.wrong(place, f"{field.name} is missing", f"add {field.name}: to it")
        return _default(field)

    def value(self, value: object, type_: Any, place: Place, default: object) -> Any:
        bare = get_args(type_)[0] if get_origin(type_) is Annotated else type_
        if isinstance(bare, type) and issubclass(bare, Section):
            return self.section(value, bare, place)
        if get_origin(bare) is list:
            return self.items(value, get_args(bare)[0], place)
        if get_origin(bare) is dict:
            return self.mapping(value, get_args(bare)[1], place)
        return self.scalar(value, type_, place, default)

    def items(self, value: object, type_: Any, place: Place) -> list[Any]:
        if not isinstance(value, list):
            self.wrong(
                place, f"expected a list, got {_named(value)}", "write [one, two], or one item a line after a dash"
            )
            return []
        return [self.value(item, type_, (*place, index), blank(type_)) for index, item in enumerate(value)]

    def mapping(self, value: object, type_: Any, place: Place) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            self.wrong(place, f"expected a mapping, got {_named(value)}", "write name: value, one a line")
            return {}
        return {key: self.value(item, type_, (*place, key), blank(type_)) for key, item in value.items()}

    def scalar(self, value: object, type_: Any, place: Place, default: object) -> Any:
        try:
            return msgspec.convert(value, type_, dec_hook=_quantity)
        except msgspec.ValidationError as error:
            self.wrong(place, _plain(str(error), value), _mend(value, type_))
            return default

    def unknown(self, key: str, known: list[str], place: Place) -> None:
        import difflib

        close = difflib.get_close_matches(key, known, n=1)
        mend = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
        self.wrong((*place, key), "unknown key", mend)

    def wrong(self, place: Place, message: str, mend: str) -> None:
        self.problems.append(self.document.problem(place, message, mend))


def blank(type_: Any) -> Any:
    """A harmless value of `type_`, for what could not be read."""
    origin, args = get_origin(type_), get_args(type_)
    if origin is Annotated:
        return blank(args[0])
    if isinstance(type_, type) and issubclass(type_, Section):
        return type_(**{field.name: _default(field) for field in fields(type_)})
    if origin in (list, dict):
        return origin()
    return type_() if isinstance(type_, type) else args[0]


def _default(field: FieldInfo) -> Any:
    if field.required:
        return blank(field.type)
    return field.default if field.default is not msgspec.NODEFAULT else field.default_factory()


def _quantity(type_: type, value: object) -> object:
    """msgspec's hook for the types it does not know: our two quantities, from a number or a text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"expected {_QUANTITIES[type_]}, got {_named(value)}")
    try:
        return (parse_bytes if type_ is Size else parse_seconds)(str(value))
    except BadRequest as error:
        raise ValueError(error.message) from None


_QUANTITIES = {Size: "a size such as 4GiB", Duration: "a duration such as 5s"}


def _keys(type_: type[Section]) -> list[str]:
    return [field.name for field in fields(type_)]


def _named(value: object) -> str:
    names = {
        dict: "a mapping",
        list: "a list",
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return "nothing" if value is None else names.get(type(value), type(value).__name__)


def _plain(message: str, value: object) -> str:
    if message.startswith("Invalid enum value"):
        return f"{value!r} is not a choice here"
    if " matching regex " in message:
        return f"{value!r} is no name"
    text = message.replace("`", "").replace("Expected", "expected")
    return text if ", got" in text or not text.startswith("expected") else f"{text}, not {value!r}"


def _mend(value: object, type_: Any) -> str:
    bare, *metas = get_args(type_) if get_origin(type_) is Annotated else (type_,)
    if bare is str and isinstance(value, str):
        return "; ".join(
            meta.description for meta in metas if isinstance(meta, Meta) and meta.pattern and meta.description
        )
    if get_origin(bare) is not None and all(isinstance(choice, (str, int)) for choice in get_args(bare)):
        return f"one of {', '.join(str(choice) for choice in get_args(bare))}"
    return "put it in quotes" if bare is str and not isinstance(value, (list, dict)) and value is not None else ""
