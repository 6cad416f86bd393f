"""The door of MainPC: `python -m main_pc` is its supervisor, `python -m main_pc core_orchestrator` that service.

What is not run is not imported, so that a service stays small.
"""

from __future__ import annotations

import sys
from typing import Final

STARTUP_FILE: Final = "config/startup_main.yaml"
USAGE: Final = "usage: python -m main_pc [core_orchestrator]"
WRONG_USAGE: Final = 2


def main(arguments: list[str]) -> int:
    """Run what the arguments name; its exit status."""
    match arguments:
        case []:
            from common.supervisor.door import run_host

            return run_host(STARTUP_FILE)
        case ["core_orchestrator"]:
            from main_pc.core_orchestrator import service

            return service.main()
        case _:
            print(USAGE, file=sys.stderr)
            return WRONG_USAGE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
