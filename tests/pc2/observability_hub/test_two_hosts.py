"""The hub's view across a link that is real, encrypted, and cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.api.observability_hub import PORT
from tests.lab.fabric import ROOT, until
from tests.lab.netns import TwoHosts
from tests.lab.two_hosts import TwoHostFabric, two_host_fabric
from tests.pc2.observability_hub.fabric import all_are


def echo(name: str) -> dict[str, Any]:
    command = ["{python}", "-m", "tests.lab.echo_agent"]
    return {"name": name, "command": command, "cwd": str(ROOT), "capabilities": ["echo"], "restart": {"when": "always"}}


def health(fabric: TwoHostFabric) -> dict[str, Any]:
    return fabric.ask("pc2", PORT, {"action": "get_health"}, timeout_ms=60_000) or {}


def test_a_cut_link_is_one_root_seen_from_both_ends_and_all_is_well_after_it(
    two_hosts: TwoHosts, tmp_path: Path
) -> None:
    agents = {"mainpc": [echo("far")], "pc2": [echo("near")]}

    def all_well() -> bool:
        seen = health(fabric)
        sides = [side for link in seen.get("links", ()) for side in link["sides"]]
        return all_are(seen, lambda verdict: verdict == "healthy") and len(seen["agents"]) == 2 and len(sides) == 3

    def cut_off() -> bool:
        seen = health(fabric)
        there = [one for part in ("services", "agents") for one in seen.get(part, ()) if one["host"] == "mainpc"]
        return (
            bool(there)
            and all(one["because"] == "mainpc" for one in there)
            and {one["host"]: one["verdict"] for one in seen["hosts"]} == {"mainpc": "unreachable", "pc2": "healthy"}
            and all(one["verdict"] == "healthy" for one in seen["services"] if one["host"] == "pc2")
            and (seen["links"][0]["verdict"], seen["links"][0]["sides"][0]["up"]) == ("unreachable", False)
            and seen["doubt"] == ""
        )

    with two_host_fabric(two_hosts, tmp_path, agents=agents) as fabric:
        until(all_well, 60.0, "health on both hosts and from both ends of the link")
        two_hosts.cut()
        until(cut_off, 30.0, "everything of mainpc behind mainpc")
        two_hosts.heal()
        until(all_well, 90.0, "health after the heal")
