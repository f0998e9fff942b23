"""From text or JSON to the canonical text, and on to tokens with the tokenizer that training fitted."""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serving.inputs.body import BadInput, is_json, only_key, parse_json, text_of
from serving.inputs.spec import DataSpec, TextInput

TOKENIZER = "tokenizer.json"


def canonical(text: str, limits: TextInput) -> str:
    """The text as it is kept: Unicode NFC, without surrounding white space.

    Raises:
        BadInput: nothing is left, it is too long, or holds half a surrogate pair, as JSON may.
    """
    text = unicodedata.normalize("NFC", text).strip()
    if not text:
        raise BadInput("the text is empty")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise BadInput(f"character {error.start} is half of a surrogate pair; expected Unicode") from None
    if size > limits.max_bytes:
        raise BadInput(f"the text has {size} bytes; expected {limits.max_bytes} at most")
    return text


def is_plain(raw: bytes) -> bool:
    """True where plain UTF-8 is read as itself: not as JSON, nor less a byte-order mark."""
    return not is_json(raw) and not raw.startswith(codecs.BOM_UTF8)


def decode_text(body: bytes | dict[str, Any], spec: DataSpec) -> str:
    """One request body, `{"text": "..."}` or plain UTF-8, as canonical text.

    Raises:
        BadInput: it is neither, or empty.
    """
    assert spec.text is not None
    if is_json(body):
        text = only_key(parse_json(body), "text")[1]
        if not isinstance(text, str):
            raise BadInput(f"'text' must be a string; found {type(text).__name__}")
        return canonical(text, spec.text)
    assert not isinstance(body, dict)
    return canonical(text_of(body), spec.text)


def tokens_of(folder: Path, limits: TextInput) -> Callable[[Sequence[str]], list[np.ndarray]]:
    """The tokenizer that lies in a folder: texts to tokens (T,) int32, at least one each."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    tokenizer.no_padding()
    tokenizer.enable_truncation(limits.max_tokens)

    def encode(texts: Sequence[str]) -> list[np.ndarray]:
        found = tokenizer.encode_batch(list(texts))
        return [np.array(each.ids or [1], np.int32) for each in found]

    return encode
