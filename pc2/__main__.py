"""The door of PC2: `python -m pc2` is its supervisor, `python -m pc2 resource_manager` that service.

What is not run is not imported, so that a service stays small.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

STARTUP_FILE: Final = Path("config/startup_pc2.yaml")


def main(arguments: list[str]) -> int:
    """Run what the arguments name; its exit status. Without a service's name they are the supervisor's options."""
    if arguments == ["resource_manager"]:
        from pc2.resource_manager import service

        return service.main()
    from common.supervisor import door

    return door.main(STARTUP_FILE, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
