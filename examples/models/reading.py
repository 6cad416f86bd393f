"""The words in an image: PP-OCR's small detector and reader on the CPU; their weights come in rapidocr's package."""

from __future__ import annotations

import io
from typing import Final, TypedDict

import numpy as np
from PIL import Image
from rapidocr_onnxruntime import RapidOCR

SMALLEST_SIDE: Final = 768
"""Images whose longer side is below this many pixels are enlarged to it: letters need about 20 pixels."""

MODEL: Final = RapidOCR(intra_op_num_threads=2, inter_op_num_threads=1, det_limit_type="max", det_limit_side_len=1920)


class Answer(TypedDict):
    """The lines of text from top to bottom, and the words in them, in order."""

    words: list[str]
    lines: list[str]


def words_in(image: bytes) -> Answer:
    """What is written in a PNG, JPEG or other image that Pillow opens; raises OSError if it is none."""
    with Image.open(io.BytesIO(image)) as picture:
        pixels = np.asarray(_enlarged(picture.convert("RGB")))
    found, _ = MODEL(pixels[:, :, ::-1], use_cls=False)
    lines = [text for _, text, _ in found or []]
    return Answer(words=[word for line in lines for word in line.split()], lines=lines)


def _enlarged(picture: Image.Image) -> Image.Image:
    factor = SMALLEST_SIDE / max(picture.size)
    if factor <= 1:
        return picture
    size = (round(picture.width * factor), round(picture.height * factor))
    return picture.resize(size, Image.Resampling.BICUBIC)
