from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from common.config.loader import load
from common.config.models import Model
from common.config.schema import Startup
from common.config.units import Size
from common.errors import BadRequest, Conflict, Unavailable
from tandem.adopting import writing
from tandem.adopting.proposal import Proposal

TEXT = "# mine\nversion: 1\nhost: h\nsupervisor: {}\nagents: []  # none\n"


def proposal(name: str = "m", **fields: Any) -> Proposal:
    told = {"name": name, "engine": "openai", "vram": Size(0), "url": "http://127.0.0.1:1", "upstream": name} | fields
    return Proposal(Model(**told), "src", 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "startup.yaml"
    path.write_text(TEXT)
    path.chmod(0o640)
    return path


def test_a_file_is_replaced_whole_and_the_old_one_kept(path: Path) -> None:
    file = writing.opened(path)
    text = writing.planned(file, [proposal()])
    assert path.read_text() == TEXT
    backup = writing.replaced(file, text)
    assert backup.name == "startup.yaml.before-adopt"
    assert backup.read_text() == TEXT
    assert path.read_text() == text
    assert text.startswith(TEXT)
    assert {path.stat().st_mode & 0o777, backup.stat().st_mode & 0o777} == {0o640}
    startup = load(path)
    assert isinstance(startup, Startup)
    assert [model.name for model in startup.models] == ["m"]
    again = writing.opened(path)
    second = writing.replaced(again, writing.planned(again, [proposal("n")]))
    assert second.name == "startup.yaml.before-adopt.2"
    assert sorted(os.listdir(path.parent)) == ["startup.yaml", backup.name, second.name]


def test_the_difference_is_the_lines_that_are_new(path: Path) -> None:
    file = writing.opened(path)
    assert writing.difference(file, file.text) == ""
    changed = [
        line
        for line in writing.difference(file, writing.planned(file, [proposal()])).splitlines()[2:]
        if line[:1] in "+-"
    ]
    assert changed[0] == "+"
    assert changed[1] == "+models:"
    assert all(line.startswith("+") for line in changed)
    path.write_text(TEXT.rstrip())
    assert "\\ No newline at end of file" in writing.difference(writing.opened(path), TEXT)


def test_a_link_stays_one(path: Path) -> None:
    link = path.with_name("link.yaml")
    link.symlink_to(path)
    file = writing.opened(link)
    writing.replaced(file, writing.planned(file, [proposal()]))
    assert link.is_symlink()
    assert "models:" in path.read_text()


def test_a_file_with_problems_is_left_alone(path: Path) -> None:
    path.write_text("version: 2\nhost: h\n")
    with pytest.raises(BadRequest, match=r"has 2 problems; the first: .*startup.yaml:1: "):
        writing.opened(path)
    path.write_text("a: [")
    with pytest.raises(BadRequest, match="is not YAML"):
        writing.opened(path)
    path.write_bytes(b"\xff")
    with pytest.raises(BadRequest, match="is not UTF-8"):
        writing.opened(path)
    with pytest.raises(BadRequest, match="cannot be read"):
        writing.opened(path.with_name("gone.yaml"))


def test_what_would_not_be_read_as_it_was_meant_is_refused(path: Path) -> None:
    file = writing.opened(path)
    with pytest.raises(BadRequest, match=r"would have a problem: .*is not this host's loopback"):
        writing.planned(file, [proposal(url="http://10.0.0.1:1")])
    with pytest.raises(BadRequest, match=r"with 3000 models more .* is larger than"):
        writing.planned(file, [proposal(f"m{n}", config="x" * 200) for n in range(3000)])
    path.write_text(TEXT + "supervisor_: 1\n")
    with pytest.raises(BadRequest, match="has 1 problems"):
        writing.opened(path)


def test_models_that_come_in_by_a_merge_are_not_lost(path: Path) -> None:
    path.write_text("<<: {models: [{name: a, engine: openai, vram: 0, url: 'http://127.0.0.1:2'}]}\n" + TEXT)
    with pytest.raises(BadRequest, match="nothing can be added safely"):
        writing.planned(writing.opened(path), [proposal()])


def test_a_file_that_was_changed_meanwhile_is_not_replaced(path: Path) -> None:
    file = writing.opened(path)
    path.write_text(TEXT + "# theirs\n")
    with pytest.raises(Conflict, match="was changed meanwhile"):
        writing.replaced(file, TEXT)
    assert path.read_text().endswith("# theirs\n")
    assert not [name for name in os.listdir(path.parent) if name.startswith(".")]


def test_a_folder_that_cannot_be_written_to_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = writing.opened(path)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(writing.tempfile, "mkstemp", refused)
        with pytest.raises(Unavailable, match="cannot be written to: Permission denied"):
            writing.replaced(file, TEXT)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refused)
        with pytest.raises(Unavailable, match="cannot be replaced: Permission denied"):
            writing.replaced(file, TEXT)
    assert path.read_text() == TEXT
