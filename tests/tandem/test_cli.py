from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from common import errors
from common.errors import BY_CODE, Internal, TandemError
from tandem import exits, output
from tandem.cli import COMMANDS, ended
from tandem.commands.run import model_named
from tandem.exits import Exit
from tests.tandem.conftest import Tandem
from tests.tandem.fabric import Fabric


def test_the_help_lists_every_command_and_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(["--help"]) == Exit.OK
    told = capsys.readouterr().out
    for command in COMMANDS:
        assert f"\n  {command} " in told
    for code in Exit:
        assert f"{code.value:>3}  {exits.MEANINGS[code]}" in told


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_json(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended([command, "--help"]) == Exit.OK
    told = capsys.readouterr().out
    assert told.startswith(f"Usage: tandem {command} ")
    assert "--json" in told or "JSON" in told or command == "start"


def test_the_help_imports_neither_sockets_nor_a_loop() -> None:
    seen = subprocess.run(
        [sys.executable, "-c", "import sys, tandem.cli; print(sorted({'zmq', 'asyncio', 'rich'} & set(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert seen.stdout.strip() == "[]"


def test_the_script_exits_with_the_commands_code() -> None:
    seen = subprocess.run([sys.executable, "-m", "tandem", "nope"], capture_output=True, text=True, check=False)
    assert seen.returncode == Exit.USAGE
    assert "No such command 'nope'" in seen.stderr
    assert "Traceback" not in seen.stderr


def test_a_misspelt_command_is_told_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(["stats"]) == Exit.USAGE
    assert "No such command 'stats'; did you mean status?" in capsys.readouterr().err


def test_a_wrong_command_line_is_a_json_error_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(["plan", "--json"]) == Exit.USAGE
    told = capsys.readouterr()
    assert msgspec.json.decode(told.out)["error"]["code"] == "usage"
    assert "Missing option '--vram'" in told.err


def test_every_error_code_has_an_exit_code() -> None:
    for kind in BY_CODE.values():
        assert exits.exit_for(kind("x")) is not Exit.OK
    assert exits.exit_for(errors.NoCapacity("x")) is Exit.TRY_LATER
    assert exits.exit_for(errors.Unavailable("x")) is Exit.UNAVAILABLE
    assert exits.exit_for(errors.Forbidden("x")) is Exit.NOT_ALLOWED
    assert exits.exit_for(errors.DeadlineExceeded("x")) is Exit.DEADLINE
    assert exits.exit_for(errors.BadRequest("x")) is Exit.BAD_REQUEST
    assert exits.exit_for(Internal("x")) is Exit.INTERNAL


def test_an_error_says_how_to_mend_it() -> None:
    assert "make start" in output.error_line(errors.Unavailable("nobody is there"))
    assert output.error_line(errors.Unavailable("away", mend="wait")) == "away (wait)"
    assert output.error_line(errors.Conflict("already so")) == "already so"


async def test_an_absent_service_is_69_with_an_error_document(fabric: Fabric, tandem: Tandem) -> None:
    await fabric.stop("CoreOrchestrator")
    code, out, err = await tandem("agents", "--json")
    assert code == Exit.UNAVAILABLE
    assert msgspec.json.decode(out)["error"].keys() == {"code", "message", "retryable", "retry_after_ms", "details"}
    assert err.startswith("tandem: nobody listens at ")
    assert err.count("\n") == 1


def _broken(error: BaseException) -> object:
    class Broken:
        def main(self, *_: object, **__: object) -> int:
            raise error

    return Broken()


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (ZeroDivisionError("division by zero"), Exit.INTERNAL, "this is a bug in tandem"),
        (OSError(28, "No space left on device", "report.json"), Exit.UNAVAILABLE, "No space left on device"),
        (KeyboardInterrupt(), Exit.INTERRUPTED, ""),
        (TandemError("odd"), Exit.INTERNAL, "odd"),
    ],
)
def test_nothing_shows_a_traceback(
    error: BaseException,
    code: Exit,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("tandem.cli.cli", _broken(error))
    assert ended(["status"]) == code
    err = capsys.readouterr().err
    assert told in err
    assert "Traceback" not in err


def test_start_tells_what_is_wrong_with_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(["start", str(tmp_path / "absent.yaml")]) == Exit.BAD_ANSWER
    assert "absent.yaml:1: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["--help", "check config/startup_main.yaml"])
def test_a_reader_that_went_away_ends_it_in_silence(words: str, repository: Path) -> None:
    script = f"(sleep 0.5; {sys.executable} -m tandem {words}; echo $? >&2) | true"
    seen = subprocess.run(["bash", "-c", script], cwd=repository, capture_output=True, text=True, check=True)
    assert seen.stderr == "141\n"


@pytest.mark.parametrize("words", ["--help", "check config/startup_main.yaml", "check --json config/startup_main.yaml"])
def test_a_full_disk_under_its_output_is_one_sentence(words: str, repository: Path) -> None:
    script = f"{sys.executable} -m tandem {words} >/dev/full; echo $? >&2"
    seen = subprocess.run(["bash", "-c", script], cwd=repository, capture_output=True, text=True, check=True)
    assert seen.stderr == "tandem: the system: No space left on device (check it and try again)\n69\n"


def test_closed_streams_are_no_trouble(repository: Path) -> None:
    script = f"{sys.executable} -m tandem check config/startup_main.yaml >&-; echo $?; {sys.executable} -m tandem x 2>&-; echo $?"
    seen = subprocess.run(["bash", "-c", script], cwd=repository, capture_output=True, text=True, check=True)
    assert (seen.stdout, seen.stderr) == ("0\n2\n", "")


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_colour_unless_it_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", Screen())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert output.paint("x", "good") == "\x1b[32mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert output.paint("x", "good") == "x"


def test_a_table_fits_the_terminal_and_no_cell_steers_it(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("NO_COLOR", "1")
    output.table(("A", "B"), [("one\x1b[2J", 5), ("two\nlines", "x" * 40)], right=(1,))
    lines = screen.getvalue().splitlines()
    assert all(len(line) <= 20 for line in lines)
    assert "\x1b" not in screen.getvalue()
    assert len(lines) == 3


def test_a_terminal_gets_a_log_without_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr("sys.stdout", screen)
    output.write("a\x1b]0;title\x07\tb\n")
    assert screen.getvalue() == "a�]0;title�\tb\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.25, "250 ms"), (3.4, "3 s"), (59.4, "59 s"), (185.0, "3m 05s"), (float("inf"), "-")]
)
def test_ages_are_short(seconds: float, text: str) -> None:
    assert output.age(seconds) == text


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("/usr/bin/python3.11 -u jobs/train.py --epochs 3", "train.py"),
        ("python -X dev -W error jobs/train.py", "train.py"),
        ("python3 -m jobs.train --fast", "jobs.train"),
        ("python -c print(1)", "python"),
        ("python", "python"),
        ("python -m", "python"),
        ("/opt/bin/llama-server -m a.gguf", "llama-server"),
        ("./-odd!", "odd_"),
    ],
)
def test_a_run_is_leased_under_what_runs_and_python_scripts_each_under_their_own(command: str, name: str) -> None:
    assert model_named("", command.split()) == name
    assert model_named("given", command.split()) == "given"
