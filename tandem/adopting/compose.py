"""Compose files into managed models: services that reserve a GPU become `docker run` commands on the card that is leased.

Written from the Compose specification (services, deploy.resources.reservations.devices, gpus, runtime). A service that is
translated runs outside its project: what ties it to other services (networks, depends_on) is noted, since it is then gone.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from common.config.document import Document, Place
from common.config.models import ModelHealth, label_of
from common.config.sections import Stop
from common.config.units import MAX_SECONDS, Duration, parse_seconds
from tandem.adopting import commands, containers, interpolation, launch_line
from tandem.adopting.interpolation import Uninterpolable
from tandem.adopting.macros import is_secret
from tandem.adopting.proposal import Facts, Findings, Kind, Proposal
from tandem.adopting.shaping import HELD_CARD, HELD_PORT, Untranslatable, fit_name

_DEFAULT_PORTS: Final = {"llama-server": "8080", "vllm": "8000", "ollama": "11434", "comfyui": "8188"}
_PLAIN: Final = {
    "ipc": "--ipc", "user": "--user", "working_dir": "--workdir", "hostname": "--hostname", "platform": "--platform",
    "mem_limit": "--memory", "cpus": "--cpus", "pid": "--pid", "shm_size": "--shm-size", "runtime": "--runtime",
}  # fmt: skip
_LISTS: Final = {
    "cap_add": "--cap-add", "cap_drop": "--cap-drop", "security_opt": "--security-opt", "devices": "--device",
    "group_add": "--group-add", "dns": "--dns", "tmpfs": "--tmpfs",
}  # fmt: skip
_SWITCHES: Final = {"privileged": "--privileged", "read_only": "--read-only"}
_HANDLED: Final = frozenset(
    (*_PLAIN, *_LISTS, *_SWITCHES, "image", "command", "entrypoint", "environment", "env_file", "volumes", "ports", "deploy",
     "gpus", "ulimits", "extra_hosts", "stop_grace_period", "stop_signal", "network_mode", "build", "init")
)  # fmt: skip
_OTHERS: Final[dict[str, tuple[Kind, str]]] = {
    "container_name": ("changed", "the container has a name of its own, so that it never clashes with the project's"),
    "restart": ("needless", "a model is started when somebody asks for it"),
    "healthcheck": ("needless", "readiness is asked for over HTTP"),
    "logging": ("needless", "its output goes to the supervisor's log"),
    "labels": ("left out", "labels are for what watches the project"),
    "profiles": ("needless", "a model is started when somebody asks for it"),
    "pull_policy": ("left out", "docker run pulls an image that is missing"),
    "expose": ("needless", "its port is published on loopback"),
    "tty": ("needless", "its output goes to the supervisor's log"),
    "stdin_open": ("needless", "nobody types into it"),
    "networks": ("left out", "other containers reach it no more by its name; they find it at the front's address"),
    "depends_on": ("left out", "it runs outside the project; start what it needs as an agent"),
}
_DURATION: Final = re.compile(r"\d{1,6}(?:\.\d{1,6})?(?:ms|[smh])")
"""The pieces of a duration such as 1m30s."""
_CDI: Final = "nvidia.com/gpu"
"""How a card is named as a device of the Container Device Interface."""
_SIGNALS: Final = ("TERM", "INT", "QUIT", "HUP")


def fits(document: Document) -> bool:
    """Whether the file looks like compose's: services by name."""
    services = document.at(("services",))
    return isinstance(services, Mapping) and all(isinstance(each, Mapping) for each in services.values())


def translate(document: Document, facts: Facts) -> Findings:
    """The models of a compose file, and all that they do without. `facts.environ` has the variables of its `.env` too."""
    return _Translation(document, facts).run()


