from __future__ import annotations

import io
import json
import re
import wave
from pathlib import Path
from typing import Any

import pytest

WANTED = "needs the demo's models: examples/requirements.lock, which `make test` and `make demo` install"
np = pytest.importorskip("numpy", reason=WANTED)
language = pytest.importorskip("examples.models.language", reason=WANTED, exc_type=ImportError)
reading = pytest.importorskip("examples.models.reading", reason=WANTED, exc_type=ImportError)
hearing = pytest.importorskip("examples.models.hearing", reason=WANTED, exc_type=ImportError)

SAMPLES = Path(__file__).resolve().parents[2] / "examples" / "samples"
TRUTH: dict[str, Any] = json.loads((SAMPLES / "truth.json").read_text())
SENTENCES: list[dict[str, str]] = json.loads((SAMPLES / "sentences.json").read_text())
SPEECH = ["speech-1.wav", "speech-2.wav"]


def bare(text: str) -> str:
    return re.sub(r"[^a-z]", "", text.lower())


@pytest.mark.parametrize("sentence", SENTENCES, ids=lambda sentence: sentence["text"][:24])
def test_each_sentence_is_in_the_language_it_was_written_in(sentence: dict[str, str]) -> None:
    answer = language.language_of(sentence["text"])
    assert answer["language"] == sentence["language"]
    assert 0 < answer["confidence"] <= 1


def test_the_sentences_cover_five_languages_and_more() -> None:
    assert len({sentence["language"] for sentence in SENTENCES}) >= 5


@pytest.mark.parametrize("text", ["", "  ", "1234 5678"])
def test_a_text_without_letters_is_in_no_language(text: str) -> None:
    assert language.language_of(text) == {"language": "und", "confidence": 0.0}


def test_most_words_of_the_photographed_page_are_read() -> None:
    answer = reading.words_in((SAMPLES / "page.png").read_bytes())
    page = bare("".join(answer["lines"]))
    read = [word for word in TRUTH["page.png"]["words"] if bare(word) in page]
    assert len(read) >= 13
    assert answer["words"][0] == answer["lines"][0].split()[0]


def test_an_empty_page_has_no_words() -> None:
    from PIL import Image

    page = io.BytesIO()
    Image.new("L", (900, 400), 255).save(page, "PNG")
    assert reading.words_in(page.getvalue()) == {"words": [], "lines": []}


def test_bytes_that_are_no_image_are_refused() -> None:
    with pytest.raises(OSError, match="cannot identify"):
        reading.words_in(b"not an image")


@pytest.mark.parametrize("name", SPEECH)
def test_speech_is_heard_where_it_is(name: str) -> None:
    truth = TRUTH[name]
    answer = hearing.speech_in((SAMPLES / name).read_bytes())
    assert answer["seconds"] == truth["seconds"]
    assert len(answer["speech"]) == len(truth["speech"])
    for heard, said in zip(answer["speech"], truth["speech"], strict=True):
        assert heard == pytest.approx(said, abs=truth["tolerance_s"])


def test_a_stereo_recording_of_another_rate_is_heard_alike() -> None:
    with wave.open(str(SAMPLES / "speech-2.wav")) as wav:
        frames = np.frombuffer(wav.readframes(wav.getnframes()), dtype="<i2")
    other = io.BytesIO()
    with wave.open(other, "wb") as wav:
        wav.setparams((2, 2, 48_000, 0, "NONE", ""))
        wav.writeframes(np.repeat(np.repeat(frames, 3), 2).tobytes())
    answer = hearing.speech_in(other.getvalue())
    assert answer["seconds"] == pytest.approx(3.29, abs=0.01)
    assert answer["speech"][0] == pytest.approx(TRUTH["speech-2.wav"]["speech"][0], abs=0.3)


def recording(samples: bytes, width: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setparams((1, width, 16_000, 0, "NONE", ""))
        wav.writeframes(samples)
    return file.getvalue()


@pytest.mark.parametrize("seconds", [0, 1])
def test_nobody_speaks_in_silence(seconds: int) -> None:
    assert hearing.speech_in(recording(bytes(32_000 * seconds), 2)) == {"seconds": float(seconds), "speech": []}


def test_samples_of_eight_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="these have 8"):
        hearing.speech_in(recording(bytes(100), 1))


def test_bytes_that_are_no_recording_are_refused() -> None:
    with pytest.raises(wave.Error):
        hearing.speech_in(b"RIFF this is not a WAV file at all")


def test_a_short_silence_does_not_end_speech_and_a_short_noise_is_none() -> None:
    noise = [0.0] * 3 + [0.9] + [0.0] * 20
    speech = [0.9] * 20 + [0.1] * 5 + [0.9] * 20
    found = hearing.stretches(noise + speech + [0.0] * 20)
    assert found == [pytest.approx((24 * hearing.CHUNK_S, 69 * hearing.CHUNK_S))]


def test_speech_may_last_to_the_end() -> None:
    assert hearing.stretches([0.9] * 20) == [pytest.approx((0.0, 20 * hearing.CHUNK_S))]
