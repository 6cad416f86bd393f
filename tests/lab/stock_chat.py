"""A chat by a client that knows nothing of Tandem: `python -m tests.lab.stock_chat openai|ollama URL MODEL [TOKENS]`.

Streams through the front with the vendor's own library and prints each piece of text as a JSON line, then `"end"`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

WORDS = [{"role": "user", "content": "Tell me of two hosts."}]


def openai_pieces(url: str, model: str, tokens: int) -> Iterator[str]:
    from openai import OpenAI

    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        stream = client.chat.completions.create(
            model=model,
            messages=WORDS,  # type: ignore[arg-type]
            stream=True,
            max_tokens=tokens,
            extra_body={"ignore_eos": True},
        )
        for chunk in stream:
            for choice in chunk.choices:
                yield choice.delta.content or ""


def ollama_pieces(url: str, model: str, tokens: int) -> Iterator[str]:
    from ollama import Client

    for piece in Client(host=url).chat(model=model, messages=WORDS, stream=True, options={"num_predict": tokens}):
        yield piece.message.content or ""


PIECES = {"openai": openai_pieces, "ollama": ollama_pieces}

if __name__ == "__main__":
    library, at, name, *more = sys.argv[1:]
    for text in PIECES[library](at, name, int(more[0]) if more else 20):
        if text:
            print(json.dumps(text), flush=True)
    print(json.dumps("end"), flush=True)
