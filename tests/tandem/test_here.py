from __future__ import annotations

import asyncio
from typing import cast

import pytest

from common.client.aio import AsyncClient
from tandem import here

NOBODY = cast("AsyncClient", None)


@pytest.mark.parametrize(("moment_s", "found"), [(here.MOMENT_S, ["mainpc", "pc2"]), (0.01, ["mainpc"])])
async def test_a_busy_host_is_waited_for_a_moment_after_another_has_answered(
    monkeypatch: pytest.MonkeyPatch, moment_s: float, found: list[str]
) -> None:
    async def look(_client: AsyncClient, host: str, _patience_s: float) -> str:
        await asyncio.sleep(0.5 if host == "pc2" else 0.0)
        return ""

    monkeypatch.setattr(here, "_look", look)
    monkeypatch.setattr(here, "MOMENT_S", moment_s)
    assert await here.hosts_here(NOBODY, ["mainpc", "pc2"]) == found
