"""A real Prometheus on each of two hosts, with the configuration and the rules that ship: what it scrapes and what it wakes for.

Only paths and patience are changed: the other host's job is dropped, as the file says, and a `for:` of up to a minute is short.
"""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab.fabric import ROOT, until
from tests.lab.netns import LabHost, TwoHosts, why_not
from tests.lab.two_hosts import PACKAGES, TwoHostFabric, two_host_fabric
from tests.system.conftest import ECHO

pytestmark = pytest.mark.timeout(900)

FOLDER = ROOT / "deploy" / "prometheus"
PORT = 9099
EVERY = {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s"}
SHORT = dict.fromkeys(("5s", "15s", "30s", "1m"), "2s")
PATIENCE_S = 180.0
AGENTS = {name: [ECHO | {"name": f"echo-{name}", "depends_on": []}] for name in PACKAGES}
ON = {
    "mainpc": {"CoreOrchestrator", "Supervisor", "echo-mainpc"},
    "pc2": {"ResourceManager", "ObservabilityHub", "ErrorBus", "SecurityGateway", "Supervisor", "echo-pc2"},
}
"""Who is scraped on each host, by service or agent."""
NOT_YET = {"tandem_breaker_state": "a process that calls nobody has no breaker; it comes with the first call"}
"""Metrics of rules that a well fabric may not have, and why."""
OF_PC2 = re.compile(r"tandem_(hub|host|link|process|errors|tasks|security)_|tandem_vram_waiting$")
"""What the services of PC2 alone expose."""
OF_THE_MACHINE = {"TandemDiskFilling", "TandemHubDoubts"}
"""What the machine that the test runs on may be the reason of."""
ABOUT = {"TandemTargetDown": "service", "TandemPeerLost": "peer"}


@dataclass(frozen=True)
class Prometheus:
    """One Prometheus, on its host's loopback."""

    host: LabHost

    def ask(self, path: str, **asked: str) -> Any:
        """The data of an answer of its HTTP API; None while there is none."""
        query = urllib.parse.urlencode(asked)

        def answer() -> Any:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/api/v1/{path}?{query}", timeout=60) as told:
                    return json.load(told)["data"]
            except OSError:
                return None

        return self.host.on_thread(answer)

    def value(self, query: str) -> list[dict[str, Any]]:
        """The series of a question's answer now."""
        return list((self.ask("query", query=query) or {"result": []})["result"])

    def targets(self) -> dict[str, str]:
        """The health of every target, by service or agent."""
        found = (self.ask("targets", state="active") or {"activeTargets": []})["activeTargets"]
        return {one["labels"].get("agent") or one["labels"]["service"]: one["health"] for one in found}

    def alerts(self, state: str = "firing") -> set[tuple[str, str]]:
        """The alerts of a state now, each with whom it is about."""
        found = (self.ask("alerts") or {"alerts": []})["alerts"]
        return {subject(one["labels"]) for one in found if one["state"] == state}

    def was(self, state: str) -> set[tuple[str, str]]:
        """The alerts that were in a state at some evaluation, by what is recorded of them."""
        found = self.value(f'count_over_time(ALERTS{{alertstate="{state}"}}[10m])')
        return {subject(one["metric"]) for one in found}


def subject(labels: dict[str, str]) -> tuple[str, str]:
    """An alert's name, and whom it is about: a process, a link by who sees it, or a host."""
    name = labels["alertname"]
    return name, labels.get(ABOUT.get(name, "name")) or labels.get("seen_from") or labels.get("host", "")


def configured(fabric: TwoHostFabric, name: str, folder: Path) -> Path:
    """The configuration that ships, for one host alone."""
    document = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    document["global"] = EVERY
    jobs = [job for job in document["scrape_configs"] if job["job_name"] != f"tandem-{fabric.other(name)}"]
    assert len(jobs) == len(document["scrape_configs"]) - 1
    for job in jobs:
        for group in job.get("file_sd_configs", ()):
            group["files"] = [file.replace("../../var", str(fabric.home(name))) for file in group["files"]]
            group["refresh_interval"] = "1s"
    document["scrape_configs"] = jobs
    rules = yaml.safe_load((FOLDER / "alerts.yml").read_text())
    for rule in all_rules(rules):
        if "for" in rule:
            rule["for"] = SHORT.get(rule["for"], rule["for"])
    (folder / "alerts.yml").write_text(yaml.safe_dump(rules))
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(document))
    return file


