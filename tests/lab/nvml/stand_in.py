"""Builds the stand-in for libnvidia-ml.so.1; any program that finds it on LD_LIBRARY_PATH sees simulated cards as NVML's."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("nvml_stand_in.c")
LIBRARY = "libnvidia-ml.so.1"


def build_stand_in(folder: Path) -> Path:
    """The library, built into `folder`; skips the test where no C compiler can build it."""
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler for NVML's stand-in: install the Debian packages gcc and libc6-dev")
    library = folder / LIBRARY
    # No soname: a test that loads it by path must not make it the library that later loads by name find.
    command = ["gcc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden"]
    built = subprocess.run([*command, "-o", library, SOURCE], capture_output=True, text=True, check=False)
    if "stdio.h: No such file" in built.stderr:
        pytest.skip("no C headers for NVML's stand-in: install the Debian package libc6-dev")
    assert built.returncode == 0, built.stderr
    return library


def environment(library: Path, cards: Sequence[Path]) -> dict[str, str]:
    """The environment in which a program finds these folders of cards through NVML."""
    return os.environ | {
        "LD_LIBRARY_PATH": str(library.parent),
        "TANDEM_SIMULATED_CARDS": ":".join(str(folder) for folder in cards),
    }
