"""What deploy/prometheus holds: judged by promtool, compared with what really is exposed, and run against an injected fault."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab.fabric import ROOT, free_ports, until
from tests.pc2.observability_hub.fabric import HubFabric, running, stopped

FOLDER = ROOT / "deploy" / "prometheus"
OF_PROMETHEUS = {"up"}
PORTS = {
    "127.0.0.1:8000": "core_health",
    "127.0.0.1:8001": "rm_health",
    "127.0.0.1:8002": "hub_health",
    "127.0.0.1:8003": "errors_health",
    "127.0.0.1:8005": "security_health",
    "127.0.0.1:8090": "mainpc_health",
    "127.0.0.1:8091": "pc2_health",
}


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubFabric]:
    command = ["{python}", "-m", "tests.lab.echo_agent"]
    echo = {"name": "echo", "command": command, "cwd": str(ROOT), "capabilities": ["echo"]}
    with running(tmp_path_factory.mktemp("prometheus"), {"pc2": [echo]}) as made:
        yield made


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load((FOLDER / "alerts.yml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def test_promtool_accepts_the_configuration_and_the_rules(needs: Callable[[str], str]) -> None:
    for check in (["config", "prometheus.yml"], ["rules", "alerts.yml"]):
        checked = subprocess.run(
            [needs("promtool"), "check", *check], cwd=FOLDER, capture_output=True, text=True, timeout=120, check=False
        )
        assert checked.returncode == 0, checked.stderr


def test_every_rule_says_what_it_is_about_and_how_to_mend_it() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning"), rule
        assert set(rule["annotations"]) == {"summary", "mend"}, rule
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))


def test_every_well_known_health_port_is_scraped() -> None:
    from common.api.catalog import SERVICES
    from common.api.supervisor import PORTS as SUPERVISORS

    document = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    scraped = {
        target
        for job in document["scrape_configs"]
        for group in job.get("static_configs", ())
        for target in group["targets"]
    }
    ports = [spec.health_port for spec in SERVICES if spec.health_port] + [port for _, _, port in SUPERVISORS.values()]
    assert scraped == {f"127.0.0.1:{port}" for port in ports}


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text: bytes = answer.read()
    return text.decode()


def test_every_metric_of_a_rule_is_one_that_a_running_service_exposes(fabric: HubFabric) -> None:
    exposed = set(OF_PROMETHEUS)
    for name in PORTS.values():
        exposed |= set(re.findall(r"^# TYPE (\S+) ", scrape(fabric.ports[name]), re.MULTILINE))
    for rule in rules():
        expression = re.sub(r"\{[^}]*\}|\"[^\"]*\"", "", rule["expr"])
        used = set(re.findall(r"\b(tandem_[a-z0-9_]+|up)\b", expression))
        assert used, rule
        assert used <= exposed, f"{rule['alert']} is about {used - exposed}, which nobody exposes"


@contextmanager
def prometheus(binary: str, fabric: HubFabric, folder: Path) -> Iterator[int]:
    """A Prometheus with the configuration as it is delivered, but for ports, paths and patience."""
    text = (FOLDER / "prometheus.yml").read_text().replace(": 5s", ": 500ms")
    for known, name in PORTS.items():
        text = text.replace(known, f"127.0.0.1:{fabric.ports[name]}")
    text = text.replace("../../var", str(fabric.home)).replace("30s", "1s")
    (folder / "prometheus.yml").write_text(text)
    quick = re.sub(r"^( +for: )\S+$", r"\g<1>1s", (FOLDER / "alerts.yml").read_text(), flags=re.MULTILINE)
    (folder / "alerts.yml").write_text(quick)
    (port,) = free_ports(1)
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "TERM", binary, f"--config.file={folder}/prometheus.yml"),
                *(f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}"),
            ],
            stdout=log,
            stderr=log,
        )
    try:
        yield port
    finally:
        process.terminate()
        process.wait(timeout=60)


def ask(port: int, path: str) -> Any:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}", timeout=60) as answer:
            return json.load(answer)["data"]
    except OSError:
        return None


def firing(port: int) -> set[tuple[str, str]]:
    """The alerts that fire, each with whom it is about."""
    alerts = (ask(port, "alerts") or {"alerts": []})["alerts"]
    return {
        (one["labels"]["alertname"], one["labels"].get("name", one["labels"].get("host", "")))
        for one in alerts
        if one["state"] == "firing"
    }


def healthy_targets(port: int) -> set[str]:
    found = (ask(port, "targets?state=active") or {"activeTargets": []})["activeTargets"]
    labels = [one["labels"] for one in found if one["health"] == "up"]
    return {one.get("agent") or f"{one['host']}/{one['service']}" for one in labels}


def test_a_real_prometheus_scrapes_both_hosts_and_warns_of_a_stopped_agent(
    fabric: HubFabric, needs: Callable[[str], str], tmp_path: Path
) -> None:
    everybody = {
        "mainpc/CoreOrchestrator",
        "mainpc/Supervisor",
        "pc2/ResourceManager",
        "pc2/ObservabilityHub",
        "pc2/ErrorBus",
        "pc2/SecurityGateway",
        "pc2/Supervisor",
        "echo",
    }
    with prometheus(needs("prometheus"), fabric, tmp_path) as port:
        until(lambda: everybody <= healthy_targets(port), 60.0, "every target scraped")
        assert ("TandemAgentDown", "echo") not in firing(port)
        with stopped([fabric.pid("pc2/echo")]):
            until(lambda: ("TandemAgentDown", "echo") in firing(port), 60.0, "TandemAgentDown")
            assert not {name for name, _ in firing(port)} & {"TandemServiceDown", "TandemHostUnreachable"}
        until(lambda: ("TandemAgentDown", "echo") not in firing(port), 60.0, "TandemAgentDown to end")
