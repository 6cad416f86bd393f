"""The language a text is written in: py3langid's naive Bayes over byte sequences; its weights come in its package."""

from __future__ import annotations

from typing import Final, TypedDict

from py3langid.langid import MODEL_FILE, LanguageIdentifier

MODEL: Final = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
UNDETERMINED: Final = "und"
"""ISO 639-2's code for a text that is in no language: empty, or without a letter."""


class Answer(TypedDict):
    """The ISO 639-1 code, and how sure the model is of it, 0 to 1."""

    language: str
    confidence: float


def language_of(text: str) -> Answer:
    """The likeliest of 97 languages; a sentence is enough, a word seldom is."""
    if not any(letter.isalpha() for letter in text):
        return Answer(language=UNDETERMINED, confidence=0.0)
    language, confidence = MODEL.classify(text)
    return Answer(language=language, confidence=round(float(confidence), 4))
