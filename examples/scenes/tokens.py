"""Tokens: one lets a plain caller control, until it is revoked; then every service refuses it, without asking anybody."""

from __future__ import annotations

import json
import os
from pathlib import Path

from examples.scenes.tally import Tally, tandem, until
from tandem import AsyncClient, TandemError

GATEWAY = "SecurityGateway"
LIMIT = {"capability": "vision", "running": 4}
"""What is asked of ResourceManager: a verb of the kind control."""


async def revoked(client: AsyncClient, tally: Tally) -> None:
    """The operator that the gateway made at its first start gets a token, uses it and ends it."""
    operator = json.loads((Path(os.environ["TANDEM_HOME"]) / "pc2" / "security" / "operator.json").read_text())
    asked = {"name": operator["name"], "secret": operator["secret"], "scopes": ["control:ResourceManager"]}
    issued = await client.call(GATEWAY, "issue_token", asked)
    tally.check(await refused_without(client), "without a token limit_tasks is refused: forbidden")
    code, _ = await limit_tasks(issued["token"])
    tally.check(code == 0, f"with a token of {issued['name']}, good for {issued['expires_in_s']:.0f} s, it is served")
    await client.call(GATEWAY, "revoke_token", {"token": issued["token"]})
    code, why = await until("the revocation", 5.0, lambda: refused_with(issued["token"]))
    tally.check(code == 77 and "revoked" in why, f"after revoke_token it is refused: {why}")


async def refused_without(client: AsyncClient) -> bool:
    """Whether somebody who shows nothing is turned away."""
    try:
        await client.call("ResourceManager", "limit_tasks", LIMIT)
    except TandemError as error:
        return error.code == "forbidden"
    return False


async def refused_with(token: str) -> tuple[int, str] | None:
    """How the token was refused, once it is."""
    code, why = await limit_tasks(token)
    return (code, why) if code else None


async def limit_tasks(token: str) -> tuple[int, str]:
    """Ask with the token: the exit code, and the reason where it is refused."""
    code, printed = await tandem("call", "--json", "limit_tasks", json.dumps(LIMIT), token=token)
    error = json.loads(printed).get("error", {})
    return code, f"{error['code']}: {error['message']}" if error else ""