class _Translation:
    def __init__(self, document: Document, facts: Facts) -> None:
        self.document = document
        self.facts = facts
        self.found = Findings(document.file)
        self.folder = posixpath.dirname(document.file)

    def run(self) -> Findings:
        for problem in self.document.problems:
            self.found.note("skipped", problem.line, "", problem.message, problem.mend)
        services = self.document.at(("services",))
        for name, fields in services.items() if isinstance(services, Mapping) else ():
            place: Place = ("services", name)
            since = len(self.found.notes)
            try:
                self.one(place, str(name), fields)
            except Untranslatable as reason:
                self.found.skip(self.document, place, since, reason.message, reason.mend)
            except Uninterpolable as reason:
                mend = "set it where `tandem adopt` runs, or in the .env beside the file"
                self.found.skip(self.document, place, since, str(reason), mend)
        return self.found

    def note(self, kind: Kind, place: Place, message: str, mend: str = "") -> None:
        self.found.note_at(self.document, kind, place, message, mend)

    def one(self, place: Place, name: str, raw: Mapping[str, Any]) -> None:
        since = len(self.found.notes)
        fields = interpolation.filled(
            {key: each for key, each in raw.items() if key != "environment"}, self.facts.environ
        )
        image = fields.get("image") or ""
        cards = _cards(fields, dict(_pairs(raw.get("environment"))))
        if cards is None:
            self.note("needless", place, "asks for no GPU; compose goes on running it")
            return
        if not isinstance(image, str) or not image:
            raise Untranslatable("is built from a folder and has no image", "build it, and name the image")
        words = [*_split(fields.get("entrypoint"))[1:], *_split(fields.get("command"))]
        engine = commands.engine_of(words, image)
        if engine == "ollama":
            mend = "start it as you do, and `tandem adopt` lists its models"
            raise Untranslatable("is Ollama, which serves many models at one address", mend)
        options = self.options(place, fields, raw)
        port = self.port(place, fields, engine, words)
        head = ["docker", "run", "--rm", "--init", "--name", f"tandem-{label_of(name)}"]
        gpus = ["--gpus", f"device={cards}" if cards else "all"]
        line = launch_line.of_words([*head, *gpus, *port, *options, image, *words], self.folder, self.facts)
        for kind, _, message in line.notes:
            self.note(kind, place, message)
        fit = fit_name(launch_line.served_name(line, name)) or fit_name(name)
        if not fit:
            raise Untranslatable("its name has no letter or digit")
        settled = line.settled(fit, self.facts)
        self.note("guessed", place, settled.told)
        self.rest(place, fields)
        model = msgspec.structs.replace(settled.model, health=ModelHealth(), stop=self.stop(place, fields))
        alias = [fit_name(name)] if fit_name(name) not in ("", fit) else []
        made = msgspec.structs.replace(model, aliases=alias)
        self.found.propose(Proposal(made, self.document.file, self.document.line(place)), since)

    def options(self, place: Place, fields: Mapping[str, Any], raw: Mapping[str, Any]) -> list[str]:
        """Options of `docker run`."""
        told: list[str] = []
        for key, flag in _PLAIN.items():
            if isinstance(fields.get(key), (str, int, float)) and not (key == "runtime" and fields[key] == "nvidia"):
                told += (flag, str(fields[key]))
        for key, flag in _LISTS.items():
            told += (word for each in _listed(fields.get(key)) if not each.startswith(_CDI) for word in (flag, each))
        told += (flag for key, flag in _SWITCHES.items() if fields.get(key) is True)
        told += self.limits(fields)
        told += (word for each in self.mounts(place, fields) for word in ("-v", each))
        for file in _listed(fields.get("env_file")):
            told += ("--env-file", self.path(file))
        for entrypoint in _split(fields.get("entrypoint"))[:1]:
            told += ("--entrypoint", entrypoint)
        for key, value in self.environment(place, raw).items():
            told += ("-e", key if value is None else f"{key}={value}")
        return told

    def limits(self, fields: Mapping[str, Any]) -> list[str]:
        told: list[str] = []
        ulimits = fields.get("ulimits")
        for key, value in ulimits.items() if isinstance(ulimits, Mapping) else ():
            both = f"{value.get('soft')}:{value.get('hard')}" if isinstance(value, Mapping) else str(value)
            told += ("--ulimit", f"{key}={both}")
        hosts = fields.get("extra_hosts")
        pairs = [f"{host}:{at}" for host, at in hosts.items()] if isinstance(hosts, Mapping) else _listed(hosts)
        return told + [word for each in pairs for word in ("--add-host", each.replace("=", ":", 1))]

    def environment(self, place: Place, raw: Mapping[str, Any]) -> dict[str, str | None]:
        """Variables for the container (None: passed on from the supervisor's environment); secrets are never written down."""
        variables: dict[str, str | None] = {}
        for key, value in _pairs(raw.get("environment")):
            where: Place = (*place, "environment", key)
            if key in launch_line.CARDS:
                variables[key] = HELD_CARD
            elif is_secret(key):
                variables[key] = None
                told = f"{key} looks like a secret; it is taken from the supervisor's environment"
                self.note("changed", where, told, f"set {key} where the supervisor is started")
            else:
                variables[key] = None if value is None else interpolation.text(value, self.facts.environ)
        return variables

    def mounts(self, place: Place, fields: Mapping[str, Any]) -> list[str]:
        told: list[str] = []
        volumes = fields.get("volumes")
        for number, volume in enumerate(volumes if isinstance(volumes, list) else []):
            if isinstance(volume, Mapping):
                source, target = str(volume.get("source") or ""), str(volume.get("target") or "")
                mode = ["ro"] if volume.get("read_only") is True else []
                known = bool(volume.get("type", "bind") in ("bind", "volume") and source and target)
            else:
                source, target, *mode = [*str(volume).split(":", 2), ""] if ":" in str(volume) else ["", str(volume)]
                mode, known = [each for each in mode if each], bool(source)
            if known:
                told.append(":".join([self.source(place, source), target, *mode]))
            else:
                self.note("left out", (*place, "volumes", number), "only folders and named volumes are mounted")
        return told

    def source(self, place: Place, source: str) -> str:
        """A mount's source: a path from the file's folder, or a volume by the name that its project gives it."""
        if source.startswith((".", "/", "~")):
            return self.path(source)
        own = self.document.at(("volumes", source))
        settings = own if isinstance(own, Mapping) else {}
        if settings.get("external") is True or settings.get("name"):
            return str(settings.get("name") or source)
        project = self.document.at(("name",)) or posixpath.basename(self.folder)
        return f"{re.sub(r'[^a-z0-9_-]', '', str(project).lower())}_{source}"

    def path(self, path: str) -> str:
        home = self.facts.environ.get("HOME", "")
        expanded = home + path[1:] if path == "~" or path.startswith("~/") else path
        return posixpath.normpath(posixpath.join(self.folder, expanded))

    def port(self, place: Place, fields: Mapping[str, Any], engine: str, words: list[str]) -> list[str]:
        """The one port that is published, and what is said of the others."""
        if fields.get("network_mode") == "host":
            raise Untranslatable(
                "uses the host's network, so that its port cannot be chosen", "publish its port with ports"
            )
        told = fields.get("ports")
        inside = [_inside(each) for each in told] if isinstance(told, list) else []
        known = [each for each in inside if each]
        usual = commands.option(words, "--port") or _DEFAULT_PORTS.get(engine, "")
        if not known and not usual:
            raise Untranslatable("publishes no port that it could be asked at", "publish its port with ports")
        own = usual if usual in known or not known else known[0]
        for number, each in enumerate(inside):
            if each != own:
                self.note(
                    "left out",
                    (*place, "ports", number),
                    f"one port serves the model, {own}; this one is not published",
                )
        return ["-p", f"127.0.0.1:{HELD_PORT}:{own}"]

    def stop(self, place: Place, fields: Mapping[str, Any]) -> Stop:
        signal = str(fields.get("stop_signal") or "TERM").upper().removeprefix("SIG")
        if signal not in _SIGNALS:
            self.note("left out", (*place, "stop_signal"), f"it is stopped by one of {', '.join(_SIGNALS)}")
            signal = "TERM"
        pieces = _DURATION.findall(str(fields.get("stop_grace_period") or "10s"))
        patience = sum(parse_seconds(piece) for piece in pieces or ["10s"])
        return Stop(signal=signal, term_s=Duration(min(patience, MAX_SECONDS)))  # type: ignore[arg-type]

    def rest(self, place: Place, fields: Mapping[str, Any]) -> None:
        deploy = fields.get("deploy")
        for key in deploy if isinstance(deploy, Mapping) else ():
            if key != "resources":
                self.note("left out", (*place, "deploy", key), "a model runs once, started where there is room")
        for key in fields:
            if key not in _HANDLED and not key.startswith("x-"):
                kind, message = _OTHERS.get(key, ("left out", "has no counterpart here"))
                self.note(kind, (*place, key), message)


