"""Text into tokens and filler out of them, without a tokenizer file.

A token is four bytes of UTF-8 (the last may be shorter) and its id is those bytes read as a
number, so counting, ``/tokenize`` and ``/detokenize`` always agree with ``usage``. Filler words
are four bytes too: an answer of n tokens is counted as n by the same rule.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BYTES_PER_TOKEN = 4

_LETTERS = (
    "act add age ago aid aim air all and any apt arc are arm art ask bag bar bay bed big bit boy "
    "bus but buy can cap car cat cup cut day did dry due ear eat egg end era eye far few fig fit "
    "fix fly for fox fun gap gas get gum hat her him his hot how ice ink its jam jar job joy key "
    "kin kit lab law lay led let lid lip log lot low map may men met mix new nor not now oak oar "
    "odd off oil old one our out own pan pay pen pet pie pin pot put ran raw ray red rib rim row "
    "run saw say sea see set she shy sit six sky sun tap tea ten the tie"
)
WORDS = tuple(f"{word} ".encode() for word in _LETTERS.split()[:128])
"""128 words of three letters and a space: one token each."""


@dataclass(frozen=True)
class Prompt:
    """A tokenized prompt: its text as bytes, or the ids a client sent."""

    tokens: int
    seed: int
    text: bytes = b""
    ids: tuple[int, ...] = ()

    def block_hashes(self, block_size: int) -> tuple[int, ...]:
        """One hash a full block, each covering all before it, as prefix caching wants them."""
        hashes = []
        previous = 0
        for start in range(0, self.tokens - block_size + 1, block_size):
            if self.ids:
                block: object = self.ids[start : start + block_size]
            else:
                first = start * BYTES_PER_TOKEN
                block = self.text[first : first + block_size * BYTES_PER_TOKEN]
            previous = hash((previous, block))
            hashes.append(previous)
        return tuple(hashes)


def text_prompt(text: str) -> Prompt:
    """A prompt given as text. An empty one counts as one token, as a start token would."""
    data = text.encode("utf-8", "surrogatepass")
    return Prompt(tokens=max(1, count(data)), seed=zlib.crc32(data), text=data)


def ids_prompt(ids: Sequence[int]) -> Prompt:
    """A prompt given as token ids; any number is taken for a token."""
    return Prompt(
        tokens=max(1, len(ids)), seed=zlib.crc32(repr(tuple(ids)).encode()), ids=tuple(ids)
    )


def chat_text(messages: Sequence[Mapping[str, object]], tools: object = None) -> str:
    """The messages under a plain template: role, content, and the turn of the assistant.

    Content may be a string or text parts. Raises ValueError with a sentence for anything else.
    """
    parts = [] if tools is None else [f"<|tools|>\n{tools}\n"]
    for message in messages:
        parts.append(f"<|{message.get('role', 'user')}|>\n{_content(message.get('content'))}\n")
    parts.append("<|assistant|>\n")
    return "".join(parts)


def _content(content: object) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ValueError("content must be a string or a list of parts")
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text":
            raise ValueError("the emulated model is not a multimodal model")
        texts.append(str(part.get("text", "")))
    return "\n".join(texts)


def count(data: bytes) -> int:
    """Tokens in a text."""
    return -(-len(data) // BYTES_PER_TOKEN)


def encode(data: bytes) -> list[int]:
    """Token ids of a text. A leading 1 keeps zeros and short last pieces apart."""
    return [
        int.from_bytes(b"\x01" + data[start : start + BYTES_PER_TOKEN])
        for start in range(0, len(data), BYTES_PER_TOKEN)
    ]


def decode(ids: Sequence[int]) -> bytes:
    """The text of token ids; an id that is not ours becomes the filler word of that number."""
    pieces = []
    for number in ids:
        data = number.to_bytes(max(1, (number.bit_length() + 7) // 8))
        ours = data[0] == 1 and 1 < len(data) <= BYTES_PER_TOKEN + 1
        pieces.append(data[1:] if ours else WORDS[number % len(WORDS)])
    return b"".join(pieces)


def sentence(seed: int) -> tuple[bytes, ...]:
    """The 128 words an answer repeats: word n of it is ``sentence(seed)[n % 128]``."""
    # Odd, so that an answer walks through every word before it repeats.
    stride = (seed >> 7) | 1
    return tuple(WORDS[(seed + number * stride) & 127] for number in range(len(WORDS)))
