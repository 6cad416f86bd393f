from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.api import models
from common.errors import UnknownVerb
from common.gpu.process_identity import start_time
from common.gpu.simulated import GIB, cards_folder, ensure_cards
from tandem import asking
from tandem.adopting import looking
from tandem.cli import ended
from tandem.commands import adopt
from tandem.exits import Exit
from tests.lab.engines import ModelServer, start

STARTUP = "# our house\nversion: 1\nhost: lab\nsupervisor: {}\n\nagents: []  # none yet\n"
SWAP = """\
macros: {server: "sh /opt/serve.sh --port ${PORT}"}
models:
  tiny: {cmd: "${server} -m tiny.gguf", aliases: [small], description: the small one}
  absent: {cmd: "no-such-program-here --port ${PORT}"}
  broken: {cmd: "${nowhere}"}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    ensure_cards(cards_folder(home, "lab"), "lab", (24 * GIB,))
    return home


@pytest.fixture(scope="module")
def servers(home: Path) -> Iterator[list[ModelServer]]:
    cards = cards_folder(home, "lab")
    with start("ollama", cards=cards, models={"qwen3:8b": "5GiB"}) as ollama, start("comfyui", cards=cards) as comfyui:
        yield [ollama, comfyui]


@pytest.fixture
def startup(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TANDEM_HOME", str(home))
    monkeypatch.setenv("TANDEM_SIMULATE_CARDS", "always")
    monkeypatch.setattr(looking, "USUAL_PORTS", ())
    path = tmp_path / "startup.yaml"
    path.write_text(STARTUP)
    return path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    code = ended(["adopt", "--json", *words])
    return code, msgspec.json.decode(capsys.readouterr().out)


def test_engines_that_run_are_adopted_and_go_on_running(
    startup: Path, servers: list[ModelServer], capsys: pytest.CaptureFixture[str]
) -> None:
    ports = [word for server in servers for word in ("--port", str(server.port))]
    before = [(server.pid, start_time(server.pid)) for server in servers]
    code, told = run(capsys, "--into", str(startup), *ports)
    assert code == Exit.OK
    assert {each["name"] for each in told["added"]} == {"qwen3:8b", "comfyui"}
    assert not told["applied"]
    assert startup.read_text() == STARTUP
    code, told = run(capsys, "--into", str(startup), *ports, "--apply")
    assert (code, told["applied"], told["why_not"]) == (Exit.OK, True, "no supervisor of lab is known here")
    assert startup.read_text().startswith(STARTUP)
    assert Path(told["backup"]).read_text() == STARTUP
    after = startup.read_text()
    assert ended(["check", str(startup)]) == Exit.OK
    capsys.readouterr()
    code, told = run(capsys, "--into", str(startup), *ports, "--apply")
    assert (told["added"], told["diff"], told["applied"]) == ([], "", False)
    assert set(told["present"]) == {"qwen3:8b", "comfyui"}
    assert startup.read_text() == after
    assert [(server.pid, start_time(server.pid)) for server in servers] == before
    assert all(not server.told()["acts"] for server in servers)


def test_a_configuration_is_shown_with_all_that_it_loses(startup: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = startup.with_name("swap.yaml")
    source.write_text(SWAP)
    assert ended(["adopt", str(source), "--into", str(startup)]) == Exit.OK
    told = capsys.readouterr()
    assert "+  - name: tiny\n" in told.out
    assert f"{source}:3: models.tiny.description: a model has no description\n" in told.out
    assert f"{source}:5: models.broken: names ${{nowhere}}, which is defined nowhere" in told.out
    assert "there is no program 'no-such-program-here' here" in told.out
    assert told.out.index("skipped:") < told.out.index("left out:") < told.out.index("guessed:")
    assert "2 models would be added" in told.err
    assert startup.read_text() == STARTUP
    assert ended(["adopt", str(source), "--into", str(startup), "--apply"]) == Exit.OK
    told = capsys.readouterr()
    assert "2 models added" in told.err
    assert "at its next start (no supervisor of lab is known here)" in told.err
    assert ended(["adopt", str(source), "--into", str(startup)]) == Exit.OK
    told = capsys.readouterr()
    assert "nothing to add" in told.err
    assert "2 models there already" in told.err
    assert "+" not in told.out


def test_the_supervisor_is_told_and_its_refusal_is_no_failure(
    startup: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    class Fake:
        def call(self, target: str, verb: Any, request: object) -> None:
            asked.append((target, verb.name))
            if len(asked) > 1:
                raise UnknownVerb("no such verb")

    @contextmanager
    def fabric() -> Iterator[Fake]:
        yield Fake()

    monkeypatch.setattr(asking, "hosts", lambda: ["lab"])
    monkeypatch.setattr(asking, "fabric", fabric)
    source = startup.with_name("swap.yaml")
    for name, told in (("one", True), ("two", False)):
        source.write_text(f"models: {{{name}: {{cmd: 'sh -c serve --port ${{PORT}}'}}}}")
        code, document = run(capsys, str(source), "--into", str(startup), "--apply")
        assert (code, document["applied"], document["told"]) == (Exit.OK, True, told)
    assert document["why_not"] == "no such verb"
    assert asked == [("Supervisor/lab", "reload_models")] * 2
    assert models.RELOAD_MODELS.access == "control"
    source.write_text("models: {three: {cmd: 'sh --port ${PORT}'}}")
    monkeypatch.setattr(asking, "hosts", list)
    assert ended(["adopt", str(source), "--into", str(startup), "--apply"]) == Exit.OK


def test_what_cannot_be_read_ends_with_its_reason(startup: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = run(capsys, str(startup.with_name("gone.yaml")), "--into", str(startup))
    assert (code, told["error"]["code"]) == (Exit.BAD_ANSWER, "not_found")
    startup.write_text("version: 1\n")
    code, told = run(capsys, "--into", str(startup))
    assert (code, told["error"]["code"]) == (Exit.BAD_REQUEST, "bad_request")


def test_the_startup_file_is_the_hosts_own_unless_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_HOST", "pc2")
    assert adopt.default_file() == Path("config/startup_pc2.yaml")
    monkeypatch.delenv("TANDEM_HOST")
    assert adopt.default_file() == Path("config/startup_main.yaml")
    assert os.path.exists(Path(__file__).parents[2] / adopt.default_file())
    assert adopt.counted(1) == "1 model"
