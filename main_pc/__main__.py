"""The door of MainPC: `python -m main_pc` is its supervisor, `python -m main_pc core_orchestrator` that service, and
`python -m main_pc front` the HTTP front.

What is not run is not imported, so that a service stays small.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

STARTUP_FILE: Final = Path("config/startup_main.yaml")


def main(arguments: list[str]) -> int:
    """Run what the arguments name; its exit status. Without a service's name they are the supervisor's options."""
    if arguments == ["core_orchestrator"]:
        from main_pc.core_orchestrator import service

        return service.main()
    if arguments[:1] == ["front"]:
        from main_pc.front import service as front

        return front.main(arguments[1:])
    from common.supervisor import door

    return door.main(STARTUP_FILE, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
