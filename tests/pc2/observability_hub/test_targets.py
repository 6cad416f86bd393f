from __future__ import annotations

import json
from pathlib import Path

from pc2.observability_hub.subjects import Subject
from pc2.observability_hub.targets import TargetsFile
from tests.pc2.observability_hub.saying import agent, process


def subject(name: str, near: bool = True, **fields: str) -> Subject:
    registered = agent(name, **fields)
    return Subject("pc2", name, "agent", near, told=process(name, health_check_port=4100), agent=registered)


def test_native_agents_of_this_machine_are_listed_with_their_health_ports(tmp_path: Path) -> None:
    file = tmp_path / "prometheus" / "agents.json"
    service = Subject("pc2", "rm", "service", True, told=process("rm", kind="service"))
    TargetsFile(file).keep([subject("a"), subject("far", near=False), subject("old", dress="plain"), service])
    assert json.loads(file.read_text()) == [{"targets": ["127.0.0.1:4100"], "labels": {"host": "pc2", "agent": "a"}}]


def test_the_file_is_replaced_when_something_changed_and_only_then(tmp_path: Path) -> None:
    file = tmp_path / "agents.json"
    kept = TargetsFile(file)
    kept.keep([subject("a")])
    first = file.stat().st_ino
    kept.keep([subject("a")])
    assert file.stat().st_ino == first
    kept.keep([])
    assert json.loads(file.read_text()) == []


def test_a_folder_that_cannot_be_written_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "in_the_way").write_text("")
    kept = TargetsFile(tmp_path / "in_the_way" / "agents.json")
    kept.keep([subject("a")])
    (tmp_path / "in_the_way").unlink()
    kept.keep([subject("a")])
    assert (tmp_path / "in_the_way" / "agents.json").exists()
