"""A stand-in for NVIDIA's cuda-checkpoint: moves what a process holds on simulated cards into a file, and back.

`install(folder)` puts an executable `cuda-checkpoint` there, for PATH. It finds the cards by TANDEM_SIMULATED_CARDS, and keeps
what it took in the folder `taken` beside the program. CUDA_CHECKPOINT_LIES changes what it does, by words separated by commas:
toggles_only (as with driver 550), keeps (says done, moves nothing), hangs-ACTION, fails-ACTION (toggle, lock, checkpoint,
restore, unlock, get-state), garbles-get-state, breaks-checkpoint (leaves the process failed).
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

HELP = """CUDA checkpoint and restore utility.
Version {version}. Copyright (C) 2025 NVIDIA Corporation. All rights reserved.
"""
STEPS = """
--get-state --pid <pid>
        Prints the current checkpoint state of the process specified by <pid>
--action lock | checkpoint | restore | unlock --pid <pid> [--timeout <ms>]
"""
NEEDED = {"lock": "running", "checkpoint": "locked", "restore": "checkpointed", "unlock": "locked"}
INTO = {"lock": "locked", "checkpoint": "checkpointed", "restore": "locked", "unlock": "running"}


def install(folder: Path) -> Path:
    """The program, in `folder`, which goes to the front of PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "cuda-checkpoint"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -S {Path(__file__).resolve()} {folder / "taken"} "$@"\n')
    program.chmod(0o755)
    return program


class Process:
    """A process's CUDA state, as files beside the program."""

    def __init__(self, taken: Path, pid: int) -> None:
        taken.mkdir(exist_ok=True)
        self.pid = pid
        self.taken = taken
        self.file = taken / f"{pid}.state"

    @property
    def state(self) -> str:
        return self.file.read_text() if self.file.exists() else "running"

    def become(self, state: str) -> None:
        self.file.write_text(state)

    def take(self) -> None:
        for number, folder in enumerate(cards()):
            for use in folder.glob(f"{self.pid}-*"):
                (self.taken / f"{number}.{use.name}").write_text(use.read_text())
                use.unlink()

    def give(self) -> None:
        for number, folder in enumerate(cards()):
            for use in self.taken.glob(f"{number}.{self.pid}-*"):
                use.rename(folder / use.name.partition(".")[2])


def cards() -> list[Path]:
    folders = [Path(each) for each in os.environ.get("TANDEM_SIMULATED_CARDS", "").split(":") if each]
    return [path for folder in folders for path in sorted(folder.glob("*/processes"))]


def act(process: Process, action: str, lies: set[str]) -> int:
    if f"hangs-{action}" in lies:
        time.sleep(3600)
    if f"fails-{action}" in lies:
        print(f'Could not {action} on process ID {process.pid}: "OS call failed or operation not supported on this OS"')
        return 1
    if process.state != NEEDED[action]:
        print(
            f'Could not {action} on process ID {process.pid}: "the operation cannot be performed in the present state"'
        )
        return 1
    if "breaks-checkpoint" in lies and action == "checkpoint":
        process.become("failed")
        return 1
    if "keeps" not in lies and action == "checkpoint":
        process.take()
    if action == "restore":
        process.give()
    process.become(INTO[action])
    return 0


def main(taken: str, *words: str) -> int:
    lies = set(os.environ.get("CUDA_CHECKPOINT_LIES", "").split(","))
    steps = "toggles_only" not in lies
    if "--help" in words:
        print(HELP.format(version="570.86.10" if steps else "550.54.09") + (STEPS if steps else ""))
        return 0
    process = Process(Path(taken), int(words[words.index("--pid") + 1]))
    if "--toggle" in words:
        actions = ("lock", "checkpoint") if process.state == "running" else ("restore", "unlock")
        return 1 if "fails-toggle" in lies else max(act(process, action, lies) for action in actions)
    if not steps:
        print("unrecognized option")
        return 1
    if "--get-state" in words:
        print(process.state if "garbles-get-state" not in lies else "who knows")
        return 1 if "fails-get-state" in lies else 0
    return act(process, words[words.index("--action") + 1], lies)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
