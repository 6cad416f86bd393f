"""An agent that says which language a text is in: capability `text`."""

from __future__ import annotations

from examples.models.language import language_of
from tandem import Agent, verb


class Language(Agent):
    """`{"action": "detect_language", "data": "Guten Tag"}` answers with `language` and `confidence`."""

    @verb(capability="text", idempotent=True)
    def detect_language(self, data: str) -> dict[str, object]:
        """The language a text is written in, and how sure that is."""
        return dict(language_of(data))


if __name__ == "__main__":
    Language("language").run()
