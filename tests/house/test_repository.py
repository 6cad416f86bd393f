"""What holds of the repository's files, whatever they say."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = {
    ".git",
    ".venv",
    "var",
    "build",
    "dist",
    "__pycache__",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    ".hypothesis",
}
PACKAGES = ("common", "main_pc", "pc2", "tandem", "scripts")
LOCKS = sorted(ROOT.glob("requirements.lock")) + sorted(ROOT.glob("*/requirements.lock"))


def files(*suffixes: str) -> Iterator[Path]:
    for path in sorted(ROOT.rglob("*")):
        inside = path.relative_to(ROOT)
        if not OUTSIDE & set(inside.parts) and path.is_file() and (not suffixes or path.suffix in suffixes):
            yield inside


def pins(lock: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^ ;\\]+)", lock.read_text(), re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: str(lock.relative_to(ROOT)))
def test_a_lock_holds_hashes_and_no_address(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    assert not re.search(r"^-", text, re.MULTILINE), "options belong to the caller"
    entries = re.split(r"\n(?=\S)", text.strip())
    assert [entry for entry in entries if not entry.startswith("#") and "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize("lock", LOCKS[1:], ids=lambda lock: str(lock.relative_to(ROOT)))
def test_every_lock_pins_what_the_main_one_pins(lock: Path) -> None:
    main, other = pins(LOCKS[0]), pins(lock)
    assert {name: other[name] for name in other.keys() & main} == {name: main[name] for name in other.keys() & main}


def test_the_lock_pins_every_package_that_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = project["project"]["dependencies"] + project["dependency-groups"]["test"]
    names = {re.match(r"[A-Za-z0-9-]+", requirement)[0].lower() for requirement in asked}  # type: ignore[index]
    assert names <= pins(LOCKS[0]).keys()


def test_no_file_records_where_packages_came_from() -> None:
    recorders = {"uv.lock", "pylock.toml", "package-lock.json", "poetry.lock", "Pipfile.lock", ".npmrc", "pip.conf"}
    assert [path for path in files() if path.name in recorders] == []
    option = re.compile(r"--(?:extra-)?index-url|--find-links|--trusted-host")
    settings = [
        path
        for path in files(".in", ".lock", ".toml", ".txt", ".cfg", ".sh")
        if option.search((ROOT / path).read_text())
    ]
    assert settings == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_of_a_package_is_longer_than_500_lines(package: str) -> None:
    long = {path: lines for path in files(".py") if path.parts[0] == package and (lines := _lines(path)) > 500}
    assert long == {}


def test_no_module_takes_the_name_of_an_installed_one() -> None:
    taken = {"example"}
    assert [path for path in files(".py") if len(path.parts) == 1 and path.stem in taken] == []


def test_ci_runs_what_a_person_runs() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert script.read_text().rstrip().endswith("make test")


def test_make_help_gives_every_public_target_a_line() -> None:
    help_text = subprocess.run(
        ["make", "--silent", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    described = set(re.findall(r"^  make ([a-z0-9-]+) +\S", help_text, re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text()
    declared = set(re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)[1].split())  # type: ignore[index]
    assert described <= declared
    assert declared - described == {"lint", "types", "contracts", "house", "packages"}, "the parts of check and test"


def _lines(path: Path) -> int:
    return len((ROOT / path).read_text().splitlines())
