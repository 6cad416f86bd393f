from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from common.api.core_orchestrator import Agent
from common.supervisor.scraped import FILE, ScrapedAgents
from tests.common.registry.test_copy import agent


def native(name: str, **fields: Any) -> Agent:
    known = {"dress": "native", "location": "pc2", "health_check_port": 4100, "liveness": "alive"}
    return msgspec.structs.replace(agent(name), **known | fields)


def listed(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / FILE).read_text())
    return found


def test_native_agents_of_this_host_are_listed_with_their_health_ports(tmp_path: Path) -> None:
    others = [
        native("far", location="mainpc"),
        native("old", dress="plain"),
        native("overdue", liveness="expired"),
        native("silent", health_check_port=0),
    ]
    assert ScrapedAgents(tmp_path, "pc2").keep([native("b", health_check_port=4101), *others, native("a")])
    assert listed(tmp_path) == [
        {"targets": ["127.0.0.1:4100"], "labels": {"host": "pc2", "agent": "a"}},
        {"targets": ["127.0.0.1:4101"], "labels": {"host": "pc2", "agent": "b"}},
    ]


def test_the_file_is_replaced_when_something_changed_and_only_then(tmp_path: Path) -> None:
    kept = ScrapedAgents(tmp_path, "pc2")
    kept.keep([native("a")])
    first = (tmp_path / FILE).stat().st_ino
    assert kept.keep([native("a")])
    assert (tmp_path / FILE).stat().st_ino == first
    assert kept.keep([])
    assert listed(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_tried_again(tmp_path: Path) -> None:
    in_the_way = tmp_path / FILE.parent
    in_the_way.write_text("")
    kept = ScrapedAgents(tmp_path, "pc2")
    assert not kept.keep([native("a")])
    in_the_way.unlink()
    assert kept.keep([native("a")])
    assert len(listed(tmp_path)) == 1
