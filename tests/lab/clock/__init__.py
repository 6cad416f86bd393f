"""A host's wall clock that a test can step: every process started with `environ` shows the stepped time, and no other."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("step.c")


class SteppedClock:
    """One host's clock; made in `folder` with `compiler` (gcc), in step with the real one until `step`."""

    def __init__(self, folder: Path, compiler: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "step"
        self._library = folder / "libstep.so"
        self.step(0.0)
        subprocess.run(
            [
                compiler,
                "-D_GNU_SOURCE",
                "-O1",
                "-Wall",
                "-Wextra",
                "-Werror",
                "-shared",
                "-fPIC",
                "-o",
                str(self._library),
                str(SOURCE),
            ],
            check=True,
        )

    @property
    def environ(self) -> dict[str, str]:
        """What a process must be started with."""
        return {"LD_PRELOAD": str(self._library), "TANDEM_LAB_CLOCK": str(self._file)}

    def step(self, seconds: float) -> None:
        """From now on the clock is `seconds` ahead of the real one (behind where negative)."""
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("=q", int(seconds * 1e9)))
