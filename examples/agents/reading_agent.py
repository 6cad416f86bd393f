"""An agent that reads the words in an image: capability `vision`."""

from __future__ import annotations

from examples.models.reading import words_in
from tandem import Agent, verb


class Reading(Agent):
    """`{"action": "read_image", "image_data": "<base64>"}` answers with `words` and `lines`."""

    @verb(capability="vision", idempotent=True)
    def read_image(self, image_data: bytes) -> dict[str, object]:
        """The words in an image, line by line."""
        return dict(words_in(image_data))


if __name__ == "__main__":
    Reading("reading").run()
