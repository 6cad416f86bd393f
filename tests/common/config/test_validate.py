from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from common.config.decode import decode
from common.config.document import Document
from common.config.schema import Entry, Startup
from common.config.validate import Candidate, Machine, judge


def entry(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "command": ["run"], **fields}


def candidate(host: str = "h", file: str = "", **fields: Any) -> Candidate:
    value = {"version": 1, "host": host, "supervisor": {}} | fields
    document = Document(file or f"{host}.yaml", value)
    startup, problems = decode(document)
    assert problems == []
    return Candidate(document, startup)


def problems(*candidates: Candidate, missing: str = "") -> list[str]:
    def exists(startup: Startup, entry: Entry) -> bool:
        return entry.command[0] != missing

    machine = Machine(exists, lambda path: path == "/somewhere", frozenset({0, 1, 3}))
    return [str(problem).replace(":1:", ":") for problem in judge(candidates, machine)]


def far(address: str, listen: Sequence[str] = ("10.0.0.1",)) -> dict[str, Any]:
    """A peer at another address."""
    return {"listen": list(listen), "peers": {"o": {"address": address, "supervisor_port": 1, "events_port": 2}}}


def test_a_peer_is_named_by_its_address_or_its_host_name_and_a_missing_one_is_told_elsewhere() -> None:
    for address in ("10.0.0.2", "pc2", "pc2.lan", "localhost"):
        assert problems(candidate(**far(address))) == []
    assert problems(candidate(**far("127.0.0.1", listen=["127.0.0.1"]), agents=[])) == []
    peers = {"o": {"supervisor_port": 1, "events_port": 2}}
    document = Document("h.yaml", {"version": 1, "host": "h", "supervisor": {}, "peers": peers})
    startup, told = decode(document)
    assert len(told) == 1
    assert problems(Candidate(document, startup)) == []


def test_a_sound_file_has_no_problem() -> None:
    sound = candidate(
        listen=["127.0.0.1", "127.0.0.2", "10.0.0.1"],
        peers={"o": {"address": "10.0.0.2", "supervisor_port": 7091, "events_port": 7591}},
        supervisor={"port": 7090, "events_port": 7590, "health_check_port": 8090},
        services=[entry("core_orchestrator", port=7000)],
        agents=[entry("a", depends_on=["core_orchestrator", "o/x"], port=9000), entry("b", after=["a"])],
    )
    assert problems(sound) == []


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"agents": [entry("a"), entry("a")]}, "agents[1].name: a is already the name of line 1's process"),
        ({"services": [entry("a")], "agents": [entry("a")]}, "agents[0].name: a is already"),
        ({"agents": [entry("supervisor")]}, "agents[0].name: supervisor is the supervisor's own name"),
        ({"vitals_interval_s": "0s"}, "vitals_interval_s: too often (write 100ms or more)"),
        ({"agents": [entry("a", logs={"max_bytes": 0})]}, "agents[0].logs.max_bytes: too small to work"),
        ({"agents": [entry("a", health={"timeout_s": 0})]}, "agents[0].health.timeout_s: too small"),
        ({"agents": [entry("a", health={"ready_within_s": 0})]}, "agents[0].health.ready_within_s: too small"),
        ({"agents": [entry("a", command=["run", "a\0b"])]}, "agents[0].command[1]: 'a\\x00b' cannot be given"),
        ({"agents": [entry("a", env={"A": "\ud800"})]}, "agents[0].env.A: '\\ud800' cannot be given to a program"),
        ({"agents": [entry("a", cwd="\0")]}, "agents[0].cwd: "),
        ({"agents": [entry("a", env={"A=B": "x"})]}, "agents[0].env: 'A=B' cannot name a variable"),
        ({"listen": []}, "listen: no address to listen on"),
        ({"listen": ["*"]}, "listen[0]: * would listen everywhere"),
        ({"listen": ["0.0.0.0"]}, "listen[0]: 0.0.0.0 would listen everywhere"),
        ({"listen": ["::"]}, "listen[0]: :: would listen everywhere"),
        ({"listen": ["eth0"]}, "listen[0]: 'eth0' is not an IP address"),
        ({"listen": ["fe80::1"]}, "listen[0]: fe80::1 is an IPv6 address, which is not served"),
        ({"listen": ["224.0.0.1"]}, "listen[0]: 224.0.0.1 is no host's address"),
        ({"agents": [entry("operator")]}, "agents[0].name: operator is the name of one of the host's own key files"),
        ({"peers": {"h": {"address": "x", "supervisor_port": 1, "events_port": 2}}}, "peers.h: h is this host itself"),
        (
            {"peers": {"o": {"address": "", "supervisor_port": 1, "events_port": 2}}},
            "peers.o.address: the address is empty",
        ),
        (far("0.0.0.0"), "peers.o.address: 0.0.0.0 is no host's address"),
        (far("*"), "peers.o.address: * is no host's address"),
        (far("::1"), "peers.o.address: ::1 is an IPv6 address, which is not reached"),
        (far("a host"), "peers.o.address: 'a host' is neither an IP address nor a host's name"),
        (
            far("10.0.0.2", listen=["127.0.0.1"]),
            "peers.o.address: o at 10.0.0.2 cannot reach this host, which listens on loopback alone "
            "(list this host's own address under listen)",
        ),
        ({"agents": [{"name": "a", "command": []}]}, "agents[0].command: the command is empty"),
        ({"agents": [{"name": "a", "command": ["gone"]}]}, "there is no program 'gone' to run"),
        ({"agents": [entry("a", depends_on=["a"])]}, "agents[0].depends_on[0]: a depends on itself"),
        ({"agents": [entry("a", after=["o/x"])]}, "agents[0].after[0]: o/x is on o, which is not among the peers"),
        ({"agents": [entry("abc"), entry("b", depends_on=["abd"])]}, "h has no process 'abd' (did you mean abc?)"),
        ({"agents": [entry("b", depends_on=["zzz"])]}, "h has no process 'zzz' (add it, or take this out)"),
        ({"agents": [entry("a", port=7001)]}, "agents[0].port: port 7001 is resource_manager's well-known port"),
        (
            {"agents": [entry("a", port=9000), entry("b", health_check_port=9000)]},
            "agents[1].health_check_port: port 9000 is already h/a (port)'s, h.yaml",
        ),
        (
            {"supervisor": {"events_port": 9000}, "agents": [entry("b", port=9000)]},
            "agents[0].port: port 9000 is already h/supervisor (events_port)'s",
        ),
    ],
)
def test_what_does_not_fit_together_is_told(fields: dict[str, Any], told: str) -> None:
    found = problems(candidate(**fields), missing="gone")
    assert len(found) == 1, found
    assert told in found[0]