def _cards(fields: Mapping[str, Any], environment: Mapping[str, str | None]) -> str | None:
    """The cards that a service asks for, by commas (empty: any); None where it asks for none."""
    asked = _reserved(fields)
    if asked is not None:
        return asked
    if any(each.startswith(_CDI) for each in _listed(fields.get("devices"))):
        return ""
    gpus = fields.get("gpus")
    if gpus is not None:
        return _of_devices(gpus) if isinstance(gpus, list) else ""
    visible = environment.get("NVIDIA_VISIBLE_DEVICES")
    if fields.get("runtime") == "nvidia" or visible not in (None, "void", "none", ""):
        return "" if visible in (None, "all", "") else visible
    return None


def _reserved(fields: Mapping[str, Any]) -> str | None:
    value: Any = fields
    for key in ("deploy", "resources", "reservations", "devices"):
        value = value.get(key) if isinstance(value, Mapping) else None
    return _of_devices(value) if isinstance(value, list) else None


def _of_devices(devices: list[Any]) -> str | None:
    for device in devices:
        if not isinstance(device, Mapping):
            continue
        if device.get("driver") in ("nvidia", "cdi", None) and "gpu" in (device.get("capabilities") or ["gpu"]):
            ids, count = device.get("device_ids"), device.get("count")
            if isinstance(ids, list) and ids:
                return ",".join(str(each) for each in ids)
            wanted = int(str(count)) if str(count).isascii() and str(count).isdigit() else 1
            return ",".join(str(each) for each in range(min(wanted, 16))) if wanted > 1 else ""
    return None


def _pairs(environment: object) -> list[tuple[str, str | None]]:
    """Variables as compose takes them: a mapping, or NAME=value by lines; without a value they are passed on."""
    if isinstance(environment, Mapping):
        return [(str(key), None if value is None else _scalar(value)) for key, value in environment.items()]
    entries = (entry.partition("=") for entry in _listed(environment))
    return [(key, value if equals else None) for key, equals, value in entries]


def _inside(port: object) -> str:
    """The port inside the container; empty where it is a range or none of TCP."""
    if isinstance(port, Mapping):
        return str(port.get("target") or "") if port.get("protocol", "tcp") == "tcp" else ""
    found = containers.published(str(port))
    return found.inside if found else ""


def _split(value: object) -> list[str]:
    """A command as compose takes it: words, or a line."""
    if isinstance(value, list):
        return [_scalar(each) for each in value]
    try:
        return shlex.split(value) if isinstance(value, str) else []
    except ValueError as error:
        raise Untranslatable(f"its command cannot be split into words: {error}") from None


def _listed(value: object) -> list[str]:
    """One text or a list of them."""
    return [value] if isinstance(value, str) else [_scalar(each) for each in value] if isinstance(value, list) else []


def _scalar(value: object) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
