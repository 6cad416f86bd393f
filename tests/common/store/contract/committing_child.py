"""Commits groups of rows without end and says the number of each after it was acknowledged; killed from outside."""

from __future__ import annotations

import sys

from common.store.open import open_store
from common.store.protocol import Change, Durability

ROWS = 20


def main(url: str, name: str, durability: str) -> None:
    store = open_store(url, name)
    number = 0
    while True:
        value = b"%d" % number
        changes = [Change("groups", f"{number:08}-{row:02}", value) for row in range(ROWS)]
        store.commit([*changes, Change("newest", "group", value)], Durability(durability))
        print(number, flush=True)
        number += 1


if __name__ == "__main__":
    main(*sys.argv[1:])
