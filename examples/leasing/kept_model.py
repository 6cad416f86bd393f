"""Counts words with a model that stays on the card between calls, until somebody needs the memory more."""

import threading

from tandem import Agent, on_unload, verb

GIB = 2**30


class Reader(Agent):
    model: bytearray | None = None

    async def started(self) -> None:
        self.vram = self.lease("word-reader", 2 * GIB, in_use=False, load_s=4)
        self.loading = threading.Lock()

    @verb(capability="read_words", idempotent=True)
    def read_words(self, data: str) -> dict[str, int]:
        """How many words the text has."""
        with self.vram.busy(), self.loading:  # leased before anything is loaded; nobody evicts it meanwhile
            if self.model is None:
                self.model = bytearray(1)  # here your model is loaded onto the card
            return {"words": len(data.split())}

    @on_unload
    def forget(self) -> None:
        """Asked for when the lease has to go; the card shows whether it is true."""
        with self.loading:
            self.model = None


if __name__ == "__main__":
    Reader("word-reader").run()
