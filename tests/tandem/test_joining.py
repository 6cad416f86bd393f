"""Inviting, joining and sending away, as a person types them; the supervisors are fakes that remember what they were asked."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.api import links
from common.api.words import Empty
from common.errors import Conflict, Forbidden, NotFound, TandemError
from common.service.call import Call
from common.supervisor.links import bundle
from tandem import bundle_file, here
from tandem.exits import Exit
from tests.common.supervisor.links.fakes import invitation
from tests.tandem.conftest import Tandem, document
from tests.tandem.fabric import Fabric

MADE = invitation()


class Fakes:
    """The link verbs of both supervisors; `refusal` is what they answer, if anything."""

    def __init__(self, fabric: Fabric) -> None:
        self.asked: list[Any] = []
        self.refusal: TandemError | None = None
        self.replaced = False
        for host in ("mainpc", "pc2"):
            shell = fabric.shells[f"Supervisor/{host}"]
            shell.handle(links.INVITE_HOST, lambda asked, call: self._answer(asked, call, MADE))
            shell.handle(links.JOIN_HOST, lambda asked, call: self._answer(asked, call, self._joined()))
            shell.handle(links.EXPEL_HOST, lambda asked, call: self._answer(asked, call, Empty()))

    def _joined(self) -> links.Joined:
        return links.Joined(host="mainpc", replaced=self.replaced, hosts=["mainpc"])

    def _answer(self, asked: Any, _call: Call, reply: Any) -> Any:
        self.asked.append(asked)
        if self.refusal is not None:
            raise self.refusal
        return reply


@pytest.fixture
def fakes(fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    monkeypatch.chdir(tmp_path)
    return Fakes(fabric)


@pytest.fixture
def open_handed() -> Iterator[None]:
    """A umask that takes nothing away."""
    before = os.umask(0)
    yield
    os.umask(before)


def bundle_in(path: Path, mode: int = 0o600, raw: bytes | None = None) -> Path:
    path.write_bytes(msgspec.json.encode(MADE) if raw is None else raw)
    path.chmod(mode)
    return path


async def test_an_invitation_is_written_for_its_owner_alone_with_the_next_command(
    fakes: Fakes, tandem: Tandem, tmp_path: Path, open_handed: None
) -> None:
    code, out, err = await tandem("invite", "pc2", "--ttl", "20m", "--address", "10.9.9.9")
    assert (code, err) == (Exit.OK, "")
    assert "pc2.tandem-invite lets pc2 join mainpc, once, within 20m 00s" in out
    assert "tandem join pc2.tandem-invite" in out
    written = tmp_path / "pc2.tandem-invite"
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    assert bundle.read(written.read_bytes(), "") == MADE
    assert "the secret" not in out
    assert fakes.asked == [links.InviteHost(host="pc2", address="10.9.9.9", ttl_s=1200.0)]


async def test_an_invitation_has_a_stable_document(fakes: Fakes, tandem: Tandem) -> None:
    code, out, _ = await tandem("invite", "pc2", "--out", "b", "--json")
    assert code == Exit.OK
    assert document(out) == {
        "file": "b",
        "host": "pc2",
        "inviter": "mainpc",
        "expires_at": MADE.expires_at,
        "next": "tandem join b",
    }


async def test_a_file_that_is_there_is_never_written_over_and_no_invitation_is_wasted(
    fakes: Fakes, tandem: Tandem, tmp_path: Path
) -> None:
    (tmp_path / "b").write_text("mine")
    code, _, err = await tandem("invite", "pc2", "--out", "b")
    assert (code, err) == (Exit.BAD_ANSWER, "tandem: b is there already (remove it, or name another with --out)\n")
    code, _, err = await tandem("invite", "pc2", "--out", "no/such/folder")
    assert (code, "cannot be written" in err) == (Exit.UNAVAILABLE, True)
    assert (tmp_path / "b").read_text() == "mine"
    assert fakes.asked == []


async def test_what_the_supervisor_refuses_leaves_no_file(fakes: Fakes, tandem: Tandem, tmp_path: Path) -> None:
    fakes.refusal = NotFound("mainpc's startup file names no peer 'pc2'", mend="add it")
    code, _, err = await tandem("invite", "pc2")
    assert (code, err) == (Exit.BAD_ANSWER, "tandem: mainpc's startup file names no peer 'pc2' (add it)\n")
    assert not (tmp_path / "pc2.tandem-invite").exists()


async def test_a_join_uses_the_bundle_and_leaves_nothing_secret_in_it(
    fakes: Fakes, tandem: Tandem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TANDEM_HOST", "pc2")
    file, fakes.replaced = bundle_in(Path("b")), True
    code, out, err = await tandem("join", "b")
    assert (code, err) == (Exit.OK, "")
    assert out.splitlines() == [
        "pc2 has joined mainpc; `tandem status` shows both",
        "one knew the other by another key before, which counts no more",
    ]
    assert fakes.asked == [links.JoinHost(bundle=MADE)]
    left = json.loads(file.read_text())
    assert left.keys() == {"format", "host", "inviter", "used_at"}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    code, _, err = await tandem("join", "b")
    assert code == Exit.BAD_ANSWER
    assert (
        err == f"tandem: b was used at {left['used_at']} by pc2 (run `tandem invite pc2` again on the inviting host)\n"
    )


async def test_a_join_has_a_stable_document(fakes: Fakes, tandem: Tandem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_HOST", "pc2")
    bundle_in(Path("b"))
    code, out, _ = await tandem("join", "b", "--json")
    assert code == Exit.OK
    assert document(out) == {"host": "pc2", "joined": "mainpc", "hosts": ["mainpc"], "replaced": False}


async def test_a_bundle_that_was_refused_stays_as_it_was(
    fakes: Fakes, tandem: Tandem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TANDEM_HOST", "pc2")
    fakes.refusal = Conflict("the bundle expired at 2026-01-01T00:00:00Z", mend="run `tandem invite pc2` again")
    file = bundle_in(Path("b"))
    code, _, err = await tandem("join", "b")
    assert (code, err) == (
        Exit.BAD_ANSWER,
        "tandem: the bundle expired at 2026-01-01T00:00:00Z (run `tandem invite pc2` again)\n",
    )
    assert bundle.read(file.read_bytes(), "") == MADE


@pytest.mark.parametrize(
    ("mode", "raw", "code", "told"),
    [
        (0o640, None, Exit.BAD_REQUEST, "b can be read by others (mode 0640) (run `chmod 600 b`"),
        (0o600, b"{}", Exit.BAD_REQUEST, "b is no bundle of `tandem invite`, or is damaged"),
        (0o600, msgspec.json.encode(MADE).replace(b"the secret", b"no secret!"), Exit.BAD_REQUEST, "b is damaged"),
        (0o600, b"x" * 100_000, Exit.BAD_REQUEST, "b is no bundle"),
    ],
)
async def test_a_file_that_will_not_do_is_told_with_the_mend(
    fakes: Fakes, tandem: Tandem, mode: int, raw: bytes | None, code: Exit, told: str
) -> None:
    bundle_in(Path("b"), mode, raw)
    answer, _, err = await tandem("join", "b")
    assert (answer, told in err) == (code, True), err
    assert fakes.asked == []


async def test_a_folder_or_a_pipe_is_no_bundle(fakes: Fakes, tandem: Tandem) -> None:
    os.mkdir("folder")
    os.mkfifo("pipe")
    for name in ("folder", "pipe"):
        code, _, err = await tandem("join", name)
        assert (code, f"{name} is no bundle" in err) == (Exit.BAD_REQUEST, True), err
    assert fakes.asked == []


async def test_a_bundle_that_is_not_there_or_another_hosts_is_told(fakes: Fakes, tandem: Tandem) -> None:
    code, _, err = await tandem("join", "b")
    assert (code, "there is no file b" in err) == (Exit.BAD_ANSWER, True)
    bundle_in(Path("b"))
    code, _, err = await tandem("join", "b")  # TANDEM_HOST is mainpc
    assert (code, "this bundle invites pc2; this is mainpc (run `tandem join` on pc2" in err) == (
        Exit.NOT_ALLOWED,
        True,
    )
    assert fakes.asked == []


async def test_a_host_is_sent_away(fakes: Fakes, tandem: Tandem) -> None:
    code, out, _ = await tandem("expel", "pc2")
    assert (code, out) == (Exit.OK, "pc2 has been sent away from mainpc; `tandem invite pc2` lets it in again\n")
    assert fakes.asked == [links.ExpelHost(host="pc2")]
    code, out, _ = await tandem("expel", "pc2", "--json")
    assert document(out) == {"host": "mainpc", "expelled": "pc2"}


async def test_the_host_that_speaks_is_the_one_of_this_machine(
    fakes: Fakes, tandem: Tandem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TANDEM_HOST")

    async def found(_client: object, hosts: list[str]) -> list[str]:
        return hosts

    monkeypatch.setattr(here, "hosts_here", found)
    code, out, _ = await tandem("invite", "pc2", "--json")
    assert (code, msgspec.json.decode(out)["inviter"]) == (Exit.OK, "mainpc")
    code, _, err = await tandem("expel", "elsewhere")
    assert code == Exit.BAD_ANSWER
    assert err == "tandem: mainpc and pc2 run on this machine (say which is meant with --host)\n"
    code, out, _ = await tandem("expel", "elsewhere", "--host", "pc2", "--json")
    assert (code, document(out)) == (Exit.OK, {"host": "pc2", "expelled": "elsewhere"})
    fakes.refusal = Forbidden("no")
    bundle_in(Path("b"))
    assert (await tandem("join", "b"))[0] == Exit.NOT_ALLOWED


async def test_a_bundle_that_cannot_be_emptied_is_told_of(
    fakes: Fakes, tandem: Tandem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("TANDEM_HOST", "pc2")
    monkeypatch.setattr(bundle_file, "_write_all", full)
    bundle_in(Path("b"))
    code, _, err = await tandem("join", "b")
    assert (code, err) == (
        Exit.OK,
        "tandem: b still holds keys, which admit nobody any more: No space left on device\n",
    )
    assert not [name for name in os.listdir() if name.startswith(".b")]
