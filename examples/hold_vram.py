"""Holds VRAM on the visible card for a while: a program that knows nothing of Tandem, for trying `tandem run`.

    tandem run --vram 10GiB -- python examples/hold_vram.py 10GiB 30

It uses the standard library alone. A simulated card is a folder, and using its memory means writing a file there, named by
pid and start time, with the bytes in decimal: TANDEM_SIMULATED_CARDS lists the folders of cards, CUDA_VISIBLE_DEVICES the
UUIDs of those this program may see. It ends with 0 after its time, at SIGTERM or at Ctrl-C, with 2 when it finds no card.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

UNITS = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def size(text: str) -> int:
    """A number of bytes from words such as `10GiB`."""
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text)
    if parts is None or parts[2] not in UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 10GiB, 512MiB or a number of bytes")
    return int(float(parts[1]) * UNITS[parts[2]])


def fail(message: str) -> NoReturn:
    """Says why and ends the program with 2."""
    print(f"hold_vram: {message}", file=sys.stderr)
    raise SystemExit(2)


def visible_card() -> Path:
    """The folder of the first card in CUDA_VISIBLE_DEVICES."""
    folders = [Path(folder) for folder in os.environ.get("TANDEM_SIMULATED_CARDS", "").split(":") if folder]
    visible = [each.strip() for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each.strip()]
    if not folders or not visible:
        fail(
            "no simulated card: TANDEM_SIMULATED_CARDS and CUDA_VISIBLE_DEVICES are not both set; start this program "
            "with `tandem run --vram SIZE -- python examples/hold_vram.py SIZE SECONDS`"
        )
    cards = {
        json.loads(each.read_text())["uuid"]: each.parent for folder in folders for each in folder.glob("*/card.json")
    }
    if visible[0] not in cards:
        fail(f"no card {visible[0]} in {':'.join(map(str, folders))}")
    return cards[visible[0]]


def use_file(card: Path) -> Path:
    """This process's own file on the card, named by pid and start time (field 22 of /proc/PID/stat)."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return card / "processes" / f"{os.getpid()}-{fields[19]}"


def main() -> None:
    """Holds the bytes, waits, gives them back."""
    parser = argparse.ArgumentParser(description="Hold VRAM on the visible simulated card.")
    parser.add_argument("bytes", type=size, help="how much to hold, such as 10GiB")
    parser.add_argument("seconds", type=float, help="for how long")
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    mine = use_file(visible_card())
    unfinished = mine.with_name(f".{mine.name}")
    try:
        unfinished.write_text(str(arguments.bytes))
        unfinished.replace(mine)
        print(f"holding {arguments.bytes} bytes on {os.environ['CUDA_VISIBLE_DEVICES']}", flush=True)
        time.sleep(arguments.seconds)
    finally:
        unfinished.unlink(missing_ok=True)
        mine.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