def test_a_circle_is_named_all_the_way_round() -> None:
    agents = [entry("a", depends_on=["b"]), entry("b", after=["c"]), entry("c", depends_on=["a", "d"]), entry("d")]
    assert problems(candidate(agents=agents)) == [
        "h.yaml: agents[0]: a circle of dependencies: a -> b -> c -> a (cut it at one place)"
    ]


def test_two_circles_are_two_problems_and_shared_dependencies_none() -> None:
    agents = [
        entry("a", depends_on=["b", "c"]),
        entry("b", depends_on=["a", "d"]),
        entry("c", depends_on=["d"]),
        entry("d"),
        entry("x", depends_on=["y"]),
        entry("y", depends_on=["x"]),
    ]
    assert len(problems(candidate(agents=agents))) == 2


def test_hosts_judged_together_see_each_others_processes_and_ports() -> None:
    one = candidate("one", agents=[entry("a", depends_on=["two/b"], port=9000)])
    two = candidate("two", agents=[entry("b", depends_on=["one/a"], port=9000), entry("c", depends_on=["one/x"])])
    found = problems(one, two)
    assert [text.partition(":")[0] for text in found] == ["one.yaml", "two.yaml", "two.yaml"]
    assert "one/a -> two/b -> one/a" in found[0]
    assert any("port 9000 is already one/a (port)'s, one.yaml" in text for text in found)
    assert any("one has no process 'x'" in text for text in found)


def test_two_files_may_not_be_the_same_host() -> None:
    assert "h is already the host of h.yaml" in problems(candidate(), candidate(file="again.yaml"))[0]


def test_a_process_runs_in_a_folder_that_is_there_on_cores_that_are() -> None:
    sound = candidate(agents=[entry("a", cwd="/somewhere", limits={"cpus": [0, 3]})])
    assert problems(sound) == []
    wrong = candidate(agents=[entry("a", cwd="/nowhere", limits={"cpus": [1, 2, 999]})])
    told = problems(wrong)
    assert "agents[0].cwd: /nowhere is no folder" in told[0]
    assert "agents[0].limits.cpus: this machine has no core 2, 999 (choose from 0, 1, 3)" in told[1]