def all_rules(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [rule for group in document["groups"] for rule in group["rules"]]


@contextmanager
def running(binary: str, fabric: TwoHostFabric, name: str, folder: Path) -> Iterator[Prometheus]:
    """A Prometheus on the host, stopped at the end."""
    host = fabric.host(name)
    file = configured(fabric, name, folder)
    options = [f"--config.file={file}", f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{PORT}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = host.start("setpriv", "--pdeathsig", "TERM", binary, *options, stdout=log, stderr=log)
    prometheus = Prometheus(host)
    try:
        until(lambda: prometheus.ask("status/buildinfo"), 60, f"a Prometheus on {name} (see {folder}/prometheus.log)")
        yield prometheus
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoHostFabric]:
    if reason := why_not():
        pytest.skip(reason)
    with TwoHosts() as lab, two_host_fabric(lab, tmp_path_factory.mktemp("fabric"), agents=AGENTS) as up:
        yield up


@pytest.fixture(scope="module")
def watchers(
    fabric: TwoHostFabric, needs: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Prometheus]]:
    """A Prometheus on each host, that has scraped everybody once and is woken for nothing."""
    with ExitStack() as stack:
        found = {
            name: stack.enter_context(running(needs("prometheus"), fabric, name, tmp_path_factory.mktemp(name)))
            for name in PACKAGES
        }
        for name, one in found.items():
            until(lambda one=one, name=name: one.targets().keys() >= ON[name], PATIENCE_S, f"all targets of {name}")  # type: ignore[misc]
            until(lambda one=one: all_up(one), PATIENCE_S, f"every target of {name} up: {one.targets()}")  # type: ignore[misc]
        yield found


def all_up(one: Prometheus) -> bool:
    targets = one.targets()
    return bool(targets) and set(targets.values()) == {"up"}


def calm(one: Prometheus) -> bool:
    """Whether it answers, sees everybody, and wakes nobody."""
    return all_up(one) and not {name for name, _ in one.alerts()} - OF_THE_MACHINE


@pytest.mark.parametrize("name", PACKAGES)
def test_every_target_of_a_host_is_up(watchers: dict[str, Prometheus], name: str) -> None:
    assert watchers[name].targets() == dict.fromkeys(ON[name], "up")


@pytest.mark.parametrize("name", PACKAGES)
def test_the_rules_are_loaded_and_every_one_can_be_judged(watchers: dict[str, Prometheus], name: str) -> None:
    shipped = {rule["alert"] for rule in all_rules(yaml.safe_load((FOLDER / "alerts.yml").read_text()))}

    def judged() -> bool:
        rules = all_rules(watchers[name].ask("rules"))
        return {rule["name"] for rule in rules} == shipped and all(rule["health"] == "ok" for rule in rules)

    until(judged, PATIENCE_S, "every rule judged without an error")


@pytest.mark.parametrize("name", PACKAGES)
def test_every_metric_of_a_rule_is_scraped(watchers: dict[str, Prometheus], name: str) -> None:
    wanted = {
        metric
        for rule in all_rules(yaml.safe_load((FOLDER / "alerts.yml").read_text()))
        for metric in re.findall(r"\b(?:tandem_\w+|up)\b", re.sub(r"\{[^}]*\}|\"[^\"]*\"", "", rule["expr"]))
    }
    assert len(wanted) > 20
    if name == "mainpc":
        wanted = {metric for metric in wanted if not OF_PC2.match(metric)}
    wanted -= NOT_YET.keys()

    def scraped() -> bool:
        return wanted <= set(watchers[name].ask("label/__name__/values") or ())

    until(scraped, PATIENCE_S, f"all of {sorted(wanted)}")


@pytest.mark.parametrize("name", PACKAGES)
def test_nobody_is_woken_while_all_is_well(watchers: dict[str, Prometheus], name: str) -> None:
    until(lambda: calm(watchers[name]), PATIENCE_S, f"no alert on {name}: {watchers[name].ask('alerts')}")


def test_a_service_that_stands_still_wakes_somebody_until_it_goes_on(
    fabric: TwoHostFabric, watchers: dict[str, Prometheus]
) -> None:
    pc2 = watchers["pc2"]
    alert = ("TandemServiceDown", "error_bus")
    assert alert not in pc2.alerts()
    pid = fabric.pid("error_bus")
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: alert in pc2.alerts(), PATIENCE_S, "the alert")
        until(lambda: ("TandemTargetDown", "ErrorBus") in pc2.alerts(), PATIENCE_S, "the target to be missed")
        assert alert in pc2.was("pending")
        assert not {name for name, _ in pc2.alerts()} & {"TandemHostUnreachable", "TandemLinkDown", "TandemAgentDown"}
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: calm(pc2), PATIENCE_S, "its end")


def test_a_cut_link_wakes_somebody_on_either_host_once_and_not_for_what_is_behind_it(
    fabric: TwoHostFabric, watchers: dict[str, Prometheus]
) -> None:
    root = {("TandemHostUnreachable", "mainpc"), ("TandemLinkDown", "ObservabilityHub")}
    lost = ("TandemPeerLost", "pc2")
    fabric.lab.cut()
    try:
        until(lambda: root <= watchers["pc2"].alerts(), PATIENCE_S, "the alert on pc2")
        until(lambda: lost in watchers["mainpc"].alerts(), PATIENCE_S, "the alert on mainpc")
        assert root <= watchers["pc2"].was("pending")
        assert lost in watchers["mainpc"].was("pending")
        behind = {"TandemServiceDown", "TandemAgentDown", "TandemPeerLost"}
        assert not {name for name, _ in watchers["pc2"].alerts()} & behind
    finally:
        fabric.lab.heal()
    for name in PACKAGES:
        until(lambda name=name: calm(watchers[name]), PATIENCE_S, f"no alert on {name}")  # type: ignore[misc]
