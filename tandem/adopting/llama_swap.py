"""llama-swap's config.yaml into managed models: its macros, models, groups and hooks; what has no counterpart is noted.

Written from its config.example.yaml and config-schema.json. llama-swap swaps by rules because it never reads VRAM; here the cards
are measured, so that models stay together wherever they fit, and groups, matrix and their like are not needed.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any, Final, TypeGuard

import msgspec

from common.config.document import Document, Place
from common.config.models import HEALTH_PATHS, Idle, Model, ModelHealth
from common.config.sections import Stop
from common.config.units import Duration
from tandem.adopting import launch_line
from tandem.adopting.macros import Unexpandable, expand, is_secret
from tandem.adopting.proposal import Facts, Findings, Kind, Proposal
from tandem.adopting.shaping import HELD_PORT, Untranslatable, fit_name

DEFAULT_CHECK: Final = "/health"
DEFAULT_READY_S: Final = 120
LEAST_READY_S: Final = 15

_TOP: Final[dict[str, tuple[Kind, str]]] = {
    **dict.fromkeys(
        (
            "logLevel",
            "logTimeFormat",
            "logToStdout",
            "metricsMaxInMemory",
            "captureBuffer",
            "performance",
            "ui",
            "store",
        ),
        ("needless", "logs and metrics are the supervisor's"),
    ),
    **dict.fromkeys(
        ("startPort", "includeAliasesInList"), ("needless", "each start chooses a free port, and aliases answer")
    ),
    "sendLoadingState": ("needless", "clients that wait are told how long yet"),
    "apiKeys": ("left out", "keys are not copied; the front has its own (docs/operations.md, Keys and tokens)"),
    "peers": ("left out", "models of other machines belong into the startup files of those machines"),
    "profiles": ("left out", "a name means one model; give the model an alias"),
    "matrix": ("needless", "models stay loaded together wherever their cards have room, which is measured"),
    "upstream": ("left out", "requests are passed on as they are"),
}
_HANDLED: Final = ("models", "macros", "groups", "hooks", "routing", "healthCheckTimeout", "globalTTL", "unloadTimeout")
_OF_MODELS: Final[dict[str, tuple[Kind, str]]] = {
    "name": ("left out", "a model has no title beside its name"),
    "description": ("left out", "a model has no description"),
    "metadata": ("left out", "a model has no metadata"),
    "sendLoadingState": ("needless", "clients that wait are told how long yet"),
    "timeouts": ("needless", "every wait for an engine has its bound"),
    "capabilities": ("left out", "what the model serves is read from its command"),
}
_MODEL_HANDLED: Final = (
    "macros", "cmd", "cmdStop", "proxy", "aliases", "env", "checkEndpoint", "unlisted", "useModelName", "ttl",
    "unloadTimeout", "concurrencyLimit", "filters",
)  # fmt: skip


def fits(document: Document) -> bool:
    """Whether the file looks like llama-swap's: models by name, each with a cmd."""
    models = document.at(("models",))
    return isinstance(models, Mapping) and any(isinstance(each, Mapping) and "cmd" in each for each in models.values())


def translate(document: Document, facts: Facts) -> Findings:
    """The models of a configuration of llama-swap, and all that they do without."""
    return _Translation(document, facts).run()


