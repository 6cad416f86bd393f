"""An agent that finds the speech in a recording: capability `audio`."""

from __future__ import annotations

from examples.models.hearing import speech_in
from tandem import Agent, verb


class Hearing(Agent):
    """`{"action": "find_speech", "audio_data": "<base64>"}` answers with `seconds` and `speech`."""

    @verb(capability="audio", idempotent=True)
    def find_speech(self, audio_data: bytes) -> dict[str, object]:
        """Where in a recording somebody speaks, in seconds."""
        return dict(speech_in(audio_data))


if __name__ == "__main__":
    Hearing("hearing").run()
