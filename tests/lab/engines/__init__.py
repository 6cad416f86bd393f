"""Stand-ins for model servers: real processes that speak the documented HTTP APIs, hold simulated VRAM, and lie when told to.

    with start("ollama", cards=folder, models={"llama3.2": "2GiB"}) as server:
        ...  server.url, server.pid, server.held(), server.tell(lies=["keeps_all"])

Kinds: llama-server, vllm, ollama, comfyui, openai, echo. Without this helper: `python -m tests.lab.engines.llama_server --port
8080 --model some.gguf`, and likewise vllm, ollama, comfyui, openai_server, echo, with the flags of the real program; the first
line on stdout is `listening on URL`. They take no notice of flags that they do not know.

Environment, besides TANDEM_SIMULATED_CARDS and CUDA_VISIBLE_DEVICES (all cards named there are used alike; the first card
where it is not set):

    STAND_IN_VRAM      bytes a model takes on each card, such as 4GiB
    STAND_IN_MODELS    what ollama, comfyui and a router know: name=bytes,name=bytes
    STAND_IN_RESIDUAL  what vllm keeps in its sleep and comfyui always holds (default 300MiB)
    STAND_IN_LOAD_S    seconds a load takes (default 0), its memory growing meanwhile
    STAND_IN_WAKE_S    seconds a wake takes
    STAND_IN_FREE_S    seconds between the answer to an unload or a sleep and the memory's going
    STAND_IN_TOKEN_S   seconds between two tokens; STAND_IN_JOB_S seconds a job of comfyui takes
    STAND_IN_READS     a load reads its model's file to the end, so that disk and page cache count
    STAND_IN_LIES      the lies told from the start, separated by commas
    STAND_IN_TIED      ends when its stdin does

`GET /stand-in` tells what it really holds, `POST /stand-in` with {"lies": [...], "load_s": ...} changes both from then on.

Lies: keeps_all and keeps_half (unload and sleep answer success and keep all or half), wake_leaks (a wake fails half-way and
keeps half), never_ready, crashes_at_load (half-way), misreports (lists say half of what is held), refuses (acts answer 500),
ignores_term; and for every request at all: hangs, error, html, truncated, resets, huge.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

Kind = Literal["llama-server", "vllm", "ollama", "comfyui", "openai", "echo"]

ROOT = Path(__file__).resolve().parents[3]
MODULES: Mapping[Kind, str] = {
    "llama-server": "llama_server",
    "vllm": "vllm",
    "ollama": "ollama",
    "comfyui": "comfyui",
    "openai": "openai_server",
    "echo": "echo",
}
LISTENING = "listening on "
START_S = 60.0
"""Far beyond the half second it takes: the machine may be several times slower, and busy."""


class ModelServer:
    """One stand-in that was started; `stop` ends it by its pid, as leaving a `with` does."""

    def __init__(self, kind: Kind, process: subprocess.Popen[str]) -> None:
        self.kind = kind
        self.pid = process.pid
        self.url = ""
        self._process = process

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def wait(self) -> Self:
        """Returns once it listens; RuntimeError where it ended before, or did not come up in a minute."""
        assert self._process.stdout is not None
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            if select.select([self._process.stdout], [], [], 1.0)[0]:
                line = self._process.stdout.readline()
                if line.startswith(LISTENING):
                    self.url = line.removeprefix(LISTENING).strip()
                    return self
                if not line:
                    raise RuntimeError(f"{self.kind} ended with {self._process.wait()} before it listened")
        raise RuntimeError(f"{self.kind} does not listen after {START_S:g} s")

    def told(self) -> dict[str, Any]:
        """What it is and does really: kind, pid, lies, held, parts, requests, acts."""
        return self._control(None)

    def held(self) -> int:
        """The bytes it holds on each card."""
        return int(self.told()["held"])

    def tell(self, **changes: Any) -> dict[str, Any]:
        """Changes its lies, or load_s, wake_s, free_s, token_s, job_s."""
        return self._control(json.dumps(changes).encode())

    def returncode(self) -> int | None:
        """How it ended, None while it runs."""
        return self._process.poll()

    def ended(self, within_s: float = START_S) -> int:
        """How it ended, waiting for it."""
        return self._process.wait(within_s)

    def kill(self) -> None:
        """Ends it as kill -9 does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ends it in good order, or as kill -9 does where it ignores that; may be called again."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._end(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _control(self, body: bytes | None) -> dict[str, Any]:
        request = urllib.request.Request(f"{self.url}/stand-in", body, {"Content-Type": "application/json"})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=START_S) as answer:
            found: dict[str, Any] = json.load(answer)
            return found


def start(
    kind: Kind,
    *arguments: str,
    cards: Path | None = None,
    visible: str | None = None,
    vram: str = "",
    models: Mapping[str, str] | None = None,
    lies: Sequence[str] = (),
    wait: bool = True,
    env: Mapping[str, str] | None = None,
    **settings: float | str,
) -> ModelServer:
    """Starts one on a free port of 127.0.0.1 (unless `arguments` name one) and waits until it listens.

    `cards` is a folder of simulated cards, `visible` a value for CUDA_VISIBLE_DEVICES; further settings are the variables
    of the environment by the end of their name: `load_s=0.5`, `residual="1GiB"`.
    """
    named = {f"STAND_IN_{name.upper()}": str(value) for name, value in settings.items()}
    known = ",".join(f"{name}={size}" for name, size in (models or {}).items())
    optional = {
        "TANDEM_SIMULATED_CARDS": str(cards) if cards else "",
        "STAND_IN_VRAM": vram,
        "STAND_IN_MODELS": known,
        "STAND_IN_LIES": ",".join(lies),
    }
    environment = {name: value for name, value in os.environ.items() if name not in _STRAYS}
    environment |= {"PYTHONPATH": str(ROOT), "STAND_IN_TIED": "1", "OLLAMA_HOST": "127.0.0.1:0"} | named
    environment |= {name: value for name, value in optional.items() if value}
    environment |= {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    port = () if "--port" in arguments or kind == "ollama" else ("--port", "0")
    process = subprocess.Popen(
        [sys.executable, "-m", f"tests.lab.engines.{MODULES[kind]}", *arguments, *port],
        cwd=ROOT,
        env=environment | dict(env or {}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    server = ModelServer(kind, process)
    if not wait:
        return server
    try:
        return server.wait()
    except BaseException:
        server.kill()
        raise


_STRAYS = ("PYTHONDONTWRITEBYTECODE", "TANDEM_SIMULATED_CARDS", "CUDA_VISIBLE_DEVICES")
"""A start is five times slower without compiled files, and a card is named for each stand-in."""
