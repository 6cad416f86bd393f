"""Counts words, with Tandem's library: capability `count_words`."""

from tandem import Agent, verb


class Counter(Agent):
    @verb(capability="count_words", idempotent=True)
    def count_words(self, data: str) -> dict[str, int]:
        """How many words the text has."""
        return {"words": len(data.split())}


if __name__ == "__main__":
    Counter("library-counter").run()
