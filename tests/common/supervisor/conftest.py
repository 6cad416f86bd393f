from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def wrappers() -> None:
    missing = [program for program in ("setpriv", "prlimit", "taskset", "nice") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (Debian package util-linux)")