class _Translation:
    def __init__(self, document: Document, facts: Facts) -> None:
        self.document = document
        self.facts = facts
        self.found = Findings(document.file)
        self.top: Mapping[str, Any] = document.value if isinstance(document.value, Mapping) else {}
        self.macros = _macros(self.top.get("macros"))
        self.folder = posixpath.dirname(document.file)
        self.owners: dict[str, str] = {}

    def run(self) -> Findings:
        for problem in self.document.problems:
            self.found.note("skipped", problem.line, "", problem.message, problem.mend)
        self.whole()
        models = self.top.get("models")
        named = models if isinstance(models, Mapping) else {}
        pinned, preloaded = self.groups(set(named)), self.preloaded(set(named))
        self.owners = {str(name): str(name) for name in named}
        for name, fields in named.items():
            self.one(str(name), fields, str(name) in pinned, str(name) in preloaded)
        return self.found

    def note(self, kind: Kind, place: Place, message: str, mend: str = "") -> None:
        self.found.note_at(self.document, kind, place, message, mend)

    def whole(self) -> None:
        """What stands beside the models."""
        for key in self.top:
            if key not in _HANDLED:
                self.note(*_reason(_TOP, key, (key,)))

    def groups(self, models: set[str]) -> set[str]:
        """The members of groups that nothing may unload; the rest of what groups say is not needed."""
        place: Place = ("groups",)
        if "routing" in self.top:
            place = ("routing", "router", "settings", "groups")
            if self.document.at(place) is None:
                self.note("needless", ("routing",), "models stay loaded together wherever their cards have room")
        groups = self.document.at(place)
        pinned: set[str] = set()
        for name, group in groups.items() if isinstance(groups, Mapping) else ():
            members = _texts(group.get("members")) if isinstance(group, Mapping) else []
            if isinstance(group, Mapping) and group.get("persistent") is True:
                pinned |= set(members)
            self.note(
                "needless", (*place, name), "its members stay loaded together, and beside others, wherever they fit"
            )
            for number, member in enumerate(members):
                if member not in models:
                    self.note("left out", (*place, name, "members", number), f"there is no model {member}")
        return pinned

    def preloaded(self, models: set[str]) -> set[str]:
        place: Place = ("hooks", "on_startup", "preload")
        hooks = self.top.get("hooks")
        for key in hooks if isinstance(hooks, Mapping) else ():
            if key != "on_startup":
                self.note("left out", ("hooks", key), "no such hook is known")
        wanted = _texts(self.document.at(place))
        for number, name in enumerate(wanted):
            if name not in models:
                self.note("left out", (*place, number), f"there is no model {name}")
        return set(wanted)

    def one(self, name: str, fields: object, pinned: bool, preload: bool) -> None:
        place: Place = ("models", name)
        since = len(self.found.notes)
        try:
            if not isinstance(fields, Mapping):
                raise Untranslatable("is no mapping")
            model = self.model(name, fields, pinned, preload)
        except Untranslatable as reason:
            self.found.skip(self.document, place, since, reason.message, reason.mend)
        except Unexpandable as reason:
            mend = "define it, or set it where `tandem adopt` runs"
            self.found.skip(self.document, place, since, str(reason), mend)
        else:
            self.found.propose(Proposal(model, self.document.file, self.document.line(place)), since)

    def model(self, name: str, fields: Mapping[str, Any], pinned: bool, preload: bool) -> Model:
        place: Place = ("models", name)
        fit = fit_name(name)
        if not fit:
            raise Untranslatable("its name has no letter or digit")
        macros = self.macros | _macros(fields.get("macros")) | {"MODEL_ID": name, "PORT": HELD_PORT}
        line = launch_line.read(self.text(fields, "cmd", macros), self.folder, self.facts)
        line = launch_line.with_environment(line, self.environment(place, fields, macros))
        line = launch_line.on_own_port(line, self.proxied(fields, macros))
        for kind, key, message in line.notes:
            self.note(kind, (*place, key), message)
        settled = line.settled(fit, self.facts)
        self.note("guessed", place, settled.told)
        pieces = settled.model
        model = msgspec.structs.replace(
            pieces,
            upstream=self.text(fields, "useModelName", macros, optional=True) or pieces.upstream,
            aliases=self.aliases(place, name, fit, fields),
            slots=self.slots(fields, pieces.slots),
            health=self.health(fields, macros, pieces),
            idle=self.idle(place, fields, pinned=pinned),
            stop=self.stop(place, fields, line),
            pinned=pinned,
            preload=preload,
            listed=fields.get("unlisted") is not True,
        )
        self.rest(place, fields)
        return model

    def text(self, fields: Mapping[str, Any], key: str, macros: Mapping[str, str], *, optional: bool = False) -> str:
        value = fields.get(key)
        if value is None and optional:
            return ""
        if not isinstance(value, str):
            raise Untranslatable(f"its {key} is {'missing' if value is None else 'no text'}")
        return expand(value, macros, self.facts.environ)

    def environment(self, place: Place, fields: Mapping[str, Any], macros: Mapping[str, str]) -> dict[str, str]:
        env: dict[str, str] = {}
        for number, entry in enumerate(_texts(fields.get("env"))):
            key, equals, value = entry.partition("=")
            if not equals or not key:
                self.note("left out", (*place, "env", number), f"{entry!r} is no NAME=value")
            elif is_secret(key) and value:
                told = f"{key} looks like a secret, which belongs in no startup file"
                self.note("left out", (*place, "env", number), told, f"set {key} in the supervisor's environment")
            else:
                env[key] = expand(value, macros, self.facts.environ)
        return env

    def proxied(self, fields: Mapping[str, Any], macros: Mapping[str, str]) -> str:
        return self.text(fields, "proxy", macros, optional=True)

    def aliases(self, place: Place, name: str, fit: str, fields: Mapping[str, Any]) -> list[str]:
        told = fields.get("aliases")
        listed = (
            [each.get("id") if isinstance(each, Mapping) else each for each in told if each] if _is_list(told) else []
        )
        if fit != name:
            self.note("changed", place, f"a name cannot be written {name!r}; it is {fit!r}")
        kept: list[str] = []
        for number, alias in enumerate([*listed, *self.made_aliases(fields, name)]):
            where: Place = (*place, "aliases", number)
            if not isinstance(alias, str) or fit_name(alias) != alias:
                self.note("left out", where, f"{alias!r} can be no name")
            elif self.owners.setdefault(alias, name) != name:
                self.note("left out", where, f"{alias} is a name of {self.owners[alias]} already")
            elif alias != fit and alias not in kept:
                kept.append(alias)
        return kept

    def made_aliases(self, fields: Mapping[str, Any], name: str) -> list[str]:
        """Names that llama-swap makes of `setParamsByID`: the model answers to them, without their parameters."""
        filters = fields.get("filters")
        by_id = filters.get("setParamsByID") if isinstance(filters, Mapping) else None
        return [str(key).replace("${MODEL_ID}", name) for key in by_id] if isinstance(by_id, Mapping) else []

    def slots(self, fields: Mapping[str, Any], told: int) -> int:
        limit = fields.get("concurrencyLimit")
        return min(limit, told or limit, 4_096) if _is_count(limit) and limit else told

    def health(self, fields: Mapping[str, Any], macros: Mapping[str, str], model: Model) -> ModelHealth:
        ready = self.top.get("healthCheckTimeout")
        within = Duration(max(ready, LEAST_READY_S) if _is_count(ready) else DEFAULT_READY_S)
        path = self.text(fields, "checkEndpoint", macros, optional=True) or DEFAULT_CHECK
        if path == "none":
            return ModelHealth(how="tcp", ready_within_s=within)
        if not path.startswith("/"):
            path = f"/{path}"
        return ModelHealth(path="" if path == HEALTH_PATHS[model.engine] else path, ready_within_s=within)

    def idle(self, place: Place, fields: Mapping[str, Any], *, pinned: bool) -> Idle:
        ttl = fields.get("ttl", -1)
        if ttl == -1:
            ttl = self.top.get("globalTTL", 0)
        if not _is_count(ttl) or not ttl:
            return Idle()
        if pinned:
            self.note("left out", (*place, "ttl"), "a model of a persistent group is pinned: it stays when idle")
            return Idle()
        return Idle(after_s=Duration(min(ttl, 31_536_000)))

    def stop(self, place: Place, fields: Mapping[str, Any], line: launch_line.LaunchLine) -> Stop:
        limit = fields.get("unloadTimeout", self.top.get("unloadTimeout"))
        stop = Stop(term_s=Duration(min(limit, 3_600) if _is_count(limit) and limit else 10))
        if fields.get("cmdStop"):
            if line.container is not None:
                self.note(
                    "needless", (*place, "cmdStop"), "TERM reaches the container through the command that runs it"
                )
            else:
                self.note(
                    "left out", (*place, "cmdStop"), "its process is stopped by a signal", "see stop: {signal: ...}"
                )
        return stop

    def rest(self, place: Place, fields: Mapping[str, Any]) -> None:
        """What a model has that was not used."""
        for key in fields:
            if key not in _MODEL_HANDLED:
                self.note(*_reason(_OF_MODELS, key, (*place, key)))
        filters = fields.get("filters")
        for key in filters if isinstance(filters, Mapping) else ():
            told = "requests are passed on as they are; set the engine's own defaults in its command"
            self.note("left out", (*place, "filters", key), told)


def _reason(known: Mapping[str, tuple[Kind, str]], key: str, place: Place) -> tuple[Kind, Place, str]:
    kind, message = known.get(key, ("left out", "no such key of llama-swap is known"))
    return kind, place, message


def _macros(value: object) -> dict[str, str]:
    """Macros by name, as texts; a value that is no text, number or truth is none."""
    if not isinstance(value, Mapping):
        return {}
    return {str(name): _as_text(each) for name, each in value.items() if isinstance(each, (str, int, float))}


def _as_text(value: str | float) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value).rstrip("\n")


def _texts(value: object) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
