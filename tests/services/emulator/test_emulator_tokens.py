"""Tokens without a tokenizer: counts agree, ids invert, equal prompts hash alike."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enova.services.emulator.tokens import (
    WORDS,
    chat_text,
    count,
    decode,
    encode,
    ids_prompt,
    sentence,
    text_prompt,
)


@given(st.text())
def test_ids_decode_to_the_text_and_are_as_many_as_counted(text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    assert decode(encode(data)) == data
    assert len(encode(data)) == count(data)


@given(st.integers(0, 2**32 - 1), st.integers(1, 300))
def test_n_filler_words_count_as_n_tokens(seed: int, length: int) -> None:
    words = sentence(seed)
    assert count(b"".join(words[number % 128] for number in range(length))) == length


def test_filler_words_are_128_different_ones_and_depend_on_the_prompt() -> None:
    assert len(set(WORDS)) == 128
    assert set(sentence(text_prompt("a").seed)) == set(WORDS)
    assert sentence(text_prompt("a").seed) != sentence(text_prompt("b").seed)


def test_foreign_ids_decode_to_words() -> None:
    assert decode([7]) == WORDS[7]


@pytest.mark.parametrize("make", [text_prompt, lambda text: ids_prompt([ord(c) for c in text])])
def test_blocks_hash_alike_up_to_the_first_difference(make) -> None:
    one, two = make("x" * 640 + "a" * 64), make("x" * 640 + "b" * 64)
    size = 16
    first, second = one.block_hashes(size), two.block_hashes(size)
    assert len(first) == one.tokens // size
    shared = 640 // (64 if one.text else 16)
    assert first[:shared] == second[:shared]
    assert not set(first[shared:]) & set(second[shared:])


def test_a_partial_block_is_not_hashed() -> None:
    assert len(text_prompt("y" * (64 + 60)).block_hashes(16)) == 1


def test_chat_takes_text_parts_and_refuses_pictures() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert "one\ntwo" in chat_text([{"role": "user", "content": parts}])
    with pytest.raises(ValueError, match="multimodal"):
        chat_text([{"role": "user", "content": [{"type": "image_url"}]}])
