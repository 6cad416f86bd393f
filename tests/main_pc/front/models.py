"""Models as supervisors list them."""

from __future__ import annotations

from typing import Any

from common.api.models import Model


def model(name: str, host: str = "mainpc", state: str = "absent", **more: Any) -> Model:
    """A model that can chat; `more` changes its fields."""
    plain: dict[str, Any] = {
        "engine": "llama-server",
        "aliases": [],
        "capabilities": ["chat"],
        "declared_bytes": 4,
        "footprint_bytes": 5,
        "load_s": 1.0,
        "users": 0,
        "slots": 1,
        "pinned": False,
        "priority": 50,
    }
    return Model(name=name, host=host, state=state, **{**plain, **more})  # type: ignore[arg-type]
