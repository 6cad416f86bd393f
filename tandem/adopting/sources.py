"""What `tandem adopt` is given: a llama-swap or compose file, or Ollama's folder; read, told apart, and handed to its translator.

Files are read as startup files are: as data, bounded in size, depth and number of values. Nothing is written.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from common.config.document import Document
from common.config.loader import read
from common.errors import BadRequest, NotFound, Unavailable
from tandem.adopting import compose, llama_swap, ollama_models
from tandem.adopting.proposal import Facts, Findings

Source = Literal["llama-swap", "compose", "ollama"]
MAX_MANIFESTS: Final = 10_000
MAX_MANIFEST_BYTES: Final = 256 * 1024
MAX_ENV_BYTES: Final = 256 * 1024


def findings(path: Path, kind: Source | None, card_bytes: int, environ: Mapping[str, str] = os.environ) -> Findings:
    """What a source comes to; told apart by what it holds unless `kind` says it. NotFound, Unavailable, or BadRequest."""
    if not path.exists():
        raise NotFound(f"there is no {path}", mend="name a llama-swap or compose file, or Ollama's folder")
    if path.is_dir() or kind == "ollama":
        return _of_ollama(path)
    document = _document(path.absolute())
    told = kind or kind_of(document)
    if told == "compose":
        return compose.translate(document, facts(card_bytes, _with_env_file(path, environ)))
    return llama_swap.translate(document, facts(card_bytes, environ))


def facts(card_bytes: int, environ: Mapping[str, str]) -> Facts:
    """This machine, as far as a translation asks about it."""
    return Facts(environ, file_bytes, os.path.isdir, card_bytes)


def kind_of(document: Document) -> Source:
    """Whose file it is. BadRequest where it is nobody's known."""
    if llama_swap.fits(document):
        return "llama-swap"
    if compose.fits(document):
        return "compose"
    mend = "it has neither models with a cmd nor services; say what it is with --as"
    raise BadRequest(f"{document.file} is neither a llama-swap nor a compose file", mend=mend)


def file_bytes(path: str) -> int | None:
    """The bytes of a file, or of the files in a folder of weights; None where there is none."""
    try:
        found = os.stat(path)
        if stat.S_ISDIR(found.st_mode):
            with os.scandir(path) as entries:
                sizes = [
                    entry.stat().st_size for entry in entries if entry.name.endswith((".safetensors", ".gguf", ".bin"))
                ]
            return sum(sizes) or None
        return found.st_size if stat.S_ISREG(found.st_mode) else None
    except (OSError, ValueError):
        return None


def _document(path: Path) -> Document:
    document = read(path)
    if isinstance(document, Document):
        return document
    raise BadRequest(f"{path}:{document.line}: {document.message}", mend=document.mend or "mend the file")


def _with_env_file(path: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of the `.env` beside a compose file, and those of the environment, which win."""
    told: dict[str, str] = {}
    try:
        with (path.parent / ".env").open("rb") as file:
            text = file.read(MAX_ENV_BYTES).decode(errors="replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and not name.startswith("#"):
            told[name.strip()] = _unquoted(value.strip())
    return told | dict(environ)


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value.partition(" #")[0].rstrip()


def _of_ollama(path: Path) -> Findings:
    """The models in Ollama's folder: `~/.ollama`, its `models`, or what OLLAMA_MODELS names."""
    folder = next((each for each in (path / "manifests", path / "models" / "manifests") if each.is_dir()), None)
    if folder is None:
        raise BadRequest(
            f"{path} has no manifests of Ollama", mend="name ~/.ollama, or the folder that OLLAMA_MODELS names"
        )
    found = Findings(str(folder))
    ollama_models.of_manifests(found, _manifests(folder), ollama_models.DEFAULT_URL)
    return found


def _manifests(folder: Path) -> list[tuple[str, bytes]]:
    manifests: list[tuple[str, bytes]] = []
    try:
        for where, folders, names in os.walk(folder):
            folders[:] = sorted(each for each in folders if not each.startswith("."))
            for name in sorted(each for each in names if not each.startswith(".")):
                path = Path(where) / name
                if len(manifests) >= MAX_MANIFESTS:
                    raise BadRequest(
                        f"{folder} holds more than {MAX_MANIFESTS} manifests", mend="name a smaller folder"
                    )
                with path.open("rb") as file:
                    manifests.append((str(path.relative_to(folder)), file.read(MAX_MANIFEST_BYTES)))
    except OSError as error:
        raise Unavailable(f"{error.filename}: {error.strerror}", mend="check who may read it") from None
    return manifests
