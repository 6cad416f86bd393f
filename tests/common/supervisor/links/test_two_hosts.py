"""Two hosts that know nothing of each other join over a real network, with the two commands that a person types."""

from __future__ import annotations

import json
import shutil
import stat
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.lab.fabric import until
from tests.lab.netns import TwoHosts, why_not
from tests.lab.two_hosts import SUPERVISORS, TwoHostFabric

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


class Hosts(TwoHostFabric):
    """Both hosts, without services: supervisors are enough to join."""

    def startup_file(self, name: str) -> Path:
        file = super().startup_file(name)
        document = json.loads(file.read_text())
        document["services"] = []
        file.write_text(json.dumps(document))
        return file

    def come_up(self, name: str) -> None:
        self.start(name)
        until(lambda: self.links(name), 30, f"{name}'s supervisor")

    def links(self, name: str) -> list[dict[str, Any]]:
        answer = self.ask(name, SUPERVISORS[name], {"action": "list_links"}, timeout_ms=5_000) or {}
        found: list[dict[str, Any]] = answer.get("links", [])
        return found

    def link(self, name: str) -> dict[str, Any]:
        return until(lambda: self.links(name), 10, f"an answer of {name}")[0]

    def both_up(self) -> bool:
        return all(link["up"] for name in SUPERVISORS for link in [self.link(name)])

    def lacks(self, name: str) -> str:
        answer = self.ask(name, SUPERVISORS[name], {"action": "health_check"}, timeout_ms=5_000) or {}
        return "; ".join(answer.get("lacks", []))

    def said(self, name: str, *arguments: str) -> tuple[int, str]:
        done = self.tandem(name, *arguments)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with TwoHosts() as lab:
        fabric = Hosts(lab, tmp_path)
        try:
            for name in SUPERVISORS:
                fabric.come_up(name)
            yield fabric
        finally:
            for name in list(fabric.running):
                fabric.stop(name)


def test_two_commands_join_them_and_the_bundle_is_good_once(hosts: Hosts, tmp_path: Path) -> None:
    for own, other in (("mainpc", "pc2"), ("pc2", "mainpc")):
        link = hosts.link(own)
        assert (link["joined"], link["up"]) == (False, False)
        assert f"run `tandem invite {other}` on this host" in link["why"]
        assert f"{other} has not joined" in hosts.lacks(own)

    bundle = tmp_path / "bundle"
    code, said = hosts.said("mainpc", "invite", "pc2", "--out", str(bundle))
    assert (code, "tandem join bundle" in said) == (0, True), said
    assert stat.S_IMODE(bundle.stat().st_mode) == 0o600
    text = bundle.read_text()
    assert hosts.said("mainpc", "invite", "pc2", "--out", str(bundle))[1].startswith(
        f"tandem: {bundle} is there already"
    )
    assert bundle.read_text() == text

    bundle.chmod(0o644)
    assert "can be read by others (mode 0644) (run `chmod 600" in hosts.said("pc2", "join", str(bundle))[1]
    bundle.chmod(0o600)
    assert "this bundle invites pc2; this is mainpc" in hosts.said("mainpc", "join", str(bundle))[1]
    assert not hosts.link("pc2")["joined"]

    kept = tmp_path / "kept"
    shutil.copy(bundle, kept)
    code, said = hosts.said("pc2", "join", str(bundle))
    assert (code, said.startswith("pc2 has joined mainpc")) == (0, True), said
    until(hosts.both_up, 20, "the link")
    assert [hosts.link(name)["why"] for name in SUPERVISORS] == ["", ""]
    assert not any("has not joined" in hosts.lacks(name) for name in SUPERVISORS)

    for used in (bundle, kept):
        code, said = hosts.said("pc2", "join", str(used))
        assert (code, "was used at" in said, "tandem invite pc2" in said) == (1, True, True), said
    secret = json.loads(text)["secret"]
    assert secret not in bundle.read_text()
    assert not [file for file in tmp_path.rglob("*.json") if secret in file.read_text()]

    for name in SUPERVISORS:
        hosts.stop(name)
        hosts.come_up(name)
    until(hosts.both_up, 20, "the link after a restart, without a word from anyone")


def test_a_host_sent_away_comes_back_by_a_new_invitation_alone(hosts: Hosts) -> None:
    hosts.join()
    until(hosts.both_up, 20, "the link")
    code, said = hosts.said("mainpc", "expel", "pc2")
    assert code == 0, said
    assert (hosts.link("mainpc")["joined"], hosts.link("mainpc")["up"]) == (False, False)
    until(lambda: not hosts.link("pc2")["up"], 20, "the end of the link")
    (hosts.folder / "invitation-pc2").unlink()
    hosts.join()
    until(hosts.both_up, 20, "the link")


def test_a_host_set_up_anew_joins_again_and_its_old_key_counts_no_more(hosts: Hosts) -> None:
    hosts.join()
    until(hosts.both_up, 20, "the link")
    hosts.stop("pc2")
    shutil.rmtree(hosts.home("pc2"))
    hosts.come_up("pc2")
    until(lambda: not hosts.link("mainpc")["up"], 20, "the end of the link")
    assert hosts.link("mainpc")["joined"]
    assert not hosts.link("pc2")["joined"]
    bundle = str(hosts.folder / "again")
    assert hosts.said("mainpc", "invite", "pc2", "--out", bundle)[0] == 0
    code, said = hosts.said("pc2", "join", bundle)
    assert (code, "one knew the other by another key before, which counts no more" in said) == (0, True), said
    until(hosts.both_up, 20, "the link with the new key")


def test_a_late_bundle_and_one_without_its_inviter_say_so(hosts: Hosts, tmp_path: Path) -> None:
    bundle = tmp_path / "late"
    assert hosts.said("mainpc", "invite", "pc2", "--ttl", "1s", "--out", str(bundle))[0] == 0
    ends = datetime.fromisoformat(json.loads(bundle.read_text())["expires_at"]).timestamp() + 1  # told in whole seconds
    until(lambda: time.time() > ends, 20, "the end of the bundle's time")
    code, said = hosts.said("pc2", "join", str(bundle))
    assert (code, "the bundle expired at" in said) == (1, True), said
    fresh = tmp_path / "fresh"
    assert hosts.said("mainpc", "invite", "pc2", "--out", str(fresh))[0] == 0
    hosts.stop("mainpc")
    code, said = hosts.said("pc2", "join", str(fresh))
    assert (code, "mainpc cannot be asked: nobody listens at" in said) == (69, True), said
    assert json.loads(fresh.read_text())["secret"], "a bundle that was not used is still good"
