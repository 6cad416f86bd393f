"""The door of PC2: `python -m pc2` is its supervisor, `python -m pc2 NAME` one of its services.

What is not run is not imported, so that a service stays small.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Final

STARTUP_FILE: Final = Path("config/startup_pc2.yaml")
SERVICES: Final = ("error_bus", "observability_hub", "resource_manager", "security_gateway")


def main(arguments: list[str]) -> int:
    """Run what the arguments name; its exit status. Without a service's name they are the supervisor's options."""
    if len(arguments) == 1 and arguments[0] in SERVICES:
        service = importlib.import_module(f"pc2.{arguments[0]}.service")
        return int(service.main())
    from common.supervisor import door

    return door.main(STARTUP_FILE, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
